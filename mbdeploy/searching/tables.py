"""A search on the screen: how well latency was predicted, what was tried, and what was measured."""

from __future__ import annotations

import msgspec

from mbdeploy.searching.report import Fit, Found, SearchReport, Tried
from mbdeploy.stages.tables import Table, format_bytes
from mbdeploy.sweeping.tables import tabulate_items

#: Above this share a predictor is said to be poor.
_POOR = 0.2
_STATES = (
    "first: measured to fit the predictor, and its reward is by that time. built: judged by predicted time. "
    "skipped: predicted to miss the target by more than the predictor's error, and not built."
)
_SQNR = (
    "Quality is the share of the outputs' power that is no error against each network's own FP32. It compares "
    "precisions of one network; it does not say which network is better."
)


def tabulate_plan(report: SearchReport) -> list[Table]:
    """Every item of the plan, and how variants are chosen."""
    how = (
        "All of them are tried; no optimiser is needed."
        if report.optimiser == "all"
        else "Optuna's TPE sampler proposes what is built beside the first ones."
    )
    (table,) = tabulate_items(report.plan)
    return [msgspec.structs.replace(table, notes=(f"{report.space} variants. {how}", *table.notes))]


def tabulate_search(report: SearchReport) -> list[Table]:
    """The measured files first, as they are the results; then what led there."""
    return [_tabulate_rows(report), _tabulate_tried(report), _tabulate_fits(report)]


def _tabulate_rows(report: SearchReport) -> Table:
    where = f"{report.provider}, {report.threads} thread{'s' * (report.threads != 1)}"
    rows = tuple(_show_row(row, index == report.chosen) for index, row in enumerate(report.rows))
    power = "0 below the target, -1 above it" if report.hard else f"{report.exponent:g}"
    notes = [f"Chosen: {report.reason}." if report.chosen is not None else f"None chosen: {report.reason}."]
    if report.chosen is not None:
        notes.append(f"File: {report.rows[report.chosen].path}")
    clocks = sorted({row.clock for row in report.rows})
    notes.append(
        f"ms: one image, {' and '.join(clocks)} time with its 95 % interval. reward: quality (ms / target)^w, w = "
        f"{power}. front: no other row is as good and as fast."
    )
    if report.quality == "sqnr":
        notes.append(_SQNR)
    columns = ("variant", "recipe", "ms", "predicted", _name_quality(report), "SQNR dB", "reward", "file", "target")
    title = f"Measured on {where}, target {report.target_ns / 1e6:.4g} ms"
    return Table(title=title, columns=(*columns, "front"), rows=rows, notes=tuple(notes), left=(0, 1))


def _tabulate_tried(report: SearchReport) -> Table:
    rows = tuple(line for one in report.tried for line in _show_tried(one, report.quality == "top1"))
    skipped = sum(one.state == "skipped" for one in report.tried)
    notes = [_STATES]
    if report.optimiser == "TPE":
        notes.append(f"{len(report.tried)} of {report.space} variants were proposed, {skipped} of them skipped.")
    columns = ("variant", "recipe", "state", "predicted ms", _name_quality(report), "reward")
    return Table(title="Tried", columns=columns, rows=rows, notes=tuple(notes), left=(0, 1, 2))


def _tabulate_fits(report: SearchReport) -> Table:
    notes = ["Errors are those on each network when the predictor was fitted on all the others."]
    known = [fit for fit in report.fits if fit.largest_error is not None]
    if len(known) < len(report.fits):
        notes.append("With fewer than three networks nobody knows the error: give --num-profiled, or more variants.")
    if any(fit.largest_error is not None and fit.largest_error > _POOR for fit in known):
        notes.append(
            f"The predictor is poor here: it was off by more than {_POOR:.0%}. Predicted times only chose what to "
            "measure; a larger --num-profiled or --num-measured leaves less to it."
        )
    columns = ("recipe", "fitted on", "networks", "median error", "largest", "of")
    return Table(
        title="Predicted latency",
        columns=columns,
        rows=tuple(map(_show_fit, report.fits)),
        notes=tuple(notes),
        left=(0, 1, 5),
    )


def _show_row(row: Found, chosen: bool) -> tuple[str, ...]:
    low, high = (f"{value / 1e6:.3g}" for value in (row.latency.low, row.latency.high))
    share = row.top1
    quality = f"{row.quality:.4f}"
    if share is not None:
        quality = f"{100 * share.value:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"
    kept = f", {len(row.keep_float)} in float" if row.keep_float else ""
    return (
        row.variant,
        f"{row.recipe}{kept}{' (chosen)' if chosen else ''}",
        f"{row.latency.value / 1e6:.3g} [{low}, {high}]",
        "" if row.predicted_ns is None else f"{row.predicted_ns / 1e6:.3g}",
        quality,
        f"{row.sqnr_db:.1f}",
        f"{row.reward:.4f}",
        format_bytes(row.size_bytes),
        row.verdict,
        "*" if row.on_front else "",
    )


def _show_tried(one: Tried, in_percent: bool) -> list[tuple[str, ...]]:
    quality = {recipe: f"{100 * value:.1f}" if in_percent else f"{value:.4f}" for recipe, value in one.quality.items()}
    return [
        (
            one.variant,
            recipe,
            one.state,
            f"{predicted_ns / 1e6:.3g}",
            quality.get(recipe, ""),
            f"{one.rewards[recipe]:.4f}" if recipe in one.rewards else "",
        )
        for recipe, predicted_ns in one.predicted_ns.items()
    ]


def _show_fit(fit: Fit) -> tuple[str, ...]:
    if fit.median_error is None or fit.largest_error is None:
        return (fit.recipe, fit.basis, str(fit.networks), "unknown", "unknown", "")
    worst = max(fit.left_out, key=lambda one: abs(one.error))
    return (
        fit.recipe,
        fit.basis,
        str(fit.networks),
        f"{fit.median_error:.1%}",
        f"{fit.largest_error:.1%}",
        worst.name,
    )


def _name_quality(report: SearchReport) -> str:
    return "top-1 %" if report.quality == "top1" else "1 - noise"
