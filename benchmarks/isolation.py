"""What isolation and preflight cost a step, beside the import of what the step runs.

Run: ``python benchmarks/isolation.py [MODEL.onnx ...]``. Starts of a step that does nothing are interleaved with starts
of the same interpreter with the same imports but without limits, process group, clean environment and cut network;
preflight is compared with reading and parsing alone. The medians and their difference are what is printed.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mbdeploy.isolate import Verdict, run_step
from mbdeploy.watch import describe_isolation

ROUNDS = 30
_PLAIN = f"import sys; sys.path[:] = {sys.path!r}; import mbdeploy.isolate, resource; print(1)"


def answer_nothing(request: dict[str, object], on_progress: object) -> None:
    """The step that does nothing."""


def start_plainly() -> None:
    """The same interpreter and imports, as anybody would start them."""
    subprocess.run([sys.executable, "-c", _PLAIN], capture_output=True, check=True)


def start_isolated() -> None:
    """A step."""
    sys.path.insert(0, str(Path(__file__).parent))
    outcome = run_step("isolation:answer_nothing", {})
    sys.path.pop(0)
    assert outcome.verdict is Verdict.OK, outcome


def compare(plain: Callable[[], object], guarded: Callable[[], object]) -> tuple[float, float]:
    """Medians in milliseconds of both, taken in turns."""
    times: dict[int, list[float]] = {0: [], 1: []}
    for turn in range(ROUNDS):
        for index in (0, 1) if turn % 2 else (1, 0):
            started = time.perf_counter()
            (plain, guarded)[index]()
            times[index].append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[0]), statistics.median(times[1])


def show(name: str, plain: float, guarded: float) -> None:
    """One line."""
    print(f"{name:32} {plain:8.1f} ms {guarded:8.1f} ms {guarded - plain:+8.1f} ms")


def main() -> None:
    """Measure, and print."""
    for name, state in describe_isolation().items():
        print(f"{name}: {state}")
    print(f"\n{'median of ' + str(ROUNDS):32} {'plain':>11} {'guarded':>11} {'cost':>11}")
    show("a step", *compare(start_plainly, start_isolated))
    for path in map(Path, sys.argv[1:]):
        import onnx

        from mbdeploy.preflight import check_model

        def parse(path: Path = path) -> object:
            return onnx.ModelProto.FromString(path.read_bytes())

        show(f"preflight of {path.name}", *compare(parse, lambda path=path: check_model(path)))


if __name__ == "__main__":
    main()
