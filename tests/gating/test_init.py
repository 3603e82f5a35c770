"""Budgets from measurement, cards as text, and what init refuses; the pipeline itself is tested elsewhere."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mbdeploy import artifact
from mbdeploy.card import Budgets, ModelCard, Preprocess, Weights, load_card
from mbdeploy.errors import CardError, DataError, OutputError, UsageError
from mbdeploy.gating import init as init_module
from mbdeploy.gating.budgets import check_text, derive_budgets, replace_lines
from mbdeploy.gating.card_text import write_card
from mbdeploy.gating.init import init, update_budgets
from mbdeploy.gating.init_tables import tabulate_init
from mbdeploy.gating.measured import Measured
from mbdeploy.gating.workflow import write_workflow
from mbdeploy.results import Check, Metrics
from mbdeploy.stages.facts import ParityFact

OPTIONS = {"trust": True, "preprocess": "imagenet", "input_shape": (3, 32, 32)}
TEXT = """name = "tiny"
summary = "s"
net = "mobilenet_v1"
weights = { seed = 0 }
preprocess = { size = 32 }

[budgets]  # ours
# why it is so low
int8_sqnr_db = 1.0  # by hand
fp16_sqnr_db = 41.0

[labels]
background = false
"""


def measure(top1: float | None = 0.75, sqnr_db: float = 20.04, degenerate: str | None = None) -> Measured:
    figures = {"fp32": 3.1e-6, "simplified": 4e-9, "int8": 0.5}
    parity = tuple(
        ParityFact(
            model=variant,
            provider="cpu",
            output="logits",
            executed=Metrics(
                images=32,
                elements=320,
                max_abs=max_abs,
                sqnr_db=sqnr_db,
                cosine=1.0,
                top1_agreement=top1,
                degenerate=degenerate,
            ),
            exact=None,
            saturation=None,
            elsewhere=(),
        )
        for variant, max_abs in figures.items()
    )
    gap = Check(name="exact_gap_db", subject="int8 on cpu", value=0.123, bound=0.3, comparison="<=", passed=True)
    return Measured(checks=(gap,), parity=parity, latency=())


def test_each_budget_is_its_measurement_with_the_stated_slack() -> None:
    values = {one.key: one.value for one in derive_budgets([measure()])}
    assert values == {
        "export_max_abs": pytest.approx(3e-5),
        "simplify_max_abs": pytest.approx(1e-5),
        "int8_sqnr_db": 18.0,
        "int8_top1_agreement": 0.57,  # Wilson: 24 of 32 is 0.579 or more
        "int8_exact_gap_db": 0.43,
    }


def test_the_worst_provider_decides() -> None:
    values = {one.key: one.value for one in derive_budgets([measure(), measure(top1=0.5, sqnr_db=15.0)])}
    assert values["int8_sqnr_db"] == 13.0
    assert values["int8_top1_agreement"] == 0.33


def test_outputs_without_classes_get_no_budget_on_them_and_equal_ones_a_finite_one() -> None:
    budgets = derive_budgets([measure(top1=None, sqnr_db=math.inf)])
    values = {one.key: one.value for one in budgets}
    assert "int8_top1_agreement" not in values
    assert values["int8_sqnr_db"] == 100.0


def test_no_budget_comes_from_outputs_that_cannot_be_believed() -> None:
    with pytest.raises(DataError, match="non-finite"):
        derive_budgets([measure(degenerate="non-finite output")])
    with pytest.raises(DataError, match="never measured"):
        derive_budgets([])


def test_only_the_budgets_lines_of_a_card_change(tmp_path: Path) -> None:
    budgets = derive_budgets([measure()])
    text = replace_lines(TEXT, budgets)
    lines = text.splitlines()
    assert lines[lines.index("# why it is so low") + 1].startswith("int8_sqnr_db = 18.0  # measured 20.04, slack: 2 dB")
    kept = [line for line in TEXT.splitlines() if not line.startswith("int8_sqnr_db")]
    assert [line for line in lines if line in kept] == kept
    found = check_text(text, budgets, tmp_path / "tiny.toml", tmp_path)
    assert (found.int8_sqnr_db, found.fp16_sqnr_db, found.int8_exact_gap_db) == (18.0, 41.0, 0.43)


def test_a_card_without_budgets_gets_their_table(tmp_path: Path) -> None:
    budgets = derive_budgets([measure()])
    text = replace_lines(TEXT.partition("[budgets]")[0], budgets)
    assert check_text(text, budgets, tmp_path / "tiny.toml", tmp_path).int8_sqnr_db == 18.0


def test_budgets_in_one_line_are_refused_and_not_broken(tmp_path: Path) -> None:
    text = TEXT.partition("\n[budgets]")[0] + "budgets = { int8_sqnr_db = 1.0 }\n"
    budgets = derive_budgets([measure()])
    with pytest.raises(CardError, match="one a line"):
        check_text(replace_lines(text, budgets), budgets, tmp_path / "tiny.toml", tmp_path)


def test_one_budget_that_does_not_arrive_is_enough_to_refuse(tmp_path: Path) -> None:
    prose = 'summary = """as in\n[budgets]\nint8_sqnr_db = 1.0\n"""'
    text = TEXT.replace('summary = "s"', prose).replace("int8_sqnr_db = 1.0  # by hand\n", "")
    budgets = derive_budgets([measure()])
    with pytest.raises(CardError, match="one a line"):
        check_text(replace_lines(text, budgets), budgets, tmp_path / "tiny.toml", tmp_path)


def test_a_card_that_is_written_is_read_again_as_it_was(tmp_path: Path) -> None:
    card = ModelCard(
        name="odd-name",
        summary='back\\slash "and quotes"',
        factory="pkg.mod:fn",
        weights=Weights(seed=0),
        preprocess=Preprocess(size=32, resize=40, mean=(1.5, 2.0, 3.0), std=(4.0, 5.0, 6.0)),
    )
    path = tmp_path / "card.toml"
    path.write_text(write_card(card, derive_budgets([measure()])))
    found = load_card(path)
    assert (found.name, found.summary, found.factory) == (card.name, card.summary, card.factory)
    assert found.preprocess == card.preprocess and found.weights == card.weights
    assert found.budgets.int8_sqnr_db == 18.0


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The pipeline replaced by its results; the cards that it was given, in an empty folder."""
    given: list[str] = []
    monkeypatch.chdir(tmp_path)

    def run(card: str, **options: object) -> None:
        given.append(load_card(card).name)
        assert Path(card).parent in (
            tmp_path / "models",
            tmp_path / "images",
            Path(),
        )  # where data beside the card are found

    monkeypatch.setattr(init_module, "run", run)
    monkeypatch.setattr(init_module, "read_measured", lambda folder: measure())
    return given


def test_init_writes_a_card_and_a_workflow_and_overwrites_neither(pipeline: list[str]) -> None:
    record = init("pkg.mod:small", **OPTIONS)  # type: ignore[arg-type]
    assert record.written == ("models/small.toml", ".github/workflows/mbdeploy.yml")
    assert load_card("models/small.toml").budgets.int8_sqnr_db == 18.0
    assert [path.name for path in Path("models").iterdir()] == ["small.toml"]
    before = Path("models/small.toml").read_bytes()
    with pytest.raises(OutputError, match="found one; choose another place, or give --force"):
        init("pkg.mod:small", **OPTIONS)  # type: ignore[arg-type]
    assert Path("models/small.toml").read_bytes() == before
    assert pipeline == ["small"]
    assert init("pkg.mod:small", **OPTIONS, ci=None, force=True).written == ("models/small.toml",)  # type: ignore[arg-type]


def test_an_onnx_file_needs_no_trust_and_the_card_finds_it(pipeline: list[str], conv_model_file: Path) -> None:
    record = init(str(conv_model_file), preprocess="unit", ci=Path("ci.yml"))
    assert record.written == ("models/conv.toml", "ci.yml")
    card = load_card("models/conv.toml")
    assert card.is_file and card.preprocess.size == 16
    assert (Path("models") / (card.weights.file or "")).resolve() == conv_model_file.resolve()
    assert card.weights.sha256 == artifact.digest_file(conv_model_file)
    assert "--trust" not in Path("ci.yml").read_text()


def test_the_card_finds_images_that_lay_where_init_was_run(pipeline: list[str], tmp_path: Path) -> None:
    (tmp_path / "images" / "photos").mkdir(parents=True)
    said = {"images": "../images", "./images": "../images", str(tmp_path / "images"): str(tmp_path / "images")}
    for given, written in {**said, "photos": "photos"}.items():
        init("pkg.mod:small", **OPTIONS, calibration=given, ci=None, force=True)  # type: ignore[arg-type]
        assert load_card("models/small.toml").quantization.calibration == written
    beside = Path("images/small.toml")
    init("pkg.mod:small", **OPTIONS, calibration="images/photos", output=beside, ci=None)  # type: ignore[arg-type]
    assert load_card("images/small.toml").quantization.calibration == "./photos"
    with pytest.raises(DataError, match="imagse: expected"):
        init("pkg.mod:small", **OPTIONS, calibration="imagse", ci=None, force=True)  # type: ignore[arg-type]


def test_the_card_of_an_onnx_file_knows_the_weights_beside_it(pipeline: list[str], conv_model_file: Path) -> None:
    import onnx

    for name, factor in (("a", 1), ("b", 2)):
        model = onnx.load(conv_model_file)
        model.graph.initializer[0].raw_data = bytes([factor]) * len(model.graph.initializer[0].raw_data)
        Path(name).mkdir()
        onnx.save(model, f"{name}/net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
        init(f"{name}/net.onnx", preprocess="unit", output=Path(f"models/{name}.toml"), ci=None)
    assert Path("a/net.onnx").read_bytes() == Path("b/net.onnx").read_bytes()
    digests = [load_card(f"models/{name}.toml").weights.sha256 for name in "ab"]
    assert digests[0] != digests[1]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("pkg.mod:fn", {**OPTIONS, "trust": False}, "--trust"),
        ("model.pt2", OPTIONS, 'a factory "pkg.mod:fn"'),
        ("pkg.mod:fn", {**OPTIONS, "input_shape": None}, "--input-shape"),
        ("pkg.mod:fn", {**OPTIONS, "preprocess": None}, "--preprocess"),
    ],
)
def test_what_init_needs_is_asked_for_before_any_work(
    pipeline: list[str], source: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        init(source, **options)  # type: ignore[arg-type]
    assert pipeline == [] and not Path("models").exists()


def test_budgets_are_shown_side_by_side_and_written_only_by_force(pipeline: list[str]) -> None:
    card = Path("tiny.toml")
    card.write_text(TEXT)
    record = update_budgets(str(card))
    assert (record.before.int8_sqnr_db, record.written, card.read_text()) == (1.0, (), TEXT)
    (table,) = tabulate_init(record)
    assert ("int8_sqnr_db", "1", "20.04", "18", "2 dB") in table.rows
    assert "Nothing was written" in table.notes[0]
    assert update_budgets(str(card), force=True).written == ("tiny.toml",)
    assert load_card(card).budgets.int8_sqnr_db == 18.0
    assert record.before == Budgets(int8_sqnr_db=1.0, fp16_sqnr_db=41.0)


def test_the_workflow_s_commands_are_the_program_s() -> None:
    import shlex

    from mbdeploy.cli import program
    from mbdeploy.cli.screen import Screen

    text = write_workflow(trust=True)
    found = [line.partition("mbdeploy ")[2] for line in text.splitlines() if "mbdeploy check" in line]
    assert found and all("--trust" in line for line in found)
    for line in found:
        name, *words = shlex.split(line)
        context = program.make_context("mbdeploy", [name], obj=Screen())
        command = program.get_command(context, name)
        assert command is not None
        command.make_context(name, words, parent=context)
    assert "{" not in write_workflow(trust=False)
