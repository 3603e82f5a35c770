"""Which opset and IR version an ONNX Runtime takes: a target whose own is too old is not sent the model."""

from __future__ import annotations

import msgspec

from mbdeploy.errors import UnavailableError
from mbdeploy.targets.job import Session
from mbdeploy.versions import read_version


class Takes(msgspec.Struct, frozen=True):
    """The newest opset (ai.onnx) and IR version that a release takes."""

    opset: int
    ir_version: int


#: Release -> what it takes at most, from the oldest on. Opsets are those of the table "ONNX opset support" in
#: https://onnxruntime.ai/docs/reference/compatibility.html, which ends at 1.20; 1.21 and 1.22 have ONNX 1.17, 1.23 has
#: ONNX 1.18 (https://github.com/microsoft/onnxruntime/pull/21897 and /24945). IR versions are those of that ONNX by
#: https://github.com/onnx/onnx/blob/main/docs/Versioning.md, which is what the runtime compares with (its own table has
#: an older one for 1.15). Nothing is said of releases above: they decide themselves.
RELEASES = {
    (1, 7): Takes(13, 7),
    (1, 8): Takes(14, 7),
    (1, 9): Takes(15, 8),
    (1, 10): Takes(15, 8),
    (1, 11): Takes(16, 8),
    (1, 12): Takes(17, 8),
    (1, 13): Takes(17, 8),
    (1, 14): Takes(18, 8),
    (1, 15): Takes(19, 9),
    (1, 16): Takes(19, 9),
    (1, 17): Takes(20, 9),
    (1, 18): Takes(21, 10),
    (1, 19): Takes(21, 10),
    (1, 20): Takes(21, 10),
    (1, 21): Takes(22, 10),
    (1, 22): Takes(22, 10),
    (1, 23): Takes(23, 11),
}


def find_refusing(opset: int, ir_version: int) -> tuple[int, int] | None:
    """The newest release that does not take a model of these versions; older ones do not either. None: all take it."""
    refusing = [release for release, takes in RELEASES.items() if takes.opset < opset or takes.ir_version < ir_version]
    return refusing[-1] if refusing else None


def explain_outdated(session: Session, version: str, where: str) -> UnavailableError | None:
    """The error for a model that ONNX Runtime ``version`` at ``where`` is too old for; None if it may take it."""
    release = read_version(version)[:2]
    refusing = find_refusing(session.opset, session.ir_version)
    if session.runtime != "onnxruntime" or len(release) < 2 or refusing is None:
        return None
    if release > refusing:
        return None
    takes = RELEASES[max((known for known in RELEASES if known <= release), default=min(RELEASES))]
    newer = next((known for known in RELEASES if known > refusing), None)
    wanted = f"{newer[0]}.{newer[1]} or newer" if newer else f"newer than {refusing[0]}.{refusing[1]}"
    return UnavailableError(
        where=where,
        expected=f"an ONNX Runtime for opset {session.opset}, IR version {session.ir_version} ({session.model.name})",
        found=f"ONNX Runtime {version}, which takes opset {takes.opset}, IR version {takes.ir_version} at most",
        todo=f"install onnxruntime {wanted} there, or make the file for an older opset with `mbdeploy export --opset`",
    )
