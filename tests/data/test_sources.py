"""Folders, CSV files, and the choice among their samples."""

from __future__ import annotations

import os
import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mbdeploy.data import Dataset, Sample, find_data, open_dataset
from mbdeploy.data.samples import take_samples
from mbdeploy.errors import DataError, UsageError


def write_image(path: Path, colour: tuple[int, int, int] = (1, 2, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), colour).save(path)
    return path


def write_csv(folder: Path, text: str | bytes, images: str = "a.png b.png") -> Path:
    for name in images.split():
        write_image(folder / name)
    path = folder / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def names(dataset: Dataset) -> list[str]:
    return [sample.name for sample in dataset.samples]


def labels(dataset: Dataset) -> dict[str, int | None]:
    return {sample.name: sample.label for sample in dataset.samples}


# Folders ---------------------------------------------------------------------------------------------


def test_a_flat_folder_gives_its_images_by_name_and_ignores_other_files(tmp_path: Path) -> None:
    for name in ("b.png", "a b.PNG", 'c\'s "best".png', "照片.png"):
        write_image(tmp_path / name)
    for name in ("notes.txt", "._b.png", ".hidden.jpg", "labels.json"):
        (tmp_path / name).write_bytes(b"x")
    dataset = open_dataset(tmp_path)
    assert names(dataset) == ["a b.PNG", "b.png", 'c\'s "best".png', "照片.png"]
    assert (dataset.name, dataset.source, dataset.licence) == (tmp_path.name, str(tmp_path), "")
    assert labels(dataset) == dict.fromkeys(names(dataset))


def test_class_folders_are_numbered_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/2.png", "cat/1.png"):
        write_image(tmp_path / name)
    (tmp_path / "bird").mkdir()  # an empty class keeps its number
    assert labels(open_dataset(tmp_path, labelled=True)) == {"cat/1.png": 1, "cat/2.png": 1, "dog/1.png": 2}


def test_class_folders_with_numbers_for_names_are_those_classes(tmp_path: Path) -> None:
    for name in ("10/a.png", "9/a.png", "007/a.png"):
        write_image(tmp_path / name)
    dataset = open_dataset(tmp_path, labelled=True, classes=11)
    assert labels(dataset) == {"007/a.png": 7, "10/a.png": 10, "9/a.png": 9}


def test_class_folders_without_labels_asked_for_have_none(tmp_path: Path) -> None:
    write_image(tmp_path / "cat/1.png")
    write_image(tmp_path / "top.png")
    assert labels(open_dataset(tmp_path)) == {"cat/1.png": None, "top.png": None}


def test_fewer_class_folders_than_classes_are_refused_because_labels_would_shift(tmp_path: Path) -> None:
    write_image(tmp_path / "cat/1.png")
    write_image(tmp_path / "dog/1.png")
    assert len(open_dataset(tmp_path, labelled=True, classes=2)) == 2
    with pytest.raises(DataError, match="expected 10 class folders"):
        open_dataset(tmp_path, labelled=True, classes=10)


def test_a_class_number_beyond_the_classes_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "5/1.png")
    with pytest.raises(DataError, match=r"5/1.png: expected a label in 0\.\.4, found 5"):
        open_dataset(tmp_path, labelled=True, classes=5)


def test_labels_asked_of_a_flat_or_mixed_folder_are_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "loose.png")
    with pytest.raises(DataError, match="1 images outside class folders"):
        open_dataset(tmp_path, labelled=True)
    write_image(tmp_path / "cat/1.png")
    with pytest.raises(DataError, match="1 images outside class folders"):
        open_dataset(tmp_path, labelled=True)


@pytest.mark.parametrize("labelled", [False, True])
def test_a_folder_without_images_one_level_down_is_refused(tmp_path: Path, labelled: bool) -> None:
    with pytest.raises(DataError) as empty:
        open_dataset(tmp_path, labelled=labelled)
    assert empty.value.where == str(tmp_path)
    write_image(tmp_path / "train/cat/1.png")
    with pytest.raises(DataError):
        open_dataset(tmp_path, labelled=labelled)


def test_a_link_to_an_image_is_fine_and_a_broken_one_or_a_pipe_is_refused(tmp_path: Path) -> None:
    target = write_image(tmp_path / "elsewhere" / "x.png")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "link.png").symlink_to(target)
    assert names(open_dataset(folder)) == ["link.png"]
    (folder / "broken.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"broken\.png"):
        open_dataset(folder)
    (folder / "broken.png").unlink()
    os.mkfifo(folder / "pipe.jpg")
    with pytest.raises(DataError, match=r"pipe\.jpg"):
        open_dataset(folder)


# CSV -------------------------------------------------------------------------------------------------


def test_a_csv_gives_files_relative_to_itself_with_their_labels(tmp_path: Path) -> None:
    absolute = write_image(tmp_path / "elsewhere" / "z.png")
    path = write_csv(
        tmp_path / "set",
        f'file,label,note\nb.png,1,"a, b"\nsub/a.png,0,\n{absolute},2,\n',
        "b.png sub/a.png",
    )
    dataset = open_dataset(path, labelled=True, classes=3)
    assert labels(dataset) == {str(absolute): 2, "b.png": 1, "sub/a.png": 0}
    assert dataset.name == "list"
    assert labels(open_dataset(path)) == {str(absolute): None, "b.png": None, "sub/a.png": None}


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = write_csv(tmp_path, b"\xef\xbb\xbffile,label\r\na.png,1\r\n")
    assert labels(open_dataset(path, labelled=True)) == {"a.png": 1}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "no column file, label among: nothing"),
        ("file,label\n", "no rows below the header"),
        ("file;label\na.png;1\n", "no column file, label among: file;label"),
        ("file\na.png\n", "no column label among: file"),
        ("a.png,1\n", "no column file, label among: a.png, 1"),
        ("file,label\na.png,1\ngone.png,2\n", "list.csv:3: .* no file gone.png"),
        ("file,label\n,1\n", "list.csv:2: .* an empty field `file`"),
        ("file,label\na.png,cat\n", "list.csv:2: .* label 'cat'"),
        ("file,label\na.png,1.0\n", "label '1.0'"),
        ("file,label\na.png,-1\n", "label '-1'"),
        ("file,label\na.png\n", "label ''"),
        ("file,label\na.png,1\nb.png,1\n./a.png,1\n", "list.csv:4: .* line 2 lists already"),
        ('file,label\n"a.png,1\n', "unexpected end of data"),
        (b"file,label\n\xff.png,1\n", "utf-8"),
        (f"file,label\n{'x' * 5000}.png,1\n", "no file x"),
    ],
)
def test_a_bad_csv_is_refused_with_its_name_and_line(text: str | bytes, found: str, tmp_path: Path) -> None:
    path = write_csv(tmp_path, text)
    with pytest.raises(DataError, match=found) as caught:
        open_dataset(path, labelled=True)
    assert caught.value.where.startswith(str(path))


def test_a_label_beyond_the_classes_is_refused_with_its_file(tmp_path: Path) -> None:
    path = write_csv(tmp_path, "file,label\na.png,0\nb.png,1000\n")
    with pytest.raises(DataError, match=r"b\.png: expected a label in 0\.\.999, found 1000"):
        open_dataset(path, labelled=True, classes=1000)


# Sources ---------------------------------------------------------------------------------------------


def test_an_unknown_source_is_refused_with_the_known_manifests() -> None:
    with pytest.raises(DataError, match="photos"):
        open_dataset("no-such-data")
    with pytest.raises(DataError):
        open_dataset("")
    with pytest.raises(DataError):
        open_dataset("x" * 5000)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="another kind of file"):
        open_dataset(write_image(tmp_path / "one.png"))


def test_a_word_names_the_manifest_and_a_path_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "photos" / "mine.png")
    monkeypatch.chdir(tmp_path)
    assert len(open_dataset("photos", split="check")) == 64
    assert names(open_dataset("./photos")) == ["mine.png"]
    assert names(open_dataset(find_data("./photos", Path()))) == ["mine.png"]


def test_a_source_of_a_card_is_looked_up_beside_the_card_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "here" / "images" / "here.png")
    write_image(tmp_path / "card" / "images" / "card.png")
    monkeypatch.chdir(tmp_path / "here")
    assert names(open_dataset("images", card_dir=tmp_path / "card")) == ["card.png"]
    assert names(open_dataset("images", card_dir=tmp_path)) == ["here.png"]
    assert find_data("images", tmp_path / "card") == str(tmp_path / "card" / "images")
    assert find_data("photos", tmp_path / "card") == "photos"  # a manifest's name is found from anywhere


def test_sources_without_splits_give_the_same_samples_for_every_split(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    assert open_dataset(tmp_path, split="check") == open_dataset(tmp_path)


# Choice and digest -----------------------------------------------------------------------------------

some_names = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=30, unique=True)


@pytest.mark.slow
@settings(deadline=None, derandomize=True)
@given(some_names, st.integers(1, 40), st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_chosen_samples_do_not_depend_on_the_order_of_the_files(
    listed: list[str], limit: int, seed: int, shuffler: random.Random
) -> None:
    samples = [Sample(name=name, path=name) for name in listed]
    chosen = take_samples(tuple(samples), limit, seed)
    shuffler.shuffle(samples)
    assert take_samples(tuple(samples), limit, seed) == chosen
    assert len(chosen) == min(limit, len(listed))
    assert [sample.name for sample in chosen] == sorted(sample.name for sample in chosen)
    assert set(chosen) <= set(take_samples(tuple(samples), limit + 1, seed))


def test_another_seed_chooses_others_and_no_limit_takes_all() -> None:
    samples = tuple(Sample(name=f"{index:02d}", path="") for index in range(50))
    assert take_samples(samples, 10, 0) != take_samples(samples, 10, 1)
    assert take_samples(samples, None, 3) == samples
    # Frozen: a calibration set must not change under a user's feet.
    assert [sample.name for sample in take_samples(samples, 5, 0)] == ["00", "02", "14", "31", "49"]


def test_a_name_that_is_not_utf8_can_be_ranked() -> None:
    odd = os.fsdecode(b"\xff.png")
    assert take_samples((Sample(name=odd, path=odd),), 1, 0)[0].name == odd


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    with pytest.raises(UsageError, match="found 0"):
        open_dataset(tmp_path, limit=0)


def test_the_digest_follows_content_labels_and_crops_and_not_the_place(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_csv(tmp_path / folder, "file,label\na.png,0\nb.png,1\n")
    first = open_dataset(tmp_path / "one/list.csv", labelled=True)
    assert first.digest() == open_dataset(tmp_path / "two/list.csv", labelled=True).digest()
    digests = {first.digest(), open_dataset(tmp_path / "one/list.csv").digest()}
    write_csv(tmp_path / "two", "file,label\na.png,1\nb.png,1\n")
    digests.add(open_dataset(tmp_path / "two/list.csv", labelled=True).digest())
    cropped = tuple(msgspec.structs.replace(sample, box=(0, 0, 2, 2)) for sample in first.samples)
    digests.add(msgspec.structs.replace(first, samples=cropped).digest())
    assert len(digests) == 4


def test_the_digest_sees_a_file_that_changed_in_the_same_process(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    before = open_dataset(tmp_path).digest()
    write_image(path, (9, 9, 9))
    os.utime(path, ns=(1, 1))  # whatever the clock's grain, this is another time
    assert open_dataset(tmp_path).digest() != before


def test_the_digest_of_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    dataset = open_dataset(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.png"):
        dataset.digest()
