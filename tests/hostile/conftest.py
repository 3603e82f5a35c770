"""The corpus as a package of its own, and the sound model with its golden outputs that items are compared with."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """golden.npz of the sound model: four images and their logits; images.npz beside it has labels, too."""
    import onnxruntime
    from hostile_corpus.building import SIZE, sound_model

    from mbdeploy.golden import Golden, write_golden

    images = np.random.default_rng(3).normal(0, 1, (4, 3, SIZE, SIZE)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        sound_model().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    logits = session.run(None, {"image": images})[0]
    path = tmp_path_factory.mktemp("golden") / "golden.npz"
    names = tuple(f"image {index}" for index in range(len(images)))
    write_golden(path, Golden(input=images, outputs=(logits,), output_names=("logits",), names=names))
    np.savez(path.with_name("images.npz"), inputs=images, labels=logits.argmax(1))
    return path
