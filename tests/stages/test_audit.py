"""The audit stage, end to end: files that quantize_static makes, damaged ones, and what is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mbdeploy import artifact
from mbdeploy.auditing.cpus import CPUS
from mbdeploy.auditing.report import AuditReport, Examined, Finding, Spot
from mbdeploy.errors import DataError, ModelError, StepError, UsageError
from mbdeploy.results import ModelRef
from mbdeploy.stages.audit import audit
from mbdeploy.stages.audit_tables import tabulate_audit

IMAGES = 3


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory, make_conv_model: Callable[..., onnx.ModelProto]) -> Path:
    """The small network with weights that clip: neighbours of one sign, near their channel's largest."""
    model = make_conv_model(channels=4, width=16, size=8)
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("weight"):
            values = rng.choice([-1.0, 1.0], tensor.dims) * rng.uniform(0.2, 0.3, tensor.dims)
            if len(tensor.dims) == 4:
                values[:, 1::2] = np.abs(values[:, 1::2]) * np.sign(values[:, 0::2])
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    path = tmp_path_factory.mktemp("float") / "float.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright images, as rows of an array file."""
    path = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(path, images=np.random.default_rng(1).uniform(0, 1, (IMAGES, 4, 8, 8)).astype(np.float32))
    return path


@pytest.fixture(scope="module")
def quantize_static(float_file: Path, images: Path) -> Callable[[str, str], Path]:
    """Quantize the float file with ONNX Runtime's own tool, per channel: activation type and format."""
    from onnxruntime import quantization

    inputs = np.load(images)["images"]

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self.rows, None)
            return None if row is None else {"image": row[np.newaxis]}

    def make(activation: str, form: str) -> Path:
        path = float_file.with_name(f"{activation}_{form}.onnx")
        if not path.exists():
            quantization.quantize_static(
                str(float_file),
                str(path),
                Reader(),
                quant_format=quantization.QuantFormat[form],
                per_channel=True,
                activation_type=quantization.QuantType[activation],
                weight_type=quantization.QuantType.QInt8,
            )
        return path

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "form", "kind", "clips"),
    [
        ("QUInt8", "QDQ", "u8s8", True),
        ("QUInt8", "QOperator", "u8s8", True),
        ("QInt8", "QDQ", "s8s8 in Q/DQ", True),
        ("QInt8", "QOperator", "s8s8 in QOperator", False),
    ],
)
@pytest.mark.usefixtures("without_children")
def test_files_of_quantize_static_are_audited_and_repaired(
    quantize_static: Callable[[str, str], Path],
    float_file: Path,
    images: Path,
    tmp_path: Path,
    activation: str,
    form: str,
    kind: str,
    clips: bool,
) -> None:
    path, output = quantize_static(activation, form), tmp_path / "repaired.onnx"
    before = path.read_bytes()
    report = audit(
        path, repair=True, output=output, data=str(images), num_samples=IMAGES, against=float_file if clips else None
    )
    assert path.read_bytes() == before
    assert {layer.kind for layer in report.examined.layers} == {kind}
    assert [layer.operator for layer in report.examined.layers] == ["Conv", "Gemm"]
    assert all(layer.fused for layer in report.examined.layers)
    conv = report.examined.layers[0]
    assert (conv.pairs > 0.9, report.examined.clipping > 0) == (clips, clips)
    assert (conv.clipped is not None and conv.clipped > 0.1) == clips
    assert ("MB301" in {finding.rule for finding in report.examined.findings}) == clips
    assert report.repaired is not None and report.repair is not None
    assert report.repaired.clipping == report.repair.clipping_after == 0
    assert report.passed
    assert report.verdict == "the same answers on every CPU: yes, 0 of 2 layers can clip"
    assert report.examined.timed_on == f"3 images of {images}"
    runs = {run.file: run for run in report.runs}
    assert runs["repaired"].saturation.sqnr_db == float("inf")
    if clips:
        repaired = runs["repaired"].executed
        assert repaired is not None and repaired.sqnr_db > 25
        sidecar = artifact.read_sidecar(output)
        assert sidecar is not None and sidecar.sha256 == artifact.digest_file(output)
        assert sidecar.provenance.parents == {
            "model": artifact.digest_file(path),
            "against": artifact.digest_file(float_file),
        }
        saved = msgspec.json.decode(sidecar.record, type=AuditReport, strict=False)
        assert saved.verdict == report.verdict


@pytest.mark.slow
def test_without_images_the_file_runs_on_noise_and_nothing_is_written(
    quantize_static: Callable[[str, str], Path], tmp_path: Path
) -> None:
    path = quantize_static("QUInt8", "QDQ")
    files = set(path.parent.iterdir())
    report = audit(path)
    assert (report.inputs, report.images) == ("noise (seed 0)", 4)
    assert report.verdict.startswith("the same answers on every CPU: no,")
    assert not report.passed
    assert report.repair is None
    assert all(layer.clipped is None for layer in report.examined.layers)
    assert report.examined.timed_on == "noise (seed 0): values do not change the time"
    assert all(layer.time_share is not None for layer in report.examined.layers)
    assert set(path.parent.iterdir()) == files


def test_the_table_shows_the_places_that_take_most_time_and_json_has_all(tmp_path: Path) -> None:
    spots = tuple(Spot(node=f"n{number}", text="in float", time_share=(9 - number) / 100) for number in range(10))
    finding = Finding(
        rule="MB309", severity="warning", title="t", summary="s", change="c", spots=spots, time_share=0.45
    )
    examined = Examined(
        form="QDQ", layers=(), unjudged={}, cpus={cpu.name: 0 for cpu in CPUS}, findings=(finding,), operators={}
    )
    report = AuditReport(
        model=ModelRef(name="m", path="m", sha256="0", size_bytes=1),
        verdict="v",
        examined=msgspec.structs.replace(examined, timed_on="noise"),
        inputs="",
        images=0,
        runs=(),
        hosts={},
    )
    facts, _, table = tabulate_audit(report)
    assert ("times are over", "noise") in facts.rows
    assert table.title.endswith("s; these places take 45% of the time")
    assert table.columns == ("at", "what", "time")
    assert (len(table.rows), table.rows[0]) == (8, ("n0", "in float", "9.0%"))
    assert len(msgspec.json.decode(msgspec.json.encode(report))["examined"]["findings"][0]["spots"]) == 10


def test_a_float_file_is_refused(float_file: Path) -> None:
    with pytest.raises(ModelError, match="expected a quantized model, found a float one"):
        audit(float_file)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"\x08\x07\x12\xff\xff\xff"])
def test_what_is_no_model_is_refused_and_nothing_is_written(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        audit(path, repair=True, output=tmp_path / "out.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["bad.onnx"]


def test_a_file_that_the_runtime_refuses_is_an_error_finding(
    quantize_static: Callable[[str, str], Path], tmp_path: Path
) -> None:
    model = onnx.load(quantize_static("QUInt8", "QOperator"))
    next(node for node in model.graph.node if node.op_type == "QLinearConv").op_type = "NoSuchOperator"
    path = tmp_path / "strange.onnx"
    path.write_bytes(model.SerializeToString())
    report = audit(path)
    findings = {finding.rule: finding for finding in report.examined.findings}
    assert "NoSuchOperator" in findings["MB310"].spots[0].text
    assert report.runs == ()
    assert not report.passed


def test_options_that_contradict_each_other_are_refused(
    quantize_static: Callable[[str, str], Path], tmp_path: Path
) -> None:
    path = quantize_static("QUInt8", "QDQ")
    with pytest.raises(UsageError, match="with --repair and only with it"):
        audit(path, output=tmp_path / "out.onnx")
    with pytest.raises(UsageError, match="another file than the one that is audited"):
        audit(path, repair=True, output=path)
    with pytest.raises(UsageError, match=r"openvino: expected a provider of ONNX Runtime.*mbdeploy verify"):
        audit(path, providers=["openvino"])


def test_float_weights_of_another_model_leave_nothing_behind(
    quantize_static: Callable[[str, str], Path],
    make_conv_model: Callable[..., onnx.ModelProto],
    tmp_path: Path,
) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(make_conv_model(channels=4, width=16, size=8, seed=5).SerializeToString())
    with pytest.raises(ModelError, match="expected the float weights of"):
        audit(quantize_static("QUInt8", "QDQ"), repair=True, output=tmp_path / "out.onnx", against=other)
    assert not (tmp_path / "out.onnx").exists()


def test_images_of_another_shape_are_refused(quantize_static: Callable[[str, str], Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "small.npz", images=np.zeros((2, 4, 6, 6), np.float32))
    with pytest.raises((DataError, StepError)):
        audit(quantize_static("QUInt8", "QDQ"), data=str(tmp_path / "small.npz"))
