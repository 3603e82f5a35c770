"""Export: the file does what the network does at every batch size, or there is no file."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from mbdeploy import artifact, model_file
from mbdeploy.card import load_card
from mbdeploy.errors import (
    DataError,
    MbdeployError,
    ModelError,
    OutputError,
    StepError,
    UnavailableError,
    UsageError,
)
from mbdeploy.golden import read_golden
from mbdeploy.isolate import Outcome, Progress, Verdict, run_step
from mbdeploy.records import ExportRecord
from mbdeploy.stages import export as stage
from mbdeploy.stages.export_job import export_network

FACTORIES = """
import os
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def pool(self, x):
        return self.bn(self.conv(x)).relu().mean((2, 3))

    def forward(self, x):
        return self.fc(self.pool(x))

class Sized(Small):
    def forward(self, x):
        return self.fc(self.pool(x)).reshape(int(x.shape[0]), 5)

class Branches(Small):
    def forward(self, x):
        y = self.pool(x)
        if y.sum() > 1e-3:
            y = y * 3
        return self.fc(y)

class Heads(Small):
    def forward(self, x):
        y = self.pool(x)
        return {"a": self.fc(y), "rest": [y, self.conv(x)]}

class Whole(Small):
    def forward(self, x):
        return self.fc(self.pool(x)).argmax(1)

class Lost(Small):
    def forward(self, x):
        return self.fc(self.pool(x)).sum(0)

class Deaf(Small):
    def forward(self, x):
        return self.fc(torch.zeros(x.shape[0], 4))

class Log(Small):
    def forward(self, x):
        return torch.log(self.fc(self.pool(x)) - 100)

class Broken(Small):
    def forward(self, x):
        raise ValueError("no such thing\\nas this")

class Two(Small):
    def forward(self, x, mask):
        return x

class Aborts(Small):
    def forward(self, x):
        os.abort()

def seeded(kind):
    def make():
        torch.manual_seed(0)
        return kind()
    return make

small, sized, branches, heads = seeded(Small), seeded(Sized), seeded(Branches), seeded(Heads)

def poisoned():
    net = small()
    net.fc.bias.data[1] = float("nan")
    net.bn.running_var[0] = float("inf")
    return net

def half():
    return small().half()
"""
SHAPE = (3, 16, 16)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory, make_photos: Callable[..., None]) -> Iterator[dict[str, Any]]:
    """What a source without a card needs; as long as it is used, FACTORIES can be imported."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "factories_for_tests.py").write_text(FACTORIES, encoding="utf-8")
    make_photos(folder / "photos", count=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield {"trust": True, "preprocess": "unit", "input_shape": SHAPE, "golden_data": str(folder / "photos")}
        sys.modules.pop("factories_for_tests", None)


def run_here(function: str, request: Mapping[str, Any], *, limits: Any, on_progress: Progress) -> Outcome:
    """The child's work in this process: importing torch anew takes seconds."""
    assert function == "mbdeploy.stages.export_job:export_network"
    value = export_network(json.loads(json.dumps(request)), on_progress)
    return Outcome(verdict=Verdict.OK, value=json.loads(json.dumps(value)))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "run_step", run_here)


@pytest.fixture(scope="module", params=[pytest.param("dynamo", marks=pytest.mark.slow), "torchscript"])
def exported(request: pytest.FixtureRequest, options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network, exported once in each way, in this process."""
    path = tmp_path_factory.mktemp(request.param) / "fp32.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "run_step", run_here)
        stage.export(name("small"), output=path, exporter=request.param, **options)
    return path


def name(factory: str) -> str:
    return f"factories_for_tests:{factory}"


def make_network(factory: str) -> torch.nn.Module:
    network: torch.nn.Module = getattr(importlib.import_module("factories_for_tests"), factory)().eval()
    return network


def list_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def run_file(path: Path, images: Any) -> list[Any]:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"image": images}))


@pytest.mark.slow
@pytest.mark.parametrize("exporter", [pytest.param("dynamo", marks=pytest.mark.sweep), "torchscript"])
def test_an_export_writes_the_same_bytes_in_every_process_and_vouches_for_them(
    tmp_path: Path,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    exporter: str,
) -> None:
    seen: list[str] = []
    path = tmp_path / "out" / "fp32.onnx"
    arguments = {**options, "exporter": exporter}
    record = stage.export(name("small"), output=path, on_progress=lambda what, *_: seen.append(what), **arguments)

    assert list_files(path.parent) == ["fp32.onnx", "fp32.onnx.json", "golden.npz", "golden.npz.json"]
    assert (record.exporter, record.opset, record.images, record.trained) == (exporter, 18, 6, None)
    assert 0 <= record.max_abs <= 1e-4
    assert record.torch_export_s > 0
    assert record.golden_sha256 == artifact.digest_file(path.with_name("golden.npz"))
    sidecar = artifact.read_sidecar(path)
    assert sidecar is not None
    assert msgspec.json.decode(sidecar.record, type=ExportRecord) == record
    steps = ["reading images", "loading the network", "running torch", "tracing", "comparing"]
    assert list(dict.fromkeys(seen)) == steps

    provenance = stage.plan(name("small"), **arguments)
    assert artifact.is_fresh(path, provenance)
    assert artifact.is_fresh(path.with_name("golden.npz"), provenance)

    monkeypatch.setattr(stage, "run_step", run_here)
    again = tmp_path / "another place" / "fp32.onnx"
    stage.export(name("small"), output=again, **arguments)
    for file in ("fp32.onnx", "golden.npz"):
        assert again.with_name(file).read_bytes() == path.with_name(file).read_bytes()


@pytest.mark.slow
def test_the_file_computes_what_torch_computes_at_batch_sizes_that_were_never_traced(exported: Path) -> None:
    model = model_file.load_model(exported)
    onnx.checker.check_model(model, full_check=True)
    assert model_file.read_signature(model).shape == (None, *SHAPE)
    assert [axis.dim_param for axis in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", "", "", ""]
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    golden = read_golden(exported.with_name("golden.npz"))
    assert golden.output_names == ("logits",) == model_file.read_signature(model).outputs
    network = make_network("small")
    for size in (1, 2, 3, 5, 6):
        images = golden.input[:size]
        (logits,) = run_file(exported, images)
        with torch.inference_mode():
            np.testing.assert_allclose(logits, network(torch.from_numpy(images)).numpy(), atol=1e-5)
        np.testing.assert_allclose(logits, golden.outputs[0][:size], atol=1e-5)


@pytest.mark.slow
def test_nothing_in_the_file_says_where_or_when_it_was_made(exported: Path) -> None:
    data = exported.read_bytes()
    model = model_file.load_model(exported)
    assert data == model.SerializeToString(deterministic=True)
    for place in (exported.parent, Path(torch.__file__).parent, Path(stage.__file__).parent, Path.home(), Path.cwd()):
        assert str(place).encode() not in data
    for word in (b".py", b"site-packages", b"stack_trace", b"pkg.torch"):
        assert word not in data
    assert all(key.startswith("mbdeploy.") for key in model_file.read_metadata(model))


def test_layers_are_called_as_in_the_network(exported: Path) -> None:
    nodes = model_file.load_model(exported).graph.node
    assert len({node.name for node in nodes}) == len(nodes)
    names = {node.op_type: node.name.strip("/").split("/")[0] for node in nodes}
    assert (names["Conv"], names["Gemm"]) == ("conv", "fc")


def test_the_file_carries_what_later_stages_need(tmp_path: Path, options: dict[str, Any], here: None) -> None:
    path = tmp_path / "fp32.onnx"
    stage.export(name("heads"), output=path, exporter="torchscript", **options)
    model = model_file.load_model(path)
    metadata = model_file.read_metadata(model)
    preprocess = model_file.read_preprocess(model)
    assert preprocess is not None
    assert (preprocess.size, preprocess.std) == (16, (255.0, 255.0, 255.0))
    expected = {"card": "", "stage": "fp32", "task": "classify", "trained": "unknown"}
    assert {key: metadata[f"mbdeploy.{key}"] for key in expected} == expected
    provenance = json.loads(metadata["mbdeploy.provenance"])
    planned = stage.plan(name("heads"), exporter="torchscript", **options)
    assert provenance == json.loads(msgspec.json.encode(planned))
    assert set(provenance["parents"]) == {"golden_data", "factory"}
    # Dicts and lists are taken apart in their order.
    golden = read_golden(tmp_path / "golden.npz")
    assert golden.output_names == ("a", "rest_0", "rest_1") == model_file.read_signature(model).outputs
    assert [output.shape for output in golden.outputs] == [(6, 5), (6, 4), (6, 4, 14, 14)]
    for result, reference in zip(run_file(path, golden.input), golden.outputs, strict=True):
        np.testing.assert_allclose(result, reference, atol=1e-5)


CARD = """
name = "tiny"
summary = "for tests"
net = "mobilenet_v1"
args = { alpha = 0.25, classes = 7 }
[weights]
seed = 3
[preprocess]
size = 32
resize = 40
mean = [127.5, 127.5, 127.5]
std = [127.5, 127.5, 127.5]
[labels]
names = "imagenet"
[quantization]
calibration = "photos"
"""


@pytest.fixture
def card_file(tmp_path: Path, make_photos: Callable[..., None]) -> Path:
    """A card whose calibration data lie in a folder beside it."""
    folder = tmp_path / "cards"
    make_photos(folder / "own", count=9)
    path = folder / "tiny.toml"
    path.write_text(CARD.replace('"photos"', '"own"'), encoding="utf-8")
    return path


def test_a_card_says_everything_itself(tmp_path: Path, card_file: Path, here: None) -> None:
    path = tmp_path / "out" / "fp32.onnx"
    record = stage.export(card_file, output=path, exporter="torchscript", opset=13, num_golden_samples=8)
    assert (record.trained, record.images, record.opset) == (False, 8, 13)
    model = model_file.load_model(path)
    assert [entry.version for entry in model.opset_import] == [13]
    metadata = model_file.read_metadata(model)
    assert (metadata["mbdeploy.card"], metadata["mbdeploy.trained"]) == ("tiny", "false")
    assert json.loads(metadata["mbdeploy.labels"]) == {"background": False, "names": "imagenet"}
    assert model_file.read_preprocess(model) == load_card(card_file).preprocess
    assert str(tmp_path) not in metadata["mbdeploy.provenance"]
    assert artifact.is_fresh(path, stage.plan(card_file, exporter="torchscript", opset=13, num_golden_samples=8))


def test_a_difference_beyond_the_cards_budget_leaves_no_file(tmp_path: Path, card_file: Path, here: None) -> None:
    card_file.write_text(card_file.read_text() + "[budgets]\nexport_max_abs = -1.0\n")
    with pytest.raises(ModelError, match=r"ONNX Runtime within -1 of torch on 9 images \(max abs\), found max abs"):
        stage.export(card_file, output=tmp_path / "out" / "fp32.onnx", exporter="torchscript")
    assert list_files(tmp_path / "out") == []


@pytest.mark.slow
def test_weights_of_a_file_replace_the_cards(tmp_path: Path, card_file: Path, here: None) -> None:
    from mbdeploy.nets.weights import load_network

    network = load_network(load_card(card_file))
    network.get_submodule("head.2").weight.data *= 0.5
    torch.save(network.state_dict(), tmp_path / "w.pth")
    arguments: dict[str, Any] = {"exporter": "torchscript", "num_golden_samples": 2}
    seeded = stage.export(card_file, output=tmp_path / "a" / "m.onnx", **arguments)
    loaded = stage.export(card_file, output=tmp_path / "b" / "m.onnx", weights=str(tmp_path / "w.pth"), **arguments)
    assert (seeded.trained, loaded.trained) == (False, True)
    one, other = (read_golden(tmp_path / folder / "golden.npz").outputs[0] for folder in "ab")
    assert np.abs(one - other).max() > 0.01
    provenance = stage.plan(card_file, weights=str(tmp_path / "w.pth"), **arguments)
    recorded = provenance.params["card"]["weights"]
    assert (recorded["file"], recorded["sha256"]) == ("w.pth", artifact.digest_file(tmp_path / "w.pth"))


@pytest.mark.slow
def test_a_program_of_torch_export_gives_the_same_as_its_network(
    tmp_path: Path, options: dict[str, Any], here: None
) -> None:
    network = make_network("small")
    example = (torch.zeros(2, *SHAPE),)
    torch.export.save(
        torch.export.export(network, example, dynamic_shapes=({0: torch.export.Dim("n")},)), tmp_path / "net.pt2"
    )
    torch.export.save(torch.export.export(network, example), tmp_path / "fixed.pt2")
    stage.export(tmp_path / "net.pt2", output=tmp_path / "a" / "fp32.onnx", **options)
    stage.export(name("small"), output=tmp_path / "b" / "fp32.onnx", **options)
    one, other = (model_file.load_model(tmp_path / folder / "fp32.onnx") for folder in "ab")
    assert one.graph == other.graph
    parents = stage.plan(tmp_path / "net.pt2", **options).parents
    assert parents["program"] == artifact.digest_file(tmp_path / "net.pt2")

    with pytest.raises(ModelError, match=r"\(any batch, 3, 16, 16\), found \(2, 3, 16, 16\)"):
        stage.export(tmp_path / "fixed.pt2", output=tmp_path / "c" / "fp32.onnx", **options)
    (tmp_path / "torn.pt2").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ModelError, match=r"expected a program that torch\.export\.save wrote"):
        stage.export(tmp_path / "torn.pt2", output=tmp_path / "c" / "fp32.onnx", **options)
    assert list_files(tmp_path / "c") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "exporter", "message"),
    [
        ("sized", "torchscript", "runs at every batch size, found at a batch of 1: .*Reshape"),
        ("branches", "torchscript", r"within 0\.0001 of torch on 6 images \(max abs\), found max abs"),
        (
            "branches",
            "dynamo",
            r"data-dependent expression Eq\(u0, 1\) in factories_for_tests\.py, line 26: if y\.sum\(\) > 1e-3:; try",
        ),
        ("poisoned", "dynamo", r"finite weights, found NaN or infinity in fc\.bias, bn\.running_var;"),
        ("half", "dynamo", r"float32 weights, found conv\.weight \(float16\), .* and 3 more"),
        ("Whole", "dynamo", "float32 tensors, found int64 as output 0"),
        ("Lost", "dynamo", r"one result an image .*, found shape \(5,\) of output 0"),
        ("Deaf", "dynamo", "depend on the image, found output 0: the same for all 6 images"),
        ("Log", "dynamo", "outputs that are finite .*, found output 0: 30 of 30 values are NaN or infinite"),
        ("Broken", "dynamo", r"runs on a batch of \(6, 3, 16, 16\), found no such thing; check"),
        ("Two", "dynamo", "missing 1 required positional argument: 'mask'"),
    ],
)
def test_a_network_that_cannot_be_exported_faithfully_is_refused_in_one_line_and_leaves_nothing(
    tmp_path: Path, options: dict[str, Any], here: None, factory: str, exporter: str, message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        stage.export(name(factory), output=tmp_path / "out" / "fp32.onnx", exporter=exporter, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert caught.value.where == name(factory)
    assert list_files(tmp_path / "out") == []


@pytest.mark.slow
def test_a_network_that_takes_its_process_down_takes_no_more(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "out" / "fp32.onnx"
    artifact.write_bytes(path, b"of last week")
    with pytest.raises(StepError, match="CRASHED: killed by SIGABRT"):
        stage.export(name("Aborts"), output=path, **options)
    assert list_files(path.parent) == ["fp32.onnx"]
    assert path.read_bytes() == b"of last week"


def test_a_full_disk_at_the_end_leaves_nothing(
    tmp_path: Path, options: dict[str, Any], here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match="no space left on device"):
        stage.export(name("small"), output=tmp_path / "out" / "fp32.onnx", exporter="torchscript", **options)
    assert list_files(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("source", "changes", "kind", "message"),
    [
        (name("small"), {"trust": False}, UsageError, "a factory, which is code; give --trust"),
        (name("small"), {"preprocess": None}, UsageError, "--preprocess"),
        (name("small"), {"golden_data": None}, UsageError, "no golden data; give --golden-data"),
        (name("small"), {"input_shape": None}, UsageError, "no input shape; give --input-shape"),
        (name("small"), {"input_shape": (3, 16, 9000)}, UsageError, "1 to 8192 pixels .* found input shape 3,16,9000"),
        (name("small"), {"input_shape": (4, 16, 16)}, UsageError, "1 or 3 channels"),
        (name("small"), {"input_shape": (3, 0, 0)}, UsageError, "found input shape 3,0,0"),
        (name("small"), {"exporter": "scribe"}, UsageError, "dynamo or torchscript"),
        (name("small"), {"num_golden_samples": 0}, UsageError, "at least 1"),
        (name("small"), {"golden_data": "nowhere"}, DataError, "nowhere"),
        (name("small"), {"weights": "nowhere.pth"}, UsageError, "no such file; check --weights"),
        ("none.pt2", {}, ModelError, "no such file"),
        ("none.pt2", {"trust": False}, UsageError, "a .pt2 file, which torch unpickles"),
        ("no_such_card", {}, MbdeployError, "no such card"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_said_before_any_process_starts(
    tmp_path: Path,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    changes: dict[str, Any],
    kind: type[Exception],
    message: str,
) -> None:
    monkeypatch.setattr(stage, "run_step", pytest.fail)
    with pytest.raises(kind, match=message):
        stage.export(source, output=tmp_path / "out" / "fp32.onnx", **{**options, **changes})
    with pytest.raises(kind, match=message):
        stage.plan(source, **{**options, **changes})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("opset", [6, 1000])
def test_an_opset_that_nobody_knows_is_refused(tmp_path: Path, options: dict[str, Any], here: None, opset: int) -> None:
    with pytest.raises(UsageError, match=rf"an opset in 7\.\.\d+, found {opset}"):
        stage.export(name("small"), output=tmp_path / "out" / "fp32.onnx", opset=opset, **options)


@pytest.mark.slow
def test_an_opset_that_the_exporter_cannot_reach_is_refused_and_not_replaced(
    tmp_path: Path, options: dict[str, Any], here: None
) -> None:
    with pytest.raises(ModelError, match="a graph of opset 13, found opset 18"):
        stage.export(name("small"), output=tmp_path / "out" / "fp32.onnx", opset=13, **options)
    assert list_files(tmp_path / "out") == []


def test_without_torch_it_says_what_to_install(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))
    with pytest.raises(UnavailableError, match=r"pip install mbdeploy\[export\]") as caught:
        stage.export(name("small"), output=tmp_path / "fp32.onnx", **options)
    assert caught.value.exit_code == 3
    assert "golden_data" in stage.plan(name("small"), **options).parents


def test_a_model_may_not_be_called_like_the_golden_file(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(OutputError, match="that of the golden file"):
        stage.export(name("small"), output=tmp_path / "golden.npz", **options)


def test_the_childs_entry_is_found_under_the_name_that_the_parent_uses() -> None:
    outcome = run_step("mbdeploy.stages.export_job:export_network", {})
    assert (outcome.verdict, outcome.detail) == (Verdict.REJECTED, "KeyError: 'job'")
