"""Weights that are numbers: no NaN anywhere, and no infinity where a layer multiplies by it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mbdeploy.preflight.refusing import refuse, show_name
from mbdeploy.preflight.walking import Places

if TYPE_CHECKING:
    from mbdeploy.errors import ModelError

_RAW: dict[int, Any] = {1: np.float32, 10: np.float16, 11: np.float64}
_BFLOAT16 = 16
_BLOCK = 1 << 20
#: Operators whose constant inputs are factors, scales or statistics; elsewhere infinity can be meant (masks, bounds).
_MULTIPLYING = frozenset(
    "Conv ConvTranspose Gemm MatMul BatchNormalization InstanceNormalization LayerNormalization PRelu "
    "QuantizeLinear DequantizeLinear QLinearConv QLinearMatMul ConvInteger MatMulInteger DynamicQuantizeLinear "
    "QLinearAdd QLinearMul QGemm FusedConv LSTM GRU RNN Mul".split()
)


def check_weights(places: Places, path: Path) -> None:
    """Refuse floats that are NaN, and infinite ones that feed a layer; external ones are read in blocks.

    Rules: 1. tensors wherever they are, sparse ones by their values, and the plain floats of Constant nodes. 2. What a
    Constant holds is known by its output: its tensor can have another name, or none.

    Raises:
        ModelError: with the tensor's name.
    """
    multiplied = {name for node in places.nodes if node.op_type in _MULTIPLYING for name in node.input}
    tensors = [(tensor.name, tensor) for tensor in (*places.tensors, *(item.values for item in places.sparse))]
    for node in places.nodes:
        if node.op_type != "Constant" or not node.output:
            continue
        for item in node.attribute:
            if item.name in ("value_float", "value_floats"):
                _check_values(np.array([item.f, *item.floats], np.float32), node.output[0], multiplied, path)
            elif item.name in ("value", "sparse_value") and node.output[0] in multiplied:  # 2.
                tensors.append((node.output[0], item.t if item.name == "value" else item.sparse_tensor.values))
    for name, tensor in tensors:
        if tensor.data_type in _RAW or tensor.data_type == _BFLOAT16:
            for values in _iter_values(tensor, path):
                _check_values(values, name, multiplied, path)


def _check_values(values: NDArray[Any], name: str, multiplied: Collection[str], path: Path) -> None:
    with np.errstate(all="ignore"):
        if np.isfinite(values).all():
            return
        found = "NaN" if np.isnan(values).any() else "infinity" if name in multiplied else ""
    if found:
        raise _refuse_weight(path, found, name)


def _iter_values(tensor: Any, path: Path) -> Iterable[NDArray[Any]]:
    if tensor.external_data:
        return _map_blocks(tensor, path)
    if tensor.HasField("raw_data"):
        return [_view(tensor.raw_data, tensor.data_type)]
    if tensor.data_type == 1:
        return [np.asarray(tensor.float_data, np.float32)]
    if tensor.data_type == 11:
        return [np.asarray(tensor.double_data, np.float64)]
    halves = np.asarray(tensor.int32_data, np.int64).astype(np.uint16).tobytes()
    return [_view(halves, tensor.data_type)]


def _view(data: bytes | memoryview, data_type: int) -> NDArray[Any]:
    if data_type == _BFLOAT16:
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, np.dtype(_RAW[data_type]).newbyteorder("<"))


def _map_blocks(tensor: Any, path: Path) -> Iterator[NDArray[Any]]:
    told = {entry.key: entry.value for entry in tensor.external_data}
    itemsize = 2 if tensor.data_type == _BFLOAT16 else np.dtype(_RAW[tensor.data_type]).itemsize
    size = int(np.prod(tensor.dims, dtype=np.int64)) * itemsize
    if size == 0:
        return
    file = path.parent / told["location"]
    mapped = np.memmap(file, np.uint8, "r", offset=int(told.get("offset", "0")), shape=(size,))
    step = _BLOCK * itemsize
    for start in range(0, size, step):
        yield _view(mapped[start : start + step].tobytes(), tensor.data_type)


def _refuse_weight(path: Path, found: str, name: str) -> ModelError:
    return refuse(path, "finite weights", f"{found} in {show_name(name)}", "repair or train the model again")
