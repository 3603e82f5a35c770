"""Raw times of the last check lie in the folder that they are about, and are vouched for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from runs import make_bench, make_series

from mbdeploy import artifact
from mbdeploy.card import load_card
from mbdeploy.gating.keeping import keep_runs
from mbdeploy.gating.tracing import Traced, keep_traced
from mbdeploy.provenance.checking import verify_artifacts
from mbdeploy.provenance.manifest import vouch_for_folder, vouch_for_result
from mbdeploy.results import BenchRun, ModelRef, Series
from mbdeploy.stages.bisect import Divergence
from mbdeploy.stages.reporting.reading import CONFIRMED


def make_run(folder: Path, share: float) -> BenchRun:
    """INT8 takes ``share`` of the float file's millisecond."""

    def time(name: str, time_ns: int) -> Series:
        path = folder / f"{name}.onnx"
        ref = ModelRef(name=name, path=str(path), sha256=artifact.digest_file(path), size_bytes=1)
        return make_series(ref, [time_ns] * 40)

    series = time("simplified", 1_000_000), time("int8", int(1_000_000 * share))
    return make_bench(*series, control=time("simplified", 1_000_000))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a run leaves, as far as times go: its quick bench says 1.2."""
    np.savez(tmp_path / "golden.npz", output_names=np.array(["logits"]))
    for name in ("simplified.onnx", "int8.onnx"):
        (tmp_path / name).write_text(name)
    for name in ("simplified.onnx", "int8.onnx", "golden.npz"):
        artifact.write_sidecar(tmp_path / name, artifact.Provenance(stage="", params={}, parents={}, tools={}), None)
    quick = [make_run(tmp_path, 1.2)]
    artifact.write_json(tmp_path / "results/bench.json", quick)
    vouch_for_result(tmp_path / "results/bench.json", quick)
    vouch_for_folder(tmp_path)
    return tmp_path


@pytest.fixture
def models(folder: Path) -> list[Path]:
    return [folder / "simplified.onnx", folder / "int8.onnx"]


def test_what_is_kept_is_raw_vouched_for_and_named_by_the_manifest(folder: Path, models: list[Path]) -> None:
    runs = [make_run(folder, 0.8)]
    keep_runs(folder, CONFIRMED, models, runs, tolerance=0.05, threads=1, on_progress=print)
    assert artifact.read_result(folder / CONFIRMED, list[BenchRun]) == runs
    found = verify_artifacts(folder)
    assert found.holds and CONFIRMED in {one.file for one in found.findings}
    (folder / "int8.onnx").write_text("another")
    states = {one.file: one.state for one in verify_artifacts(folder).findings}
    assert (states["int8.onnx"], states[CONFIRMED]) == ("changed", "stale")


def test_a_check_in_which_all_passed_leaves_no_times_of_an_earlier_one(folder: Path, models: list[Path]) -> None:
    keep_runs(folder, CONFIRMED, models, [make_run(folder, 0.8)])
    keep_runs(folder, CONFIRMED, models, [])
    assert not (folder / CONFIRMED).exists() and verify_artifacts(folder).holds
    keep_runs(folder, CONFIRMED, models, [])


def test_what_was_traced_is_named_by_the_manifest(folder: Path) -> None:
    found = Divergence(subject="int8", cause="rounding", measure="SQNR", node="conv")
    traced = Traced(variant="int8", provider="cpu", divergences=(found,))
    assert keep_traced(load_card("efficientnet_lite0"), folder, [traced]) == (found,)
    report = verify_artifacts(folder)
    assert report.holds and "results/trace.json" in {one.file for one in report.findings}
