"""Give the axes of the image a size where a file leaves them open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbdeploy.errors import UsageError

if TYPE_CHECKING:
    import onnx


def fix_image(model: onnx.ModelProto, name: str, shape: tuple[int, int, int], where: object = "") -> None:
    """Set the axes of the input ``name`` behind the batch to ``shape`` (C, H, W), in place.

    Sizes that were inferred for any image, outputs' among them, are forgotten.

    Raises:
        UsageError: an axis that the file fixes to another size.
    """
    value = next(value for value in model.graph.input if value.name == name)
    axes = value.type.tensor_type.shape.dim
    own = [axis.dim_value if axis.HasField("dim_value") else None for axis in axes[1:]]
    if any(size not in (None, given) for size, given in zip(own, shape, strict=True)):
        raise UsageError(
            where=where,
            expected=f"an image of {['?' if size is None else size for size in own]}, as the file has it",
            found=f"{list(shape)}",
            todo="give --input-shape as C,H,W with the sizes that the file fixes",
        )
    for axis, size in zip(axes[1:], shape, strict=True):
        axis.dim_value = size
    del model.graph.value_info[:]
    for output in model.graph.output:
        axes = output.type.tensor_type.shape.dim
        for axis in axes[1:]:
            axis.Clear()
