"""Large files walked in place: the same model, its large data as views into the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from mbdeploy.costs.report import InspectReport
from mbdeploy.costs.wire import read_light

Make = Callable[..., onnx.ModelProto]
Look = Callable[..., InspectReport]
LARGE = np.random.default_rng(0).normal(size=(256, 128, 1, 1)).astype(np.float32)


@pytest.fixture
def model(make_model: Make) -> onnx.ModelProto:
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv")
    built: onnx.ModelProto = make_model([node], [1, 128, 2, 2], {"w": LARGE, "b": np.ones(256, np.float32)})
    built.metadata_props.add(key="mbdeploy.card", value="a card")
    return built


def test_a_light_model_is_the_whole_one_without_large_data(tmp_path: Path, model: onnx.ModelProto) -> None:
    path = tmp_path / "large.onnx"
    path.write_bytes(model.SerializeToString())
    light, raw = read_light(path)
    assert list(raw) == ["w"]
    np.testing.assert_array_equal(np.frombuffer(raw["w"], np.float32).reshape(LARGE.shape), LARGE)
    assert light.ByteSize() < 3000
    light.graph.initializer[0].raw_data = bytes(raw["w"])
    assert light == model


def test_findings_are_the_same_with_and_without_the_walk(tmp_path: Path, model: onnx.ModelProto, look: Look) -> None:
    path = tmp_path / "large.onnx"
    path.write_bytes(model.SerializeToString())
    light, raw = read_light(path)
    whole, walked = look(model), look(light, raw=raw)
    assert any(finding.rule == "MB204" for finding in whole.findings)
    assert (walked.findings, walked.layers) == (whole.findings, whole.layers)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(cut=st.floats(0, 1), flip=st.integers(0, 2000), data=st.binary(max_size=200))
def test_a_damaged_file_is_refused_or_parsed_and_never_crashes(
    tmp_path: Path, model: onnx.ModelProto, cut: float, flip: int, data: bytes
) -> None:
    whole = model.SerializeToString()
    broken = bytearray(whole[: max(1, int(cut * len(whole)))])
    broken[flip % len(broken)] ^= 255
    path = tmp_path / "broken.onnx"
    for content in (bytes(broken), data or b"\0"):
        path.write_bytes(content)
        try:
            found, _ = read_light(path)
        except ValueError:
            continue
        assert isinstance(found, onnx.ModelProto)


def test_data_shorter_than_its_shape_is_no_weight(tmp_path: Path, model: onnx.ModelProto, look: Look) -> None:
    light = onnx.ModelProto.FromString(model.SerializeToString())
    light.graph.initializer[0].ClearField("raw_data")
    report = look(light, raw={"w": memoryview(numpy_helper.from_array(LARGE).raw_data[:1000])})
    assert report.total.weights == LARGE.size
    assert all(finding.rule != "MB204" for finding in report.findings)
