"""Write the target of a Reshape as a constant where only the batch leaves it open: no Shape chain need compute it."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from mbdeploy.rewrites.constants import add_constant


def fix_reshapes(model: ir.Model) -> list[str]:
    """Replace a computed target such as ``(x.size(0), -1)`` by one with -1 for the batch and numbers for the rest."""
    changed = []
    for node in list(model.graph):
        if node.op_type == "Reshape" and ir.convenience.get_const_tensor(node.inputs[1]) is None:
            target = _find_target(node.inputs[0].shape, node.outputs[0].shape)
            if target is not None:
                name = f"{node.outputs[0].name}/shape"
                node.replace_input_with(1, add_constant(node.graph, name, np.array(target, np.int64)))
                changed.append(node.name)
    return changed


def _find_target(before: ir.Shape | None, after: ir.Shape | None) -> list[int] | None:
    """The sizes after, with -1 for one that is open.

    Rules: 1. of two open sizes, one must be the only one that was open before (the batch). 2. The
    other then follows from the number of elements for one image.
    """
    if before is None or after is None or 0 in (*before, *after):
        return None
    batches = [size.value for size in before if not isinstance(size, int)]
    target = [size if isinstance(size, int) else -1 for size in after]
    is_open = [axis for axis, size in enumerate(target) if size == -1]
    if len(is_open) <= 1:
        return target
    same = [axis for axis in is_open if after[axis].value is not None and [after[axis].value] == batches]  # rule 1
    if len(is_open) != 2 or len(same) != 1:
        return None
    (other,) = set(is_open) - set(same)
    known = math.prod(size for size in target if size != -1)
    image = math.prod(size for size in before if isinstance(size, int))
    target[other] = image // known  # rule 2
    return target if image % known == 0 else None
