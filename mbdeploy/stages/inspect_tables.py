"""An inspection as terminal tables, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from mbdeploy.costs.report import Finding, InspectReport, LayerCost, Roofline, Sweep
from mbdeploy.stages.tables import Table, escape_controls

COUNTED = (
    "One multiply-add is one MAC; padding counts, biases, batch norms and activations do not. "
    "Weights are what MACs multiply; parameters are these and biases, scales and shifts. "
    "Bytes are every tensor read and written once."
)
_MOST_EVIDENCE = 3
_MOST_BOUNDS = 12


def tabulate_inspection(report: InspectReport) -> list[Table]:
    """Everything that was found, from the sums to the single layer."""
    tables = [_tabulate_facts(report), _tabulate_kinds(report), _tabulate_layers(report)]
    if report.standard is not None:
        tables.append(_tabulate_blocks(report))
    if report.uncounted:
        tables.append(_tabulate_uncounted(report))
    if report.sweep is not None:
        tables.append(_tabulate_sweep(report.sweep))
    if report.roofline is not None:
        tables.append(_tabulate_roofline(report.roofline))
    tables.append(_tabulate_findings(report))
    return tables


def write_csv(report: InspectReport) -> str:
    """One row a layer, all columns; a name that a spreadsheet would take for a formula gets a leading quote."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow((*LayerCost.__struct_fields__, "intensity_fp32", "intensity_int8"))
    for layer in report.layers:
        plain = [_write_cell(getattr(layer, name)) for name in LayerCost.__struct_fields__]
        writer.writerow((*plain, f"{layer.intensity_fp32:.4g}", f"{layer.intensity_int8:.4g}"))
    return stream.getvalue().rstrip("\n")


def mega(count: float, digits: int = 2) -> str:
    """A count in millions."""
    return f"{count / 1e6:.{digits}f} M"


def megabytes(size: float) -> str:
    """Bytes in MB (10^6)."""
    return f"{size / 1e6:.2f} MB"


def join_axes(shape: tuple[int, ...]) -> str:
    """A shape as "64x112x112"."""
    return "x".join(map(str, shape)) or "scalar"


def describe_kernel(layer: LayerCost) -> str:
    """Kernel, stride and groups in a word: "3x3 /2 g64"; empty where there is no kernel."""
    parts = [join_axes(layer.kernel)] if layer.kernel else []
    if set(layer.strides) - {1}:
        parts.append(f"/{max(layer.strides)}")
    if layer.groups > 1:
        parts.append(f"g{layer.groups}")
    return " ".join(parts)


def list_facts(report: InspectReport) -> Iterator[tuple[str, str]]:
    """The sums, as name and value."""
    total = report.total
    yield "multiply-adds", mega(total.macs)
    yield "parameters", f"{mega(total.parameters)} ({mega(total.weights)} weights)"
    yield "bytes moved", f"{megabytes(total.bytes_fp32)} in fp32, {megabytes(total.bytes_int8)} in int8"
    if total.bytes_fp32 and total.bytes_int8:
        yield (
            "MACs a byte",
            f"{total.macs / total.bytes_fp32:.1f} in fp32, {total.macs / total.bytes_int8:.1f} in int8",
        )
    memory = report.memory
    at = memory.fp32_node if memory.fp32_node == memory.int8_node else f"{memory.fp32_node} and {memory.int8_node}"
    yield (
        "peak activations",
        f"{megabytes(memory.fp32_bytes)} in fp32, {megabytes(memory.int8_bytes)} in int8, at {at}",
    )
    if report.standard is not None:
        standard = report.standard
        yield "as standard convolutions", f"{mega(standard.macs)} MACs, {mega(standard.weights)} weights"
        yield (
            "this network of that",
            f"{standard.macs_ratio:.1%} of the MACs, {standard.weights_ratio:.1%} of the weights",
        )
    apart = [
        f"{report.folded} folded" if report.folded else "",
        f"{report.quantizers} Q/DQ" if report.quantizers else "",
    ]
    yield "nodes", ", ".join(filter(None, [f"{report.nodes} executed", *apart]))
    if report.uncounted:
        yield "uncounted", f"{len(report.uncounted)} nodes, in no sum"


def describe_input(report: InspectReport) -> str:
    """Precision, opset and inputs in one line."""
    inputs = ", ".join(f"{name} {join_axes(shape)}" for name, shape in report.inputs.items())
    return f"{report.precision}, opset {report.opset}, {inputs}"


def _tabulate_facts(report: InspectReport) -> Table:
    title = f"{report.model}: {describe_input(report)}"
    return Table(title=title, columns=("", ""), rows=tuple(list_facts(report)), notes=(COUNTED,), left=(0, 1))


def _tabulate_kinds(report: InspectReport) -> Table:
    total = report.total
    rows = tuple(
        (
            kind.kind,
            str(kind.layers),
            f"{kind.macs / 1e6:.2f}" if kind.macs else "",
            _share(kind.macs, total.macs),
            f"{kind.weights / 1e3:.1f}" if kind.weights else "",
            _share(kind.weights, total.weights),
            f"{kind.bytes_fp32 / 1e6:.2f}",
        )
        for kind in report.kinds
    )
    columns = ("kind", "nodes", "M MACs", "share", "k weights", "share", "MB fp32")
    return Table(title="By kind of work", columns=columns, rows=rows)


def _tabulate_layers(report: InspectReport) -> Table:
    shown = [layer for layer in report.layers if not layer.fused and (layer.macs or layer.bytes_fp32)]
    rows = tuple(
        (
            layer.name,
            f"{layer.operator} {describe_kernel(layer)}".rstrip(),
            join_axes(layer.output[1:]),
            f"{layer.macs / 1e6:.2f}" if layer.macs else "",
            f"{layer.parameters / 1e3:.1f}" if layer.parameters else "",
            f"{layer.bytes_fp32 / 1e3:.0f}",
            f"{layer.intensity_fp32:.1f}" if layer.macs else "",
        )
        for layer in shown
    )
    fused = sum(layer.fused for layer in report.layers)
    notes = [f"{fused} activations and batch norms run inside the layer before them."] if fused else []
    columns = ("layer", "what", "output", "M MACs", "k par.", "kB", "MAC/B")
    return Table(title="Layers (fp32)", columns=columns, rows=rows, notes=tuple(notes), left=(0, 1))


def _tabulate_blocks(report: InspectReport) -> Table:
    rows = tuple(
        (
            f"{block.depthwise} + {block.pointwise}",
            f"{join_axes(block.kernel)} {block.channels[0]}->{block.channels[1]}",
            f"{block.macs / 1e6:.2f}",
            f"{block.standard_macs / 1e6:.2f}",
            f"{block.ratio:.4f}",
            f"{block.formula:.4f}",
        )
        for block in report.blocks
    )
    columns = ("block", "kernel", "M MACs", "standard", "ratio", "1/N+1/D²")
    notes = () if rows else ("No depthwise convolution here is followed by a 1x1 convolution of its own.",)
    return Table(title="Depthwise-separable blocks", columns=columns, rows=rows, notes=notes)


def _tabulate_uncounted(report: InspectReport) -> Table:
    rows = tuple((node.name, node.operator, node.reason) for node in report.uncounted)
    return Table(title="Not counted, in no sum", columns=("node", "operator", "why"), rows=rows, left=(0, 1, 2))


def _tabulate_sweep(sweep: Sweep) -> Table:
    sizes = sorted({cell.size for cell in sweep.cells})
    macs = {(cell.alpha, cell.size): cell.macs for cell in sweep.cells}
    weights = {cell.alpha: cell.weights for cell in sweep.cells}
    rows = tuple(
        (f"{alpha:g}", mega(count), *(mega(macs[alpha, size], 1) for size in sizes)) for alpha, count in weights.items()
    )
    columns = ("alpha", "weights", *(f"{size} px" for size in sizes))
    return Table(title=f"{sweep.card}: MACs over width and resolution", columns=columns, rows=rows)


def _tabulate_roofline(roofline: Roofline) -> Table:
    slowest = sorted(roofline.bounds, key=lambda bound: bound.limit_us, reverse=True)[:_MOST_BOUNDS]
    rows = tuple(
        (bound.layer, f"{bound.limit_us:.1f}", bound.by, f"{bound.compute_us:.1f}", f"{bound.memory_us:.1f}")
        for bound in slowest
    )
    total = sum(bound.limit_us for bound in roofline.bounds)
    peaks = roofline.peaks
    gmacs = peaks.gmacs_int8 if roofline.precision == "int8" else peaks.gmacs_fp32
    speeds = ", ".join(f"{gbytes:.0f} GB/s at {_name_size(size)}" for size, gbytes in peaks.gbytes)
    notes = (
        f"All {len(roofline.bounds)} layers: not below {total / 1e3:.2f} ms, one thread, {roofline.precision}.",
        f"Measured on {peaks.host.cpu}: {gmacs:.1f} GMAC/s; {speeds}.",
    )
    columns = ("layer", "at least µs", "bound by", "compute µs", "memory µs")
    return Table(title="Roofline: the layers that need most", columns=columns, rows=rows, notes=notes)


def _tabulate_findings(report: InspectReport) -> Table:
    rows: list[tuple[str, str]] = []
    for finding in report.findings:
        rows += [(finding.rule, f"{finding.title}: {finding.summary}"), *_list_evidence(finding)]
    ignored = (f"Switched off: {', '.join(report.ignored)}.",) if report.ignored else ()
    notes = (*ignored, "docs/inspect.md says what each rule looks for; --ignore ID switches one off.")
    if not rows:
        rows = [("", "no rule found anything")]
    return Table(title="Findings", columns=("rule", "what was found"), rows=tuple(rows), notes=notes, left=(0, 1))


def _list_evidence(finding: Finding) -> Iterator[tuple[str, str]]:
    for place in finding.evidence[:_MOST_EVIDENCE]:
        yield "", f"- {place.node}: {place.text}" + (f" ({place.bytes / 1e3:.0f} kB)" if place.bytes else "")
    if len(finding.evidence) > _MOST_EVIDENCE:
        yield "", f"- and {len(finding.evidence) - _MOST_EVIDENCE} more"
    yield "", f"> {finding.change}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if part and whole else ""


def _name_size(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def _write_cell(value: object) -> str:
    if isinstance(value, tuple):
        is_nested = bool(value) and isinstance(value[0], tuple)
        return ";".join(join_axes(shape) for shape in value) if is_nested else "x".join(map(str, value))
    text = escape_controls(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
