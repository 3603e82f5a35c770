"""Why a board did not do what it was asked to, and what the user can do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mbdeploy.errors import OutputError, StepError, UnavailableError
from mbdeploy.isolate import Verdict

_NO_PROGRAM = "status 127"
#: A sign on standard error of ssh, or of the shell there -> (found, todo); empty: what the line itself says.
_CAUSES = (
    (
        "IDENTIFICATION HAS CHANGED",
        "another host key than the one that is known: this may be another machine",
        "find out why; if the board was set up anew, `ssh-keygen -R {key}`, then log in once with `ssh {login}`",
    ),
    (
        "Host key verification failed",
        "a host key that is not known here",
        "log in once with `ssh {login}`, and compare it",
    ),
    ("Permission denied", "", "bring a key there with `ssh-copy-id {login}`"),
    ("Python 3.", "", "install Python 3.9 or newer there, and `python3.X -m venv ~/.mbdeploy` with it"),
    ("Python 2.", "", "install Python 3.9 or newer there, and `python3.X -m venv ~/.mbdeploy` with it"),
    (_NO_PROGRAM, "no python3 on its search path", "run `ssh {login} sudo apt-get install python3-venv`, or the like"),
)
#: What ssh says when it gives up on a board that took the connection and then went silent.
_STALLED = ("timed out during banner exchange", "Timeout, server")


def explain_unreachable(name: str, login: str, key: str, ended: tuple[int | None, str], cause: str) -> UnavailableError:
    """The error for a board that never said hello: how ssh ended and what it said, else ``cause``."""
    returncode, stderr = ended
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    found, todo = lines[-1] if lines else cause, f"see that `ssh {login}` logs in without a question"
    signs = f"{stderr} status {returncode}"
    for sign, what, advice in _CAUSES:
        if sign in signs:
            found, todo = what or found, advice.format(login=login, key=key)
            break
    return UnavailableError(where=name, expected="a board with Python 3.9 or newer", found=found, todo=todo)


def has_stalled(ended: tuple[int | None, str]) -> bool:
    """Whether a connection that never said hello had gone silent: ssh still waits, or gave up for that reason."""
    returncode, stderr = ended
    return returncode is None or any(sign in stderr for sign in _STALLED)


def explain_lost(
    name: str, said: Sequence[dict[str, Any]], cause: str, stderr: str, begun: str = "sending the job"
) -> StepError:
    """The error for a connection that was lost, from what the agent and ssh said before."""
    steps = [message["at"][1] for message in said if "at" in message]
    step = steps[-1] if steps else begun
    detail = "; ".join([cause, *stderr.strip().splitlines()[-1:]])
    return StepError(
        where=name,
        expected="a connection that lasts as long as the job",
        found=f"{Verdict.TRANSPORT.value} while {step}: {detail}",
        todo="see that the board and the network are up, and try again",
    )


def explain_garbled(name: str, error: Exception) -> StepError:
    """The error for an answer that no agent of ours gives."""
    return StepError(
        where=name,
        expected="an answer of the agent that was sent there",
        found=f"{Verdict.TRANSPORT.value} while reading it: {type(error).__name__}: {error}",
        todo="see that nothing on the board changes what is sent, and try again",
    )


def explain_busy(name: str, holder: str, waited_s: float) -> UnavailableError:
    """The error for a board that others held for all the time that we would wait."""
    return UnavailableError(
        where=name,
        expected=f"the board for itself within {waited_s:.0f} s",
        found=f"that it is held by {holder}",
        todo="try again when that has ended",
    )


def explain_full(name: str, cause: str) -> OutputError:
    """The error for a board without room for the job."""
    return OutputError(
        where=name,
        expected="room for the files of a run there",
        found=cause,
        todo="free some space in its temporary directory",
    )
