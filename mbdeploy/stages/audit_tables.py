"""An audit as tables: the verdict, CPUs, findings, the repair and runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mbdeploy.auditing.cpus import CPUS
from mbdeploy.auditing.report import AuditReport, Examined, Finding, RepairRecord, Spot
from mbdeploy.results import Metrics
from mbdeploy.stages.tables import Table, format_bytes

_MOST_ROWS = 8
#: Instruction sets with which ONNX Runtime adds products in 32 bits.
_NEVER_CLIPS = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
_TRY_ELSEWHERE = "--provider cpu@qemu:haswell emulates one that does."
_FILES = {"input": "as it is", "repaired": "repaired"}


def tabulate_audit(report: AuditReport) -> list[Table]:
    """Everything that an audit found, the verdict first."""
    tables = [_tabulate_facts(report), _tabulate_cpus(report)]
    tables += _tabulate_findings(report.examined.findings, "")
    if report.repair is not None and report.repaired is not None:
        tables += _tabulate_repair(report.repair)
        tables += _tabulate_findings(report.repaired.findings, " after the repair")
    return [*tables, *_tabulate_runs(report)]


def _tabulate_facts(report: AuditReport) -> Table:
    examined = report.examined
    kinds = sorted({layer.kind for layer in examined.layers})
    rows = [
        ("file", f"{report.model.name}, {format_bytes(report.model.size_bytes)}, {examined.form}"),
        ("layers", f"{len(examined.layers)}, of them depthwise {sum(layer.depthwise for layer in examined.layers)}"),
        ("products", f"{', '.join(kinds) or 'none'}; {_say_granularity(examined)}"),
    ]
    fused = [layer.fused for layer in examined.layers if layer.fused is not None]
    if fused:
        rows.append(("in integers here", f"{sum(fused)} of {len(fused)} layers"))
    if examined.conversion_share:
        rows.append(("conversions inside", f"{examined.conversion_share:.0%} of the time"))
    if examined.timed_on:
        rows.append(("times are over", examined.timed_on))
    return Table(title=_say_verdict(report), columns=("", ""), rows=tuple(rows), left=(0, 1))


def _say_verdict(report: AuditReport) -> str:
    """The verdict as a sentence."""
    verdict = report.verdict[0].upper() + report.verdict[1:]
    return f"{verdict} (after the repair)" if report.repaired is not None else verdict


def _say_granularity(examined: Examined) -> str:
    many = sum(layer.per_channel for layer in examined.layers)
    return f"weights per channel in {many} of {len(examined.layers)} layers"


def _tabulate_cpus(report: AuditReport) -> Table:
    after = report.repaired
    total = len(report.examined.layers)
    rows = tuple(
        (
            cpu.name,
            f"{report.examined.cpus[cpu.name]} of {total}",
            *((f"{after.cpus[cpu.name]} of {total}",) if after else ()),
        )
        for cpu in CPUS
    )
    columns = ("CPU", "layers that can clip", *(("after the repair",) if after else ()))
    return Table(title="ONNX Runtime's CPU provider", columns=columns, rows=rows)


def _tabulate_findings(findings: Sequence[Finding], when: str) -> list[Table]:
    tables = []
    for finding in findings:
        rows = tuple((spot.node, spot.text, *_say_time(spot, finding)) for spot in finding.spots[:_MOST_ROWS])
        columns = ("at", "what", *(("time",) if finding.time_share is not None else ()))
        more = len(finding.spots) - _MOST_ROWS
        notes = ((f"and {more} more",) if more > 0 else ()) + (f"do: {finding.change}",)
        title = f"{finding.rule} {finding.severity}: {finding.title}{when}: {finding.summary}"
        if finding.time_share is not None:
            title += f"; these places take {finding.time_share:.0%} of the time"
        tables.append(Table(title=title, columns=columns, rows=rows, notes=notes, left=(0, 1)))
    return tables


def _say_time(spot: Spot, finding: Finding) -> tuple[str, ...]:
    """The cell of a place's time, in findings that have times."""
    if finding.time_share is None:
        return ()
    return ("n/a" if spot.time_share is None else f"{spot.time_share:.1%}",)


def _tabulate_repair(record: RepairRecord) -> list[Table]:
    rows = tuple(
        (
            layer.node,
            str(layer.channels),
            f"{layer.growth_max:.2f}",
            _say_db(layer.weights_db[0]),
            _say_db(layer.weights_db[1]),
        )
        for layer in sorted(record.layers, key=lambda layer: layer.weights_db[1])[:_MOST_ROWS]
    )
    notes = [f"weights from {record.source}"]
    if len(record.layers) > _MOST_ROWS:
        notes.insert(0, f"and {len(record.layers) - _MOST_ROWS} more; all others are as they were, byte for byte")
    notes += [f"left as it was: {node}, {reason}" for node, reason in record.left.items()]
    columns = ("layer", "channels", "scale x", "before dB", "after dB")
    title = f"Repaired {len(record.layers)} layers; {record.clipping_after} can still clip"
    return [Table(title=title, columns=columns, rows=rows, notes=tuple(notes))]


def _tabulate_runs(report: AuditReport) -> list[Table]:
    rows = tuple(
        (
            f"{_FILES[run.file]}" + (f": {run.output}" if len({row.output for row in report.runs}) > 1 else ""),
            run.provider,
            _say_sqnr(run.saturation),
            _say_sqnr(run.executed),
            _say_sqnr(run.exact),
        )
        for run in report.runs
    )
    if not rows:
        return [Table(title=f"Inputs: {report.inputs}", columns=("",), rows=())] if report.inputs else []
    notes = ["clipping: executed against the same without saturation. The others are against the float model."]
    sure = [word for word, host in report.hosts.items() if _NEVER_CLIPS & set(host.isa)]
    if len(sure) == len(report.hosts):
        notes.append(f"No CPU here can clip: {_TRY_ELSEWHERE}")
    columns = ("file", "on", "clipping", "executed", "exact")
    title = f"SQNR of the outputs in dB, over {report.images} images of {report.inputs}"
    return [Table(title=title, columns=columns, rows=rows, notes=tuple(notes), left=(0, 1))]


def _say_sqnr(metrics: Metrics | None) -> str:
    if metrics is None:
        return "n/a"
    return "n/a" if metrics.degenerate else _say_db(metrics.sqnr_db)


def _say_db(value: float) -> str:
    return "same" if value == math.inf else f"{value:.2f}"
