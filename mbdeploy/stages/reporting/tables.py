"""A report as tables: each model in the order of the stages, and several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase

from mbdeploy.results import Host
from mbdeploy.stages import figures, sections, wording
from mbdeploy.stages.bench_explain_tables import tabulate_explanation
from mbdeploy.stages.layer_tables import tabulate_drops
from mbdeploy.stages.mix_tables import tabulate_outcome
from mbdeploy.stages.reporting.facts import Report
from mbdeploy.stages.reporting.variants import Variant, list_fields
from mbdeploy.stages.tables import Table, format_bytes

SEEDED = "SEEDED WEIGHTS: this network has learnt nothing, and no accuracy is claimed."


def tabulate_report(found: Report) -> list[Table]:
    """The report as tables, in the order of the stages."""
    return [*tabulate_stages(found), *tabulate_results(found)]


def tabulate_stages(found: Report) -> list[Table]:
    """The files, and what each stage did to make them."""
    return [
        tabulate_files(found),
        *(sections.tabulate_export(found.export) if found.export else ()),
        *(sections.tabulate_simplify(found.simplify) if found.simplify else ()),
        *(sections.tabulate_quantize(found.quantize) if found.quantize else ()),
    ]


def tabulate_results(found: Report) -> list[Table]:
    """Only what was measured: parity and its gates, latency, accuracy, and searches for INT8 within goals."""
    return [
        *figures.tabulate_parity(found.parity),
        *tabulate_drops(found.layers),
        *tabulate_gates(found),
        *(table for run in found.latency for table in figures.tabulate_latency(run)),
        *(tabulate_explanation(found.explanation) if found.explanation else ()),
        *(table for data in found.accuracy for table in figures.tabulate_accuracy(data)),
        *figures.tabulate_verdicts(found.verdicts),
        *(table for one in found.searches for table in tabulate_outcome(one.search, one.verdict)),
    ]


def tabulate_gates(found: Report) -> list[Table]:
    """Every gate on parity, then those on time."""
    return figures.tabulate_checks((*found.checks, *(check for run in found.latency for check in run.checks)))


def tabulate_side_by_side(found: Report, baseline: str = "simplified", candidate: str = "int8") -> Table:
    """What a person asks of two files of the report: size, likeness, speed and memory; only what was measured."""
    names = (baseline, candidate)
    sizes = {Path(file.name).stem: file.size_bytes for file in found.files}
    parity = {fact.model: fact.executed for fact in reversed(found.parity)}
    run = found.latency[0] if found.latency else None
    notes = [SEEDED] if found.trained is False else []
    rows = [("size", *(format_bytes(sizes.get(name)) for name in names))]
    if all(parity.get(name) for name in names):
        rows += figures.list_parity_rows([parity[name] for name in names])
    if run is not None:
        rows += figures.list_latency_rows([fact for fact in run.models if fact.model in names])
        notes += figures.describe_run(run)
    title = f"{found.model}: FP32 and INT8 side by side"
    return Table(title=title, columns=("", "FP32", "INT8"), rows=tuple(rows), notes=tuple(notes))


def tabulate_files(found: Report) -> Table:
    """The model files of the folder."""
    largest = found.files[0].size_bytes
    rows = tuple(
        (file.name, f"{file.size_bytes / 1e6:.2f}", f"{file.size_bytes / largest:.3f}", file.sha256[:12])
        for file in found.files
    )
    notes = (*((SEEDED,) if found.trained is False else ()), *found.stale)
    columns = ("file", "MB", f"of {found.files[0].name}", "sha256")
    return Table(title=f"Files of {found.model}", columns=columns, rows=rows, notes=notes)


def tabulate_variants(variants: Sequence[Variant], hosts: Sequence[Host]) -> list[Table]:
    """All variants side by side, then the hosts by their letters."""
    fields = list_fields(variants)
    best = {index for field in fields for index in field.best}
    rows = tuple(
        (
            variant.model,
            variant.file,
            f"{variant.provider} {name_host(variant.host)}" if len(hosts) > 1 else variant.provider,
            wording.NOT_AVAILABLE if variant.size_bytes is None else f"{variant.size_bytes / 1e6:.2f}",
            wording.name_decibels(variant.sqnr_db),
            wording.NOT_AVAILABLE if variant.top1 is None else f"{100 * variant.top1.value:.1f}",
            _name_time(variant, "*" if index in best else ""),
            _name_ratio(variant),
        )
        for index, variant in enumerate(variants)
    )
    notes = ["of FP32: paired, within one run. top-1: labelled images, %."]
    if len(hosts) > 1:
        notes.append("The letter says on which host; times of unlike hosts are never compared.")
    if best:
        notes.append("*: none of its host, provider and threads beats it in time, quality and size together.")
    columns = ("model", "file", "on", "MB", "dB", "top-1", "p50 ms", "of FP32")
    return [
        Table(title="Side by side", columns=columns, rows=rows, notes=tuple(notes), left=(0, 1, 2)),
        tabulate_hosts(hosts),
    ]


def tabulate_hosts(hosts: Sequence[Host]) -> Table:
    """What every host is."""
    rows = tuple(
        (
            name_host(index),
            f"{host.cpu}, {host.machine}" + (f", emulated by {host.emulator}" if host.emulator else ""),
            f"{host.affinity} of {host.cores}",
            f"{host.memory_bytes / 1e9:.0f} GB",
            ", ".join(f"{name} {version}" for name, version in host.versions.items()),
        )
        for index, host in enumerate(hosts)
    )
    columns = ("host", "CPU", "cores", "memory", "versions")
    return Table(title="Hosts", columns=columns, rows=rows, left=(0, 1, 4))


def name_host(index: int | None) -> str:
    """A letter for each host; from the 27th on a number."""
    if index is None:
        return wording.NOT_AVAILABLE
    return ascii_uppercase[index] if index < len(ascii_uppercase) else str(index + 1)


def _name_ratio(variant: Variant) -> str:
    if variant.ratio is None:
        return wording.NOT_AVAILABLE if variant.p50_ns is None else "baseline"
    return f"{variant.ratio.value:.3f}"


def _name_time(variant: Variant, mark: str) -> str:
    return wording.NOT_AVAILABLE if variant.p50_ns is None else f"{variant.p50_ns / 1e6:.2f}{mark}"
