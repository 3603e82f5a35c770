"""The search over mixed precision: what is chosen follows from the figures, and nothing is written that misses them."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from mbdeploy import artifact
from mbdeploy.cli import program
from mbdeploy.cli.endings import judge_answer
from mbdeploy.derive import compare_series
from mbdeploy.errors import UsageError
from mbdeploy.estimate import estimate_paired_difference
from mbdeploy.mixing.report import MixReport
from mbdeploy.mixing.turns import compare_turns
from mbdeploy.mixing.verdict import judge_search
from mbdeploy.results import decode_result
from mbdeploy.stages import bench as bench_stage
from mbdeploy.stages import mix_measure
from mbdeploy.stages import quantize as quantize_stage
from mbdeploy.stages.mix_page import render_search
from mbdeploy.stages.mix_tables import tabulate_search
from mbdeploy.targets.fake import FakeTarget
from mbdeploy.timing import processes
from mbdeploy.tradeoff import quantize_within

#: Made-up time units of a layer: (in float, in INT8). The stem is slower in INT8, as it is on real CPUs.
COSTS = {"stem": (10, 20), "middle": (40, 20), "head": (40, 20)}


@functools.cache
def sum_costs(path: Path) -> int:
    model = onnx.load(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    return sum(COSTS[node.name][node.input[1] not in constants] for node in model.graph.node if node.name in COSTS)


def run_model(session, inputs):
    opened = onnxruntime.InferenceSession(str(session.model), providers=["CPUExecutionProvider"])
    return opened.run(None, {opened.get_inputs()[0].name: inputs})


def take_time(index, session, number):
    return 1000 * sum_costs(session.model)


@pytest.fixture(autouse=True)
def target(monkeypatch, without_children):
    sum_costs.cache_clear()  # names of scratch files come again
    fake = FakeTarget(answer=run_model, time_ns=take_time)
    for stage in (mix_measure, bench_stage):
        monkeypatch.setattr(stage, "open_target", lambda provider: fake)
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: None)


@pytest.fixture
def model(tmp_path):
    random = np.random.default_rng(5)
    shapes = {"stem": (4, 3, 3, 3), "middle": (4, 4, 3, 3), "head": (4, 4, 1, 1)}
    constants = [
        numpy_helper.from_array(random.normal(0, 0.4, shape).astype(np.float32), f"{name}.w")
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["image", "stem.w"], ["a"], "stem"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "middle.w"], ["c"], "middle"),
        helper.make_node("GlobalAveragePool", ["c"], ["d"], "pool"),
        helper.make_node("Conv", ["d", "head.w"], ["e"], "head"),
        helper.make_node("Flatten", ["e"], ["logits"], "flatten"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 10, 10])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])],
        constants,
    )
    path = tmp_path / "float.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(made.SerializeToString())
    return path


@pytest.fixture
def images(tmp_path):
    np.savez(tmp_path / "images.npz", inputs=np.random.default_rng(2).normal(0, 1, (24, 3, 10, 10)).astype(np.float32))
    return str(tmp_path / "images.npz")


@pytest.fixture
def search(model, images, tmp_path):
    def run(*, recipe="portable", **goals):
        return quantize_within(
            model,
            output=tmp_path / "int8.onnx",
            calibration=images,
            recipe=recipe,
            num_calibration_samples=8,
            **goals,
        )

    return run


def test_what_is_slower_in_int8_stays_in_float(search, tmp_path):
    report = search(min_sqnr=0.0)
    assert report.chosen == "+ stem"
    assert report.final.keep_float == ("stem",)
    assert report.final.ratio.value == pytest.approx(50 / 90)
    made = onnx.load(tmp_path / "int8.onnx")
    stem = next(node for node in made.graph.node if node.name == "stem")
    assert stem.input[1] in {tensor.name for tensor in made.graph.initializer}


def test_each_mix_is_one_move_more_than_the_one_before(search):
    report = search(min_sqnr=0.0)
    assert report.mixes[0].name == "all in INT8"
    assert report.mixes[0].ratio.value == pytest.approx(60 / 90)
    sizes = [len(mix.keep_float) for mix in report.mixes]
    assert sizes == sorted(set(sizes))


def test_effects_are_the_times_and_errors_of_whole_files(search):
    effects = {effect.move.name: effect for effect in search(min_sqnr=0.0).effects}
    assert effects["stem"].ratio.value == pytest.approx(50 / 60)
    assert effects["middle"].ratio.value == pytest.approx(80 / 60)
    assert all(effect.spared_db > 5 and effect.alone_db > 5 for effect in effects.values())


def test_the_most_accurate_mix_within_the_time_is_taken(search):
    report = search(target_ratio=0.8)  # the stem and one more layer in float: 70 / 90
    able = [mix for mix in report.mixes if mix.ratio.high <= 0.8]
    assert report.chosen == max(able, key=lambda mix: mix.sqnr_db).name
    assert [check.name for check in report.checks] == ["A/A control", "time ratio, upper end", "time ratio"]
    assert [check.passed for check in report.checks] == [True, True, True]


def test_where_no_mix_will_do_no_file_is_written(search, tmp_path):
    report = search(min_sqnr=200.0)
    assert report.chosen is None and report.final is None and report.checks == ()
    assert len(report.made) == 1  # what fitting brings is known then: nothing, here
    assert "misses 200 dB" in report.reason
    assert not (tmp_path / "int8.onnx").exists()
    saved = decode_result((tmp_path / "int8.mix.json").read_bytes(), MixReport)
    assert saved == report
    assert "Don&#39;t ship: ship the float file" in (tmp_path / "int8.mix.html").read_text()


@pytest.fixture
def time_anew(monkeypatch):
    """Let the last bench find other times, in units of 1 us, for FP32, the mix, and FP32 once more."""

    def set_times(*times):
        fake = FakeTarget(answer=run_model, time_ns=lambda index, session, number: 1000 * times[index])
        monkeypatch.setattr(bench_stage, "open_target", lambda provider: fake)

    return set_times


def test_a_machine_that_cannot_tell_makes_the_verdict_inconclusive(search, time_anew, tmp_path):
    time_anew(90, 50, 120)  # FP32 differs from itself
    report = search(min_sqnr=0.0)
    assert report.verdict.answer == "inconclusive" and report.chosen == "+ stem"
    assert "the A/A control did not pass" in report.verdict.reasons[0]
    assert (tmp_path / "int8.onnx").is_file()
    assert judge_answer(report.verdict.answer) == 4


def test_what_several_processes_find_decides_and_not_what_one_did(search, time_anew, tmp_path):
    time_anew(90, 100, 90)
    report = search(min_sqnr=0.0)
    assert report.mixes[0].ratio.value < 1 and report.verdict.answer == "don't ship"
    assert report.final is None and not (tmp_path / "int8.onnx").exists()
    assert [mix.ratio.value for mix in report.made] == pytest.approx([100 / 90] * len(report.made))
    assert judge_answer(report.verdict.answer) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("again", "answer"), [(100, "don't ship"), (80, "ship")])
def test_before_time_refuses_all_one_mix_is_timed_in_full(search, time_anew, monkeypatch, again, answer):
    slow = FakeTarget(answer=run_model, time_ns=lambda index, session, number: 1000 + 200 * (index > 0))
    monkeypatch.setattr(mix_measure, "open_target", lambda provider: slow)
    time_anew(90, again, 90)
    report = search(min_sqnr=0.0)
    assert all(mix.ratio.value == 1.2 for mix in report.mixes)
    assert len(report.made) == 1 and report.verdict.answer == answer


def test_the_verdict_follows_again_from_what_is_saved(search, tmp_path):
    report = search(min_sqnr=0.0)
    saved = decode_result((tmp_path / "int8.mix.json").read_bytes(), MixReport)
    assert saved == report and judge_search(saved) == report.verdict
    assert report.verdict.answer == "ship"
    for turns in saved.turns:
        known = {effect.move.name: effect for effect in saved.effects} if turns.names[0] == "all in INT8" else {}
        known |= {mix.name: mix for mix in saved.mixes} if turns.names[0] == "optimised FP32" else {}
        for name, ratio in compare_turns(turns).items():
            assert name not in known or known.pop(name).ratio == ratio
    timed = [name for turns in saved.turns for name in turns.names[1:]]
    assert {*timed} >= {effect.move.name for effect in saved.effects} | {mix.name for mix in saved.mixes}
    run = report.timed[report.chosen]
    assert len(set(run.control.process)) == run.processes == 5
    assert compare_series(run, 1) == report.final.ratio
    assert run.series[1].model.path == str(tmp_path / "int8.onnx")
    assert run.series[1].model.sha256 == artifact.digest_file(tmp_path / "int8.onnx")


def test_the_mix_that_was_chosen_can_be_made_again_by_name(search, model, images, tmp_path):
    keep_float = search(min_sqnr=0.0).final.keep_float
    again = tmp_path / "again.onnx"
    options = {"calibration": images, "recipe": "portable", "num_calibration_samples": 8}
    quantize_stage.quantize(model, output=again, keep_float=keep_float, **options)
    assert again.read_bytes() == (tmp_path / "int8.onnx").read_bytes()


@pytest.mark.slow
def test_fitted_weights_are_measured_before_a_mix_is_refused(search, model, images, tmp_path):
    report = search(min_sqnr=0.0, recipe="accurate")
    plain = next(mix for mix in report.mixes if mix.name == report.chosen)
    assert report.made == (report.final,)
    assert report.final.sqnr_db != plain.sqnr_db
    assert not [path for path in tmp_path.iterdir() if "scratch" in path.name]
    goal = plain.sqnr_db + 0.1  # out of reach of the plain ones
    better = search(min_sqnr=goal, recipe="accurate")
    assert (better.final is None) == all(mix.sqnr_db < goal for mix in better.made)


@pytest.mark.slow
def test_images_that_calibrated_do_not_judge(search):
    report = search(min_sqnr=0.0)
    assert (report.images, report.held_out, report.labelled) == (16, True, False)
    assert search(min_sqnr=0.0, num_search_samples=5).images == 5


def test_with_nothing_else_the_images_that_calibrated_judge_and_it_is_said(search, model, images, tmp_path):
    report = quantize_within(
        model, output=tmp_path / "int8.onnx", calibration=images, recipe="portable", min_sqnr=0.0, num_search_samples=4
    )
    assert not report.held_out
    rows = dict(tabulate_search(report)[0].rows)
    assert rows["images"].endswith("which calibrated it: optimistic, without labels")


def test_labels_make_the_drop_a_loss_of_top1(search, tmp_path, model):
    inputs = np.random.default_rng(8).normal(0, 1, (12, 3, 10, 10)).astype(np.float32)
    logits = onnxruntime.InferenceSession(str(model)).run(None, {"image": inputs})[0]
    np.savez(tmp_path / "labelled.npz", inputs=inputs, labels=logits.argmin(axis=1))  # FP32 is right nowhere
    report = search(max_drop=0.5, search_data=str(tmp_path / "labelled.npz"))
    assert report.labelled
    assert report.mixes[0].drop.value <= 0.0  # nothing can be lost
    counted = [estimate_paired_difference(mix.lost, mix.gained, report.images).value for mix in report.mixes]
    assert counted == pytest.approx([mix.drop.value / 100 for mix in report.mixes])
    assert report.final.drop.high > 0.5 and report.checks[2].passed is None  # twelve images prove little


@pytest.mark.parametrize("goals", [{}, {"min_sqnr": -1.0}, {"target_ratio": float("nan")}])
def test_goals_that_make_no_sense_are_refused(search, goals):
    with pytest.raises(UsageError):
        search(**goals)


def test_the_page_escapes_names_and_shows_the_figures(search):
    report = search(min_sqnr=0.0)
    hostile = msgspec.structs.replace(report, reason="<script>alert(1)</script>\x1b[31m")
    page = render_search(hostile)
    assert "<script" not in page and "\x1b" not in page
    assert f"<td>{report.final.sqnr_db:.2f}</td>" in page.replace(' class=""', "")
    assert f"{report.final.ratio.value:.3f} [{report.final.ratio.low:.3f}, " in page
    assert all(f"{effect.alone_db:.2f}" in page for effect in report.effects)


@pytest.mark.slow
def test_the_command_says_what_was_chosen_and_ends_with_1_where_nothing_was(model, images, tmp_path):
    def call(*args):
        options = ["--calibration", images, "--fast", "--num-calibration-samples", "8", "-o", str(tmp_path / "x.onnx")]
        return CliRunner().invoke(program, ["quantize", str(model), *options, *args])

    done = call("--min-sqnr", "0", "--format", "json", "--quiet")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["chosen"] == "+ stem"
    failed = call("--min-sqnr", "200")
    assert failed.exit_code == 1
    assert "ship the float one" in failed.stdout
    assert "x.onnx as it was: an earlier file" in failed.stderr


def test_what_only_a_search_needs_is_refused_without_a_goal(model, images):
    args = ["quantize", str(model), "--calibration", images, "--num-search-samples", "8"]
    done = CliRunner().invoke(program, args)
    assert done.exit_code == 2
    assert "--num-search-samples is for a search: give a goal, too" in done.output
