"""A board as a target: what is said over a connection, from the hello to the results."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from mbdeploy.errors import MbdeployError, UnavailableError
from mbdeploy.isolate import Progress
from mbdeploy.targets.board import reasons
from mbdeploy.targets.board.connection import Connection, connecting
from mbdeploy.targets.board.far import DamagedError, LostError
from mbdeploy.targets.board.packages import FarPackages, check_packages, check_present, list_needed
from mbdeploy.targets.job import Answer, Job
from mbdeploy.targets.opsets import explain_outdated
from mbdeploy.targets.process import ENVIRONMENT, ProcessTarget, take_message
from mbdeploy.watch import Ended

#: With what follows it (the wait for ssh to end) less than 20 s.
_HELLO_S = 15.0
#: What a board may send back in all: more than any sensible outputs, less than fills a disk.
_MOST_BYTES = 8 << 30
_RESULTS = re.compile(r"result\.json|out_[0-9]{1,6}_[0-9]{1,6}\.npy")
_LOST = (LostError, DamagedError, msgspec.DecodeError)
#: What reading an answer of another form than the agent's runs into.
_GARBLED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    TypeError,
    ValueError,
    msgspec.MsgspecError,
)


class FarHello(msgspec.Struct, frozen=True):
    """What a board says first: how its Python is started, its architecture, which packages it has, and the version of
    ONNX Runtime ("" where it cannot tell)."""

    python: str
    machine: str
    modules: tuple[str, ...]
    onnxruntime: str = ""


class FarEnded(msgspec.Struct, frozen=True):
    """How the agent ended there: the fields of ``Ended``."""

    returncode: int
    timed_out: bool
    stderr: str
    wall_s: float


class FarWords(msgspec.Struct, frozen=True):
    """A message of the far end: one of these, with what goes with it."""

    said: str | None = None
    held: str | None = None
    busy: str | None = None
    cooling: float | None = None
    packages: FarPackages | None = None
    ready: bool = False
    file: str | None = None
    size: Annotated[int, msgspec.Meta(ge=0)] = 0
    failed: str | None = None
    kind: Literal["", "OUTPUT", "TRANSPORT"] = ""
    ended: FarEnded | None = None
    heat: dict[str, Any] = {}


class BoardTarget(ProcessTarget, frozen=True, kw_only=True):
    """A board: ``command`` starts a Python there, ``login`` is what a user types after ``ssh``, ``key`` names its key.

    ``machine`` is the architecture that it must have (empty: any). ``device`` is the board's name where one worker at
    a time may have it. A connection over which nothing comes for ``silence_s`` is lost. Who measures waits ``wait_s``
    for others on the board to end, and then at most ``cool_s`` for it to get below ``cool_c`` degrees Celsius.
    """

    login: str
    key: str
    machine: str = ""
    device: str = ""
    silence_s: float = 12.0
    wait_s: float = 600.0
    cool_c: float = 65.0
    cool_s: float = 60.0

    def _watch(self, job: Job, place: Path, said: list[dict[str, Any]], on_progress: Progress) -> Ended:
        """Run the job's folder there; its results are in ``place`` when the agent ended well."""
        try:
            with connecting(self.command, self.silence_s) as connection:
                try:
                    hello = msgspec.convert(connection.greet(_HELLO_S), FarHello)
                except _LOST as error:
                    ended = connection.read_end()
                    if reasons.has_stalled(ended):
                        raise reasons.explain_lost(self.name, [], str(error), ended[1], "connecting") from error
                    raise reasons.explain_unreachable(self.name, self.login, self.key, ended, str(error)) from error
                self._check_board(job, hello)
                try:
                    return self._converse(connection, job, hello, place, said, on_progress)
                except _LOST as error:
                    _, stderr = connection.read_end()
                    raise reasons.explain_lost(self.name, said, str(error), stderr) from error
        except FileNotFoundError as error:
            raise UnavailableError(
                where=self.name, expected="ssh on the search path", found="none", todo="install OpenSSH's client"
            ) from error

    def _read_answer(self, job: Job, place: Path) -> Answer:
        try:
            return super()._read_answer(job, place)
        except _GARBLED as error:
            raise reasons.explain_garbled(self.name, error) from error

    def _explain(self, job: Job, ended: Ended, told: dict[str, Any]) -> MbdeployError:
        try:
            return super()._explain(job, ended, told)
        except _GARBLED as error:
            return reasons.explain_garbled(self.name, error)

    def _converse(
        self,
        connection: Connection,
        job: Job,
        hello: FarHello,
        place: Path,
        said: list[dict[str, Any]],
        on_progress: Progress,
    ) -> Ended:
        connection.say(
            lock="alone" if job.kind in ("bench", "memory", "profile") else "shared",
            environment=ENVIRONMENT,
            packages=list(list_needed(job)),
            wall_s=job.wall_s,
            wait_s=self.wait_s,
            cool_c=self.cool_c,
            cool_s=self.cool_s,
            silence_s=connection.silence_s,
            beat_s=connection.beat_s,
        )
        room = _MOST_BYTES
        while True:
            words = msgspec.convert(connection.line.hear(), FarWords)
            if words.said is not None:
                take_message(words.said.encode(), said, on_progress)
            elif words.held is not None:
                on_progress(f"waiting for {self.name}, which is held by {words.held}", 0, 0)
            elif words.cooling is not None:
                on_progress(f"waiting for {self.name} to cool down", 0, 0)
            elif words.packages is not None:
                check_packages(job, words.packages, name=self.name, login=self.login, python=hello.python)
            elif words.ready:
                _send_files(connection, place)
            elif words.file is not None:
                if not _RESULTS.fullmatch(words.file):
                    raise LostError(f"it sent a file called {words.file!r}")
                room -= words.size
                if room < 0:
                    raise LostError(f"it sent more than {_MOST_BYTES >> 30} GiB")
                connection.line.take_file(place / words.file, words.size)
            elif words.busy is not None:
                raise reasons.explain_busy(self.name, words.busy, self.wait_s)
            elif words.failed is not None and words.kind == "OUTPUT":
                raise reasons.explain_full(self.name, words.failed)
            elif words.failed is not None:
                raise LostError(words.failed)
            elif words.ended is not None:
                _note_heat(place / "result.json", words.heat)
                with contextlib.suppress(LostError):  # it goes when its folder is gone
                    connection.line.hear()
                return Ended(**msgspec.structs.asdict(words.ended))

    def _check_board(self, job: Job, hello: FarHello) -> None:
        """Raise UnavailableError if this board is another machine than was asked for, lacks a package, or has one that
        is too old for a model."""
        if self.machine not in ("", hello.machine):
            raise UnavailableError(
                where=self.name,
                expected=f"an {self.machine} CPU",
                found=f"a board that is {hello.machine}",
                todo="choose another board, or ask for cpu",
            )
        check_present(job, hello.modules, name=self.name, login=self.login, python=hello.python)
        for session in job.sessions:
            outdated = explain_outdated(session, hello.onnxruntime, self.name)
            if outdated is not None:
                raise outdated


def _send_files(connection: Connection, place: Path) -> None:
    for path in sorted(path for path in place.rglob("*") if path.is_file() and path.name != ".lock"):
        connection.send_file(path, path.relative_to(place).as_posix())
    connection.say(go=True)


def _note_heat(path: Path, heat: dict[str, Any]) -> None:
    """Add what the board said of its temperature and frequency to the settings of each session that was measured."""
    if heat and path.is_file():
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
            for session in result["sessions"]:
                session["settings"]["board"] = heat
        except (LookupError, RecursionError, TypeError, ValueError) as error:
            raise LostError("its result is none of the agent's") from error
        path.write_text(json.dumps(result), encoding="utf-8")
