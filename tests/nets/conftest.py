"""Every variant of the zoo through export, simplify, quantize and verify: made once, for the tests that look at it."""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import pkgutil
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import filelock
import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import mbdeploy
from mbdeploy.golden import read_golden
from mbdeploy.nets import NETS
from mbdeploy.quant.pairsafe import find_clipping
from mbdeploy.results import Check, decode_result, encode_result

IMAGES = 8  # to calibrate with, and others to compare on
FEW_IMAGES = {"vgg16": 3, "alexnet": 3, "conv_mobilenet": 4, "resnet50": 4}
SQUARE = {"espnet": 256}  # smaller than the paper's 1024 x 512, and square
#: Feature maps of a net that is cut by StagedNet, as nearly all are, of one that splits channels, and two of their own.
FEATURES = ("mobilenet_v3", "shufflenet_v2", "espnet", "espnetv2")
FEATURES_SIZE = 96
TINY = {"mobilenet_v1 alpha=0.25 cifar=True", "mobilenet_v3 variant=small alpha=0.35", "shufflenet_v2 alpha=0.5"}
#: Of these the one that `make test` makes; the others wait for the sweep.
TINIEST = "mobilenet_v1 alpha=0.25 cifar=True"
BATCHES = (1, 3)

#: Operators that compute sizes, or that nothing needs once sizes are known.
SIZES = frozenset(
    "Shape Size ConstantOfShape Constant Range NonZero Where Cast Gather GatherND GatherElements ScatterND Expand Tile "
    "Pad Identity Dropout If Loop Scan".split()
)
#: Operators that move numbers.
MOVES = frozenset("Reshape Flatten Transpose Slice Split Squeeze Unsqueeze".split())


class Variant(msgspec.Struct, frozen=True):
    net: str
    args: dict[str, Any]
    size: int

    @property
    def name(self) -> str:
        return name_network(self.net, self.args)

    @property
    def family(self) -> str:
        """What the variants are called together that differ in widths and groups only."""
        kept = {key: value for key, value in self.args.items() if key in ("variant", "version")}
        return name_network(self.net, kept) + (" features" if self.args.get("features_only") else "")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What came out for one variant.

    ``sqnr_db`` is by output; ``batches`` is simplified against raw, as a share of the largest output; ``ran``
    are the nodes of ONNX Runtime's optimised graph but for Clips of bytes; ``norm_features`` is the length of the batch
    norms left.
    """

    checks: tuple[Check, ...]
    sqnr_db: tuple[float, ...]
    onnxsim: tuple[str, str]
    axes: tuple[str, ...]
    batches: dict[int, float]
    chains: tuple[str, ...]
    moves: dict[str, int]
    floats: dict[str, int]
    reasons: dict[str, str]
    ran: dict[str, int]
    clipping: tuple[str, ...]
    macs: int
    weights: int
    parameters: int
    norm_features: int
    uncounted: tuple[str, ...]


class Made(NamedTuple):
    """A variant, what came out for it, and the counts of its torch network (see test_counts.py)."""

    variant: Variant
    facts: Facts
    expected: Any


def name_network(net: str, args: dict[str, Any]) -> str:
    return " ".join([net, *(f"{key}={value}" for key, value in args.items())])


def load_counts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("printed_counts", Path(__file__).with_name("test_counts.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


COUNTS = load_counts()


def list_variants() -> list[Variant]:
    """Each distinct network of the papers' table at the smallest size it is printed for, and ``FEATURES``."""
    found: dict[str, Variant] = {}
    for row in COUNTS.ROWS:
        size = row.size if isinstance(row.size, int) else SQUARE[row.net]
        variant = Variant(row.net, leave_out_defaults(row.net, row.args), size)
        if variant.name not in found or found[variant.name].size > size:
            found[variant.name] = variant
    features = []
    for net in FEATURES:
        lightest = min((one for one in found.values() if one.net == net), key=lambda one: one.args.get("alpha", 1.0))
        features.append(Variant(net, {**lightest.args, "features_only": True}, FEATURES_SIZE))
    return [*found.values(), Variant("mobilenet_v1", {"alpha": 0.25, "cifar": True}, 32), *features]


def leave_out_defaults(net: str, args: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(pkgutil.resolve_name(NETS[net])).parameters
    return {key: value for key, value in args.items() if key == "variant" or parameters[key].default != value}


def write_card(variant: Variant, folder: Path) -> Path:
    args = ", ".join(f"{key} = {json.dumps(value)}" for key, value in variant.args.items())
    path = folder / "card.toml"
    path.write_text(
        f'name = "card"\nsummary = "{variant.name}"\nnet = "{variant.net}"\nargs = {{ {args} }}\nweights.seed = 0\n'
        f"[preprocess]\nsize = {variant.size}\nmean = [127.5, 127.5, 127.5]\nstd = [127.5, 127.5, 127.5]\n"
    )
    return path


def make_facts(variant: Variant, folder: Path) -> Facts:
    images = FEW_IMAGES.get(variant.net, IMAGES)
    raw, simplified, int8 = (folder / f"{name}.onnx" for name in ("fp32", "simplified", "int8"))
    golden = folder / "golden.npz"
    mbdeploy.export(write_card(variant, folder), output=raw, num_golden_samples=images)
    slimmed = mbdeploy.simplify(raw, output=simplified, golden=golden)
    quantized = mbdeploy.quantize(
        simplified, output=int8, calibration="photos", num_calibration_samples=images, recipe=choose_recipe(variant)
    )
    parity = mbdeploy.verify([raw, simplified, int8], golden=golden)
    inspected = mbdeploy.inspect(simplified)
    model = onnx.shape_inference.infer_shapes(onnx.load(simplified))
    graph = model.graph
    operators = {node.name: node.op_type for node in graph.node}
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    return Facts(
        checks=parity.checks,
        sqnr_db=tuple(check.value for check in parity.checks if check.name == "sqnr_db"),
        onnxsim=(slimmed.onnxsim, slimmed.attempt),
        axes=tuple(value.type.tensor_type.shape.dim[0].dim_param for value in (*graph.input, *graph.output)),
        batches=compare_batches(raw, simplified, read_golden(golden).input),
        chains=tuple(find_shape_chains(model)),
        moves=dict(Counter(node.op_type for node in graph.node if node.op_type in MOVES)),
        floats=dict(Counter(operators[node] for node in quantized.float_nodes)),
        reasons={operators[node]: reason for node, reason in quantized.float_nodes.items()},
        ran=dict(Counter(quantized.operators) - Counter(Clip=count_byte_clips(onnx.load(int8)))),
        clipping=tuple(find_clipping_layers(onnx.load(int8))),
        macs=inspected.total.macs,
        weights=inspected.total.weights,
        parameters=inspected.total.parameters,
        norm_features=sum(sizes[node.input[1]] for node in graph.node if node.op_type == "BatchNormalization"),
        uncounted=tuple(f"{node.operator} {node.name}: {node.reason}" for node in inspected.uncounted),
    )


def choose_recipe(variant: Variant) -> str:
    """The default for the tiny ones and for each family's feature maps; ``portable`` where a sweep would take hours."""
    return "accurate" if variant.name in TINY or variant.args.get("features_only") else "portable"


def compare_batches(raw: Path, simplified: Path, images: NDArray[np.float32]) -> dict[int, float]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for path in (raw, simplified)
    ]
    found = {}
    for batch in BATCHES:
        pairs = zip(*(session.run(None, {"image": images[:batch]}) for session in sessions), strict=True)
        found[batch] = float(np.max([np.abs(one - two).max() / np.abs(one).max() for one, two in pairs]))
    return found


def find_shape_chains(model: onnx.ModelProto) -> list[str]:
    """What computes sizes instead of numbers.

    Rules: 1. no operator of ``SIZES``. 2. Every tensor that is computed while the network runs is float32; so
    whatever is not (the target of a Reshape, the bounds of a Slice) is an initializer. 3. A Slice or Split cuts
    channels: to cut rows or columns is padding undone.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    values = (*graph.input, *graph.output, *graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    found = []
    for node in graph.node:
        if node.op_type in SIZES:  # 1.
            found.append(f"{node.op_type} {node.name}")
        found += [
            f"{node.op_type} {node.name} works on {name}"
            for name in (*node.input, *node.output)
            if name and name not in constants and types.get(name) != TensorProto.FLOAT  # 2.
        ]
        if node.op_type in ("Slice", "Split") and (axes := read_axes(node, constants)) != [1]:  # 3.
            found.append(f"{node.op_type} {node.name} cuts along {axes}")
    return found


def read_axes(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> list[int]:
    if node.op_type == "Split":
        return [next((item.i for item in node.attribute if item.name == "axis"), 0)]
    axes: list[int] = numpy_helper.to_array(constants[node.input[3]]).tolist()
    return axes


def count_byte_clips(model: onnx.ModelProto) -> int:
    """Clips between the bytes of a Q and a DQ: what is left of a hard sigmoid."""
    bytes_ = {node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    return sum(node.op_type == "Clip" and node.input[0] in bytes_ for node in model.graph.node)


def find_clipping_layers(model: onnx.ModelProto) -> list[str]:
    """Layers whose stored weights could saturate a CPU that adds pairs in 16 bits; it takes no such CPU to see."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    stored = {
        node.output[0]: numpy_helper.to_array(constants[node.input[0]])
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    found = []
    for node in model.graph.node:
        weight = stored.get(node.input[1]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
        if weight is None:
            continue
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if attributes.get("group", 1) == len(weight) and weight.shape[1] == 1:
            continue  # depthwise: its kernels add no pairs
        if node.op_type == "Conv":
            view = np.moveaxis(weight, 1, -1).reshape(len(weight), -1, weight.shape[1])
        else:
            view = (weight if attributes.get("transB") else weight.T)[:, np.newaxis]
        if find_clipping(view).any():
            found.append(node.name)
    return found


def mark(variant: Variant) -> Any:
    tier = pytest.mark.slow if variant.name == TINIEST else pytest.mark.sweep
    return pytest.param(variant, id=variant.name, marks=tier)


@pytest.fixture(scope="module", params=[mark(variant) for variant in list_variants()])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A variant, made once for all tests, also where pytest-xdist spreads these over processes."""
    variant: Variant = request.param
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    kept = shared / f"{variant.name.replace(' ', '-')}.json"
    with filelock.FileLock(f"{kept}.lock"):
        if not kept.exists():
            folder = tmp_path_factory.mktemp("variant")
            facts = make_facts(variant, folder)
            shutil.rmtree(folder)  # VGG16's files are 1.3 GB
            kept.write_bytes(encode_result(facts))
    expected = COUNTS.build_counts(COUNTS.Row(variant.net, variant.args, variant.size, None, None))
    return Made(variant, decode_result(kept.read_bytes(), Facts), expected)


@pytest.fixture
def search_shape_chains() -> Callable[[onnx.ModelProto], list[str]]:
    """What ``Facts.chains`` is filled with: see ``find_shape_chains``."""
    return find_shape_chains
