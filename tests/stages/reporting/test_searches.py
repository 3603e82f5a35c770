"""A folder's search for INT8 within goals is in its report: verdict, front and table, from what the search saved."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from folders import EXPORT, HOST, QUANTIZE, SIMPLIFY, make_run, name_model

from mbdeploy import artifact
from mbdeploy.derive import compare_series
from mbdeploy.errors import DataError
from mbdeploy.estimate import Interval
from mbdeploy.mixing.report import Goals, Mix, MixReport
from mbdeploy.mixing.turns import Turns
from mbdeploy.stages.report import report

FILE = "model.int8.mix.json"


def make_mix(name: str, sqnr_db: float, ratio: Interval) -> Mix:
    drop = Interval(value=1.0, low=0.0, high=4.0, n=64, confidence=0.95)
    return Mix(
        name=name,
        keep_float=("stem",),
        ratio=ratio,
        sqnr_db=sqnr_db,
        drop=drop,
        size_bytes=10**6,
        reward=0.97,
        on_front=True,
    )


@pytest.fixture
def search() -> MixReport:
    """One mix beside all in INT8: it was made, timed at 0.5 of FP32's time, and written."""
    run = make_run(70, 0.5)
    ratio = compare_series(run, 1)
    made = make_mix("+ <b>stem", 22.5, ratio)
    return MixReport(
        model=name_model("simplified"),
        provider="cpu",
        threads=1,
        host=HOST,
        data="photos",
        images=64,
        labelled=False,
        held_out=True,
        goals=Goals(min_sqnr=20.0),
        effects=(),
        mixes=(make_mix("all in INT8", 18.25, ratio), msgspec.structs.replace(made, sqnr_db=21.75)),
        made=(made,),
        chosen=made.name,
        reason="it is alone",
        final=made,
        checks=(),
        turns=(Turns(names=("a",), clock="cpu", wall_ns=((1,),), cpu_ns=((987654321,),)),),
        timed={made.name: run},
    )


@pytest.fixture
def folder(make_folder: Callable[..., Path], search: MixReport) -> Path:
    made = make_folder(fp32=EXPORT, simplified=SIMPLIFY, int8=QUANTIZE)
    artifact.write_json(made / FILE, search)
    return made


def test_the_report_shows_the_verdict_the_front_and_the_table_of_a_search(folder: Path) -> None:
    text, page = report(folder), html.unescape(report(folder, format="html"))
    for shown in (text, page):
        assert "0.500 [0.500, 0.500] of optimised FP32's cpu time" in shown and "sqnr_db 22.5 >= 20" in shown
        assert all(value in shown for value in ("18.25", "21.75", "22.50", "0: all in INT8"))
    assert "Ship INT8 within these goals?" in text
    assert f"INT8 within goals on cpu, {FILE}" in page and 'id="mixes-0-0"' in page
    assert "quantize simplified.onnx --min-sqnr 20" in page  # where each number is from
    assert "<b>stem" not in report(folder, format="html").split('id="facts"')[0]


def test_its_json_has_the_verdict_of_the_raw_times_and_not_the_times(folder: Path, search: MixReport) -> None:
    found = json.loads(report(folder, format="json"))["searches"][0]
    assert found["file"] == FILE
    assert found["search"]["turns"] == [] and found["search"]["timed"] == {}
    assert "0.500" in found["verdict"]["reasons"][0]
    artifact.write_json(folder / FILE, msgspec.structs.replace(search, timed={search.chosen: make_run(70, 1.5)}))
    again = json.loads(report(folder, format="json"))["searches"][0]["verdict"]
    assert again["answer"] == "don't ship" and "1.500" in again["reasons"][0]


def test_a_search_of_other_files_is_called_stale(folder: Path, search: MixReport) -> None:
    other = msgspec.structs.replace(search, model=msgspec.structs.replace(search.model, sha256="1" * 64))
    artifact.write_json(folder / FILE, other)
    assert f"{FILE} is of another simplified than the one that is here" in " ".join(report(folder).split())


def test_a_search_that_cannot_be_read_is_refused_with_what_to_do(folder: Path) -> None:
    (folder / FILE).write_text("{}")
    with pytest.raises(DataError, match="mbdeploy quantize"):
        report(folder)
