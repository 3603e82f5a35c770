"""No mutant of a sound model crashes or hangs ``verify``; where one passes, its outputs are the sound model's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hostile_corpus.building import CLASSES, SIZE
from hostile_corpus.judging import STEP_SECONDS, run_command
from hostile_corpus.mutating import list_bases, mutate

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
BASES = list_bases()
#: Mutants of every base: in a pull request, and at night, when a test takes many of them.
FEW, MANY, A_TEST = 6, 420, 30


@pytest.fixture(scope="session")
def goldens(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """golden.npz of each base, by ONNX Runtime itself."""
    import onnxruntime

    from mbdeploy.golden import Golden, write_golden

    images = np.random.default_rng(3).normal(0, 1, (3, 3, SIZE, SIZE)).astype(np.float32)
    paths = []
    for base in BASES:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(base.SerializeToString(), options, providers=["CPUExecutionProvider"])
        logits = session.run(None, {"image": images})[0]
        assert logits.shape == (len(images), CLASSES)
        path = tmp_path_factory.mktemp("golden") / "golden.npz"
        write_golden(path, Golden(input=images, outputs=(logits,), output_names=("logits",), names=("a", "b", "c")))
        paths.append(path)
    return paths


def run_mutant(folder: Path, base: int, seed: int, golden: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(mutate(BASES[base], seed))
    words = ["verify", str(folder / "model.onnx"), "--golden", str(golden), "--max-time", str(STEP_SECONDS)]
    ending = run_command(words, folder, harmless=True)
    assert ending.wrong == (), (base, seed, ending)
    if ending.code == 0:
        assert "FAIL" not in ending.stdout


def test_the_same_seed_gives_the_same_mutant_and_another_one_another() -> None:
    assert mutate(BASES[1], 5) == mutate(BASES[1], 5)
    assert len({mutate(BASES[1], seed) for seed in range(50)}) > 40


def test_there_are_two_thousand_mutants_at_night() -> None:
    assert len(BASES) * MANY >= 2000


@pytest.mark.parametrize("seed", range(FEW))
@pytest.mark.parametrize("base", range(len(BASES)))
def test_a_mutant_is_refused_or_fails_or_is_the_same(tmp_path: Path, goldens: list[Path], base: int, seed: int) -> None:
    run_mutant(tmp_path / "mutant", base, seed, goldens[base])


@pytest.mark.sweep
@pytest.mark.parametrize("first", range(FEW, FEW + MANY, A_TEST))
@pytest.mark.parametrize("base", range(len(BASES)))
def test_many_mutants_are_refused_or_fail_or_are_the_same(
    tmp_path: Path, goldens: list[Path], base: int, first: int
) -> None:
    for seed in range(first, first + A_TEST):
        run_mutant(tmp_path / str(seed), base, seed, goldens[base])
