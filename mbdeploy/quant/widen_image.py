"""Widen the image that a network reads by channels of zeros, from three channels to four.

ONNX Runtime's fast int8 convolution reads only multiples of 4 channels on x86; with 3 the first layer goes to a general
kernel. A Pad of the image and zero weights change no sum and no output by a bit, and take 5 to 14 % off the time of
MobileNetV3, MobileNetV1 0.25 and ShuffleNetV2 (AVX-512 VNNI, ONNX Runtime 1.31, one thread, medians of 60 pairs).
Deeper layers do not pay for a Pad of their own. It is the float image that is padded, not its bytes: that takes 1 %
longer (0.12 ms at 224 px), and Qualcomm's QNN refuses a network whose bytes are.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.quant.widen import Convolution, pad_tensor, read_layers, widen_depthwise

#: The fast kernel reads a multiple of 4 channels, and writes a multiple of 8 (AVX2), from 16 on.
_READ, _WRITTEN, _FEWEST = 4, 8, 16


def widen(placed: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """Widen the image and the depthwise layers of a Q/DQ model, in place; answers with (before, after) by layer."""
    return {**widen_image(placed), **widen_depthwise(placed)}


def widen_image(placed: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """Add channels of zeros to an image, in place, before it becomes bytes; answers with (before, after) by layer.

    Rules: 1. only where every reader of the image's bytes is a layer that has a fast kernel for more channels. 2. Only
    unsigned activations: signed ones have no fast kernel on x86.
    """
    graph = placed.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    layers = read_layers(graph, tensors)
    images = {value.name for value in graph.input}
    pixels = {
        node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] in images
    }
    widened = {}
    for back in [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in pixels]:
        zero = tensors.get(back.input[2]) if len(back.input) > 2 else None
        readers = [layers.get(node.output[0]) for node in graph.node if back.output[0] in node.input]
        chosen = [layer for layer in readers if layer is not None and _has_kernel(layer)]
        seen = {back.input[0], back.output[0]} & {value.name for value in graph.output}
        shared = sum(back.input[0] in node.input for node in graph.node) > 1
        if seen or shared or not chosen or len(chosen) < len(readers):
            continue  # rule 1
        if zero is None or zero.data_type != TensorProto.UINT8:
            continue  # rule 2
        before, rank = chosen[0].dims[1], len(chosen[0].dims)
        added = -before % _READ
        _pad_image(graph, pixels[back.input[0]], added, rank)
        for layer in chosen:
            pad_tensor(tensors[layer.stored[0]], 1, ((before, added),))
            widened[layer.node.name] = (before, before + added)
    if widened:
        del graph.value_info[:]  # the shapes that the file notes
    return widened


def _has_kernel(layer: Convolution) -> bool:
    written, read = layer.dims[:2]
    fits = written >= _FEWEST and written % _WRITTEN == 0
    return layer.is_fast and not layer.depthwise and read % _READ != 0 and fits


def _pad_image(graph: onnx.GraphProto, quantize: onnx.NodeProto, added: int, rank: int) -> None:
    """Put a Pad of ``added`` channels of zeros, each of which becomes the zero point, before a QuantizeLinear."""
    padded = f"{quantize.input[0]}_padded"
    pads = np.zeros((2, rank), np.int64)
    pads[1, 1] = added
    graph.initializer.append(numpy_helper.from_array(pads.reshape(-1), f"{padded}_by"))
    pad = helper.make_node("Pad", [quantize.input[0], f"{padded}_by"], [padded], padded)
    place = next(place for place, node in enumerate(graph.node) if node.output[0] == quantize.output[0])
    quantize.input[0] = padded
    graph.node.insert(place, pad)
