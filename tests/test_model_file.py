"""ONNX files as files: what is none is refused with its reason, and metadata is kept in order."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mbdeploy import model_file
from mbdeploy.card import Preprocess
from mbdeploy.errors import ModelError

Builder = Callable[..., onnx.ModelProto]


def make_zip() -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    return written.getvalue()


IMPOSTORS = {
    "empty": (b"", "an empty file"),
    "html": (b"\n <!DOCTYPE html>\n<html><body>404</body></html>", "an HTML page"),
    "bare html": (b"<html>", "an HTML page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
    "zip": (make_zip(), "a zip archive"),
    "pickle": (pickle.dumps({"a": 1}, protocol=2), "a Python pickle"),
    "random": (np.random.default_rng(0).bytes(4096), "bytes that do not parse"),
    "text": (b"hello, this is no model", "bytes that do not parse"),
    "zeros": (bytes(512), "bytes that do not parse"),
}


@pytest.mark.parametrize("kind", IMPOSTORS)
def test_what_is_no_model_is_refused_by_name_and_by_what_it_is(tmp_path: Path, kind: str) -> None:
    content, found = IMPOSTORS[kind]
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        model_file.load_model(path)
    assert caught.value.where == str(path)
    assert found in caught.value.found


def test_a_model_cut_anywhere_is_refused(tmp_path: Path, make_conv_model: Builder) -> None:
    data = make_conv_model().SerializeToString(deterministic=True)
    path = tmp_path / "cut.onnx"
    for size in [*range(1, 64), *range(64, len(data), 37), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(ModelError, match=r"do not parse|no graph"):
            model_file.load_model(path)


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_are_refused_and_never_raise_anything_else(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "random.onnx"
    path.write_bytes(np.random.default_rng(seed).bytes(1 + 97 * seed))
    with pytest.raises(ModelError):
        model_file.load_model(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path, found in ((tmp_path / "none.onnx", "no such file"), (tmp_path, "a directory")):
        with pytest.raises(ModelError, match=found):
            model_file.load_model(path)


def test_a_model_without_operators_is_refused(tmp_path: Path, make_conv_model: Builder) -> None:
    model = make_conv_model()
    del model.graph.node[:]
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="no graph with operators"):
        model_file.load_model(tmp_path / "m.onnx")


def test_the_signature_says_none_where_an_axis_is_dynamic(make_conv_model: Builder) -> None:
    signature = model_file.read_signature(make_conv_model(name="x:0 y"))
    assert (signature.input, signature.shape, signature.outputs) == ("x:0 y", (None, 3, 16, 16), ("logits",))
    assert signature.batch is None
    assert model_file.read_signature(make_conv_model(batch=4)).batch == 4


def test_weights_listed_as_inputs_are_not_inputs(make_conv_model: Builder) -> None:
    model = make_conv_model()
    weight = model.graph.initializer[0]
    model.graph.input.insert(0, helper.make_tensor_value_info(weight.name, TensorProto.FLOAT, list(weight.dims)))
    assert model_file.read_signature(model).input == "image"


def set_kind(kind: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = kind

    return change


def add_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))


def drop_input(model: onnx.ModelProto) -> None:
    del model.graph.input[:]


def drop_axis(model: onnx.ModelProto) -> None:
    del model.graph.input[0].type.tensor_type.shape.dim[0]


def drop_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def set_axis(axis: int, size: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size

    return change


def make_sequence(model: onnx.ModelProto) -> None:
    info = helper.make_tensor_sequence_value_info("image", TensorProto.FLOAT, None)
    model.graph.input[0].CopyFrom(info)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add_input, r"expected one image input, found 2 inputs \(image, mask\)"),
        (drop_input, "expected one image input, found 0 inputs"),
        (set_kind(TensorProto.FLOAT16), "expected a float32 input, found float16 in 'image'"),
        (set_kind(TensorProto.UINT8), "expected a float32 input, found uint8"),
        (set_kind(99), "expected a float32 input, found type 99"),
        (make_sequence, "expected a float32 input, found undefined"),
        (drop_axis, r"four axes .*, found \[3, 16, 16\] in 'image'"),
        (drop_shape, r"four axes .*, found \[\]"),
        (set_axis(0, 0), r"four axes .*, found \[0, 3, 16, 16\]"),
        (set_axis(2, -1), r"four axes .*, found \[None, 3, -1, 16\]"),
    ],
)
def test_an_input_that_is_no_batch_of_images_is_refused(
    make_conv_model: Builder, change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    model = make_conv_model()
    change(model)
    with pytest.raises(ModelError, match=f"here.onnx: .*{message}"):
        model_file.read_signature(model, "here.onnx")


def test_metadata_is_kept_replaced_and_ordered(make_conv_model: Builder) -> None:
    model = make_conv_model()
    model.metadata_props.add(key="z.other", value="kept")
    model_file.write_metadata(model, {"mbdeploy.stage": "fp32", "mbdeploy.card": "模型"})
    model_file.write_metadata(model, {"mbdeploy.stage": "int8"})
    assert [entry.key for entry in model.metadata_props] == ["mbdeploy.card", "mbdeploy.stage", "z.other"]
    expected = {"mbdeploy.card": "模型", "mbdeploy.stage": "int8", "z.other": "kept"}
    assert model_file.read_metadata(model) == expected


def test_preprocessing_in_a_file_is_read_back(make_conv_model: Builder) -> None:
    model = make_conv_model()
    assert model_file.read_preprocess(model) is None
    preprocess = Preprocess(size=16, resize=18, channels=1, mean=(0.5,), std=(2.0,))
    model_file.write_metadata(model, {"mbdeploy.preprocess": model_file.dump_json(preprocess)})
    assert model_file.read_preprocess(model) == preprocess


@pytest.mark.parametrize("text", ["", "{", '{"size": 0}', '{"size": 16, "colour": "RGB"}'])
def test_preprocessing_that_we_did_not_write_is_refused(make_conv_model: Builder, text: str) -> None:
    model = make_conv_model()
    model_file.write_metadata(model, {"mbdeploy.preprocess": text})
    with pytest.raises(ModelError, match=r"mbdeploy\.preprocess"):
        model_file.read_preprocess(model)


def test_equal_models_are_equal_bytes_and_come_back_whole(tmp_path: Path, make_conv_model: Builder) -> None:
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path in paths:
        model = make_conv_model()
        entries: dict[str, Any] = {"b": "2", "a": "1"} if path.stem == "a" else {"a": "1", "b": "2"}
        model_file.write_metadata(model, entries)
        model_file.save_model(model, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert model_file.load_model(paths[0]) == model


def test_a_model_is_described_by_name_digest_and_size(conv_model_file: Path) -> None:
    described = model_file.describe_model(conv_model_file)
    assert (described.name, described.path) == ("conv", str(conv_model_file))
    assert described.size_bytes == len(conv_model_file.read_bytes())
    assert len(described.sha256) == 64


def write_external(path: Path, model: onnx.ModelProto, location: str = "weights.bin") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=0)
    return path


def test_a_model_without_files_beside_it_has_the_digest_of_its_file_whatever_it_mentions(
    tmp_path: Path, make_conv_model: Builder
) -> None:
    paths = [tmp_path / "plain.onnx", tmp_path / "mentions.onnx"]
    for path in paths:
        model = make_conv_model()
        model_file.write_metadata(model, {"location": "weights.bin"} if path.stem == "mentions" else {})
        model_file.save_model(model, path)
        assert model_file.digest_model(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    paths.append(tmp_path / "no.onnx")
    paths[-1].write_bytes(b"")
    assert model_file.digest_model(paths[-1]) == hashlib.sha256(b"").hexdigest()


def test_the_digest_of_a_model_covers_the_files_that_hold_its_data_and_no_others(
    tmp_path: Path, make_conv_model: Builder
) -> None:
    one = write_external(tmp_path / "a" / "net.onnx", make_conv_model())
    same = write_external(tmp_path / "b c" / "renamed.onnx", make_conv_model())
    other = write_external(tmp_path / "d" / "net.onnx", make_conv_model(seed=1))
    assert one.read_bytes() == same.read_bytes() == other.read_bytes()
    digest = model_file.digest_model(one)
    assert digest == model_file.digest_model(same) == model_file.digest_model(one, ["weights.bin"])
    assert digest not in (model_file.digest_model(other), hashlib.sha256(one.read_bytes()).hexdigest())
    (one.parent / "notes.bin").write_bytes(b"not the model's")
    assert model_file.digest_model(one) == digest == model_file.describe_model(one).sha256
    data = bytearray((one.parent / "weights.bin").read_bytes())
    data[0] ^= 1
    (one.parent / "weights.bin").write_bytes(data)
    assert model_file.digest_model(one) != digest


def test_no_digest_reads_what_a_model_may_not_point_to(tmp_path: Path, make_conv_model: Builder) -> None:
    path = write_external(tmp_path / "net.onnx", make_conv_model())
    (tmp_path / "weights.bin").rename(tmp_path / "kept.bin")
    with pytest.raises(ModelError, match="external data in files of the model's own folder"):
        model_file.digest_model(path)
    (tmp_path / "weights.bin").symlink_to(tmp_path / "kept.bin")
    with pytest.raises(ModelError, match="a symbolic link"):
        model_file.digest_model(path)
