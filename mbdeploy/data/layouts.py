"""The two layouts that users' own images come in: a folder (flat or a folder a class) and a CSV file."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from mbdeploy.data.images import IMAGE_SUFFIXES
from mbdeploy.data.samples import Sample, is_file, unreadable
from mbdeploy.errors import DataError


def list_folder(folder: Path, *, labelled: bool, classes: int | None = None) -> tuple[Sample, ...]:
    """The images of a folder and of its sub-folders, one level down.

    Rules: 1. a file counts by its suffix; files and folders whose name starts with a dot do not (an
    archive from a Mac is full of ``._cat.jpg``). 2. If ``labelled``, every image lies in a class
    folder. The label is the folder's name if all class folders have whole numbers for names, else its
    place among the sorted names; then there must be as many folders as ``classes``, where that is
    known, because one missing folder would shift every label behind it.

    Raises:
        DataError: no images, an image that is no regular file, images outside class folders.
    """
    loose, folders = _list_images(folder)
    inside = {name: _list_images(folder / name)[0] for name in folders}
    if labelled:
        if loose or not any(inside.values()):
            raise DataError(
                where=folder,
                expected="a folder a class (FOLDER/CLASS/image.jpg), or a CSV file with columns file,label",
                found=f"{len(loose)} images outside class folders" if loose else "no images in class folders",
                todo="sort the images into class folders, or write the CSV file",
            )
        labels: dict[str, int | None] = {**_number_classes(folder, folders, classes)}
    else:
        labels = dict.fromkeys(folders)
    found: list[tuple[str, int | None]] = [(name, None) for name in loose]
    found += [(f"{name}/{image}", labels[name]) for name in folders for image in inside[name]]
    if not found:
        raise DataError(
            where=folder,
            expected=f"images ({' '.join(sorted(IMAGE_SUFFIXES))}) in the folder or one level down",
            found="none",
            todo="name the folder that holds them",
        )
    return tuple(Sample(name=name, path=str(folder / name), label=label) for name, label in found)


def list_csv(path: Path, *, labelled: bool) -> tuple[Sample, ...]:
    """The images that a CSV file lists, relative to its own folder.

    Rules: 1. comma-separated UTF-8 with a header; the columns ``file`` and, if ``labelled``, ``label``
    (a whole number); other columns do not count. 2. Every file exists and is listed once.

    Raises:
        DataError: a missing column, no rows, or a bad row (with its line number).
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            wanted = ["file", "label"] if labelled else ["file"]
            if missing := [name for name in wanted if name not in columns]:
                raise _bad_csv(path, f"no column {', '.join(missing)} among: {', '.join(columns) or 'nothing'}")
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise unreadable(path, error) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise _bad_csv(path, str(error)) from error
    if not rows:
        raise _bad_csv(path, "no rows below the header")
    seen: dict[str, int] = {}
    samples = []
    for line, row in rows:
        sample = _read_row(path, line, row, labelled)
        key = os.path.normpath(sample.path)
        if key in seen:
            raise _bad_csv(f"{path}:{line}", f"{sample.name}, which line {seen[key]} lists already")
        seen[key] = line
        samples.append(sample)
    return tuple(samples)


def _list_images(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the images and of the sub-folders of a folder, each sorted."""
    images, folders = [], []
    try:
        entries = [
            (path, path.is_dir())
            for path in sorted(folder.iterdir(), key=lambda p: p.name)
            if not path.name.startswith(".")
        ]
    except OSError as error:
        raise unreadable(folder, error) from error
    for path, is_folder in entries:
        if is_folder:
            folders.append(path.name)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            if not is_file(path):
                raise DataError(
                    where=path,
                    expected="a regular file, as its suffix says",
                    found="a broken link, a pipe or a device",
                    todo="remove it, or mend the link",
                )
            images.append(path.name)
    return images, folders


def _number_classes(folder: Path, folders: list[str], classes: int | None) -> dict[str, int]:
    if all(name.isascii() and name.isdigit() for name in folders):
        return {name: int(name) for name in folders}
    if classes is not None and len(folders) != classes:
        raise DataError(
            where=folder,
            expected=f"{classes} class folders, or folders named by the number of the class",
            found=f"{len(folders)} folders with other names",
            todo="add the missing (also empty) folders, or rename them to the number of the class",
        )
    return {name: index for index, name in enumerate(folders)}


def _read_row(path: Path, line: int, row: dict[str, str | None], labelled: bool) -> Sample:
    name, label = row["file"], None
    if not name or not is_file(path.parent / name):
        raise _bad_csv(f"{path}:{line}", f"no file {name}" if name else "an empty field `file`")
    if labelled:
        text = (row["label"] or "").strip()
        if not (text.isascii() and text.isdigit()):
            raise _bad_csv(f"{path}:{line}", f"label {text!r}")
        label = int(text)
    return Sample(name=name, path=str(path.parent / name), label=label)


def _bad_csv(where: str | Path, found: str) -> DataError:
    return DataError(
        where=where,
        expected="a CSV file with columns file,label: images that exist, once each, and whole numbers",
        found=found,
        todo="correct the file",
    )
