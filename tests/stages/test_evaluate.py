"""Evaluate: predictions, accuracies and differences over labelled data, shard by shard."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mbdeploy.cli import program
from mbdeploy.derive import compare_predictions, estimate_accuracy
from mbdeploy.errors import DataError, ModelError, StepError, UsageError
from mbdeploy.executing import Work
from mbdeploy.results import EvalReport, decode_result, encode_result
from mbdeploy.stages import evaluate as stage
from mbdeploy.stages import evaluate_parts
from mbdeploy.stages.evaluate import evaluate, plan
from mbdeploy.targets import Session, ssh
from mbdeploy.targets.fake import FakeTarget

Write = Callable[..., Path]
Plug = Callable[[str, FakeTarget], str]


@pytest.fixture
def labelled(tmp_path: Path, mean_images: np.ndarray) -> str:
    """The twelve images with the class of their largest mean; the last three labelled wrongly on purpose."""
    labels = mean_images.mean(axis=(2, 3)).argmax(axis=1)
    labels[-3:] = (labels[-3:] + 1) % 3
    np.savez(tmp_path / "labelled.npz", inputs=mean_images, labels=labels)
    return str(tmp_path / "labelled.npz")


def answer_mean(session: Session, inputs: np.ndarray) -> list[np.ndarray]:
    means = inputs.mean(axis=(2, 3))
    if session.model.stem == "int8":
        means = means + 0.05 * np.sin(100 * means)
    return [means]


def with_background(session: Session, inputs: np.ndarray) -> list[np.ndarray]:
    logits = np.full((len(inputs), 1001), -9.0, np.float32)
    logits[:, 1:4] = inputs.mean(axis=(2, 3))
    return [logits]


def test_a_model_is_evaluated_on_this_machine(write_mean_model: Write, labelled: str) -> None:
    report = evaluate(
        [write_mean_model("q.onnx", quantized=True), write_mean_model("wrong.onnx", factor=-1)],
        against=write_mean_model(),
        data=labelled,
    )
    assert [model.model.name for model in report.models] == ["fp32", "q", "wrong"]
    assert (report.classes, report.background) == (3, False)
    accuracy = estimate_accuracy(report, 0)
    assert (accuracy.value, accuracy.n) == (0.75, 12)
    assert estimate_accuracy(report, 0, k=3).value == 1
    assert report.metrics[0].images == 12 and report.metrics[0].sqnr_db > 20
    assert report.metrics[0].max_lsb is not None
    assert report.metrics[1].sqnr_db < 0
    assert compare_predictions(report, 2).changed == 12
    assert report.models[0].placement.nodes.keys() == {"CPUExecutionProvider"}
    assert decode_result(encode_result(report), EvalReport) == report


def test_rules_over_placement_are_gates_of_an_evaluation(
    write_mean_model: Write, labelled: str, plug_fake: Plug
) -> None:
    word = plug_fake("true", FakeTarget(answer=answer_mean))
    models = [write_mean_model(), write_mean_model("int8.onnx", quantized=True)]
    report = evaluate(models, data=labelled, provider=word, require_placement=["cpu>=100%", "no float Fake"])
    found = [(gate.name, gate.subject, gate.passed) for gate in report.checks]
    assert found == [
        ("cpu>=100%", f"fp32 on {word}", True),
        ("cpu>=100%", f"int8 on {word}", True),
        ("no float Fake", f"int8 on {word}", False),
    ]
    assert decode_result(encode_result(report), EvalReport).checks == report.checks
    words = ["evaluate", *map(str, models), "--data", labelled, "--provider", word, "--require-placement"]
    assert [CliRunner().invoke(program, [*words, rule]).exit_code for rule in ("cpu>=1%", "no float Fake")] == [0, 1]
    with pytest.raises(UsageError, match="expected --provider cuda"):
        evaluate(models, data=labelled, provider=word, require_placement=["cuda>=1%"])


def test_shards_give_what_one_pass_gives(
    write_mean_model: Write, labelled: str, plug_fake: Plug, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def note_and_answer(session: Session, inputs: np.ndarray) -> list[np.ndarray]:
        sizes.append(len(inputs))
        return answer_mean(session, inputs)

    word = plug_fake("true", FakeTarget(answer=note_and_answer))
    models, steps = [write_mean_model(), write_mean_model("int8.onnx")], []
    whole = evaluate(models, data=labelled, provider=word)
    monkeypatch.setattr(stage, "SHARD", 5)
    sharded = evaluate(models, data=labelled, provider=word, on_progress=lambda *step: steps.append(step[1:]))
    assert sizes == [12, 12, 5, 5, 5, 5, 2, 2]
    assert sharded.models == whole.models
    assert sharded.metrics[0].sqnr_db == pytest.approx(whole.metrics[0].sqnr_db)
    assert steps == [(5, 12), (10, 12), (12, 12)]


def test_a_model_of_1001_classes_has_a_background_if_the_labels_allow_it(
    write_mean_model: Write, labelled: str, plug_fake: Plug
) -> None:
    word = plug_fake("imagenet", FakeTarget(answer=with_background))
    report = evaluate([write_mean_model()], data=labelled, provider=word)
    assert (report.classes, report.background) == (1001, True)
    assert estimate_accuracy(report, 0).value == 0.75
    plain = evaluate([write_mean_model()], data=labelled, provider=word, background=False)
    assert plain.background is False
    assert estimate_accuracy(plain, 0).value < 0.5


def test_what_the_model_says_of_its_background_goes_before_guessing(
    write_mean_model: Write, labelled: str, plug_fake: Plug
) -> None:
    word = plug_fake("imagenet", FakeTarget(answer=with_background))
    model = write_mean_model(metadata={"mbdeploy.labels": '{"background": false}'})
    assert evaluate([model], data=labelled, provider=word).background is False


def test_labels_that_are_no_classes_are_refused(write_mean_model: Write, tmp_path: Path, plug_fake: Plug) -> None:
    images = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "labels.npz", inputs=images, labels=np.array([0, 3]))
    word = plug_fake("true", FakeTarget(answer=answer_mean))
    with pytest.raises(DataError, match="labels below 3"):
        evaluate([write_mean_model()], data=str(tmp_path / "labels.npz"), provider=word)
    with pytest.raises(DataError, match="behind a background class"):
        evaluate([write_mean_model()], data=str(tmp_path / "labels.npz"), provider=word, background=True)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3, 7, 7)])
def test_what_is_no_classifier_is_refused(
    shape: tuple[int, ...], write_mean_model: Write, labelled: str, plug_fake: Plug
) -> None:
    fake = FakeTarget(answer=lambda session, inputs: [np.zeros((len(inputs), *shape[1:]), np.float32)])
    with pytest.raises(ModelError, match="a classifier"):
        evaluate([write_mean_model()], data=labelled, provider=plug_fake("other", fake))


def test_answers_that_are_nan_have_no_accuracy(write_mean_model: Write, labelled: str, plug_fake: Plug) -> None:
    fake = FakeTarget(answer=lambda session, inputs: [np.full((len(inputs), 3), np.nan, np.float32)])
    with pytest.raises(StepError, match="DEGENERATE"):
        evaluate([write_mean_model()], data=labelled, provider=plug_fake("nan", fake))


def test_models_of_unlike_classes_are_not_compared(write_mean_model: Write, labelled: str, plug_fake: Plug) -> None:
    def answer(session: Session, inputs: np.ndarray) -> list[np.ndarray]:
        return with_background(session, inputs) if session.model.stem == "int8" else answer_mean(session, inputs)

    word = plug_fake("two", FakeTarget(answer=answer))
    with pytest.raises(UsageError, match="fp32: 3, int8: 1001"):
        evaluate([write_mean_model("int8.onnx")], against=write_mean_model(), data=labelled, provider=word)


def test_a_limit_takes_so_many_images_and_the_same_ones_for_a_seed(
    write_mean_model: Write, labelled: str, plug_fake: Plug
) -> None:
    word = plug_fake("true", FakeTarget(answer=answer_mean))
    names = [
        [
            prediction.name
            for prediction in evaluate([write_mean_model()], data=labelled, provider=word, limit=5, seed=seed)
            .models[0]
            .predictions
        ]
        for seed in (0, 0, 1)
    ]
    assert len(names[0]) == 5
    assert names[0] == names[1] != names[2]


def test_the_model_that_is_compared_with_is_run_once_if_it_is_named_twice(
    write_mean_model: Write, labelled: str, plug_fake: Plug
) -> None:
    word = plug_fake("true", FakeTarget(answer=answer_mean))
    model, other = write_mean_model(), write_mean_model("int8.onnx")
    report = evaluate([model, other], against=model, data=labelled, provider=word)
    assert [entry.model.name for entry in report.models] == ["fp32", "int8"]
    assert len(report.metrics) == 1


def test_photographs_need_preprocessing_and_labels(
    write_mean_model: Write, photo_folder: Path, plug_fake: Plug
) -> None:
    word = plug_fake("true", FakeTarget(answer=answer_mean))
    rows = "".join(f"{path.name},{index % 3}\n" for index, path in enumerate(sorted(photo_folder.iterdir())))
    (photo_folder / "labels.csv").write_text(f"file,label\n{rows}")
    with pytest.raises(UsageError, match="--preprocess"):
        evaluate([write_mean_model()], data=str(photo_folder / "labels.csv"), provider=word)
    report = evaluate([write_mean_model()], data=str(photo_folder / "labels.csv"), provider=word, preprocess="unit")
    assert estimate_accuracy(report, 0).n == 6
    with pytest.raises(DataError):
        evaluate([write_mean_model()], data=str(photo_folder), provider=word, preprocess="unit")


def test_the_freshness_key_follows_files_labels_and_options(
    write_mean_model: Write, labelled: str, mean_images: np.ndarray
) -> None:
    model = write_mean_model()
    key = plan([model], data=labelled).key
    assert plan([model], data=labelled).key == key
    assert plan([model], data=labelled, background=True).key != key
    assert plan([model], data=labelled, against=write_mean_model("int8.onnx")).key != key
    np.savez(labelled, inputs=mean_images, labels=np.zeros(len(mean_images), int))
    assert plan([model], data=labelled).key != key


def test_a_model_that_fell_back_is_labelled_in_the_report_and_its_table(
    write_mean_model: Write, labelled: str, plug_fake: Plug
) -> None:
    from mbdeploy.stages.facts import derive_accuracy
    from mbdeploy.stages.figures import tabulate_accuracy

    word = f"cuda@{plug_fake('board', FakeTarget(answer=answer_mean)).partition('@')[2]}"
    report = evaluate([write_mean_model()], data=labelled, provider=word, allow_fallback=True)
    assert report.models[0].provider == f"{word} (fell back to cpu)"
    assert tabulate_accuracy(derive_accuracy(report))[0].rows[0][:2] == ("fp32", f"{word} (fell back to cpu)")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "shard_size"),
    [(2, 64), *(pytest.param(*case, marks=pytest.mark.sweep) for case in ((1, 32), (2, 96)))],
)
def test_workers_give_the_report_of_one_process_to_the_last_bit_whatever_the_shards(
    write_mean_model: Write, tmp_path: Path, workers: int, shard_size: int
) -> None:
    data, models = write_many(tmp_path), [write_mean_model(), write_mean_model("q.onnx", quantized=True)]
    whole = evaluate(models, data=data)
    steps: list[tuple[str, int, int]] = []
    shared = evaluate(
        models,
        data=data,
        workers=workers,
        shard_size=shard_size,
        store=tmp_path / "store",
        on_progress=lambda *step: steps.append(step),
    )
    assert encode_result(shared) == encode_result(whole)
    assert {(title, of) for title, _, of in steps} == {
        (f"evaluate on cpu ({workers} worker{'s' * (workers > 1)})", 150)
    }
    assert [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)
    assert steps[-1][1] == 150
    steps.clear()
    again = evaluate(
        models,
        data=data,
        workers=2,
        shard_size=shard_size,
        store=tmp_path / "store",
        on_progress=lambda *step: steps.append(step),
    )
    assert encode_result(again) == encode_result(whole)
    assert [done for _, done, _ in steps] == [150]  # all of it was there


def test_shards_for_a_board_ask_for_it_by_name(
    write_mean_model: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []

    class Leave(Exception):  # noqa: N818 (it is no error)
        pass

    class Asked:
        words = link = ""

        def run(self, works: Sequence[Work]) -> None:
            asked.extend((work.device, work.exclusive) for work in works)
            raise Leave

    monkeypatch.setattr(ssh, "_trusts_anyone", lambda words: False)  # (that asks ssh)
    monkeypatch.setattr(evaluate_parts, "open_executor", lambda *_: contextlib.nullcontext(Asked()))
    given = {"data": write_many(tmp_path), "cluster": "tcp://head:8786", "store": tmp_path / "store"}
    with pytest.raises(Leave):
        evaluate([write_mean_model()], provider="arm@ssh:pi@board1", **given)  # type: ignore[arg-type]
    assert set(asked) == {("dev_board1", False)}


def test_a_shard_is_whole_blocks(write_mean_model: Write, tmp_path: Path) -> None:
    from mbdeploy.stages.evaluate_parts import choose_shard_size

    assert [choose_shard_size(images, None) for images in (1, 1000, 4000, 50_000)] == [64, 64, 256, 512]
    with pytest.raises(UsageError, match="--shard-size 32"):
        evaluate([write_mean_model()], data=write_many(tmp_path), workers=1, shard_size=20, store=tmp_path / "store")


@pytest.mark.slow
def test_images_that_never_vary_are_refused_by_workers_too(write_mean_model: Write, tmp_path: Path) -> None:
    np.savez(tmp_path / "grey.npz", inputs=np.ones((3, 3, 4, 4), np.float32), labels=np.zeros(3, int))
    with pytest.raises(DataError, match="the same value everywhere"):
        evaluate([write_mean_model()], data=str(tmp_path / "grey.npz"), workers=1, store=tmp_path / "store")


def write_many(folder: Path) -> str:
    """150 images (3, 4, 4) with labels, from a seed: five blocks, the last of them not full."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(150, 3, 4, 4)).astype(np.float32)
    np.savez(folder / "many.npz", inputs=images, labels=rng.integers(0, 3, 150))
    return str(folder / "many.npz")
