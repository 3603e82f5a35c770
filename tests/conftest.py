"""Fixtures that several tests share: a small hand-made ONNX model, a folder of synthetic photographs."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path.append(str(Path(__file__).parent))  # for ``here``, ``hosts`` and ``runs``

# Tests run side by side with other work: one thread is enough for what they compute.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")


@pytest.fixture(scope="session")
def make_conv_model() -> Callable[..., onnx.ModelProto]:
    """Build Conv 3x3 -> Relu -> GlobalAveragePool -> Flatten -> Gemm over NCHW float32, weights from a seed.

    ``batch`` None is a dynamic batch called "batch"; the input is called ``name``, the output "logits".
    """
    return build_conv_model


@pytest.fixture(scope="session")
def build_chain() -> Callable[..., onnx.ModelProto]:
    """Build a chain of quantized 3x3 convolutions over (n, 1, 6, 6): see ``build_quantized_chain``."""
    return build_quantized_chain


@pytest.fixture(scope="session")
def undo_quantization() -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    """The float model that a quantized chain may have been made from: see ``undo_chain``."""
    return undo_chain


@pytest.fixture
def conv_model_file(tmp_path: Path) -> Path:
    """The model of ``make_conv_model`` at its defaults, as a file."""
    path = tmp_path / "conv.onnx"
    path.write_bytes(build_conv_model().SerializeToString(deterministic=True))
    return path


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """A folder ``photos`` of six smooth synthetic RGB images of unlike sizes, as PNG, from a seed."""
    folder = tmp_path / "photos"
    write_photos(folder, count=6)
    return folder


@pytest.fixture(scope="session")
def make_photos() -> Callable[..., None]:
    """Write ``count`` smooth synthetic images into a folder: see ``write_photos``."""
    return write_photos


@pytest.fixture(scope="session")
def make_onnx_card() -> Callable[..., Path]:
    """Write a card whose network is an ONNX file, so that no test has to wait for torch: see ``write_onnx_card``."""
    return write_onnx_card


@pytest.fixture
def without_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of the stages, and what the agent does on this machine, in this process: see here.py."""
    import here

    for name in here.STAGES:
        monkeypatch.setattr(importlib.import_module(f"mbdeploy.stages.{name}"), "run_step", here.run_step)
    monkeypatch.setattr("mbdeploy.targets.process.watch_process", here.watch_agent)


@pytest.fixture
def real_openvino() -> None:
    """Skip where OpenVINO is not installed."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("needs OpenVINO: pip install 'mbdeploy[openvino]'")


def write_onnx_card(folder: Path, name: str = "tiny", more: str = "") -> Path:
    """NAME.toml in ``folder``, with NAME.onnx (about a millisecond) and ./photos beside it; ``more`` ends the card."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "photos").is_dir():
        write_photos(folder / "photos", count=3)
    network = build_conv_model(seed=len(name), size=96, width=32).SerializeToString(deterministic=True)
    (folder / f"{name}.onnx").write_bytes(network)
    path = folder / f"{name}.toml"
    path.write_text(
        f'name = "{name}"\nsummary = "for this test"\n'
        f'weights = {{ file = "{name}.onnx", sha256 = "{hashlib.sha256(network).hexdigest()}" }}\n'
        "preprocess = { size = 96 }\n"
        'quantization = { calibration = "./photos", num_calibration_samples = 3, recipe = "portable" }\n' + more
    )
    return path


def build_conv_model(
    *,
    name: str = "image",
    batch: int | None = None,
    channels: int = 3,
    size: int = 16,
    width: int = 8,
    classes: int = 5,
    opset: int = 18,
    seed: int = 0,
) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    axis: int | str = "batch" if batch is None else batch
    weights = {
        "conv.weight": rng.normal(0, 0.3, (width, channels, 3, 3)),
        "conv.bias": rng.normal(0, 0.1, width),
        "fc.weight": rng.normal(0, 0.5, (classes, width)),
        "fc.bias": rng.normal(0, 0.1, classes),
    }
    nodes = [
        helper.make_node("Conv", [name, "conv.weight", "conv.bias"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["logits"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [axis, channels, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [axis, classes])],
        [numpy_helper.from_array(value.astype(np.float32), key) for key, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def build_quantized_chain(
    *, layers: int = 3, zero: int = 128, wrong_bias: int | None = None, residual: bool = False, channels: int = 1
) -> onnx.ModelProto:
    """x -> Q/DQ -> conv1 -> Q/DQ -> ... -> y, weights int8 from a seed; 8-bit tensors are q0, q1 ... of step 1/32.

    The first bias of layer ``wrong_bias`` is the largest int32: in float the channel is full, and an int32 accumulator
    overflows. With ``residual`` the last layer adds q1 to the one before.
    """
    rng = np.random.default_rng(3)
    weights: dict[str, np.ndarray] = {
        "s": np.float32(1 / 32),
        "z": np.uint8(zero),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q0"], "quantize0"),
        helper.make_node("DequantizeLinear", ["q0", "s", "z"], ["d0"], "dequantize0"),
    ]
    for k in range(1, layers + 1):
        if residual and k == layers:
            nodes.append(helper.make_node("Add", [f"d{k - 1}", "d1"], [f"c{k}"], f"add{k}"))
        else:
            weights[f"w{k}"] = rng.integers(-60, 90, (channels, channels, 3, 3), dtype=np.int8)
            weights[f"b{k}"] = rng.integers(1000, 3000, channels, dtype=np.int32)
            weights[f"b{k}"][0] = 2**31 - 1 if k == wrong_bias else weights[f"b{k}"][0]
            weights[f"bs{k}"] = np.float32(1 / 32 / 256)
            weights[f"bz{k}"] = np.int32(0)
            # One for each layer: ONNX Runtime 1.31 with x64quantprecision=1 refuses zero points that weights share.
            weights[f"ws{k}"], weights[f"wz{k}"] = np.float32(1 / 256), np.int8(0)
            nodes += [
                helper.make_node("DequantizeLinear", [f"w{k}", f"ws{k}", f"wz{k}"], [f"dw{k}"], f"weight{k}"),
                helper.make_node("DequantizeLinear", [f"b{k}", f"bs{k}", f"bz{k}"], [f"db{k}"], f"bias{k}"),
                helper.make_node(
                    "Conv", [f"d{k - 1}", f"dw{k}", f"db{k}"], [f"c{k}"], f"conv{k}", pads=[1] * 4, kernel_shape=[3, 3]
                ),
            ]
        end = "y" if k == layers else f"d{k}"
        nodes += [
            helper.make_node("QuantizeLinear", [f"c{k}", "s", "z"], [f"q{k}"], f"quantize{k}"),
            helper.make_node("DequantizeLinear", [f"q{k}", "s", "z"], [end], f"dequantize{k}"),
        ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", channels, 6, 6])],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def undo_chain(quantized: onnx.ModelProto) -> onnx.ModelProto:
    """A chain without Q/DQ, its weights in float; tensors have the names that the quantizer would have kept."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    renamed: dict[str, str] = {}
    weights: dict[str, np.ndarray] = {}
    nodes = []
    for node in quantized.graph.node:
        if node.op_type == "QuantizeLinear":
            renamed[node.output[0]] = renamed.get(node.input[0], node.input[0])
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            values, scale, zero = (constants[name] for name in node.input)
            weights[node.output[0]] = ((values.astype(np.float64) - zero) * scale).astype(np.float32)
        elif node.op_type == "DequantizeLinear":
            renamed[node.output[0]] = renamed[node.input[0]]
        else:
            inputs = [renamed.get(name, name) for name in node.input]
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = inputs
            nodes.append(copy)
    (output,) = quantized.graph.output
    nodes[-1].output[0] = output.name
    graph = helper.make_graph(
        nodes,
        "float",
        quantized.graph.input,
        quantized.graph.output,
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=quantized.opset_import, ir_version=quantized.ir_version)


def write_photos(folder: Path, *, count: int, seed: int = 0) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        height, width = 24 + 4 * index, 40 - 2 * index
        coarse = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(folder / f"photo_{index}.png")


@pytest.fixture
def stand_in_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called qemu-x86_64 that knows two CPUs and runs what follows on the real one."""
    if platform.machine() != "x86_64":
        pytest.skip("the x86 emulator runs this machine's Python, which is not x86 code")
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "qemu-x86_64"
    program.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo "qemu-x86_64 version 9.9.9 (made up)"; exit 0; fi\n'
        'if [ "$2" = help ]; then echo "x86 Haswell   (alias)"; echo "x86 Skylake-Client-v1   Intel"; exit 1; fi\n'
        'shift 2; exec "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return program


@pytest.fixture
def real_qemu() -> None:
    """Skip where qemu's emulator of x86 is not installed, or this machine has no x86 code to emulate."""
    skip_without("cpu@qemu:haswell")


@pytest.fixture
def real_arm() -> None:
    """Skip where the emulation prefix has not been built."""
    skip_without("arm@qemu:cortex-a53")


def skip_without(word: str) -> None:
    """Skip where this provider's target cannot be opened, with the reason that it gives."""
    from mbdeploy.errors import UnavailableError
    from mbdeploy.targets import open_target, parse_provider

    try:
        open_target(parse_provider(word))
    except UnavailableError as error:
        pytest.skip(str(error))
