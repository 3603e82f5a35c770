"""The order of preflight: the file, its bytes, then the graph that the parser makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mbdeploy.bounds import Bounds, current_bounds
from mbdeploy.preflight.attributes import check_attributes
from mbdeploy.preflight.external import check_external, check_file
from mbdeploy.preflight.functions import check_functions
from mbdeploy.preflight.operators import check_operators
from mbdeploy.preflight.refusing import refuse
from mbdeploy.preflight.shapes import check_shapes, forget_unknown
from mbdeploy.preflight.walking import find_places
from mbdeploy.preflight.wire import scan_wire

if TYPE_CHECKING:
    import onnx

#: Beginnings of files that are often found under an ``.onnx`` name, and what to do about each.
_IMPOSTORS = (
    (b"version https://git-lfs", "a Git LFS pointer", "run `git lfs pull` to get the file itself"),
    (b"<!doctype html", "an HTML page", "download the file itself, not the page that shows it"),
    (b"<html", "an HTML page", "download the file itself, not the page that shows it"),
    (b"pk\x03\x04", "a zip archive (a PyTorch file?)", "export it to ONNX first: `mbdeploy export`"),
    (b"\x80\x02", "a Python pickle", "export it to ONNX first: `mbdeploy export`"),
)
_PROTOBUF_BYTES = 2 << 30


class Checked(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """A model that has passed: the files beside it that hold its data, its nodes with functions expanded, and the
    bytes of its weights."""

    model: onnx.ModelProto
    companions: tuple[str, ...]
    nodes: int
    weight_bytes: int


def check_model(path: Path, bounds: Bounds | None = None) -> Checked:
    """Read an ONNX file and refuse it if anything in it could hurt whoever parses or runs it.

    Rules, in this order: 1. a plain file, of ``max_file_size`` and 2 GiB at most. 2. Whole protobuf messages, of
    which the parser does not make much more than they are (:mod:`.wire`). 3. Operator sets that exist. 4. Sizes that
    are none or fit into ``max_memory``, and just the data declared. 5. External data in plain files of its own
    folder. 6. Functions and loops that end. 7. Attributes within ``max_window``. 8. Finite weights.

    Raises:
        ModelError: the first rule that does not hold.
    """
    bounds = bounds or current_bounds()
    size = check_file(path, bounds)
    if size > _PROTOBUF_BYTES:
        raise _refuse(path, f"{size} bytes, above protobuf's 2 GiB", "store its weights as external data")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _refuse(path, (error.strerror or str(error)).lower(), "check the path and its permissions") from error
    if not data:
        raise _refuse(path, "an empty file", "copy or download it again")
    head = data[:64].lstrip().lower()
    for beginning, found, todo in _IMPOSTORS:
        if head.startswith(beginning):
            raise _refuse(path, found, todo)
    scan_wire(data, path, bounds)
    return check_graph(_parse(data, path), path, bounds)


def check_graph(model: onnx.ModelProto, path: Path, bounds: Bounds | None = None, *, light: bool = False) -> Checked:
    """Rules 3 to 8 of ``check_model``; a ``light`` model is one whose large weights were left in the file."""
    bounds = bounds or current_bounds()
    if not model.graph.node or not model.opset_import:
        raise _refuse(path, "no graph with operators in it", "check that this is the file you meant")
    places = find_places(model)
    forget_unknown(places)
    check_operators(model, places, path)
    sizes = check_shapes(places, path, bounds, light=light)
    companions = check_external(places.tensors, sizes, path, bounds)
    nodes = check_functions(model, places, path, bounds)
    check_attributes(places, path, bounds)
    if not light:
        from mbdeploy.preflight.weights import check_weights

        check_weights(places, path)
    return Checked(model=model, companions=companions, nodes=nodes, weight_bytes=sum(sizes))


def _parse(data: bytes, path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise _refuse(path, "bytes that do not parse (truncated or random)", "copy or download it again") from error
    return model


def _refuse(path: Path, found: str, todo: str) -> Exception:
    return refuse(path, "an ONNX model", found, todo)
