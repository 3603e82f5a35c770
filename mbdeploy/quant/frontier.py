"""Carry the calibration images through a quantized model layer by layer, while its weights are still being chosen.

What lies between two layers is kept in files, an image and a tensor each, so that memory does not grow with the number
of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from mbdeploy.preflight.arrays import read_array
from mbdeploy.quant.running import Batch, open_session, run_session
from mbdeploy.quant.segments import build_segment, cut_at_layers


class Frontier:
    """A model with Q/DQ pairs, and the 8-bit activations of every image as far as it has been run.

    ``add_image`` each image, then ``advance`` once for every layer of ``layers`` (names of nodes, in graph order);
    ``store`` new weights of a layer before the next ``advance``.
    """

    def __init__(self, model: onnx.ModelProto, layers: Sequence[str], folder: Path, threads: int) -> None:
        self._model = model
        self._threads = threads
        self._folder = folder
        self._segments = cut_at_layers(model, layers)
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._nodes = {node.name: node for node in model.graph.node}
        self._producers = {name: node for node in model.graph.node for name in node.output}
        self._numbers: dict[str, int] = {}
        self._live = {model.graph.input[0].name}
        self._done = 0
        self.images = 0

    def add_image(self, image: Batch) -> None:
        """Take in one more image, before the first ``advance``."""
        np.save(self._name_file(self._model.graph.input[0].name, self.images), image)
        self.images += 1

    def advance(self) -> None:
        """Run every image on to the input of the next layer, and forget what no later layer reads."""
        segment = self._segments[self._done]
        session = None
        for image in range(self.images if segment.outputs else 0):
            inputs = {name: read_array(self._name_file(name, image)) for name in segment.inputs}
            if session is None:
                session = open_session(build_segment(self._model, segment, inputs), self._threads)
            for name, value in zip(segment.outputs, run_session(session, segment.outputs, inputs), strict=True):
                np.save(self._name_file(name, image), value)
        self._done += 1
        needed = {name for later in self._segments[self._done :] for name in later.inputs}
        for name in (self._live | set(segment.outputs)) - needed:
            for image in range(self.images):
                self._name_file(name, image).unlink()
        self._live = (self._live | set(segment.outputs)) & needed

    def read_input(self, layer: str, image: int) -> NDArray[Any]:
        """The 8-bit input of the layer that the last ``advance`` has reached."""
        dequantize = self._producers[self._nodes[layer].input[0]]
        return read_array(self._name_file(dequantize.input[0], image))

    def is_quantized(self, layer: str) -> bool:
        """Whether input and weight of the layer come from DequantizeLinear nodes."""
        sources = (self._producers.get(name) for name in self._nodes[layer].input[:2])
        return all(source is not None and source.op_type == "DequantizeLinear" for source in sources)

    def store(self, layer: str, slot: int, integers: NDArray[Any], scales: NDArray[np.float32]) -> None:
        """Replace a constant input of a layer (1: weight, 2: bias) by other integers at other scales.

        The zero point, one for all channels, stays and is added.
        """
        dequantize = self._producers[self._nodes[layer].input[slot]]
        offset = [int(numpy_helper.to_array(self._tensors[name]).max()) for name in dequantize.input[2:]]
        for name, values in zip(dequantize.input[:2], (integers + sum(offset), scales), strict=True):
            tensor = self._tensors[name]
            shape, kind = tuple(tensor.dims), onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            tensor.CopyFrom(numpy_helper.from_array(values.reshape(shape).astype(kind), name))

    def _name_file(self, tensor: str, image: int) -> Path:
        number = self._numbers.setdefault(tensor, len(self._numbers))
        return self._folder / f"{number}_{image}.npy"
