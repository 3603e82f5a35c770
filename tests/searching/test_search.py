"""A whole search: what is refused before anything is done, what is tried, measured, chosen, and kept."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from lab import FakeExecutor, take_time_ns

from mbdeploy.errors import UsageError
from mbdeploy.executing import Store
from mbdeploy.results import decode_result, encode_result
from mbdeploy.searching import search as module
from mbdeploy.searching.features import list_layers
from mbdeploy.searching.jobs import Counted, Profiled
from mbdeploy.searching.report import SearchReport
from mbdeploy.searching.search import search
from mbdeploy.searching.tables import tabulate_plan, tabulate_search
from mbdeploy.stages.tables import render_tables

CARD = """
name = "tiny"
summary = "for this test"
net = "mobilenet_v1"
args = {{ alpha = 0.25 }}
weights = {weights}
preprocess = {{ size = 32 }}
quantization = {{ calibration = "photos", num_calibration_samples = 3 }}
"""
TRAINED = '{ file = "tiny.safetensors", sha256 = "00" }'
SIZES = (32, 64, 96, 128, 160, 192, 224, 256)
Run = Callable[..., SearchReport]


@pytest.fixture
def card(tmp_path: Path, make_photos: Callable[..., None]) -> str:
    make_photos(tmp_path / "photos", count=3)
    (tmp_path / "labelled.csv").write_text("file,label\n" + "".join(f"photos/{n}.png,0\n" for n in range(3)))
    for index, photo in enumerate(sorted((tmp_path / "photos").iterdir())):
        photo.rename(tmp_path / "photos" / f"{index}.png")
    (tmp_path / "tiny.toml").write_text(CARD.format(weights=TRAINED))
    return str(tmp_path / "tiny.toml")


@pytest.fixture
def executor() -> FakeExecutor:
    return FakeExecutor(asked=[])


@pytest.fixture
def run(tmp_path: Path, card: str, executor: FakeExecutor, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A search over the card's sizes for half of what INT8 takes at 128 pixels, by workers that answer at once."""

    @contextlib.contextmanager
    def open_fake(workers: int | None, cluster: str | None) -> Iterator[FakeExecutor]:
        yield executor

    monkeypatch.setattr(module, "open_executor", open_fake)
    monkeypatch.setattr(module, "describe_device", lambda word, cluster: [word, "fake"])

    def call(**changes: Any) -> SearchReport:
        given = {
            "target_latency": f"{take_time_ns('tiny-r128', 'portable') * 1.01:.0f}ns",
            "output": tmp_path / "out",
            "rho": SIZES,
            "recipe": ("portable",),
            "data": str(tmp_path / "labelled.csv"),
            "store": tmp_path / "store",
        }
        return search([card], **{**given, **changes})

    return call


def test_a_small_space_is_tried_whole_and_the_best_that_meets_the_target_is_chosen(run: Run) -> None:
    report = run()
    assert (report.optimiser, report.space) == ("all", 8)
    assert [fit.largest_error for fit in report.fits] == [pytest.approx(0, abs=1e-3)] * 2
    assert report.chosen is not None
    best = report.rows[report.chosen]
    assert (best.variant, best.recipe, best.verdict) == ("tiny-r128", "portable", "met")
    assert best.predicted_ns == pytest.approx(best.latency.value, rel=1e-3)
    assert best.latency.low < take_time_ns("tiny-r128", "portable") < best.latency.high
    assert best.reward == pytest.approx(best.quality * (best.latency.value / report.target_ns) ** -0.07)
    assert {row.variant for row in report.rows} == {"tiny-r128", "tiny-r96", "tiny-r64"}


def test_what_is_predicted_to_miss_the_target_by_far_is_not_built(run: Run, executor: FakeExecutor) -> None:
    report = run(num_profiled=3)
    states = {one.variant: one.state for one in report.tried}
    assert [name for name, state in states.items() if state == "first"] == ["tiny-r256", "tiny-r32", "tiny-r96"]
    assert {name for name, state in states.items() if state == "skipped"} == {"tiny-r160", "tiny-r192", "tiny-r224"}
    built = {name for function, name in executor.asked if function == "build_variant"}
    assert built == {"tiny-r256", "tiny-r32", "tiny-r96", "tiny-r64", "tiny-r128"}
    timed = [name for function, name in executor.asked if function == "time_variant"]
    assert len(timed) == len(set(timed)) == 5  # three to fit the predictor, and two more of the best
    assert report.chosen is not None and report.rows[report.chosen].variant == "tiny-r128"


def test_where_nothing_meets_the_target_nothing_is_chosen(run: Run) -> None:
    report = run(target_latency="100ns", num_measured=1)
    assert report.chosen is None and {row.verdict for row in report.rows} == {"missed"}
    assert report.reason.startswith("no measured file meets 0.0001 ms; the fastest is portable of tiny-r32")


def test_a_large_space_is_tried_in_part_by_the_sampler(run: Run, executor: FakeExecutor) -> None:
    report = run(num_trials=6, num_profiled=3, target_latency="1s")
    assert report.optimiser == "TPE"
    assert len([name for function, name in executor.asked if function == "build_variant"]) == 6
    names = [one.variant for one in report.tried]
    assert len(names) == len(set(names)) == 6
    assert report.chosen is not None and report.rows[report.chosen].verdict == "met"


def test_what_is_done_is_not_done_again(run: Run, executor: FakeExecutor, tmp_path: Path) -> None:
    first = run()
    executor.asked.clear()
    again = run()
    assert (executor.asked, again.rows, again.tried) == ([], first.rows, first.tried)
    (tmp_path / "out" / "tiny-r128" / "portable.onnx").unlink()
    run()
    assert executor.asked == [("build_variant", "tiny-r128")]


def test_results_are_judged_by_all_images_and_trials_by_some(run: Run, executor: FakeExecutor) -> None:
    run(num_search_samples=2, num_measured=1)
    judged = [name for function, name in executor.asked if function == "build_variant"]
    assert judged.count("tiny-r128") == 2 and judged.count("tiny-r32") == 1


def test_refining_measures_a_mix_beside_the_others(run: Run, executor: FakeExecutor) -> None:
    report = run(refine=True)
    assert report.mix is not None and report.mix.goals.target_ratio == pytest.approx(0.505, rel=1e-2)
    (mixed,) = [row for row in report.rows if row.recipe == "portable+mix"]
    assert (mixed.variant, mixed.keep_float, mixed.predicted_ns) == ("tiny-r128", ("stem",), None)
    assert report.chosen is not None and report.rows[report.chosen] == mixed
    assert [name for function, name in executor.asked if function == "mix_variant"] == [
        "tiny-r128, layers that stay in float"
    ]


def test_no_mix_is_looked_for_where_float_meets_the_target(run: Run, executor: FakeExecutor) -> None:
    report = run(refine=True, target_latency="1s")
    assert report.mix is None and report.reason.endswith("because FP32 itself meets the target")
    assert "mix_variant" not in {function for function, _ in executor.asked}


def test_only_the_plan_is_made_if_that_is_all_that_is_asked_for(
    run: Run, executor: FakeExecutor, tmp_path: Path
) -> None:
    report = run(dry_run=True, num_trials=4, num_profiled=2)
    assert executor.asked == [] and not (tmp_path / "out").exists()
    assert [item.name for item in report.plan] == [
        "count 8 networks",
        "build tiny-r256",
        "time tiny-r256",
        "build tiny-r32",
        "time tiny-r32",
        "build what Optuna proposes",
        "build what Optuna proposes",
        *["judge and time one of the best"] * 3,
    ]
    assert "8 variants. Optuna's TPE sampler" in render_tables(tabulate_plan(report))


def test_a_report_is_saved_and_shown_with_the_error_of_its_predictor(run: Run) -> None:
    report = run()
    assert decode_result(encode_result(report), SearchReport) == report
    rows, tried, fits = tabulate_search(report)
    assert any(cell == "portable (chosen)" for row in rows.rows for cell in row)
    assert rows.notes[0].startswith("Chosen: the highest reward of ")
    assert len(tried.rows) == 16 and tried.rows[0][:3] == ("tiny-r256", "fp32", "first")
    assert tried.rows[0][4] == "90.0"
    assert fits.rows[0][:4] == ("fp32", "layers", "6", "0.0%")
    assert not any("poor" in note for note in fits.notes)


def test_quality_without_labels_is_labelled_as_what_it_is(run: Run) -> None:
    report = run(quality="sqnr", data=None)
    assert all(row.quality == pytest.approx(1 / (1 + math.pow(10, -2.0))) for row in report.rows)
    rows = tabulate_search(report)[0]
    assert "1 - noise" in rows.columns
    assert any("does not say which network is better" in note for note in rows.notes)


def test_accuracy_without_labels_or_trained_weights_is_refused(
    run: Run, tmp_path: Path, executor: FakeExecutor
) -> None:
    with pytest.raises(UsageError, match="expected labelled images to judge by, found none"):
        run(data=None)
    with pytest.raises(UsageError, match=r"tiny-a0\.5-r32: expected a classifier with trained weights"):
        run(alpha=(0.5,))
    assert executor.asked == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_latency": "8"}, "such as 8ms"),
        ({"recipe": ("magic",)}, "magic"),
        ({"num_trials": 0}, "num_trials: expected 1 or more, found 0"),
        ({"num_measured": 0}, "num_measured: expected 1 or more"),
        ({"exponent": 0.07}, "--exponent: expected from -10 to below 0, found 0.07"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_done(
    run: Run, executor: FakeExecutor, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(**changes)
    assert executor.asked == [] and not (tmp_path / "out").exists()


def test_times_under_emulation_are_refused(stand_in_qemu: Path, card: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="on which times do not exist"):
        search(
            [card],
            target_latency="8ms",
            output=tmp_path / "out",
            quality="sqnr",
            provider="cpu@qemu:haswell",
            store=tmp_path / "store",
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.sweep
def test_a_search_over_a_real_card_ends_with_a_measured_file(card: str, tmp_path: Path) -> None:
    Path(card).write_text(CARD.format(weights="{ seed = 0 }"))
    report = search(
        [card],
        target_latency="1s",
        output=tmp_path / "out",
        rho=(64,),  # at 32 the last map is a single pixel, and simplify drops the pooling
        quality="sqnr",
        recipe=("portable",),
        min_duration=0.05,
        processes=1,
        store=tmp_path / "store",
    )
    assert [(row.recipe, row.verdict) for row in report.rows] == [("fp32", "met"), ("portable", "met")]
    assert [fit.basis for fit in report.fits] == ["layers", "layers"]
    assert all(row.predicted_ns is not None and row.predicted_ns > 0 for row in report.rows)
    assert [fit.largest_error for fit in report.fits] == [None, None]
    assert report.chosen is not None and Path(report.rows[report.chosen].path).is_file()
    kept = {one.function.rpartition(":")[2]: one.value for one in Store(tmp_path / "store").list_kept()}
    (counted,) = msgspec.json.decode(kept["count_variants"], type=list[Counted])
    made = msgspec.json.decode(kept["profile_variant"], type=Profiled)
    before, after = (
        [(layer.kind, layer.macs, layer.weights, layer.bytes_fp32, layer.bytes_int8) for layer in list_layers(layers)]
        for layers in (counted.layers, made.layers)
    )
    assert before == after and len(before) == 29  # what is predicted from a trace is what is built
