"""How labels count against a classifier's outputs: with a background class in front, or without."""

from __future__ import annotations

from collections.abc import Sequence

from mbdeploy.errors import DataError
from mbdeploy.stages.subject import Subject

#: ImageNet's classes, and the number of outputs of a network that was trained with one more for background.
_IMAGENET, _WITH_BACKGROUND = 1000, 1001


def settle_background(
    subjects: Sequence[Subject], classes: int, highest: int, source: str, asked: bool | None = None
) -> bool:
    """Whether class 0 is background: as asked, as a file says, or by the number of classes.

    ``highest`` is the largest label of the data.

    Raises:
        DataError: labels beyond the classes.
    """
    declared = next((subject.labels.background for subject in subjects if subject.labels is not None), None)
    choices = (asked, declared, classes == _WITH_BACKGROUND and highest < _IMAGENET)
    background = next(choice for choice in choices if choice is not None)
    if highest + background >= classes:
        offset = " behind a background class" if background else ""
        raise DataError(
            where=source,
            expected=f"labels below {classes - background} ({classes} classes{offset})",
            found=f"{highest}",
            todo="give data labelled for these classes, or say --background or --no-background",
        )
    return background
