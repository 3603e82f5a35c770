"""Bench: raw samples in pairs, on this machine and on one whose times are made up."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mbdeploy.derive import compare_series, is_decided, judge_run
from mbdeploy.errors import DataError, StepError, UnavailableError, UsageError
from mbdeploy.results import BenchRun, Series, decode_result, encode_result
from mbdeploy.stages.bench import bench as spread_bench
from mbdeploy.stages.bench import plan
from mbdeploy.targets import Session
from mbdeploy.targets.fake import FakeTarget

Write = Callable[..., Path]
Plug = Callable[[str, FakeTarget], str]
#: In tests nothing needs to cool down.
bench = partial(spread_bench, cool_down=0)


def answer_mean(session: Session, inputs: np.ndarray) -> list[np.ndarray]:
    return [2 * inputs.mean(axis=(2, 3))]


def take_by_name(index: int, session: Session, number: int) -> int:
    return {"fp32.onnx": 1_000_000, "int8.onnx": 700_000, "slow.onnx": 1_300_000}[session.model.name] + number % 3


@pytest.mark.slow
def test_a_run_on_this_machine_holds_what_was_measured(write_mean_model: Write, mean_golden: Path) -> None:
    models = [write_mean_model(), write_mean_model("q.onnx", quantized=True)]
    seen = []
    (run,) = bench(
        models,
        inputs=mean_golden,
        batch_size=2,
        warmup=3,
        min_duration=0,
        min_pairs=12,
        processes=2,
        max_duration=0,
        session_config={"session.intra_op.allow_spinning": "0"},
        on_progress=lambda *step: seen.append(step[0]),
    )
    assert [series.model.name for series in run.series] == ["fp32", "q"]
    assert run.control.model == run.series[0].model
    assert (run.threads, run.batch_size, run.warmup, run.inputs) == (1, 2, 3, str(mean_golden))
    assert datetime.fromisoformat(run.when_utc.replace("Z", "+00:00")).tzinfo is not None
    for series in (*run.series, run.control):
        assert len(series.wall_ns) == len(series.cpu_ns) == 12
        assert series.process == (0,) * 6 + (1,) * 6
        assert len(series.warmup_ns) == 2 * 3
        assert (series.load_ns, series.first_ns) == (series.loads_ns[0], series.firsts_ns[0])
        assert len(series.loads_ns) == len(series.firsts_ns) == 2
        assert min(*series.wall_ns, series.load_ns, series.first_ns) > 0
        assert 0 < series.base_bytes <= series.loaded_bytes <= series.peak_bytes
        assert series.placement.nodes.keys() == {"CPUExecutionProvider"}
        assert series.session["cpu_clock"] == "thread"
        assert series.session["session_config"]["session.intra_op.allow_spinning"] == "0"
    assert run.host.providers
    assert set(seen) == {"bench on cpu", "memory on cpu"}
    assert decode_result(encode_result(run), BenchRun) == run
    assert len(judge_run(run)) == 2


@pytest.mark.slow
def test_several_threads_are_timed_by_the_process_and_do_not_spin_into_the_next_turn(
    write_mean_model: Write, mean_golden: Path
) -> None:
    model, options = write_mean_model(), {"warmup": 0, "min_duration": 0, "min_pairs": 2, "processes": 1}
    (run,) = bench([model], inputs=mean_golden, threads=2, **options)
    session = run.series[0].session
    assert (session["threads"], session["cpu_clock"]) == (2, "process")
    assert session["session_config"]["session.force_spinning_stop"] == "1"


def test_verdicts_follow_from_the_samples(write_mean_model: Write, mean_golden: Path, plug_fake: Plug) -> None:
    word = plug_fake("clockwork", FakeTarget(answer=answer_mean, time_ns=take_by_name))
    models = [write_mean_model(name) for name in ("fp32.onnx", "int8.onnx", "slow.onnx")]
    (run,) = bench(models, inputs=mean_golden, providers=[word])
    assert [(check.subject.split()[0], check.passed) for check in judge_run(run)] == [
        ("fp32", True),
        ("int8", True),
        ("slow", False),
    ]


def test_a_machine_that_drifts_between_turns_gives_no_verdict(
    write_mean_model: Write, mean_golden: Path, plug_fake: Plug
) -> None:
    def take_longer_each_turn(index: int, session: Session, number: int) -> int:
        return 1_000_000 + 200_000 * index

    word = plug_fake("drifting", FakeTarget(answer=answer_mean, time_ns=take_longer_each_turn))
    (run,) = bench([write_mean_model(), write_mean_model("int8.onnx")], inputs=mean_golden, providers=[word])
    control, gate = judge_run(run)
    assert control.passed is False and gate.passed is None


class Moody:
    """Times of a machine on which every process has a speed of its own for the second model."""

    def __init__(self, *factors: float) -> None:
        self.factors, self.started = factors, 0

    def __call__(self, index: int, session: Session, number: int) -> int:
        if index == 0 and number == 0:
            self.started += 1
        factor = self.factors[min(self.started, len(self.factors)) - 1] if index == 1 else 1.0
        return round(1_000_000 * factor)


def test_processes_follow_until_the_intervals_are_narrower_than_the_tolerance(
    write_mean_model: Write, mean_golden: Path, plug_fake: Plug
) -> None:
    times = Moody(0.97, 1.03, *[1.0] * 100)
    word = plug_fake("moody", FakeTarget(answer=answer_mean, time_ns=times))
    models = [write_mean_model(), write_mean_model("int8.onnx")]
    (run,) = bench(models, inputs=mean_golden, providers=[word], warmup=0)
    taken = max(run.series[0].process) + 1
    assert 5 < taken < 12
    ratio = compare_series(run, 1)
    assert ratio.high - ratio.low <= 0.05 * ratio.value
    fewer = msgspec.structs.replace(
        run, series=tuple(_cut(series, taken - 1) for series in run.series), control=_cut(run.control, taken - 1)
    )
    assert not is_decided(fewer)


def _cut(series: Series, processes: int) -> Series:
    n = sum(number < processes for number in series.process)
    return msgspec.structs.replace(
        series, wall_ns=series.wall_ns[:n], cpu_ns=series.cpu_ns[:n], process=series.process[:n]
    )


def test_a_run_that_stays_unsteady_ends_with_its_time_and_gives_no_verdict(
    write_mean_model: Write, mean_golden: Path, plug_fake: Plug
) -> None:
    word = plug_fake("wild", FakeTarget(answer=answer_mean, time_ns=Moody(0.5, 1.0, 1.5, 2.0, 2.5)))
    models = [write_mean_model(), write_mean_model("int8.onnx")]
    (run,) = bench(models, inputs=mean_golden, providers=[word], max_duration=0)
    assert set(run.series[0].process) == {0, 1, 2, 3, 4}
    control, gate = judge_run(run)
    assert control.passed is True and gate.passed is None and "wider than the tolerance" in gate.note


def test_one_process_stays_one_however_wide_its_interval(
    write_mean_model: Write, mean_golden: Path, plug_fake: Plug
) -> None:
    word = plug_fake("clockwork", FakeTarget(answer=answer_mean))
    (run,) = bench([write_mean_model()], inputs=mean_golden, providers=[word], processes=1, min_pairs=2)
    assert (run.series[0].process, run.processes) == ((0, 0), 1)


def test_every_number_of_threads_and_every_batch_size_is_a_run_of_its_own(
    write_mean_model: Write, mean_golden: Path, plug_fake: Plug
) -> None:
    word = plug_fake("clockwork", FakeTarget(answer=answer_mean))
    runs = bench([write_mean_model()], inputs=mean_golden, providers=[word], threads=(1, 2), batch_size=(1, 8, 1))
    assert [(run.batch_size, run.threads) for run in runs] == [(1, 1), (1, 2), (8, 1), (8, 2)]


def test_every_provider_is_a_run_of_its_own(write_mean_model: Write, mean_golden: Path, plug_fake: Plug) -> None:
    words = [plug_fake(name, FakeTarget(answer=answer_mean)) for name in ("one", "two")]
    runs = bench([write_mean_model()], inputs=mean_golden, providers=words)
    assert [run.provider for run in runs] == words


def test_an_emulated_target_is_refused_before_anything_is_measured(
    write_mean_model: Write, mean_golden: Path, plug_fake: Plug
) -> None:
    asked = []

    def note_and_answer(index: int, session: Session, number: int) -> int:
        asked.append(number)
        return 1

    words = [
        plug_fake("real", FakeTarget(answer=answer_mean, time_ns=note_and_answer)),
        plug_fake("board", FakeTarget(answer=answer_mean, emulated=True)),
    ]
    with pytest.raises(UsageError, match="times do not exist"):
        bench([write_mean_model()], inputs=mean_golden, providers=words)
    assert asked == []


def test_a_fixed_batch_is_timed_only_at_its_size(write_mean_model: Write, mean_golden: Path, plug_fake: Plug) -> None:
    word = plug_fake("true", FakeTarget(answer=answer_mean))
    model = write_mean_model(batch=4)
    with pytest.raises(UsageError, match="--batch-size 4"):
        bench([model], inputs=mean_golden, providers=[word])
    assert bench([model], inputs=mean_golden, providers=[word], batch_size=4)[0].batch_size == 4


def test_images_come_from_golden_beside_the_model_or_from_data_with_preprocessing(
    write_mean_model: Write,
    mean_golden: Path,
    mean_images: np.ndarray,
    plug_fake: Plug,
    photo_folder: Path,
    tmp_path: Path,
) -> None:
    word = plug_fake("true", FakeTarget(answer=answer_mean))
    model = write_mean_model()
    assert bench([model], providers=[word])[0].inputs == str(mean_golden)
    np.savez(tmp_path / "ready.npz", inputs=mean_images)
    assert bench([model], providers=[word], inputs=tmp_path / "ready.npz")[0].inputs.endswith("ready.npz")
    (run,) = bench([model], providers=[word], inputs=photo_folder, preprocess="unit")
    assert run.inputs == str(photo_folder)
    with pytest.raises(UsageError, match="--preprocess"):
        bench([model], providers=[word], inputs=photo_folder)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"threads": (1, 0)},
        {"threads": ()},
        {"min_duration": -1},
        {"min_duration": float("nan")},
        {"max_duration": -1},
        {"min_pairs": 0},
        {"processes": 0},
        {"cool_down": -1},
        {"warmup": -1},
    ],
)
def test_numbers_that_make_no_run_are_refused(
    options: dict[str, float], write_mean_model: Write, mean_golden: Path
) -> None:
    with pytest.raises(UsageError, match="or more"):
        spread_bench([write_mean_model()], inputs=mean_golden, **options)  # type: ignore[arg-type]


def test_cuda_without_cuda_gives_no_time_at_all(write_mean_model: Write, mean_golden: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA compiled in")
    with pytest.raises(UnavailableError, match="onnxruntime-gpu"):
        bench([write_mean_model()], inputs=mean_golden, providers=["cuda"])


def test_inputs_that_do_not_fit_and_models_that_do_not_load_are_errors(
    write_mean_model: Write, mean_golden: Path, tmp_path: Path, mean_images: np.ndarray
) -> None:
    import onnx

    np.save(tmp_path / "small.npy", mean_images[..., :2])
    with pytest.raises(DataError, match=r"images of \[3, 4, 4\]"):
        bench([write_mean_model()], inputs=tmp_path / "small.npy")
    model = onnx.load(write_mean_model())
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(StepError, match="REJECTED while loading"):
        bench([tmp_path / "odd.onnx"], inputs=mean_golden)


def test_the_freshness_key_follows_files_and_options(
    write_mean_model: Write, mean_golden: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_mean_model()
    key = plan([model]).key
    assert plan([model], inputs=mean_golden).key == key
    assert plan([model], threads=2).key != key
    assert plan([model], threads=(1,)).key == key
    assert plan([model], processes=1).key != key
    assert plan([model], inputs=photo_folder).key != key
    assert plan([model, write_mean_model("int8.onnx")]).key != key
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("mbdeploy.stages.bench.identify_machine", lambda: {"cpu": "another one"})
        assert plan([model]).key != key
