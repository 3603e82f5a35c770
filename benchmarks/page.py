"""How large a report is, and how long a browser takes from the click to a page that is laid out and drawn.

    python benchmarks/page.py OUT/report.html [--times 10]

Headless Chromium loads the file from disk; the time is the browser's own, from the start of the navigation to the end
of the load event, and to the first frame after it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "stages" / "reporting"))

from browser import Browser, find_driver

_LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"
_DRAW = (
    "window.drawn = 0; requestAnimationFrame(() => requestAnimationFrame(() => { window.drawn = performance.now(); }))"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--times", type=int, default=10)
    arguments = parser.parse_args()
    driver = find_driver()
    if driver is None:
        sys.exit("needs chromium and chromedriver")
    loaded, drawn = [], []
    with Browser(driver) as browser:
        for _ in range(arguments.times):
            browser.open(arguments.page)
            browser.run(_DRAW)
            browser.wait("window.drawn")
            loaded.append(browser.run(f"return {_LOADED}"))
            drawn.append(browser.run("return window.drawn"))
    times = {"loaded_ms": loaded, "drawn_ms": drawn}
    found = {name: {"median": round(statistics.median(ms)), "most": round(max(ms))} for name, ms in times.items()}
    print(json.dumps({"mb": round(arguments.page.stat().st_size / 1e6, 2), "n": arguments.times, **found}, indent=1))


if __name__ == "__main__":
    main()
