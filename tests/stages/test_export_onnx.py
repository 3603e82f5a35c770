"""A card whose network is an ONNX file: taken in without torch, with golden outputs of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from mbdeploy import artifact, model_file
from mbdeploy.errors import CardError, ModelError
from mbdeploy.golden import read_golden
from mbdeploy.isolate import ignore_progress
from mbdeploy.stages import export as export_module
from mbdeploy.stages import export_check, export_onnx, export_plan
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
def test_an_image_whose_size_the_file_leaves_open_gets_that_of_the_card(
    make_card: Callable[..., Path], tmp_path: Path
) -> None:
    card = make_card(None)
    path = tmp_path / "net.onnx"
    model = onnx.load(path)
    for axis in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        axis.dim_param = "open"
    path.write_bytes(model.SerializeToString(deterministic=True))
    text = CARD.replace("size = 16", "size = 16, width = 24").format(sha256=artifact.digest_file(path))
    card.write_text(text)
    export(str(card), output=tmp_path / "out" / "fp32.onnx")
    made = model_file.load_model(tmp_path / "out" / "fp32.onnx")
    assert model_file.read_signature(made).shape == (None, 3, 16, 24)
    assert read_golden(tmp_path / "out" / "golden.npz").input.shape == (3, 3, 16, 24)


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


def write_taken(folder: Path, model: onnx.ModelProto, make_photos: Callable[..., None]) -> Path:
    """net.onnx with its weights in weights.bin, and a card with the digest that covers both."""
    make_photos(folder / "photos", count=3)
    onnx.save(model, folder / "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    card = folder / "taken.toml"
    card.write_text(CARD.format(sha256=model_file.digest_model(folder / "net.onnx")))
    return card


def adopt(card: Path, folder: Path) -> None:
    """The child's work, in this process."""
    folder.mkdir()
    job = export_plan.settle_job(card)
    request = {"model": str(folder / "fp32.onnx"), "golden": str(folder / "golden.npz")}
    provenance = msgspec.to_builtins(export_plan.describe_job(job))
    export_onnx.adopt_network({**request, "job": msgspec.to_builtins(job), "provenance": provenance}, ignore_progress)


def test_weights_beside_a_file_are_taken_in_from_a_private_copy_and_give_the_same_bytes_anywhere(
    tmp_path: Path,
    make_conv_model: Callable[..., onnx.ModelProto],
    make_photos: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[Path] = []

    def open_session(path: Path, where: str) -> Any:
        opened.append(path)
        assert (path.parent / "weights.bin").is_file()
        return export_check.open_session(path, where)

    monkeypatch.setattr(export_onnx, "open_session", open_session)
    folders = [tmp_path / "a", tmp_path / "b c" / "deep"]
    for folder in folders:
        adopt(write_taken(folder, make_conv_model(), make_photos), folder / "out")
        assert (opened[-1].name, opened[-1].parent == folder, opened[-1].exists()) == ("net.onnx", False, False)
    for name in ("fp32.onnx", "golden.npz"):
        assert (folders[0] / "out" / name).read_bytes() == (folders[1] / "out" / name).read_bytes()
    assert "weights.bin" not in (folders[0] / "out" / "fp32.onnx").read_bytes().decode("latin-1")


def test_weights_that_were_swapped_beside_a_file_are_another_file_and_leave_no_export_fresh(
    tmp_path: Path, make_conv_model: Callable[..., onnx.ModelProto], make_photos: Callable[..., None]
) -> None:
    card = write_taken(tmp_path, make_conv_model(), make_photos)
    key, weights = export_module.plan(card).key, tmp_path / "weights.bin"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4] + b"\0\0\0\0")
    assert export_module.plan(card).key != key
    with pytest.raises(CardError, match=r"found another file, with [0-9a-f]{64}"):
        adopt(card, tmp_path / "out")
    weights.write_bytes(whole)
    assert export_module.plan(card).key == key
    (tmp_path / "net.onnx").unlink()
    assert export_module.plan(card).key == key  # what was made of it is still what the card says
