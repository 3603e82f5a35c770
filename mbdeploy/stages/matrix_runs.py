"""Every way a session can be opened, run for each file of a matrix; one that is refused is an outcome, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mbdeploy.errors import StepError
from mbdeploy.isolate import Progress
from mbdeploy.results import Host
from mbdeploy.stages.subject import Subject, entitle, plan_session
from mbdeploy.targets import Answer, Job, Provider, Ran, Session, Target
from mbdeploy.targets.providers import compiles

Outcome = Ran | StepError
"""What a session gave, or why the runtime refused it."""


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One way to open a session: what is asked of ONNX Runtime beside the file and the provider."""

    optimization: Literal["none", "basic", "extended", "all"]
    session_config: Mapping[str, str] = {}


#: The ways by their names; ``none`` is what "exact" means.
WAYS: Mapping[str, Way] = {
    "default": Way(optimization="all"),
    "x64quantprecision=1": Way(optimization="all", session_config={"session.x64quantprecision": "1"}),
    "extended": Way(optimization="extended"),
    "basic": Way(optimization="basic"),
    "none": Way(optimization="none"),
}
DEFAULT, EXACT = "default", "none"
#: Ways in which Q/DQ is float arithmetic, which an emulator is slow at.
_FLOAT = frozenset({"basic", "none"})


class WaysRun(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What ran on one provider: by way and subject, the session asked for and what came of it."""

    provider: Provider
    target: Target
    host: Host
    asked: Mapping[str, Sequence[Session]]
    ran: Mapping[str, Sequence[Outcome]]


def list_ways(provider: Provider, target: Target) -> list[str]:
    """The ways that make a difference there: a provider that compiles has one, an emulated target leaves out float."""
    if compiles(provider.ep):
        return [DEFAULT]
    return [way for way in WAYS if not target.emulated or way not in _FLOAT]


def run_ways(
    subjects: Sequence[Subject],
    provider: Provider,
    target: Target,
    inputs: NDArray[np.float32],
    settings: Mapping[str, Any],
    ways: Sequence[str],
    on_progress: Progress,
) -> WaysRun:
    """All subjects in the first way, then in the next: one job, or one for each session if that job is refused.

    Raises:
        StepError: every session was refused; the first one's. Else as ``Target.run``.
    """
    asked = {way: [_open(subject, provider, WAYS[way], settings) for subject in subjects] for way in ways}
    sessions = tuple(one for several in asked.values() for one in several)
    progress = entitle(on_progress, f"matrix on {provider.word}")
    job = Job(kind="infer", sessions=sessions, inputs=inputs)
    try:
        answer = target.run(job, progress)
        outcomes: list[Outcome] = list(answer.sessions)
    except StepError as error:
        answer, outcomes = _run_each(target, job, error, progress)
    found = iter(outcomes)
    ran = {way: [next(found) for _ in subjects] for way in ways}
    return WaysRun(provider=provider, target=target, host=answer.host, asked=asked, ran=ran)


def _run_each(target: Target, job: Job, error: StepError, progress: Progress) -> tuple[Answer, list[Outcome]]:
    answer: Answer | None = None
    outcomes: list[Outcome] = []
    for session in job.sessions:
        try:
            answer = target.run(msgspec.structs.replace(job, sessions=(session,)), progress)
            outcomes += answer.sessions
        except StepError as refusal:
            outcomes.append(refusal)
    if answer is None:
        raise error
    return answer, outcomes


def _open(subject: Subject, provider: Provider, way: Way, settings: Mapping[str, Any]) -> Session:
    session = plan_session(subject, provider, **settings)
    config = {**session.session_config, **way.session_config}
    return msgspec.structs.replace(session, optimization=way.optimization, session_config=config)
