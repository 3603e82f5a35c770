"""A card whose network is an ONNX file: taken in without torch, with golden outputs of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from mbdeploy import artifact, model_file
from mbdeploy.errors import CardError, ModelError
from mbdeploy.golden import read_golden
from mbdeploy.stages import export as export_module
from mbdeploy.stages.export import export

CARD = """
name = "taken"
summary = "for this test"
weights = {{ file = "net.onnx", sha256 = "{sha256}" }}
preprocess = {{ size = 16 }}
quantization = {{ calibration = "./photos" }}
"""


@pytest.fixture
def make_card(tmp_path: Path, make_photos: Callable[..., None], make_conv_model: Callable[..., onnx.ModelProto]):
    """Write net.onnx with this batch, and its card; the function that does it."""
    make_photos(tmp_path / "photos", count=3)

    def make(batch: int | None) -> Path:
        path = tmp_path / "net.onnx"
        path.write_bytes(make_conv_model(batch=batch).SerializeToString(deterministic=True))
        card = tmp_path / "taken.toml"
        card.write_text(CARD.format(sha256=artifact.digest_file(path)))
        return card

    return make


@pytest.mark.slow
@pytest.mark.parametrize("batch", [None, 1])
def test_a_file_becomes_fp32_with_a_dynamic_batch_and_its_own_outputs_are_golden(
    make_card: Callable[..., Path], tmp_path: Path, batch: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "_check_torch", lambda: pytest.fail("torch was asked for"))
    record = export(str(make_card(batch)), output=tmp_path / "out" / "fp32.onnx")
    assert (record.exporter, record.images, record.trained) == ("none", 3, True)
    assert record.max_abs <= 1e-6
    model = model_file.load_model(tmp_path / "out" / "fp32.onnx")
    assert model_file.read_signature(model).batch is None
    assert model_file.read_metadata(model)["mbdeploy.card"] == "taken"
    golden = read_golden(tmp_path / "out" / "golden.npz")
    assert golden.output_names == ("logits",)
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"image": golden.input[:1]})[0], golden.outputs[0][:1])


@pytest.mark.slow
def test_a_file_that_is_another_one_and_a_larger_batch_are_refused(
    make_card: Callable[..., Path], tmp_path: Path
) -> None:
    card = make_card(4)
    with pytest.raises(ModelError, match="found a batch of 4"):
        export(str(card), output=tmp_path / "out" / "fp32.onnx")
    (tmp_path / "net.onnx").write_bytes(b"another")
    with pytest.raises(CardError, match="found another file"):
        export(str(card), output=tmp_path / "out" / "fp32.onnx")
    (tmp_path / "net.onnx").unlink()
    with pytest.raises(CardError, match="found no such file"):
        export(str(card), output=tmp_path / "out" / "fp32.onnx")
    assert not (tmp_path / "out" / "fp32.onnx").exists()
