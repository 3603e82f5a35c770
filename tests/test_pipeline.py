"""The pipeline on a small card: order, freshness, forcing, and what a killed run leaves."""

from __future__ import annotations

import pytest

from mbdeploy import artifact
from mbdeploy.errors import CardError, OutputError, UsageError
from mbdeploy.pipeline import STAGES, run


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_onnx_card):
    folder = tmp_path_factory.mktemp("run")
    card = make_onnx_card(folder)
    return folder / "out", run(str(card), output=folder / "out", min_duration=0.05)


def repeat(folder, **options):
    return run(str(folder.with_name("tiny.toml")), output=folder, min_duration=0.05, **options)


def again(folder, **options):
    return {stage.name: stage.fresh for stage in repeat(folder, **options).stages}


@pytest.mark.slow
def test_a_run_does_every_stage_in_order_and_its_gates_hold(finished):
    folder, summary = finished
    assert tuple(stage.name for stage in summary.stages) == STAGES
    assert not any(stage.fresh for stage in summary.stages)
    assert {path.name for path in folder.iterdir()} >= {"fp32.onnx", "simplified.onnx", "int8.onnx", "golden.npz"}
    assert summary.checks and all(check.passed for check in summary.checks)


@pytest.mark.slow
def test_a_second_run_finds_everything_fresh(finished):
    assert all(again(finished[0]).values())


@pytest.mark.slow
@pytest.mark.usefixtures("without_children")
def test_a_forced_stage_is_done_again_and_the_others_stay(finished):
    assert again(finished[0], force=["simplify"]) == {**dict.fromkeys(STAGES, True), "simplify": False}


@pytest.mark.slow
def test_a_run_ends_with_the_stage_that_was_asked_for_and_shows_no_gates_before_it_judged(finished):
    folder, _ = finished
    summary = repeat(folder, until="quantize")
    assert [stage.name for stage in summary.stages] == ["export", "simplify", "quantize"]
    assert summary.checks == ()
    assert repeat(folder, until="verify").checks != ()


@pytest.mark.slow
def test_another_recipe_redoes_what_depends_on_it(finished):
    folder, _ = finished
    fresh = again(folder, recipe="reduce-range", dry_run=True)
    assert fresh == {name: name in ("export", "simplify") for name in STAGES}
    assert all(again(folder).values())


@pytest.mark.slow
@pytest.mark.usefixtures("without_children")
def test_a_run_that_may_fall_back_measures_again_and_labels_what_it_measured(finished):
    import json

    folder, _ = finished
    fresh = again(folder, providers=["NoSuchExecutionProvider"], allow_fallback=True)
    assert fresh == {name: name in ("export", "simplify", "quantize") for name in STAGES}
    label = "NoSuchExecutionProvider (fell back to cpu)"
    assert {row["provider"] for row in json.loads((folder / "results/parity.json").read_text())["rows"]} == {label}
    assert {run["provider"] for run in json.loads((folder / "results/bench.json").read_text())} == {label}
    assert label in (folder / "report.md").read_text(encoding="utf-8").replace("\\", "")
    assert not again(folder)["verify"]


@pytest.mark.slow
def test_a_report_is_made_again_when_a_result_that_it_shows_comes_or_goes(finished, make_photos):
    from mbdeploy.provenance.manifest import read_manifest
    from mbdeploy.stages.evaluate import evaluate, plan

    folder, _ = finished
    for label in ("0", "1"):
        make_photos(folder.with_name("labelled") / label, count=2)
    told = {"data": str(folder.with_name("labelled"))}
    models, path = [folder / "int8.onnx"], folder / "results" / "evaluation.json"
    assert all(again(folder).values())
    artifact.write_result(path, plan(models, **told), evaluate(models, **told))
    assert again(folder) == {**dict.fromkeys(STAGES, True), "report": False}
    assert "Accuracy" in (folder / "report.md").read_text(encoding="utf-8")
    assert read_manifest(folder).artifacts["report.html"].parents["evaluation"].file == "results/evaluation.json"
    assert all(again(folder).values())
    for name in ("matrix", "explain", "bench-confirm", "parity-arm", "../int8.mix"):
        artifact.write_json(folder / "results" / f"{name}.json", None)
        assert not again(folder, dry_run=True)["report"]
        (folder / "results" / f"{name}.json").unlink()
    path.unlink()
    artifact.sidecar_path(path).unlink()
    assert not again(folder)["report"] and all(again(folder).values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["golden.npz", "simplified.onnx"])
@pytest.mark.usefixtures("without_children")
def test_a_damaged_or_missing_file_is_made_again(finished, name):
    folder, _ = finished
    whole = artifact.digest_file(folder / name)
    (folder / name).write_bytes(b"torn")
    assert not all(again(folder).values())
    assert artifact.digest_file(folder / name) == whole
    assert all(again(folder).values())


@pytest.mark.slow
def test_leftovers_of_a_killed_run_are_cleared_away(finished):
    folder, _ = finished
    leftover = folder / ".int8.onnx.99999999.0.mbdeploy-tmp"
    leftover.write_bytes(b"half")
    again(folder)
    assert not leftover.exists()


def test_an_unknown_card_or_stage_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(CardError, match="no such card"):
        run("mobilenet_v9", output=tmp_path / "out")
    with pytest.raises(UsageError, match="a stage"):
        run("mobilenet_v1_025", output=tmp_path / "out", force=["deploy"])
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(tmp_path):
    summary = run("mobilenet_v1_025", output=tmp_path / "out", dry_run=True)
    assert [stage.fresh for stage in summary.stages] == [False] * len(STAGES)
    assert not (tmp_path / "out").exists()


def test_two_processes_on_one_folder_are_refused(tmp_path):
    with artifact.lock_folder(tmp_path / "out"), pytest.raises(OutputError, match="another process"):
        run("mobilenet_v1_025", output=tmp_path / "out")
