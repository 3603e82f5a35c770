"""The plan of a sweep in words, and its rows as a table file."""

from __future__ import annotations

import importlib.util
import io

import pytest

from mbdeploy.errors import UnavailableError
from mbdeploy.estimate import Interval
from mbdeploy.results import decode_result, encode_result
from mbdeploy.sweeping.tables import describe_plan, write_parquet
from mbdeploy.swept import Planned, Row, SweepReport

ROW = Row(
    variant="a",
    alpha=1.0,
    size=224,
    recipe="portable",
    provider="cpu",
    threads=1,
    macs=100,
    parameters=10,
    sqnr_db=20.0,
    top1=None,
    ratio=Interval(value=0.5, low=0.5, high=0.5, n=9, confidence=0.95),
    size_bytes=1000,
)


def test_the_plan_in_a_line_says_what_is_there_and_what_is_known() -> None:
    plan = [Planned(name=n, kept=kept, expected_s=s) for n, kept, s in (("a", True, None), ("b", False, 100.0))]
    assert describe_plan(plan) == "2 items: 1 kept from earlier runs, 1 to do, about 1 min 40 s by one worker"
    more = [*plan, Planned(name="c", kept=False, expected_s=None)]
    assert describe_plan(more).endswith("(without 1 of which nothing is known)")


def test_rows_are_saved_and_flattened() -> None:
    fp32 = Row(**{**{name: getattr(ROW, name) for name in ROW.__struct_fields__}, "variant": "b", "ratio": None})
    report = SweepReport(plan=(), rows=(ROW, fp32))
    assert decode_result(encode_result(report), SweepReport).rows[0].ratio == ROW.ratio
    if importlib.util.find_spec("pyarrow") is None:
        with pytest.raises(UnavailableError, match=r"mbdeploy\[parquet\]"):
            write_parquet(report)
        return
    from pyarrow import parquet

    table = parquet.read_table(io.BytesIO(write_parquet(report))).to_pylist()
    assert [row["ratio_value"] for row in table] == [0.5, None]
    assert table[0]["variant"] == "a" and table[0]["top1_value"] is None
