"""Operator sets and domains: numbers that exist, one of each domain, and no node of a domain that nobody imports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbdeploy.preflight.refusing import refuse, show_name
from mbdeploy.preflight.walking import Places

if TYPE_CHECKING:
    import onnx

_ONNX = ("", "ai.onnx")


def check_operators(model: onnx.ModelProto, places: Places, where: object) -> None:
    """Refuse operator sets that do not exist here.

    Raises:
        ModelError: a domain twice or of two versions, a version that the installed onnx does not know, a node
            without an operator or of a domain that is not imported.
    """
    import onnx.defs

    if model.ir_version < 1:
        raise refuse(where, "an IR version of 1 or more", str(model.ir_version))
    imported: dict[str, int] = {}
    imports = [model.opset_import, *(function.opset_import for function in model.functions)]
    for entries in imports:
        seen: set[str] = set()
        for entry in entries:
            domain = "" if entry.domain in _ONNX else entry.domain
            if domain in seen:
                raise refuse(where, "one version of each operator set", f"two of {show_name(entry.domain)}")
            seen.add(domain)
            imported[domain] = max(imported.get(domain, 0), entry.version)
            if entry.version < 1:
                raise refuse(where, "an opset of 1 or more", f"{entry.version} of {show_name(entry.domain)}")
    newest = onnx.defs.onnx_opset_version()
    if imported.get("", 0) > newest:
        todo = "install a newer onnx, or convert the file with onnx.version_converter"
        raise refuse(where, f"opset {newest} or older", f"opset {imported['']}", todo)
    own = {(function.domain, function.name) for function in model.functions}
    for node in places.nodes:
        domain = "" if node.domain in _ONNX else node.domain
        if not node.op_type:
            raise refuse(where, "an operator in every node", f"none in {show_name(node.name)}")
        if domain not in imported and (node.domain, node.op_type) not in own:
            found = f"{show_name(node.op_type)} of {show_name(node.domain)}"
            raise refuse(where, "nodes of operator sets that the file imports", found)
