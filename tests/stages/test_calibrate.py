"""The calibrate stage: shards merge to the same bytes, a stopped run goes on, and images are judged rightly."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData, load_tensors_data

from mbdeploy import artifact
from mbdeploy.errors import DataError, ModelError, OutputError, UsageError
from mbdeploy.quant.adequacy import judge_images
from mbdeploy.quant.calibrate import Observations
from mbdeploy.quant.calibration_file import (
    GROUPS,
    Identity,
    Seen,
    load_seen,
    make_seen,
    read_cache,
    save_seen,
    write_cache,
)
from mbdeploy.records import CalibrateRecord
from mbdeploy.stages import calibrate_job
from mbdeploy.stages.calibrate import calibrate
from mbdeploy.stages.calibrate_parts import count_shards
from mbdeploy.stages.quantize import quantize
from mbdeploy.stages.sections import tabulate_calibrate

pytestmark = pytest.mark.usefixtures("without_children")


@pytest.fixture
def images(tmp_path: Path) -> str:
    rng = np.random.default_rng(3)
    np.savez(tmp_path / "images.npz", inputs=rng.normal(0, 1, (24, 3, 16, 16)).astype(np.float32))
    return str(tmp_path / "images.npz")


@pytest.fixture
def calibrated(conv_model_file: Path, images: str, tmp_path: Path) -> tuple[Path, CalibrateRecord]:
    folder = tmp_path / "one"
    return folder, calibrate(conv_model_file, output=folder, calibration=images, preprocess="raw")


def read_weights(path: Path) -> list[bytes]:
    return [tensor.SerializeToString() for tensor in onnx.load(path).graph.initializer]


def make_observations(values: dict[int, float], *, tensor: str = "t") -> Observations:
    """Images by key, each with values between 0 and its own largest."""
    seen = Observations([tensor], counting=False, by_image=True)
    for key, largest in values.items():
        seen.ranges.update(tensor, 0.0, largest)
        seen.means.update({})
        assert seen.extremes is not None
        seen.extremes[key] = np.array([[0.0, largest]], np.float32)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("shards", [3, 17])
def test_shards_merge_to_the_bytes_of_a_run_without_them(
    conv_model_file: Path, images: str, tmp_path: Path, calibrated: tuple[Path, CalibrateRecord], shards: int
) -> None:
    folder, _ = calibrated
    many = tmp_path / "many"
    last = calibrate(conv_model_file, output=many, calibration=images, preprocess="raw", shards=shards, shard=shards)
    assert last.shards == {f"shard-{shards}-of-{shards}.npz": False} and last.files == () and last.adequacy is None
    calibrate(conv_model_file, output=many, calibration=images, preprocess="raw", shards=shards)
    for name in ("calibration.npz", "ranges.json"):
        assert (many / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_where_it_was(conv_model_file: Path, images: str, tmp_path: Path) -> None:
    folder = tmp_path / "calibration"
    given = {"output": folder, "calibration": images, "preprocess": "raw", "shards": 3}
    first = calibrate(conv_model_file, **given)
    assert set(first.shards.values()) == {False}
    (folder / "shard-2-of-3.npz").write_bytes(b"torn")
    before = (folder / "calibration.npz").read_bytes()
    again = calibrate(conv_model_file, **given)
    assert again.shards == {"shard-1-of-3.npz": True, "shard-2-of-3.npz": False, "shard-3-of-3.npz": True}
    assert (folder / "calibration.npz").read_bytes() == before
    other = calibrate(conv_model_file, **{**given, "calibration_method": "percentile"})
    assert set(other.shards.values()) == {False}


def test_without_a_number_of_shards_a_run_that_was_stopped_goes_on_as_well(
    conv_model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(3).normal(0, 1, (70, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "images.npz", inputs=values)
    given = {"calibration": str(tmp_path / "images.npz"), "preprocess": "raw", "calibration_method": "minmax"}
    save = calibrate_job.save_seen

    def break_off(seen: Seen, path: Path) -> None:
        if "shard-2" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save(seen, path)

    with monkeypatch.context() as patch:
        patch.setattr(calibrate_job, "save_seen", break_off)
        with pytest.raises(OutputError):
            calibrate(conv_model_file, output=tmp_path / "c", **given)  # type: ignore[arg-type]
    left = {path.name for path in (tmp_path / "c").iterdir()}
    assert left == {".lock", "shard-1-of-2.npz", "shard-1-of-2.npz.json"}
    again = calibrate(conv_model_file, output=tmp_path / "c", **given)  # type: ignore[arg-type]
    assert again.shards == {"shard-1-of-2.npz": True, "shard-2-of-2.npz": False}
    assert again.samples == 70
    calibrate(conv_model_file, output=tmp_path / "one", shards=1, **given)  # type: ignore[arg-type]
    assert (tmp_path / "one" / "calibration.npz").read_bytes() == (tmp_path / "c" / "calibration.npz").read_bytes()


@pytest.mark.parametrize(
    ("images", "shards"), [(1, 1), (63, 1), (64, 2), (128, 4), (511, 15), (512, 16), (1_000_000, 16)]
)
def test_there_is_a_shard_for_32_images_and_16_at_most(images: int, shards: int) -> None:
    assert count_shards(images) == shards


@pytest.mark.slow
@pytest.mark.parametrize("method", ["minmax", "mse", "percentile", "entropy"])
def test_ranges_from_the_file_make_the_int8_file_that_the_images_make(
    conv_model_file: Path, images: str, tmp_path: Path, calibrated: tuple[Path, CalibrateRecord], method: str
) -> None:
    folder, _ = calibrated
    shared = {"recipe": "portable", "calibration_method": method, "preprocess": "raw"}
    quantize(conv_model_file, output=tmp_path / "a.onnx", calibration=images, **shared)
    record = quantize(conv_model_file, output=tmp_path / "b.onnx", ranges=folder / "calibration.npz", **shared)
    assert read_weights(tmp_path / "a.onnx") == read_weights(tmp_path / "b.onnx")
    assert (record.samples, record.techniques, Path(record.ranges).name) == (0, ("bias",), "calibration.npz")


def test_ranges_of_the_cache_are_those_of_the_method_and_leave_biases_alone(
    conv_model_file: Path, images: str, tmp_path: Path, calibrated: tuple[Path, CalibrateRecord]
) -> None:
    folder, _ = calibrated
    made = {"recipe": "portable", "calibration_method": "mse", "preprocess": "raw"}
    quantize(conv_model_file, output=tmp_path / "a.onnx", calibration=images, without=("bias",), **made)
    record = quantize(conv_model_file, output=tmp_path / "b.onnx", ranges=folder / "ranges.json", **made)
    assert record.techniques == ()
    assert read_weights(tmp_path / "a.onnx") == read_weights(tmp_path / "b.onnx")


def test_onnx_runtime_reads_our_cache_and_we_read_its(tmp_path: Path) -> None:
    path = tmp_path / "ours.json"
    path.write_bytes(write_cache({"x": (-1.5, 2.0), "y": (0.0, 6.0)}))
    theirs = load_tensors_data(path)
    assert theirs.calibration_method is CalibrationMethod.MinMax
    assert {name: (float(theirs[name].lowest), float(theirs[name].highest)) for name in theirs} == {
        "x": (-1.5, 2.0),
        "y": (0.0, 6.0),
    }
    from onnxruntime.quantization.calibrate import save_tensors_data

    data = {"x": TensorData(lowest=np.array([-3.0], np.float32), highest=np.float32(4.0))}
    save_tensors_data(TensorsData(CalibrationMethod.Entropy, data), tmp_path / "theirs.json")
    assert read_cache(tmp_path / "theirs.json", ["x"]) == {"x": (-3.0, 4.0)}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"data": {"x": {"lowest": NaN, "highest": 1}}}', b'{"x": {"lowest": 2, "highest": 1}}'],
)
def test_a_file_that_is_no_cache_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ranges.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"ranges\.json: expected ONNX Runtime's calibration cache"):
        read_cache(path, ["x"])


def test_a_cache_without_a_tensor_names_it(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    path.write_bytes(json.dumps({"x": {"lowest": 0, "highest": 1}}).encode())
    with pytest.raises(ModelError, match="none of 'y' and 1 more"):
        read_cache(path, ["x", "y", "z"])


def test_calibration_of_another_model_is_refused(
    conv_model_file: Path, tmp_path: Path, calibrated: tuple[Path, CalibrateRecord]
) -> None:
    folder, _ = calibrated
    other = tmp_path / "other.onnx"
    model = onnx.load(conv_model_file)
    model.producer_name = "another"
    onnx.save(model, other)
    with pytest.raises(ModelError, match=r"expected calibration of other\.onnx, found calibration of another file"):
        quantize(other, output=tmp_path / "a.onnx", ranges=folder / "calibration.npz", recipe="portable")
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip"])
def test_a_damaged_calibration_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "calibration.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="a calibration file that `mbdeploy calibrate` wrote"):
        load_seen(path)


def test_extremes_alone_serve_minmax_and_nothing_else(conv_model_file: Path, images: str, tmp_path: Path) -> None:
    calibrate(conv_model_file, output=tmp_path / "c", calibration=images, preprocess="raw", calibration_method="minmax")
    ranges = tmp_path / "c" / "calibration.npz"
    quantize(conv_model_file, output=tmp_path / "a.onnx", ranges=ranges, recipe="portable")
    with pytest.raises(DataError, match="counts of values, which mse needs"):
        quantize(
            conv_model_file, output=tmp_path / "b.onnx", ranges=ranges, recipe="portable", calibration_method="mse"
        )


def test_fitting_weights_needs_images_and_ranges_may_still_be_given(
    conv_model_file: Path, images: str, tmp_path: Path, calibrated: tuple[Path, CalibrateRecord]
) -> None:
    ranges = calibrated[0] / "calibration.npz"
    with pytest.raises(UsageError, match="--ranges alone, and recipe accurate"):
        quantize(conv_model_file, output=tmp_path / "a.onnx", ranges=ranges)
    record = quantize(conv_model_file, output=tmp_path / "a.onnx", ranges=ranges, calibration=images, preprocess="raw")
    quantize(conv_model_file, output=tmp_path / "b.onnx", calibration=images, preprocess="raw")
    assert record.samples == 24
    assert read_weights(tmp_path / "a.onnx") == read_weights(tmp_path / "b.onnx")
    with pytest.raises(UsageError, match="found neither"):
        quantize(conv_model_file, output=tmp_path / "c.onnx")


@pytest.mark.parametrize("given", [{"shards": 3, "shard": 4}, {"shards": 25}, {"calibration_method": "best"}])
def test_what_cannot_be_done_is_refused(conv_model_file: Path, images: str, tmp_path: Path, given: dict) -> None:
    with pytest.raises(UsageError):
        calibrate(conv_model_file, output=tmp_path / "c", calibration=images, preprocess="raw", **given)
    assert not (tmp_path / "c" / "calibration.npz").exists()


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    seen = make_seen(Identity(model="m", tensors=("t",), counting=True), {5: "five"})
    group = seen.groups[5 % GROUPS]
    group.ranges.update("t", -1.0, 3.0)
    group.means.update({"input": np.array([0.25, 0.5], np.float32)})
    assert group.histograms is not None and group.extremes is not None
    group.histograms.update("t", np.array([-1.0, 3.0, 0.5], np.float32), 3.0)
    group.extremes[5] = np.array([[-1.0, 3.0]], np.float32)
    save_seen(seen, tmp_path / "a.npz")
    back = load_seen(tmp_path / "a.npz")
    assert (back.identity, back.names) == (seen.identity, {5: "five"})
    assert back.whole().choose("mse").ranges == seen.whole().choose("mse").ranges
    assert back.whole().means.read()["input"].tolist() == [0.25, 0.5]
    save_seen(back, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_images_that_are_alike_are_enough_and_one_that_is_not_is_named() -> None:
    seen = make_seen(Identity(model="m", tensors=("t",), counting=False), {key: f"image {key}" for key in range(16)})
    for number, group in enumerate(seen.groups):
        group.merge(make_observations({number: 1.0, number + GROUPS: 1.0}))
    found = judge_images(seen, "minmax")
    assert [point.images for point in found.curve] == [2, 4, 8, 16]
    assert found.enough and found.sentence.startswith("Enough: from 8 to 16 images")
    assert found.wideners == ()
    seen.groups[7].merge(make_observations({15: 4.0}))
    found = judge_images(seen, "minmax")
    assert not found.enough and found.sentence.startswith("Not enough")
    assert [(one.image, one.tensors, one.share) for one in found.wideners] == [("image 15", 1, 0.75)]
    # leaving out the group of that image gives 1/255, each of the others 4/255: the jackknife's error by hand
    values = np.array([4.0] * 7 + [1.0])
    assert found.spread[0].relative_error == pytest.approx((7 / 8 * ((values - values.mean()) ** 2).sum()) ** 0.5 / 4)


def test_a_single_image_says_nothing_of_its_spread() -> None:
    seen = make_seen(Identity(model="m", tensors=("t",), counting=False), {0: "only"})
    seen.groups[0].merge(make_observations({0: 1.0}))
    found = judge_images(seen, "minmax")
    assert (found.enough, found.median_error, found.spread) == (False, None, ())
    assert "1 images say nothing" in found.sentence


def test_the_sidecar_vouches_for_the_calibration(calibrated: tuple[Path, CalibrateRecord]) -> None:
    folder, record = calibrated
    sidecar = artifact.read_sidecar(folder / "calibration.npz")
    assert sidecar is not None and sidecar.sha256 == artifact.digest_file(folder / "calibration.npz")
    assert record.adequacy is not None and record.adequacy.images == 24
    assert [Path(file).name for file in record.files] == ["calibration.npz", "ranges.json"]


@pytest.mark.slow
def test_workers_share_the_shards_and_give_the_same_bytes(
    conv_model_file: Path, images: str, tmp_path: Path, calibrated: tuple[Path, CalibrateRecord]
) -> None:
    folder, record = calibrated
    steps: list[int] = []
    given = {"calibration": images, "preprocess": "raw", "shards": 3}
    shared = calibrate(
        conv_model_file,
        output=tmp_path / "shared",
        workers=2,
        on_progress=lambda what, done, _: steps.append(done) if "workers" in what else None,
        **given,  # type: ignore[arg-type]
    )
    for name in ("calibration.npz", "ranges.json"):
        assert (tmp_path / "shared" / name).read_bytes() == (folder / name).read_bytes()
    assert shared.adequacy == record.adequacy
    assert steps == [0, 1, 2, 3]
    again = calibrate(conv_model_file, output=tmp_path / "shared", **given)  # type: ignore[arg-type]
    assert set(again.shards.values()) == {True}
    with pytest.raises(UsageError, match="leave out --shard"):
        calibrate(conv_model_file, output=tmp_path / "x", calibration=images, workers=2, shards=2, shard=1)


def test_json_has_the_spread_of_every_tensor_and_the_table_that_of_the_worst() -> None:
    tensors = tuple(f"t{number}" for number in range(7))
    seen = make_seen(Identity(model="m", tensors=tensors, counting=False), {})
    for number, group in enumerate(seen.groups):
        group.means.update({})
        for place, tensor in enumerate(tensors):  # the last group has the largest values, the more the later the tensor
            group.ranges.update(tensor, 0.0, 1.0 + place * (number == GROUPS - 1))
    found = judge_images(seen, "minmax")
    assert [one.tensor for one in found.spread] == list(reversed(tensors))
    record = CalibrateRecord(model="m", data="d", samples=8, shards={}, files=(), adequacy=found)
    assert len(json.loads(msgspec.json.encode(record))["adequacy"]["spread"]) == 7
    table = next(table for table in tabulate_calibrate(record) if "which images were taken" in table.title)
    assert [row[0] for row in table.rows] == ["t6", "t5", "t4", "t3", "t2"]
    assert table.notes == ("and 2 more",) and table.columns[-1] == "standard error (jackknife)"
