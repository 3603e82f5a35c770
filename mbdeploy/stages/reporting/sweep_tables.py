"""A sweep as tables: its rows with the front marked, and how far MACs mislead, in figures and in words."""

from __future__ import annotations

import msgspec

from mbdeploy.stages import wording
from mbdeploy.stages.reporting.reading import SavedSweep
from mbdeploy.stages.reporting.sweep_origins import tabulate_origins
from mbdeploy.stages.reporting.sweeps import SweepFacts
from mbdeploy.stages.reporting.tables import name_host, tabulate_hosts
from mbdeploy.stages.tables import Table
from mbdeploy.swept import Misled, Row
from mbdeploy.swept import name_place as find_place

_FRONT = (
    "front: no other file of the same host, provider and threads is as good in quality, time, size and peak memory, "
    "and better in one. ms: the median for an image, by CPU time for one thread, else by the wall clock. file and "
    "peak: MB."
)
_MOST_NAMES = 4
_QUALITIES = {
    "top1": "Quality is top-1 on labelled images.",
    "sqnr_db": "Quality is SQNR against each network's own FP32, for want of labels or of trained weights: it says "
    "what 8 bits cost a network, not which network is better.",
}


def tabulate_sweep(facts: SweepFacts) -> list[Table]:
    """The rows, and what MACs say of time."""
    return [tabulate_rows(facts), *tabulate_macs(facts)]


def tabulate_swept(facts: SweepFacts, saved: SavedSweep) -> list[Table]:
    """The whole sweep: rows, MACs in figures and in words, the hosts, and where each number is from."""
    worded = [
        msgspec.structs.replace(table, notes=(*table.notes, *describe_macs(facts))) for table in tabulate_macs(facts)
    ]
    origins = tabulate_origins(saved, every=False)
    return [tabulate_rows(facts), *worded, tabulate_hosts(facts.hosts), origins]


def tabulate_rows(facts: SweepFacts) -> Table:
    """One row a file, provider and number of threads, with the front marked."""
    columns = ("variant", "recipe", "on", "MMACs", "top-1 %", "SQNR dB", "ms", "vs FP32", "file", "peak", "front")
    notes = (_FRONT, _QUALITIES[facts.quality], *describe_unsteady(facts), *facts.stale)
    rows = tuple(_show(row, facts) for row in facts.rows)
    return Table(title=f"Sweep {facts.sweep}", columns=columns, rows=rows, notes=notes, left=(0, 1, 2))


def tabulate_macs(facts: SweepFacts) -> list[Table]:
    """How far MACs mislead, a row a recipe and place; nothing where no two variants can be compared."""
    rows = tuple(
        (
            one.recipe,
            name_place(one, facts),
            f"{one.wrong} of {one.pairs}",
            wording.name_number(one.spread),
            _describe_worst(one) if one.wrong else "",
        )
        for one in facts.misled
    )
    notes = ("pairs: slower with fewer MACs. spread: the largest time for a MAC over the smallest.",)
    columns = ("recipe", "on", "pairs", "spread", "the worst")
    title = "How far MACs mislead"
    return [Table(title=title, columns=columns, rows=rows, notes=notes, left=(0, 1, 4))] if rows else []


def describe_macs(facts: SweepFacts) -> list[str]:
    """One sentence or two for each recipe and place."""
    if not facts.misled:
        return ["No two variants have been timed alike: there is nothing to say of MACs."]
    return [_describe(one, facts) for one in facts.misled]


def describe_unsteady(facts: SweepFacts) -> list[str]:
    """Which runs' times may be the neighbours' doing; nothing where every A/A control passes."""
    if not facts.unsteady:
        return []
    named = "; ".join(facts.unsteady[:_MOST_NAMES]) + ("; …" if len(facts.unsteady) > _MOST_NAMES else "")
    runs = len({(row.variant, find_place(row)) for row in facts.rows})
    count = f"{len(facts.unsteady)} of {runs} runs"
    return [f"The A/A control does not pass in {count}, whose times may be the neighbours' doing: {named}"]


def name_place(one: Row | Misled, facts: SweepFacts) -> str:
    """Provider and threads, and the host's letter where there are several."""
    place = f"{one.provider}, {one.threads} t"
    return f"{place}, {name_host(one.host)}" if len(facts.hosts) > 1 else place


def _describe(one: Misled, facts: SweepFacts) -> str:
    pairs = "the only pair" if one.pairs == 1 else f"{one.pairs} pairs"
    start = f"{one.recipe} on {name_place(one, facts)}: of {pairs} of variants with unlike MACs, "
    spread = f"A MAC takes up to {one.spread:.2f} times as long in one variant as in another."
    if not one.wrong:
        return f"{start}none is slower with fewer MACs. {spread}"
    slower = "one is" if one.wrong == 1 else f"{one.wrong} are"
    return f"{start}{slower} slower with fewer MACs; the worst: {_describe_worst(one)}. {spread}"


def _describe_worst(one: Misled) -> str:
    return f"{one.fewer}: {one.macs_ratio:.2f} of the MACs of {one.more}, {one.time_ratio:.2f} of its time"


def _show(row: Row, facts: SweepFacts) -> tuple[str, ...]:
    return (
        row.variant,
        row.recipe,
        name_place(row, facts),
        f"{row.macs / 1e6:.1f}",
        wording.NOT_AVAILABLE if row.top1 is None else f"{100 * row.top1.value:.1f}",
        wording.name_decibels(row.sqnr_db),
        f"{row.latency_ns / 1e6:.2f}",
        "" if row.ratio is None else f"{row.ratio.value:.2f}",
        f"{row.size_bytes / 1e6:.2f}",
        f"{row.peak_bytes / 1e6:.1f}",
        "*" if row.on_front else "",
    )
