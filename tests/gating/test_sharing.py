"""A check on many workers is the check of one process: its rows, its refusals, and times that are taken now."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Collection, Generator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mbdeploy import artifact
from mbdeploy.artifact import Provenance
from mbdeploy.calls import Call
from mbdeploy.card import ModelCard, load_card
from mbdeploy.errors import StepError, UnavailableError
from mbdeploy.executing import Done, Work
from mbdeploy.executing.work import list_phases
from mbdeploy.gating import jobs, keeping, measuring, merging, sharing, versions
from mbdeploy.gating.check import check
from mbdeploy.gating.report import CheckReport, Gate, Lint
from mbdeploy.gating.versions import Versions
from mbdeploy.pipeline import StageRun, run
from mbdeploy.results import (
    BenchRun,
    Check,
    Host,
    ModelRef,
    ParityReport,
    Placement,
    Series,
    decode_result,
    encode_result,
)
from mbdeploy.stages.facts import derive_latency
from mbdeploy.stages.reporting.origins import tabulate_origins
from mbdeploy.stages.reporting.reading import read_saved

CARD = """
name = "tiny"
summary = "for this test"
net = "mobilenet_v1"
args = { alpha = 0.25 }
weights = { seed = 0 }
preprocess = { size = 32 }
quantization = { calibration = "photos", num_calibration_samples = 3, recipe = "portable" }
[budgets]
int8_sqnr_db = 5.0
"""
BOARD = "cpu@ssh:board1"


class InlineExecutor:
    """Does items in this process, in the order that executors keep; ``done`` are their names and boards."""

    words, link = "nobody else", "http://dashboard"

    def __init__(self) -> None:
        self.done: list[tuple[str, str, str, bool]] = []
        self.demanded: list[tuple[set[str], bool]] = []

    def demand(self, devices: Collection[str], *, times: bool) -> None:
        self.demanded.append((set(devices), times))

    def run(self, works: Sequence[Work]) -> Generator[Done, None, None]:
        for work in [work for phase in list_phases(works) for work in phase]:
            module, _, name = work.function.partition(":")
            value = getattr(importlib.import_module(module), name)(work.request, lambda *_: None)
            self.done.append((name, work.name, work.device, work.exclusive))
            plain = msgspec.json.decode(encode_result(value))
            yield Done(key=work.key, value=plain, seconds=1.0, worker="this one")

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> InlineExecutor:
    made = InlineExecutor()
    monkeypatch.setattr(sharing, "open_executor", lambda workers, cluster: contextlib.nullcontext(made))
    return made


def make_host() -> Host:
    return Host(
        machine="m", system="s", cpu="c", isa=(), cores=1, affinity=1, cgroup_cores=None, memory_bytes=1, versions={},
        providers=(),
    )  # fmt: skip


class Stages:
    """What the jobs call, replaced: nothing is run, times are 1 ms, and ``refused`` says which step refuses what."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.refused: dict[tuple[str, str], BaseException] = {}

    def note(self, step: str, word: str) -> None:
        self.calls.append((step, word))
        if error := self.refused.get((step, word)):
            raise error

    def run(self, card: str, *, output: Path, until: str = "report", **options: Any) -> Any:
        if until == "report":
            return None
        self.note("make", output.name)
        output.mkdir(parents=True, exist_ok=True)
        for name in jobs.MADE:
            (output / name).write_text(name)
        stages = (StageRun(name="export", output="fp32.onnx", fresh=False, seconds=2.0),)
        return type("Summary", (), {"stages": stages})

    def verify(self, models: list[Path], *, providers: list[str], **options: Any) -> ParityReport:
        self.note("verify", providers[0])
        checks = tuple(
            Check(name="sqnr_db", subject=f"int8 on {word}", value=9.0, bound=5.0, comparison=">=", passed=True)
            for word in providers
        )
        return ParityReport(reference="golden", rows=(), checks=checks, hosts={providers[0]: make_host()})

    def bench(self, models: list[Path], *, providers: list[str], **options: Any) -> list[BenchRun]:
        self.note("bench", providers[0])
        series = [
            Series(
                model=ModelRef(name=path.stem, path=str(path), sha256="0" * 64, size_bytes=1), provider=providers[0],
                wall_ns=(1_000_000,) * 40, cpu_ns=(1_000_000,) * 40, load_ns=1, first_ns=1, warmup_ns=(), peak_bytes=1,
                base_bytes=1, loaded_bytes=1, placement=Placement(nodes={}, operators={}), session={},
            )
            for path in models
        ]  # fmt: skip
        given = {"threads": 1, "batch_size": 1, "warmup": None, "min_duration_s": 1.0, "inputs": "", "tolerance": 0.05}
        host, control = make_host(), series[0]
        return [BenchRun(provider=providers[0], seed=0, series=tuple(series), control=control, host=host, **given)]  # type: ignore[arg-type]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stages:
    made = Stages()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "run", made.run)
    monkeypatch.setattr(jobs.verify, "verify", made.verify)
    monkeypatch.setattr(jobs, "bench", made.bench)
    finding = Lint(rule="MB1", level="note", title="t", summary="s", change="c", places=())
    monkeypatch.setattr(jobs, "lint_model", lambda model, **_: (finding,))
    monkeypatch.setattr(merging, "run", made.run)
    monkeypatch.setattr(sharing, "_describe_device", lambda cluster: ["this CPU"])
    monkeypatch.setattr(merging, "keep_measured", lambda *_: None)
    monkeypatch.setattr(sharing, "find_device", lambda provider: "dev_board1" if provider.word == BOARD else "")
    return made


@pytest.fixture
def card(tmp_path: Path) -> ModelCard:
    path = tmp_path / "models" / "tiny.toml"
    path.parent.mkdir()
    path.write_text(CARD)
    return load_card(path)


def share(cards: Sequence[ModelCard], **options: Any) -> CheckReport:
    return check(cards, workers=2, store=Path("store"), **options)


def test_boards_follow_what_is_shared_and_times_follow_everything(
    card: ModelCard, executor: InlineExecutor, stages: Stages
) -> None:
    Path("models/other.toml").write_text(CARD.replace('"tiny"', '"other"'))
    other = load_card("models/other.toml")
    links: list[str] = []
    report = share([card, other], providers=["cpu", BOARD], on_link=links.append)
    assert executor.demanded == [({"dev_board1"}, True)] and links == ["http://dashboard"]
    assert [(name, device, exclusive) for name, _, device, exclusive in executor.done] == [
        *[("make_card", "", False)] * 2,
        *[("judge_card", "dev_board1", False)] * 2,
        *[("time_card", "dev_board1", True)] * 2,
        *[("time_card", "", True)] * 2,
    ]
    assert [(gate.provider, gate.rule) for gate in report.cards[0].gates] == [
        ("cpu", "MB402"),
        (BOARD, "MB402"),
        ("any", "MB421"),
    ]
    assert [result.seconds for result in report.cards] == [4.0, 4.0]
    assert [fact.models[0].provider for fact in report.cards[1].latency] == ["cpu", BOARD]


def test_workers_get_the_rules_over_placement_that_their_provider_is_judged_by(
    card: ModelCard, executor: InlineExecutor, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def verify(models: list[Path], *, require_placement: list[str], **options: Any) -> ParityReport:
        asked.append((*options["providers"], *require_placement))
        return stages.verify(models, **options)

    monkeypatch.setattr(jobs.verify, "verify", verify)
    rules = ("no float Conv", "cpu>=90%", "openvino>=90%")
    share([card], providers=["openvino", BOARD], require_placement=rules)
    assert asked == [("openvino", rules[0], rules[2]), (BOARD, rules[0], rules[1])]


def test_what_is_missing_on_the_cluster_is_refused_before_any_work(
    card: ModelCard, executor: InlineExecutor, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def demand(devices: Collection[str], *, times: bool) -> None:
        raise UnavailableError(expected="a worker", found="none", todo="start one")

    monkeypatch.setattr(executor, "demand", demand)
    with pytest.raises(UnavailableError, match="a worker"):
        share([card])
    assert stages.calls == []


def test_files_and_parity_are_kept_and_times_are_taken_again(
    card: ModelCard, executor: InlineExecutor, stages: Stages
) -> None:
    seen: list[StageRun] = []
    first = share([card], on_stage=seen.append)
    again = share([card], on_stage=seen.append)
    assert stages.calls == [("make", "tiny"), ("verify", "cpu"), ("bench", "cpu"), ("bench", "cpu")]
    assert [stage.fresh for stage in seen] == [False, True]
    assert again.cards[0].gates == first.cards[0].gates and again.cards[0].notes == first.cards[0].notes
    Path("out/tiny/int8.onnx").write_text("changed")
    share([card])
    assert stages.calls[4:] == [("make", "tiny"), ("verify", "cpu"), ("bench", "cpu")]


def test_a_check_that_was_stopped_goes_on_with_its_own_times_and_says_so(
    card: ModelCard, executor: InlineExecutor, stages: Stages
) -> None:
    def list_timed() -> list[str]:
        return [word for step, word in stages.calls if step == "bench"]

    stages.refused["bench", "cpu"] = KeyboardInterrupt()  # (boards come first)
    with pytest.raises(KeyboardInterrupt):
        share([card], providers=["cpu", BOARD])
    assert list_timed() == [BOARD, "cpu"]
    stages.refused.clear()
    notes = share([card], providers=["cpu", BOARD]).cards[0].notes
    assert list_timed() == [BOARD, "cpu", "cpu"]
    assert notes[-1].startswith(f"times on {BOARD} were taken before this check was stopped; it began at ")
    notes = share([card], providers=["cpu", BOARD]).cards[0].notes
    assert list_timed()[3:] == [BOARD, "cpu"]
    assert not any("stopped" in note for note in notes)


def test_times_of_a_check_that_was_stopped_long_ago_are_taken_again(
    card: ModelCard, executor: InlineExecutor, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "LONGEST_S", 0.0)
    monkeypatch.setattr(sharing, "merge_answers", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        share([card])
    monkeypatch.setattr(sharing, "merge_answers", merging.merge_answers)
    assert not any("stopped" in note for note in share([card]).cards[0].notes)


@pytest.mark.parametrize("step", ["verify", "bench"])
def test_a_provider_that_is_not_there_is_a_row_and_is_asked_again_next_time(
    card: ModelCard, executor: InlineExecutor, stages: Stages, step: str
) -> None:
    stages.refused[step, BOARD] = UnavailableError(expected="a board", found="silence", todo="plug it in")
    (result,) = share([card], providers=["cpu", BOARD]).cards
    assert [(one.provider, one.exit_code) for one in result.refusals] == [(BOARD, 3)]
    assert {gate.provider for gate in result.gates} == {"cpu", "any"}
    assert result.exit_code == 3
    stages.refused.clear()
    (result,) = share([card], providers=["cpu", BOARD]).cards
    assert result.refusals == () and {gate.provider for gate in result.gates} == {"cpu", BOARD, "any"}


@pytest.mark.parametrize("step", [("make", "tiny"), ("verify", "cpu"), ("bench", "cpu")])
def test_a_card_that_cannot_be_used_does_not_keep_others_from_being_judged(
    card: ModelCard, executor: InlineExecutor, stages: Stages, step: tuple[str, str]
) -> None:
    Path("models/other.toml").write_text(CARD.replace('"tiny"', '"other"'))
    stages.refused[step] = StepError(expected="a model", found="CRASHED", todo="look")
    report = share([card, load_card("models/other.toml")])
    assert report.cards[0].refusals[0].error == "StepError" and report.cards[0].gates == ()
    assert report.exit_code == 2
    if step[0] == "make":
        assert [gate.rule for gate in report.cards[1].gates] == ["MB402", "MB421"]


def test_a_card_whose_images_are_not_there_is_refused_without_a_worker(
    card: ModelCard, executor: InlineExecutor, stages: Stages
) -> None:
    Path("models/lost.toml").write_text(CARD.replace('"tiny"', '"lost"').replace('"photos"', '"no/such/folder"'))
    report = share([load_card("models/lost.toml"), card])
    assert [result.exit_code for result in report.cards] == [2, 0]
    assert stages.calls[0] == ("make", "tiny")


def test_a_worker_that_sees_another_card_or_other_files_refuses(
    card: ModelCard, executor: InlineExecutor, stages: Stages
) -> None:
    folder = Path("out/tiny").absolute()
    stages.run("", output=folder, until="quantize")
    request = {"card": card.path, "digest": "0", "folder": str(folder), "files": {"int8.onnx": "0" * 64}}
    request |= {"words": ["cpu"], "options": {}, "tolerance": 0.05, "other": None}
    refused = jobs.time_card(request, lambda *_: None).refused
    assert refused is not None and refused["error"] == "CardError"
    refused = jobs.judge_card({**request, "digest": jobs.digest_card(card)}, lambda *_: None).refused
    assert refused is not None and refused["error"] == "ModelError"


def test_holm_s_correction_is_over_the_rows_of_all_cards(
    card: ModelCard, executor: InlineExecutor, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards = [card]
    for name in ("b", "c"):
        Path(f"models/{name}.toml").write_text(CARD.replace('"tiny"', f'"{name}"'))
        cards.append(load_card(f"models/{name}.toml"))
    Path("ref/int8.onnx").parent.mkdir()
    Path("ref/int8.onnx").write_text("other")
    lost = Check(name="baseline_top1", subject="int8 on cpu", value=-0.1, bound=-0.01, comparison=">=", passed=False)
    gate = Gate(card="tiny", variant="int8", provider="cpu", rule="MB412", check=lost, p_value=0.02)
    monkeypatch.setattr(jobs, "compare_answers", lambda *_, **__: Versions(gates=(gate,), changes=()))
    monkeypatch.setattr(jobs, "time_versions", lambda *_, **__: ())
    monkeypatch.setattr(sharing, "sort_providers", lambda words: (list(words), [], []))
    adjusted = [
        [(one.adjusted, one.check.passed) for one in result.gates if one.rule == "MB412"]
        for result in share(cards, baseline=Path("ref")).cards
    ]
    assert adjusted == [[(0.06, None)]] * 3


def test_raw_times_that_workers_took_in_full_and_beside_another_version_are_kept_in_the_folder(
    card: ModelCard, executor: InlineExecutor, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Path(card.path).read_text() + "latency_ratio = 0.5\n"  # both files take 1 ms: it does not pass
    Path(card.path).write_text(text)
    Path("ref/int8.onnx").parent.mkdir()
    Path("ref/int8.onnx").write_text("other")
    monkeypatch.setattr(jobs, "compare_answers", lambda *_, **__: Versions(gates=(), changes=()))
    monkeypatch.setattr(measuring, "bench", stages.bench)
    monkeypatch.setattr(versions, "bench", stages.bench)
    monkeypatch.setattr(
        keeping.bench, "plan", lambda models, **_: Provenance(stage="bench", params={}, parents={}, tools={})
    )
    monkeypatch.setattr(sharing, "sort_providers", lambda words: (list(words), [], []))
    (result,) = share([load_card(card.path)], baseline=Path("ref")).cards
    assert [call for call in stages.calls if call[0] == "bench"] == [("bench", "cpu")] * 3
    for name, first in (("bench-confirm", "simplified"), ("bench-baseline", "int8")):
        (run,) = artifact.read_result(Path("out/tiny/results") / f"{name}.json", list[BenchRun])
        assert [series.model.name for series in run.series] == [first, "int8"]
        assert derive_latency(run) in result.latency


def list_rows(report: CheckReport) -> list[tuple[object, ...]]:
    return [
        (gate.name, gate.rule, gate.budget, gate.check.bound, gate.check.passed)
        for result in report.cards
        for gate in result.gates
    ]


def list_commands(folder: Path) -> dict[str, str]:
    """Where the report says that each file's numbers are from; workers are given whole paths."""
    return {row[1]: row[4].replace(f"{Path.cwd()}/", "") for row in tabulate_origins(read_saved(folder)).rows}


def test_the_calls_for_each_provider_are_kept_as_one_for_all_of_them() -> None:
    call = Call(command="verify", arguments=("a.onnx",), options={"providers": ["cpu"], "threads": 2})
    assert merging._ask_of(["cpu", BOARD], call) == Call(
        command="verify", arguments=("a.onnx",), options={"providers": ["cpu", BOARD], "threads": 2}
    )
    assert merging._ask_of(["cpu"], None) is None


@pytest.mark.sweep
def test_a_check_by_a_worker_is_that_of_one_process_and_leaves_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_onnx_card: Callable[..., Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    card = load_card(make_onnx_card(tmp_path / "models", more="[budgets]\nint8_sqnr_db = 5.0\n"))
    given: dict[str, Any] = {"min_duration": 0.05}
    alone = check([card], **given)
    commands = list_commands(Path("out/tiny"))
    shared = check([card], workers=1, store=Path("store"), **given)
    assert list_rows(shared) == list_rows(alone)
    assert shared.cards[0].parity == alone.cards[0].parity and shared.cards[0].lint == alone.cards[0].lint
    assert shared.cards[0].notes == alone.cards[0].notes
    assert list_commands(Path("out/tiny")) == commands
    assert "--budgets models/tiny.toml --layers" in commands["results/parity.json"]
    assert decode_result(encode_result(shared), CheckReport) == shared
    told = {"output": Path("out/tiny"), "providers": ["cpu"], "dry_run": True, **given}
    assert [stage.fresh for stage in run(card.path, **told).stages] == [True] * 6
