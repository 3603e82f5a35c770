"""A target reached by starting a process here: job folder, command prefix, verdict, answer."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any, Literal

import msgspec

from mbdeploy.errors import MbdeployError, StepError, UnavailableError, UsageError
from mbdeploy.isolate import Progress, Verdict, describe_ended, ignore_progress, judge_ended
from mbdeploy.preflight.arrays import map_array
from mbdeploy.preflight.refusing import refusing_data
from mbdeploy.results import Placement
from mbdeploy.targets import folder
from mbdeploy.targets.host import describe_host
from mbdeploy.targets.job import Answer, Job, Ran, Session, refuse_emulated_times, refuse_times
from mbdeploy.targets.opsets import explain_outdated
from mbdeploy.targets.providers import explain_absence, limits_memory, list_absent, list_wheels
from mbdeploy.watch import PARENT, Ended, Limits, child_environment, cut_network, tie_command, watch_process

#: ONNX Runtime has its own threads; numpy's BLAS must not start a second set in the process that is measured.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

#: Stands for the job's folder in a command.
FOLDER = "{folder}"

_EMULATION_SLOWDOWN = 10
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LOG_PREFIX = re.compile(r"^\S+ \S+ \[[VIWEF]:onnxruntime[^]]*\] ")


class ProcessTarget(msgspec.Struct, frozen=True, kw_only=True):
    """A target whose agent is ``command`` followed by the agent's file: this Python, or an emulator before it.

    ``emulator`` is the name of the emulated CPU, None where the CPU is real. With ``measured`` the command becomes the
    agent, as by ``exec``, and the agent ends when this process does. Without it the command only starts the agent
    elsewhere, so that limits on its own memory would say nothing.
    """

    name: str
    command: tuple[str, ...]
    emulator: str | None = None
    measured: bool = True

    @property
    def emulated(self) -> bool:
        """Whether times do not exist here."""
        return self.emulator is not None

    def run(self, job: Job, on_progress: Progress = ignore_progress) -> Answer:
        """Run the job in a fresh process and a fresh folder, of which nothing is left afterwards.

        The arrays of the answer are mapped from files that have lost their names: they take disk space,
        not memory, until they are let go.

        Raises:
            UsageError: times were asked for under emulation, or options that the runtime does not know.
            UnavailableError: a provider that is not here or takes no node, a runtime that is too old for a model, or a
                command that does not start.
            StepError: a model that the runtime refuses, or that crashes, hangs or exhausts it.
            OutputError: no room for the job's files.
        """
        refuse_emulated_times(self, job.kind)
        with folder.making(job, emulated=self.emulated, distributions=list_wheels()) as place:
            said: list[dict[str, Any]] = []
            ended = self._watch(job, place, said, on_progress)
            told: dict[str, Any] = {}
            for line in said:
                told.update(line)
            if ended.returncode == 0 and (place / "result.json").is_file():
                return self._read_answer(job, place)
        raise self._explain(job, ended, told)

    def _watch(self, job: Job, place: Path, said: list[dict[str, Any]], on_progress: Progress) -> Ended:
        limits = Limits(wall_s=job.wall_s)
        if self.emulated:
            # An emulator reserves the whole address space of the other CPU, and takes its time.
            limits = Limits(wall_s=job.wall_s * _EMULATION_SLOWDOWN, memory_bytes=None)
        elif not self.measured or not all(limits_memory(session.provider) for session in job.sessions):
            limits = Limits(wall_s=job.wall_s, memory_bytes=None)
        parent = {PARENT: str(os.getpid())} if self.measured else {}
        try:
            return watch_process(
                self._compose(place),
                limits=limits,
                on_line=lambda line: take_message(line, said, on_progress),
                environment={**child_environment(reaching=not self.measured), **ENVIRONMENT, **parent},
                cwd=str(place),
            )
        except FileNotFoundError as error:
            raise UnavailableError(
                where=self.name,
                expected=f"{self.command[0]}, which runs the agent",
                found="no such program",
                todo="install it, or choose another target",
            ) from error

    def _read_answer(self, job: Job, place: Path) -> Answer:
        result = json.loads((place / "result.json").read_text(encoding="utf-8"))
        facts = result["facts"]
        pairs = zip(job.sessions, result["sessions"], strict=job.kind != "probe")  # (which answers for no session)
        return Answer(
            host=describe_host(facts, self.emulator),
            sessions=tuple(_read_ran(place, *numbered, facts) for numbered in enumerate(pairs)),
            absent=list_absent(facts),
        )

    def _compose(self, place: Path) -> list[str]:
        command = [*(word.replace(FOLDER, str(place)) for word in self.command), "agent.py", "."]
        if not self.measured:
            return tie_command(command, signal.SIGTERM)  # which Docker's client hands on to the container
        # It takes a Python seconds to start in an emulator, and only then could it see that it is alone.
        return cut_network(tie_command(command)) if self.emulated else command

    def _explain(self, job: Job, ended: Ended, told: dict[str, Any]) -> MbdeployError:
        """The error for a job without an answer, from what the agent said before it ended."""
        index, step = told.get("at", (None, "starting the agent"))
        session = job.sessions[index] if index is not None else None
        if told.get("refused") == "unavailable":
            wanted = session.provider if session else "ONNX Runtime"
            found, todo = explain_absence(wanted, told["facts"], _add_stderr(told.get("cause", ""), ended))
            return UnavailableError(where=self.name, expected=wanted, found=found, todo=todo)
        if told.get("refused") == "outdated" and session:
            outdated = explain_outdated(session, told["facts"]["onnxruntime"], self.name)
            if outdated is not None:
                return outdated
        if told.get("refused") == "usage" and session:
            return UsageError(
                where=session.provider,
                expected="options that it knows",
                found=told.get("cause", ""),
                todo="correct what --provider-option says",
            )
        if told.get("refused") == "simulated" and session:
            return refuse_times(self.name, f"a simulator ({told.get('cause', '')})")
        verdict, detail = judge_ended(ended, told.get("cause", "")), told.get("cause", "")
        if ended.returncode == 0:
            verdict, detail = Verdict.TRANSPORT, "the agent ended well but left no result"
        elif not detail:
            last = ended.stderr.strip().splitlines()[-1:]
            detail = describe_ended(ended, last[0].strip() if last else "")
        return StepError(
            where=session.model if session else self.name,
            expected=f"a model that {session.provider} loads and runs" if session else "an agent that starts",
            found=f"{verdict.value} while {step}: {detail}",
            todo="check the file with another tool, or export it again" if session else "see `mbdeploy doctor`",
        )


class AgentWords(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the agent's: how far it is, where, or why it cannot go on."""

    progress: tuple[str, int, int] | None = None
    at: tuple[int, str] | None = None
    refused: Literal["rejected", "unavailable", "outdated", "usage", "simulated"] | None = None
    cause: str = ""
    facts: dict[str, Any] = {}


def take_message(line: bytes, said: list[dict[str, Any]], on_progress: Progress) -> None:
    """Show a line of the agent's if it is progress, else keep it.

    Raises:
        msgspec.DecodeError: it is none.
    """
    words = msgspec.json.decode(line, type=AgentWords)
    if words.progress is not None:
        on_progress(*words.progress)
    else:
        said.append(msgspec.to_builtins(words))


def _read_ran(place: Path, index: int, pair: tuple[Session, dict[str, Any]], facts: dict[str, Any]) -> Ran:
    session, plain = pair
    if "fallback" in plain["settings"]:
        plain["settings"]["fallback"] = explain_absence(session.provider, facts, plain["settings"]["fallback"])[0]
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    if "placement" in fields:
        fields["placement"] = msgspec.convert(fields["placement"], Placement)
    with refusing_data("outputs of the model", "see `mbdeploy doctor`"):
        outputs = tuple(map_array(place / f"out_{index}_{k}.npy") for k in range(len(plain.get("output_names", []))))
    return Ran(**fields, outputs=outputs)


def _add_stderr(cause: str, ended: Ended) -> str:
    """ONNX Runtime says only in its log, on standard error, why a provider could not be made."""
    lines = [_LOG_PREFIX.sub("", _COLOUR.sub("", line)).strip() for line in ended.stderr.splitlines()]
    said = [line for line in lines if "provider" in line.lower()]
    return f"{cause} ({said[-1]})" if said else cause
