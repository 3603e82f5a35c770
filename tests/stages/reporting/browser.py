"""Headless Chromium over WebDriver, with nothing but the standard library."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

_ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1280,900")


def find_driver() -> str | None:
    """The path of chromedriver, if the browser is here, too."""
    return shutil.which("chromedriver") if shutil.which("chromium") or shutil.which("google-chrome") else None


class Browser:
    """One session of a browser. The logs of the console and of the network are kept until they are read."""

    def __init__(self, driver: str) -> None:
        self._process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        found = (re.search(r"on port (\d+)", line) for line in self._process.stdout)
        self._base = f"http://127.0.0.1:{next(match[1] for match in found if match and int(match[1]))}"
        options = {
            "goog:chromeOptions": {"args": _ARGUMENTS},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        self._session = "/session/" + self._call("/session", {"capabilities": {"alwaysMatch": options}})["sessionId"]

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._session, None, "DELETE")
        self._process.terminate()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def open(self, page: Path) -> None:
        """Load a file; what the logs held before is forgotten."""
        self.read_console()
        self.list_requests()
        self._call(f"{self._session}/url", {"url": page.resolve().as_uri()})

    def run(self, script: str) -> Any:
        """The value of a script's ``return``."""
        return self._call(f"{self._session}/execute/sync", {"script": script, "args": []})

    def wait(self, condition: str, seconds: float = 60.0) -> None:
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"return Boolean({condition})"):
            assert time.monotonic() < end, f"never came true: {condition}"
            time.sleep(0.05)

    def print_pdf(self) -> bytes:
        """The page on paper."""
        return base64.b64decode(self._call(f"{self._session}/print", {}))

    def emulate(self, command: str, **parameters: Any) -> Any:
        """A command of Chrome's own protocol."""
        return self._call(f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def read_console(self) -> list[str]:
        """What the console said since it was last read."""
        return [entry["message"] for entry in self._call(f"{self._session}/se/log", {"type": "browser"})]

    def list_requests(self) -> list[str]:
        """Every address that was asked for since it was last read."""
        entries = self._call(f"{self._session}/se/log", {"type": "performance"})
        events = [json.loads(entry["message"])["message"] for entry in entries]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [event["request"]["url"] for event in sent]

    def _call(self, path: str, body: Any, method: str = "POST") -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]
