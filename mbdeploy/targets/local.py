"""This machine: the agent runs under the Python that runs mbdeploy, without a network where that is permitted."""

from __future__ import annotations

import sys

from mbdeploy.errors import UsageError
from mbdeploy.targets.process import ProcessTarget
from mbdeploy.watch import cut_network


def open_local(argument: str) -> ProcessTarget:
    """The target ``local``, which takes no argument."""
    if argument:
        raise UsageError(
            where=f"local:{argument}", expected="plain `local`", found="an argument", todo="leave out what follows it"
        )
    return ProcessTarget(name="local", command=tuple(cut_network([sys.executable])))
