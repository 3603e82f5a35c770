"""Manifests: what they refuse, which crops they draw, and the photographs that ours points to."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mbdeploy import assets
from mbdeploy.card import Preprocess
from mbdeploy.data import load_arrays, open_dataset, resolve_preprocess
from mbdeploy.data.images import decode_image, prepare_pixels
from mbdeploy.data.manifests import draw_crops, read_manifest
from mbdeploy.errors import DataError, UnavailableError, UsageError

SHA = "0123456789abcdef" * 4


def write_manifest(folder: Path, files: str, head: str = "") -> Path:
    path = folder / "set.toml"
    path.write_text(f'name = "mine"\nsummary = "some images"\n{head}\n{files}')
    return path


def write_image(path: Path, seed: int = 0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def entry(file: str, sha256: str, more: str = "") -> str:
    return f'[[files]]\nfile = "{file}"\nsha256 = "{sha256}"\n{more}\n'


@settings(deadline=None, derandomize=True)
@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.integers(0, 2**32),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    st.text("0123456789abcdef", min_size=64, max_size=64),
)
def test_every_crop_lies_inside_the_image_and_keeps_to_its_scale_and_aspect(
    width: int, height: int, seed: int, bounds: tuple[float, float], sha256: str
) -> None:
    low, high = sorted(bounds)
    boxes = draw_crops((width, height), 12, seed=seed, sha256=sha256, scale=(low, high))
    assert len(boxes) == 12
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        short, long = sorted((right - left, bottom - top))
        assert short >= max(1, round(low * min(width, height)))
        assert short <= max(1, round(high * min(width, height)))
        assert long <= round(short * 4 / 3) + 1
    assert boxes[:5] == draw_crops((width, height), 5, seed=seed, sha256=sha256, scale=(low, high))


def test_the_crops_of_a_seed_are_the_same_for_ever() -> None:
    boxes = draw_crops((640, 427), 3, seed=0, sha256=SHA, scale=(0.5, 1.0))
    assert boxes == [(36, 39, 500, 423), (327, 72, 620, 407), (392, 58, 610, 297)]
    assert draw_crops((640, 427), 3, seed=1, sha256=SHA, scale=(0.5, 1.0)) != boxes
    assert draw_crops((640, 427), 3, seed=0, sha256=SHA[::-1], scale=(0.5, 1.0)) != boxes


def test_a_users_own_manifest_names_a_folder_files_and_labels(tmp_path: Path) -> None:
    first = write_image(tmp_path / "images/a.png", 1)
    second = write_image(tmp_path / "images/sub/b.png", 2)
    files = entry("a.png", first, "label = 3") + entry("sub/b.png", second, "label = 0")
    path = write_manifest(tmp_path, files, 'root = "images"\nlicence = "mine"')
    dataset = open_dataset(path, labelled=True, classes=4)
    assert (dataset.name, dataset.licence, dataset.source) == ("mine", "mine", str(path))
    assert [(sample.name, sample.label) for sample in dataset.samples] == [("a.png", 3), ("sub/b.png", 0)]
    assert [sample.label for sample in open_dataset(path).samples] == [None, None]
    assert open_dataset(path, split="check") == open_dataset(path)
    assert load_arrays(dataset, Preprocess(size=8)).shape == (2, 3, 8, 8)


def test_a_file_with_another_sha256_is_refused_when_read_and_when_digested(tmp_path: Path) -> None:
    sha256 = write_image(tmp_path / "a.png", 1)
    path = write_manifest(tmp_path, entry("a.png", sha256))
    assert open_dataset(path).digest()
    found = write_image(tmp_path / "a.png", 2)
    for read in (lambda: open_dataset(path).digest(), lambda: load_arrays(open_dataset(path), Preprocess(size=8))):
        with pytest.raises(DataError, match=f"found sha256 {found}") as caught:
            read()
        assert caught.value.where == str(tmp_path / "a.png")


def test_a_crop_is_preprocessed_as_if_it_were_the_image(tmp_path: Path) -> None:
    sha256 = write_image(tmp_path / "a.png")
    more = "size = [40, 30]\nsplits = { calibrate = 3, show = 0 }"
    path = write_manifest(tmp_path, entry("a.png", sha256, more), "crop_seed = 4")
    dataset = open_dataset(path, split="calibrate")
    assert [sample.name for sample in dataset.samples] == ["a.png#0000", "a.png#0001", "a.png#0002"]
    preprocess = Preprocess(size=8, resize=9)
    image = decode_image(tmp_path / "a.png")
    boxes = draw_crops((40, 30), 3, seed=4, sha256=sha256, scale=(0.5, 1.0))
    expected = [prepare_pixels(image.crop(box), preprocess) for box in boxes]
    np.testing.assert_array_equal(load_arrays(dataset, preprocess), expected)
    whole = load_arrays(open_dataset(path, split="show"), preprocess)
    np.testing.assert_array_equal(whole, [prepare_pixels(image, preprocess)])


def test_a_split_must_be_named_and_known_where_there_are_splits(tmp_path: Path) -> None:
    files = entry("a.png", write_image(tmp_path / "a.png"), "splits = { calibrate = 0 }")
    path = write_manifest(tmp_path, files)
    with pytest.raises(UsageError, match=r"one of its splits \(calibrate\), found no split named"):
        open_dataset(path)
    with pytest.raises(UsageError, match="found split 'test'"):
        open_dataset(path, split="test")


@pytest.mark.parametrize(
    ("files", "head", "found"),
    [
        (entry("a.png", SHA, "colour = 1"), "", r"colour.*files\[...\]|unknown field `colour`"),
        ("", "", "files"),
        (entry("a.png", "123"), "", "64 digits"),
        (entry("../a.png", SHA), "", "below the root"),
        (entry("/etc/a.png", SHA), "", "below the root"),
        (entry("a.png", SHA, "splits = { calibrate = 2 }"), "", "must state its size"),
        (entry("a.png", SHA, "splits = { calibrate = 2, check = 2 }\nsize = [9, 9]"), "", "calibrate and check"),
        (entry("a.png", SHA, "splits = { calibrate = -1 }"), "", "below 0"),
        (entry("a.png", SHA) * 2, "", "listed once: a.png"),
        (entry("a.png", SHA), "crop_scale = [0.9, 0.1]", "crop_scale"),
        (entry("a.png", SHA), "crop_seed = -1", "crop_seed"),
        (entry("a.png", SHA), 'package = "os.path"', "top-level"),
        ("files = [", "", "[Ii]nvalid|line"),
        ("files = []", "", "none in this split"),
        (entry("gone.png", SHA), "", "no such file"),
    ],
)
def test_a_bad_manifest_is_refused_with_its_file_and_key(files: str, head: str, found: str, tmp_path: Path) -> None:
    path = write_manifest(tmp_path, files, head)
    with pytest.raises(DataError, match=found) as caught:
        open_dataset(path)
    assert caught.value.where.startswith(str(tmp_path))


def test_a_missing_package_says_what_to_install(tmp_path: Path) -> None:
    files = entry("a.png", SHA)
    install = 'package = "no_such_package"\ninstall = "pip install mbdeploy[demo]"'
    with pytest.raises(UnavailableError, match=r"no_such_package.*pip install mbdeploy\[demo\]") as caught:
        open_dataset(write_manifest(tmp_path, files, install))
    assert caught.value.exit_code == 3
    with pytest.raises(UnavailableError, match="install the package that provides no_such_package"):
        open_dataset(write_manifest(tmp_path, files, 'package = "no_such_package"'))


def test_files_of_a_package_are_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "carrier_of_images"
    sha256 = write_image(package / "data/a.png")
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    path = write_manifest(tmp_path, entry("a.png", sha256), 'package = "carrier_of_images"\nroot = "data"')
    assert open_dataset(path).samples[0].path == str(package / "data/a.png")
    assert "carrier_of_images" not in sys.modules


# The manifest that ships ------------------------------------------------------------------------------


def test_the_photographs_of_the_installed_package_give_128_and_64_crops() -> None:
    calibrate, check, show = (open_dataset("photos", split=split) for split in ("calibrate", "check", "show"))
    assert (len(calibrate), len(check), len(show)) == (128, 64, 6)
    assert len({calibrate.digest(), check.digest(), show.digest()}) == 3
    assert all(sample.box is None for sample in show.samples)
    assert "CC0" in calibrate.licence


def test_no_scene_is_both_calibrated_on_and_checked() -> None:
    path = assets.find_asset("calibration", "photos.toml")
    assert path is not None
    manifest = read_manifest(path)
    scenes = {
        split: {file.file.split(".")[0].split("_")[0] for file in manifest.files if file.splits.get(split)}
        for split in ("calibrate", "check")
    }
    assert scenes == {"calibrate": {"astronaut", "coffee", "motorcycle"}, "check": {"camera", "chelsea", "rocket"}}
    assert all(file.licence and file.source for file in manifest.files)


def test_the_declared_sizes_are_those_of_the_photographs() -> None:
    path = assets.find_asset("calibration", "photos.toml")
    assert path is not None
    sizes = {file.file: file.size for file in read_manifest(path).files}
    for split in ("calibrate", "check"):
        for sample in open_dataset("photos", split=split).samples:
            with Image.open(sample.path) as image:
                assert image.size == sizes[Path(sample.path).name]


def test_a_photograph_that_is_not_the_declared_one_is_refused(tmp_path: Path) -> None:
    path = assets.find_asset("calibration", "photos.toml")
    assert path is not None
    text = path.read_text().replace("88431cd9653ccd53", "0" * 16)
    (tmp_path / "photos.toml").write_text(text)
    with pytest.raises(DataError, match=r"astronaut\.png"):
        load_arrays(open_dataset(tmp_path / "photos.toml", split="calibrate"), resolve_preprocess("lite", size=32))


def test_the_crops_look_alike_in_every_process_and_are_normalised() -> None:
    dataset = open_dataset("photos", split="check", limit=3)
    inputs = load_arrays(dataset, resolve_preprocess("tf", size=32))
    assert inputs.shape == (3, 3, 32, 32)
    assert -1 <= inputs.min() < inputs.max() <= 1
    code = (
        "from mbdeploy.data import open_dataset, load_arrays, resolve_preprocess as r; import hashlib;"
        "d = open_dataset('photos', split='check', limit=3);"
        "print(hashlib.sha256(load_arrays(d, r('tf', size=32)).tobytes()).hexdigest(), d.digest())"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.split() == [hashlib.sha256(inputs.tobytes()).hexdigest(), dataset.digest()]


def test_manifests_convert_to_plain_data_and_back() -> None:
    path = assets.find_asset("calibration", "photos.toml")
    assert path is not None
    manifest = read_manifest(path)
    assert msgspec.convert(msgspec.to_builtins(manifest), type(manifest)) == manifest
