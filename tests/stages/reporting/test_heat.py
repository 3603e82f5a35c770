"""The matrix shows the worst of a cell's outputs, and a number that may not be believed has no colour."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from folders import HOST, QUANTIZE, make_metrics, make_parity, make_row

from mbdeploy import artifact
from mbdeploy.artifact import Provenance
from mbdeploy.calls import Call
from mbdeploy.results import Check, ParityReport
from mbdeploy.stages.matrix import MatrixReport, MatrixRow
from mbdeploy.stages.report import read_report
from mbdeploy.stages.reporting.heat import arrange_parity, list_colors, place_color
from mbdeploy.stages.reporting.origins import tabulate_origins
from mbdeploy.stages.reporting.reading import read_saved


@pytest.mark.parametrize(
    ("decibels", "step"), [(-3.0, 0), (9.99, 0), (10.0, 1), (25.0, 4), (40.0, 6), (math.inf, 6), (math.nan, None)]
)
def test_a_colour_stands_for_a_band_of_decibels(decibels: float, step: int | None) -> None:
    assert place_color(make_metrics(sqnr_db=decibels)) == step
    assert len(list_colors()) == 7


def test_a_cell_shows_its_worst_output_and_opens_to_all(make_folder: Callable[..., Path]) -> None:
    gate = Check(name="sqnr_db", subject="int8 on cpu, output b", value=12.5, bound=20.0, comparison=">=", passed=False)
    rows = (
        make_row("int8", "executed", "reference", make_metrics(sqnr_db=30.0), output="a"),
        make_row("int8", "executed", "reference", make_metrics(sqnr_db=12.5), output="b"),
        make_row("int8", "executed", "exact", make_metrics(sqnr_db=50.0, max_lsb=2.0), output="b"),
        make_row("int8", "exact", "reference", make_metrics(sqnr_db=31.0), output="b"),
    )
    (heat,) = arrange_parity(read_report(make_folder(int8=QUANTIZE, parity=make_parity(*rows, checks=(gate,)))))
    assert heat.columns == ("cpu", "cpu, exact")
    ((name, (executed, exact)),) = heat.rows
    assert executed is not None and exact is not None
    assert (name, executed.text, executed.step, executed.verdict) == ("int8", "12.5", 1, "FAIL")
    assert [row[:2] for row in executed.outputs.rows] == [("a", "30"), ("b", "12.5"), ("b, against exact", "50")]
    assert (exact.text, exact.verdict) == ("31", "")


def test_a_degenerate_output_makes_its_cell_degenerate(make_folder: Callable[..., Path]) -> None:
    rows = (
        make_row("int8", "executed", "reference", make_metrics(), output="a"),
        make_row("int8", "executed", "reference", make_metrics(degenerate="constant output: 3"), output="b"),
    )
    (heat,) = arrange_parity(read_report(make_folder(int8=QUANTIZE, parity=make_parity(*rows))))
    cell = heat.rows[0][1][0]
    assert cell is not None
    assert (cell.text, cell.step, cell.outputs.notes) == ("degenerate", None, ("b: constant output: 3",))


def test_a_saved_matrix_has_a_column_for_every_way(make_folder: Callable[..., Path]) -> None:
    row = MatrixRow(
        model="int8",
        provider="cpu",
        way="default",
        output="logits",
        reference=make_metrics(sqnr_db=20.0),
        exact=make_metrics(),
        passed=None,
        session={},
    )
    rows = (row, msgspec.structs.replace(row, way="none", passed=True))
    matrix = MatrixReport(reference="g", rows=rows, checks=(), divergences=(), reduced=(), hosts={"cpu": HOST})
    (heat,) = arrange_parity(read_report(make_folder(int8=QUANTIZE, matrix=matrix)))
    assert heat.columns == ("cpu, default", "cpu, none")
    assert [cell.verdict for cell in heat.rows[0][1] if cell] == ["inconclusive", "pass"]


def test_parity_that_a_check_keeps_apart_has_its_columns_and_gates(make_folder: Callable[..., Path]) -> None:
    def make(provider: str, decibels: float) -> ParityReport:
        row = make_row("int8", "executed", "reference", make_metrics(sqnr_db=decibels), provider=provider)
        subject = f"int8 on {provider}"
        gate = Check(name="sqnr_db", subject=subject, value=decibels, bound=20.0, comparison=">=", passed=False)
        call = Call(command="verify", arguments=("int8.onnx",), options={"providers": [provider]})
        report = make_parity(row, checks=(gate,))
        return msgspec.structs.replace(report, hosts={provider: HOST}, call=call)

    folder = make_folder(int8=QUANTIZE, parity=make("cpu", 22.0))
    provenance = Provenance(stage="verify", params={}, parents={}, tools={})
    artifact.write_result(folder / "results" / "parity-arm_qemu.json", provenance, make("arm@qemu", 12.0))
    artifact.write_json(folder / "results" / "parity-cpu.json", make("cpu", 1.0))  # of a run that came before
    found = read_report(folder)
    (heat,) = arrange_parity(found)
    assert heat.columns == ("cpu", "arm@qemu")
    assert [(cell.text, cell.verdict) for cell in heat.rows[0][1] if cell] == [("22", "FAIL"), ("12", "FAIL")]
    assert [check.subject for check in found.checks] == ["int8 on cpu", "int8 on arm@qemu"]
    assert [fact.measured for fact in found.hosts] == [
        ("results/parity.json: cpu", "results/parity-arm_qemu.json: arm@qemu")
    ]
    rows = {row[1]: row[4] for row in tabulate_origins(read_saved(folder)).rows}
    assert rows["results/parity-arm_qemu.json"] == (
        f"mbdeploy verify int8.onnx --provider arm@qemu -o {folder}/results/parity-arm_qemu.json"
    )
    assert "results/parity-cpu.json" not in rows
    alone = make_folder(folder="alone", int8=QUANTIZE)
    artifact.write_json(alone / "results" / "parity-arm_qemu.json", make("arm@qemu", 12.0))
    assert [heat.columns for heat in arrange_parity(read_report(alone))] == [("arm@qemu",)]
