"""What ``bench --explain`` found, as tables: the layers of each file, the slowest first, then the differences."""

from __future__ import annotations

from collections.abc import Sequence

from mbdeploy.stages.bench_explain import Explained, ExplainResult
from mbdeploy.stages.tables import Table
from mbdeploy.timing.layers import Difference, LayerTime, sum_us

_MOST_ROWS = 16


def tabulate_explanation(result: ExplainResult, most: int | None = _MOST_ROWS) -> list[Table]:
    """Each file's slowest layers and what is not a layer, then the largest differences; ``most`` rows of each, all if
    None."""
    tables = [_tabulate_model(found, result, most) for found in result.models]
    return [*tables, _tabulate_differences(result, most)] if result.differences else tables


def _tabulate_model(found: Explained, result: ExplainResult, most: int | None) -> Table:
    total = sum_us(found.layers)
    layers = sorted((row for row in found.layers if row.kind == "layer"), key=lambda row: -row.us)
    rows = [_describe_row(row, row.layer, total) for row in layers[:most]]
    rest = layers[len(rows) :]
    groups = [(f"{len(rest)} other layers", rest)]
    for kind, plural in (("conversion", "conversions"), ("float island", "float islands"), ("other", "other nodes")):
        same = [row for row in found.layers if row.kind == kind]
        operators = ", ".join(dict.fromkeys(row.operator for row in same))
        groups.append((f"{len(same)} {plural if len(same) > 1 else plural[:-1]}: {operators}", same))
    rows += [_describe_sum(name, same, total) for name, same in groups if same]
    notes = [
        f"All together {total:.0f} us, and {found.between_us:.0f} us between them, with the profiler on.",
        "GMAC/s and GB/s: the layer's multiply-adds, and its tensors read and written once, over its time.",
    ]
    if result.peaks:
        peaks = result.peaks
        notes.append(
            f"Of roof: what {result.host.cpu} could do it in at best, over its time; measured now, one thread: "
            f"{peaks.gmacs_fp32:.0f} GMAC/s in float, {peaks.gmacs_int8:.0f} in int8."
        )
    return Table(
        title=f"Where the time of {found.model.name} goes on {result.provider}",
        columns=("layer", "runs as", "us", "share", "GMAC/s", "GB/s", "of roof"),
        rows=tuple(rows),
        notes=tuple(notes),
        left=(0, 1),
    )


def _describe_row(row: LayerTime, name: str, total: float) -> tuple[str, ...]:
    return (
        name,
        row.operator,
        f"{row.us:.1f}",
        f"{row.us / total:.1%}",
        _name_rate(row.gmacs),
        _name_rate(row.gbytes),
        "" if row.share_of_roof is None else f"{row.share_of_roof:.0%}",
    )


def _describe_sum(name: str, rows: Sequence[LayerTime], total: float) -> tuple[str, ...]:
    us = sum_us(rows)
    macs, size = sum(row.macs for row in rows), sum(row.size_bytes for row in rows)
    limits = [row.limit_us for row in rows if row.limit_us]
    return (
        name,
        "",
        f"{us:.1f}",
        f"{us / total:.1%}",
        _name_rate(macs / us / 1e3 if macs and us else None),
        _name_rate(size / us / 1e3 if size and us else None),
        f"{sum(limits) / us:.0%}" if limits and us else "",
    )


def _tabulate_differences(result: ExplainResult, most: int | None) -> Table:
    first, second = result.models
    ordered = sorted(result.differences, key=lambda pair: -abs(pair.us))
    rows = [_describe_difference(pair) for pair in ordered[:most]]
    rest = ordered[len(rows) :]
    if rest:
        before = sum_us(pair.first for pair in rest if pair.first)
        after = sum_us(pair.second for pair in rest if pair.second)
        rows.append((f"{len(rest)} other rows", "", f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}"))
    gaps = (first.between_us, second.between_us)
    totals = [sum_us(found.layers) + gap for found, gap in zip(result.models, gaps, strict=True)]
    for name, (before, after) in (("between layers", gaps), ("all together", totals)):
        rows.append((name, "", f"{before:.1f}", f"{after:.1f}", f"{after - before:+.1f}"))
    assert result.ratio is not None
    bounds = f"{result.ratio.value:.3f} [{result.ratio.low:.3f}, {result.ratio.high:.3f}]"
    return Table(
        title=f"From {first.model.name} to {second.model.name}, microseconds",
        columns=("layer", "runs as", first.model.name[:14], second.model.name[:14], "change"),
        rows=tuple(rows),
        notes=(f"Ratio of runs: {bounds}, in one process, with the profiler on. Believe `bench` without --explain.",),
        left=(0, 1),
    )


def _describe_difference(pair: Difference) -> tuple[str, ...]:
    rows = [row for row in (pair.first, pair.second) if row]
    operators = dict.fromkeys(f"{row.operator} {row.type}" for row in rows)
    name = next((row.layer for row in rows if row.layer), f"{rows[0].kind}: {rows[0].name}")
    sides = (f"{row.us:.1f}" if row else "-" for row in (pair.first, pair.second))
    return name, " -> ".join(operators), *sides, f"{pair.us:+.1f}"


def _name_rate(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
