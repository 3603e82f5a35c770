"""The oldest versions of native parsers that mbdeploy hands a file to: older ones have known holes."""

from __future__ import annotations

import sys
from importlib import metadata

from mbdeploy.errors import UnavailableError
from mbdeploy.versions import read_version

#: Distribution -> the oldest version that may open a file. (1.23 is the last ONNX Runtime for Python 3.10.)
FLOORS = {
    "torch": (2, 10),
    "onnx": (1, 21),
    "onnxruntime": (1, 24) if sys.version_info >= (3, 11) else (1, 23),
    "onnxruntime-gpu": (1, 23),
}
#: Commands that open no model, and must run to say what is wrong.
_OPEN_NOTHING = frozenset({"list", "show", "doctor", "targets", "explain"})


def check_floors(command: str) -> None:
    """Refuse to run ``command`` over a parser that is too old; one that is not installed is named where it is needed.

    Raises:
        UnavailableError: with the command that brings a newer one.
    """
    if command in _OPEN_NOTHING:
        return
    for name, floor in FLOORS.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if read_version(found) < floor:
            oldest = ".".join(map(str, floor))
            raise UnavailableError(
                where=name,
                expected=f"{oldest} or newer, for older ones have known holes",
                found=found,
                todo=f"run `pip install --upgrade '{name}>={oldest}'`",
            )
