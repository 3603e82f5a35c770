"""Quantizing with workers: the same graph as without them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from mbdeploy.errors import UsageError
from mbdeploy.sharing import quantize_shared
from mbdeploy.stages.quantize import quantize


@pytest.mark.slow
@pytest.mark.usefixtures("without_children")
def test_a_file_that_workers_calibrated_has_the_graph_of_one_process(conv_model_file: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    np.savez(tmp_path / "images.npz", inputs=rng.normal(0, 1, (12, 3, 16, 16)).astype(np.float32))
    given = {"calibration": str(tmp_path / "images.npz"), "preprocess": "raw"}
    alone, shared = tmp_path / "alone.onnx", tmp_path / "shared.onnx"
    quantize(conv_model_file, output=alone, **given)  # type: ignore[arg-type]
    quantize_shared(conv_model_file, output=shared, workers=1, **given)
    first, second = onnx.load(alone), onnx.load(shared)
    assert second.graph.SerializeToString() == first.graph.SerializeToString()
    assert (tmp_path / "shared.calibration" / "ranges.json").is_file()


def test_there_is_nothing_to_share_where_ranges_are_given_or_images_are_not(tmp_path: Path) -> None:
    for given in ({"ranges": tmp_path / "r.json", "calibration": "photos"}, {}):
        with pytest.raises(UsageError, match="calibration images to share"):
            quantize_shared(tmp_path / "m.onnx", output=tmp_path / "o.onnx", workers=1, **given)  # type: ignore[arg-type]
