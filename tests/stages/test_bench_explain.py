"""Explaining: layers of two files side by side on this machine, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mbdeploy.errors import UsageError
from mbdeploy.results import decode_result, encode_result
from mbdeploy.stages.bench_explain import ExplainResult, explain
from mbdeploy.stages.bench_explain_tables import tabulate_explanation

Write = Callable[..., Path]


@pytest.mark.slow
def test_two_files_are_joined_with_their_costs_and_compared(write_mean_model: Write, mean_golden: Path) -> None:
    models = [write_mean_model(), write_mean_model("q.onnx", quantized=True)]
    result = explain(models, inputs=mean_golden, threads=2, warmup=2, min_duration=0, min_pairs=6)
    first, second = result.models
    assert [(row.operator, row.layer, row.kind) for row in first.layers] == [
        ("GlobalAveragePool", "pool", "layer"),
        ("Flatten", "flatten", "other") if not first.layers[1].layer else ("Flatten", "flatten", "layer"),
        ("Mul", "scale", "layer"),
    ]
    assert {row.kind for row in second.layers} >= {"conversion"}
    assert {len(row.samples_us) for row in (*first.layers, *second.layers)} == {6}
    assert len(first.wall_ns) == 6 and result.peaks is None and result.ratio is not None
    assert {pair.first.layer for pair in result.differences if pair.first and pair.second} >= {"pool"}
    assert decode_result(encode_result(result), ExplainResult) == result
    tables = tabulate_explanation(result)
    assert [table.title.split()[0] for table in tables] == ["Where", "Where", "From"]
    assert [row[0] for row in tables[2].rows[-2:]] == ["between layers", "all together"]


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (3, {}, "one file or two"),
        (1, {"provider": "openvino"}, "how long each node takes"),
        (1, {"batch_size": 4}, "for which the layers' work is counted"),
        (1, {"threads": 0}, "or more"),
    ],
)
def test_what_cannot_be_explained_is_refused(
    count: int, options: dict[str, object], message: str, write_mean_model: Write, mean_golden: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        explain([write_mean_model()] * count, inputs=mean_golden, **options)  # type: ignore[arg-type]
