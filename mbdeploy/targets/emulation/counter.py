"""Instructions that an emulated CPU executes for one inference: a count, not a time."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mbdeploy.errors import UnavailableError
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.targets.emulation.programs import call_program
from mbdeploy.targets.job import Answer, Job
from mbdeploy.targets.process import ProcessTarget
from mbdeploy.watch import child_environment

_SOURCE = Path(__file__).with_name("counter.c")
_GUEST = Path(__file__).with_name("counting.py")
_WHERE = "--instructions"
# Versions of the plugin interface: a plugin names one, and each qemu takes some of them.
_VERSIONS = range(1, 10)


def count_instructions(
    target: ProcessTarget, job: Job, on_progress: Progress = ignore_progress
) -> tuple[Answer, list[tuple[int, ...]]]:
    """Run every session of an ``infer`` job some times on its first batch; the counts of each, and the host.

    Rules: 1. one run's instructions are those between its two marks: loading is not in them. 2. Use the least
    of a session's counts: what is above it is the system's.

    Raises:
        UnavailableError: no C compiler, or a qemu without plugins. StepError: a model that crashes the runtime.
    """
    with tempfile.TemporaryDirectory(prefix="mbdeploy-count-") as name:
        folder = Path(name)
        at = target.command.index("-cpu")
        emulator, rest = target.command[:at], target.command[at:]
        plugin = _build_plugin(emulator, folder)
        words = ("-plugin", f"{plugin},out={folder / 'counts'}")
        counted = msgspec.structs.replace(target, command=(*emulator, *words, *rest, str(_GUEST)))
        answer = counted.run(job, on_progress)
        counts = read_counts((folder / "counts").read_text(encoding="ascii"))
    rounds = len(counts) // len(job.sessions)
    return answer, [tuple(counts[start : start + rounds]) for start in range(0, len(counts), rounds)]


def read_counts(text: str) -> list[int]:
    """Instructions between each even mark and the odd one after it, from lines of the form "mark count"."""
    totals = [int(line.split()[1]) for line in text.splitlines()]
    return [end - start for start, end in zip(totals[::2], totals[1::2], strict=True)]


def _build_plugin(emulator: Sequence[str], folder: Path) -> Path:
    plugin = folder / "counter.so"
    said = ""
    for version in _VERSIONS:
        call_program(
            ["cc", "-O2", "-shared", "-fPIC", f"-DVERSION={version}", "-o", str(plugin), str(_SOURCE)],
            expected="a C compiler, for qemu's plugin",
            todo="`apt-get install gcc`, or leave out --instructions",
            cwd=folder,
        )
        # There is no such program: this qemu says so only after it has taken the plugin.
        said = _try_plugin([*emulator, "-plugin", f"{plugin},out={folder / 'tried'}", str(folder / "none")])
        if "plugin" not in said:
            return plugin
    raise UnavailableError(
        where=_WHERE,
        expected=f"a {Path(emulator[-1]).name} that takes plugins",
        found=said.strip() or "one that does not",
        todo="use a qemu that was built with them, as Debian's qemu-user is (qemu-user-static is not)",
    )


def _try_plugin(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=child_environment())
    return done.stderr
