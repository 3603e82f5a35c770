"""Preflight: a sound model passes as it is; each room refuses by name, and names the option of the limit."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.bounds import Bounds, bounding, current_bounds
from mbdeploy.errors import ModelError, UsageError
from mbdeploy.preflight import check_archive, check_model, scan_wire
from mbdeploy.preflight.external import copying, take_in
from mbdeploy.preflight.wire import walk

Builder = Callable[..., onnx.ModelProto]


def save(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        check_model(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def point_outside(model: onnx.ModelProto, folder: Path, *, location: str = "w.bin") -> bytes:
    """Move the convolution's weights into a file; their bytes are returned."""
    tensor = next(one for one in model.graph.initializer if one.name == "conv.weight")
    data = bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "8", "length": str(len(data))}.items():
        tensor.external_data.add(key=key, value=value)
    (folder / "w.bin").write_bytes(bytes(8) + data)
    return data


def test_a_sound_model_comes_back_whole_with_its_nodes_and_bytes_counted(
    tmp_path: Path, make_conv_model: Builder
) -> None:
    model = make_conv_model()
    checked = check_model(save(model, tmp_path))
    assert checked.model == model
    assert checked.companions == ()
    assert checked.nodes == 5
    assert checked.weight_bytes == 4 * (8 * 3 * 9 + 8 + 5 * 8 + 5)


@pytest.mark.parametrize(
    ("limit", "value", "option"),
    [
        ("max_file_size", 100, "--max-file-size"),
        ("max_memory", 100, "--max-memory"),
        ("max_nodes", 2, "--max-nodes"),
        ("max_window", 1, "--max-window"),
    ],
)
def test_a_limit_is_named_by_its_option_and_can_be_raised(
    tmp_path: Path, make_conv_model: Builder, limit: str, value: int, option: str
) -> None:
    model = make_conv_model()
    model.graph.node[0].attribute.append(helper.make_attribute("kernel_shape", [3, 3]))
    path = save(model, tmp_path)
    with bounding(**{limit: value}):
        assert f"raise {option} if you know why it is so" in refusal(path)
    check_model(path)


@pytest.mark.parametrize("limits", [{"max_nodes": 0}, {"max_nodes": None}, {"max_noise": 5}, {"max_time": -1.0}])
def test_limits_that_are_none_are_refused(limits: dict[str, float | None]) -> None:
    with pytest.raises(UsageError), bounding(**limits):
        pass
    assert current_bounds() == Bounds()


def test_functions_are_counted_and_never_expanded(tmp_path: Path, make_conv_model: Builder) -> None:
    model = make_conv_model()
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    model.opset_import.add(domain="f", version=1)
    for level in range(40):
        calls = [helper.make_node(f"f{level + 1}", [a], [b], domain="f") for a, b in (("x", "t"), ("t", "y"))]
        model.functions.append(helper.make_function("f", f"f{level}", ["x"], ["y"], calls, opsets))
    model.functions.append(
        helper.make_function("f", "f40", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], opsets)
    )
    model.graph.node[1].op_type, model.graph.node[1].domain = "f30", "f"
    with bounding(max_nodes=2000):
        assert "nodes with functions expanded" in refusal(save(model, tmp_path))
    del model.functions[:30]
    assert check_model(save(model, tmp_path)).nodes == 4 + 2**10


def test_infinity_is_refused_where_a_layer_multiplies_by_it_and_nowhere_else(
    tmp_path: Path, make_conv_model: Builder
) -> None:
    model = make_conv_model()
    model.graph.initializer.append(numpy_helper.from_array(np.array([-np.inf], np.float32), "mask"))
    check_model(save(model, tmp_path))
    model.graph.node[0].input[2] = "mask"
    assert "found infinity in 'mask'" in refusal(save(model, tmp_path))


@pytest.mark.parametrize(
    ("attributes", "found"),
    [
        ({"value_float": float("nan")}, "found NaN in 'factor'"),
        ({"value_floats": [1.0, float("nan")]}, "found NaN in 'factor'"),
        ({"value_floats": [float("inf")] * 5}, "found infinity in 'factor'"),
        ({"value": numpy_helper.from_array(np.float32(np.inf), "another name")}, "found infinity in 'factor'"),
        ({"value": numpy_helper.from_array(np.float32(np.nan), "another name")}, "found NaN in"),
        ({"value_floats": [2.0] * 5}, ""),
    ],
)
def test_what_constant_nodes_hold_is_finite_too(
    tmp_path: Path, make_conv_model: Builder, attributes: dict[str, object], found: str
) -> None:
    model = make_conv_model()
    output = model.graph.output[0].name
    last = next(node for node in model.graph.node if output in node.output)
    last.output[0] = "unscaled"
    model.graph.node.append(helper.make_node("Constant", [], ["factor"], "constant", **attributes))
    model.graph.node.append(helper.make_node("Mul", ["unscaled", "factor"], [output], "scale"))
    path = save(model, tmp_path)
    if found:
        assert found in refusal(path)
    else:
        assert check_model(path).nodes == len(model.graph.node)


def test_infinity_in_a_constant_that_nothing_multiplies_by_is_a_bound(tmp_path: Path, make_conv_model: Builder) -> None:
    model = make_conv_model()
    output = model.graph.output[0].name
    last = next(node for node in model.graph.node if output in node.output)
    last.output[0] = "free"
    model.graph.node.append(helper.make_node("Constant", [], ["bound"], "constant", value_float=float("inf")))
    model.graph.node.append(helper.make_node("Min", ["free", "bound"], [output], "bounded"))
    assert check_model(save(model, tmp_path)).nodes == len(model.graph.node)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("raw", [True, False])
def test_nan_is_found_in_every_float_type_and_field(
    tmp_path: Path, make_conv_model: Builder, kind: type, raw: bool
) -> None:
    model = make_conv_model()
    values = np.array([1.0, np.nan, 2.0], kind)
    tensor = numpy_helper.from_array(values, "odd")
    if not raw:
        tensor = helper.make_tensor("odd", tensor.data_type, [3], values.tolist())
    model.graph.initializer.append(tensor)
    assert "found NaN in 'odd'" in refusal(save(model, tmp_path))


def test_external_data_are_taken_in_and_copied_apart(tmp_path: Path, make_conv_model: Builder) -> None:
    model = make_conv_model()
    data = point_outside(model, tmp_path)
    path = save(model, tmp_path)
    checked = check_model(path)
    assert checked.companions == ("w.bin",)
    with copying(path, checked.companions) as copy:
        assert copy.parent != tmp_path
        assert (copy.parent / "w.bin").read_bytes()[8:] == data
    assert not copy.exists()
    take_in(checked.model.graph.initializer, path)
    assert checked.model == make_conv_model()


def test_nan_in_external_data_is_found(tmp_path: Path, make_conv_model: Builder) -> None:
    model = make_conv_model()
    data = bytearray(point_outside(model, tmp_path))
    data[4:8] = np.float32("nan").tobytes()
    (tmp_path / "w.bin").write_bytes(bytes(8) + data)
    assert "found NaN in 'conv.weight'" in refusal(save(model, tmp_path))


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_made_after_the_check_is_not_read(
    tmp_path: Path, make_conv_model: Builder, link: Callable[[Path, Path], None]
) -> None:
    model = make_conv_model()
    point_outside(model, tmp_path)
    path = save(model, tmp_path)
    checked = check_model(path)
    (tmp_path / "secret").write_bytes((tmp_path / "w.bin").read_bytes())
    (tmp_path / "w.bin").unlink()
    link(tmp_path / "secret", tmp_path / "w.bin")
    with pytest.raises(ModelError), copying(path, checked.companions):
        pass
    with pytest.raises(ModelError):
        take_in(checked.model.graph.initializer, path)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_are_walked_to_their_end_or_refused(data: bytes) -> None:
    try:
        fields = list(walk(data))
    except ValueError:
        return
    assert [start for _, start, _, _ in fields] == [0, *(end for _, _, end, _ in fields)][: len(fields)]
    assert not data or fields[-1][2] == len(data)


@settings(deadline=None, max_examples=100)
@given(cut=st.floats(0, 1), flip=st.integers(0, 5000), bit=st.integers(0, 7))
def test_whatever_the_scan_passes_the_parser_takes_or_refuses_in_bounds(
    make_conv_model: Builder, cut: float, flip: int, bit: int
) -> None:
    data = bytearray(make_conv_model().SerializeToString())
    data = data[: max(1, int(len(data) * cut))]
    data[flip % len(data)] ^= 1 << bit
    try:
        scan_wire(bytes(data), "m.onnx", Bounds())
    except ModelError as error:
        assert "do not parse" in str(error) or "levels" in str(error)


def test_an_archive_that_grows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10 << 20))
    with pytest.raises(ModelError, match="that grow to 10 Mi"):
        check_archive(path)
    with bounding(max_file_size=1 << 20), pytest.raises(ModelError, match="--max-file-size"):
        check_archive(path)


def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    for data in (b"", b"\xff" * 8, (2**63).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]"):
        path.write_bytes(data)
        with pytest.raises(ModelError, match="safetensors header"):
            check_archive(path)


def test_an_axis_of_minus_one_is_one_that_is_not_known(make_conv_model: Builder, tmp_path: Path) -> None:
    model = make_conv_model()
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    checked = check_model(save(model, tmp_path)).model
    axes = [value.type.tensor_type.shape.dim[0] for value in (checked.graph.input[0], checked.graph.output[0])]
    assert not any(axis.HasField("dim_value") or axis.HasField("dim_param") for axis in axes)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -2
    assert "[-2, " in refusal(save(model, tmp_path))
