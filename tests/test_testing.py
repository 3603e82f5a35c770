"""``assert_parity`` passes what is equal within bounds, and nothing that cannot be believed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbdeploy.errors import DataError, UsageError
from mbdeploy.testing import assert_parity

IMAGES = np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype(np.float32)


@pytest.fixture
def outputs(conv_model_file: Path) -> np.ndarray[Any, Any]:
    """What the model itself gives, (4, 5)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(conv_model_file, providers=["CPUExecutionProvider"])
    found: np.ndarray[Any, Any] = session.run(None, {"image": IMAGES})[0]
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("without_children")
def test_a_model_equals_itself_as_a_file_as_an_array_and_as_a_function(
    conv_model_file: Path, outputs: np.ndarray[Any, Any]
) -> None:
    for reference in (conv_model_file, outputs, [outputs], {"logits": outputs}, lambda images: outputs):
        (metrics,) = assert_parity(conv_model_file, reference, IMAGES, max_abs=1e-4, sqnr_db=60.0, top1_agreement=1.0)
        assert metrics.images == 4 and metrics.max_abs <= 1e-4


def test_a_bound_that_does_not_hold_is_shown_with_every_metric(
    conv_model_file: Path, outputs: np.ndarray[Any, Any]
) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_parity(conv_model_file, outputs + 1, IMAGES, max_abs=0.5, cosine=-1.0)
    text = str(caught.value)
    assert "Parity over 4 images" in text and "<= 0.5" in text and "FAIL" in text and "pass" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda good: np.full_like(good, np.nan), "non-finite reference"),
        (np.zeros_like, "constant reference"),
        (lambda good: good[:, :3], "shape mismatch"),
        (lambda good: good[:0], "shape mismatch"),
    ],
    ids=["nan", "constant", "shape", "empty"],
)
@pytest.mark.usefixtures("without_children")
def test_what_cannot_be_believed_never_passes(
    conv_model_file: Path, outputs: np.ndarray[Any, Any], change: Callable[..., Any], reason: str
) -> None:
    with pytest.raises(AssertionError, match=reason):
        assert_parity(conv_model_file, change(outputs), IMAGES, max_abs=np.inf, sqnr_db=-np.inf)


def test_a_call_that_asks_nothing_or_gives_no_image_is_refused(
    conv_model_file: Path, outputs: np.ndarray[Any, Any]
) -> None:
    with pytest.raises(UsageError, match="expected a bound"):
        assert_parity(conv_model_file, outputs, IMAGES)
    with pytest.raises(DataError, match="at least one image"):
        assert_parity(conv_model_file, outputs[:0], IMAGES[:0], max_abs=1.0)
    with pytest.raises(DataError, match="each of its 1 outputs"):
        assert_parity(conv_model_file, [outputs, outputs], IMAGES, max_abs=1.0)
