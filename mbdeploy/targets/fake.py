"""A target without a machine: a function answers, times are made up by a formula. For tests, ours and users'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mbdeploy.errors import UnavailableError
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.results import Host, PlacedNode, Placement
from mbdeploy.targets.job import Answer, Job, Ran, Session, refuse_emulated_times

AnswerFunction = Callable[[Session, "NDArray[np.float32]"], Sequence["NDArray[Any]"]]
TimeFunction = Callable[[int, Session, int], int]


def take_one_ms(index: int, session: Session, number: int) -> int:
    """The TimeFunction of a machine without noise: every run of every session takes 1 ms."""
    return 1_000_000


class FakeTarget(msgspec.Struct, frozen=True, kw_only=True):
    """A target whose sessions answer with ``answer(session, inputs)`` and take ``time_ns(index, session, round)``.

    ``providers`` are the execution providers it pretends to have. Nothing is run, so nothing that it
    gives may be shown as a measurement: the command line has no word for it.
    """

    answer: AnswerFunction
    time_ns: TimeFunction = take_one_ms
    name: str = "fake"
    emulated: bool = False
    device: str = ""
    providers: tuple[str, ...] = ("CPUExecutionProvider",)

    def run(self, job: Job, on_progress: Progress = ignore_progress) -> Answer:
        """Answer as a real target would, with the same refusals."""
        refuse_emulated_times(self, job.kind)
        for session in job.sessions:
            if session.provider not in self.providers and not session.allow_fallback:
                raise UnavailableError(
                    where=self.name,
                    expected=session.provider,
                    found=f"a fake with {', '.join(self.providers)}",
                    todo="give it more `providers`",
                )
        host = Host(
            machine="fake",
            system="fake",
            cpu="fake",
            isa=(),
            cores=1,
            affinity=1,
            cgroup_cores=None,
            memory_bytes=1 << 30,
            versions={},
            providers=self.providers,
            emulator="fake" if self.emulated else None,
        )
        sessions = () if job.kind == "probe" else tuple(self._run_one(job, k) for k in range(len(job.sessions)))
        on_progress("running", len(sessions), len(sessions))
        return Answer(host=host, sessions=sessions, absent={})

    def _run_one(self, job: Job, index: int) -> Ran:
        session = job.sessions[index]
        settings = {"runtime": "fake", "threads": session.threads, "optimization": session.optimization}
        provider = session.provider
        if provider not in self.providers:
            provider, settings["fallback"] = self.providers[0], f"a fake with {', '.join(self.providers)}"
        node = PlacedNode(name="fake", operator="Fake", provider=provider, type="float32")
        placement = Placement(nodes={provider: 1}, operators={"Fake": 1}, ran=(node,))
        ran = Ran(settings=settings, placement=placement)
        if job.kind == "infer" and job.inputs is not None:
            outputs = tuple(self.answer(session, job.inputs))
            names = tuple(f"output_{k}" for k in range(len(outputs)))
            return msgspec.structs.replace(ran, outputs=outputs, output_names=names)
        if job.kind == "memory":
            return msgspec.structs.replace(ran, base_bytes=1 << 20, loaded_bytes=2 << 20, peak_bytes=3 << 20)
        times = [self.time_ns(index, session, number) for number in range(job.min_rounds)]
        warmup = [self.time_ns(index, session, number) for number in range(job.warmup or 0)]
        return msgspec.structs.replace(
            ran, wall_ns=tuple(times), cpu_ns=tuple(times), warmup_ns=tuple(warmup), load_ns=1, first_ns=times[0]
        )
