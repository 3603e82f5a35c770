"""What export, simplify and quantize recorded, as tables: for the command that ran and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mbdeploy.records import (
    CalibrateRecord,
    ExportRecord,
    HalveRecord,
    LayerRecord,
    QuantizeRecord,
    SimplifyRecord,
)
from mbdeploy.stages.tables import Table, format_bytes

_WEIGHTS = {True: "trained", False: "seeded, not trained", None: "the factory's or the program's own"}
_MOST_ROWS = 6
_MOST_SCALES = 5


def tabulate_export(record: ExportRecord) -> list[Table]:
    """What an export did, as facts."""
    rows = (
        ("exporter", f"{record.exporter}, opset {record.opset}"),
        ("max |torch - ONNX Runtime|", f"{record.max_abs:.2g} over {record.images} images"),
        ("weights", _WEIGHTS[record.trained]),
    )
    return [Table(title="Export", columns=("", ""), rows=rows, left=(0, 1))]


def tabulate_simplify(record: SimplifyRecord) -> list[Table]:
    """What a simplification did: onnxsim's verdict, our rewrites, and the operators that went or came."""
    rows = [
        ("onnxsim", f"{record.onnxsim} ({record.attempt})" if record.attempt else record.onnxsim),
    ]
    if record.detail:
        rows.append(("detail", record.detail))
    before, after = record.opsets
    if before != after:
        rows.append(("opset", f"{before} -> {after}"))
    rows += [(f"rewrite {rewrite.name}", f"{rewrite.count} x") for rewrite in record.rewrites]
    nodes = (sum(record.operators_before.values()), sum(record.operators_after.values()))
    rows.append(("nodes", f"{nodes[0]} -> {nodes[1]}"))
    changed = _list_changes(record.operators_before, record.operators_after)
    if changed:
        rows.append(("operators", ", ".join(changed)))
    rows.append(("max |before - after|", f"{record.max_abs:.2g}"))
    return [Table(title="Simplify", columns=("", ""), rows=tuple(rows), left=(0, 1))]


def tabulate_halve(record: HalveRecord) -> list[Table]:
    """What a conversion to float16 did, as facts."""
    rows = (
        ("weights", f"{record.weights}"),
        ("too small for float16", f"{record.lost} became 0"),
        ("largest", f"{record.largest:.4g} of 65504"),
        ("constants", ", ".join(f"{count} {kind}" for kind, count in record.types.items())),
    )
    return [Table(title="float16", columns=("", ""), rows=rows, left=(0, 1))]


def tabulate_quantize(record: QuantizeRecord) -> list[Table]:
    """What a quantization did, the layers where pair-safety cost most, and what stayed in float."""
    convolutions = [layer for layer in record.layers if not layer.depthwise]
    rows = [
        ("recipe", record.recipe),
        ("calibration", _describe_calibration(record)),
        ("layers quantized", f"{len(record.layers)}, of them depthwise {len(record.layers) - len(convolutions)}"),
        ("nodes left in float", str(len(record.float_nodes))),
        *_describe_widened(record.widened),
        *_describe_gates(record.gates),
        ("CPU time, peak memory", f"{record.cpu_s:.1f} s, {format_bytes(record.peak_bytes)}"),
    ]
    clipping = [layer for layer in convolutions if layer.clipping > 0]
    rows.append(("would clip without care", f"{len(clipping)} of {len(convolutions)} layers on AVX2"))
    facts = Table(title="Quantize", columns=("", ""), rows=tuple(rows), left=(0, 1))
    return [facts, *_tabulate_growth(convolutions), *_tabulate_float(record.float_nodes)]


def _describe_widened(widened: Mapping[str, tuple[int, int]]) -> list[tuple[str, str]]:
    if not widened:
        return []
    sizes = ", ".join(f"{before} -> {after}" for before, after in dict.fromkeys(widened.values()))
    layers = "layer" if len(widened) == 1 else "layers"
    return [("channels of zeros added", f"{len(widened)} {layers}: {sizes}")]


def _describe_gates(gates: Sequence[str]) -> list[tuple[str, str]]:
    if not gates:
        return []
    return [("hard sigmoids as bytes", f"{len(gates)}; not for QNN (docs/providers.md)")]


def _describe_calibration(record: QuantizeRecord) -> str:
    images = f"{record.samples} images of {record.data}" if record.samples else ""
    if not record.ranges:
        return f"{record.method}, {images}"
    return f"ranges of {Path(record.ranges).name}" + (f"; {images}" if images else "")


def tabulate_calibrate(record: CalibrateRecord) -> list[Table]:
    """What was calibrated, whether the images were enough, and the evidence for that."""
    kept = sum(record.shards.values())
    rows = [
        ("calibration", f"{record.samples} images of {record.data}"),
        ("shards", f"{len(record.shards)} done" + (f", of them {kept} before" if kept else "")),
    ]
    tables = [Table(title="Calibrate", columns=("", ""), rows=tuple(rows), left=(0, 1))]
    found = record.adequacy
    if found is None:
        return tables
    curve = tuple(
        (str(point.images), f"{point.median:.1%}", f"{point.worst:.1%}", point.tensor) for point in found.curve
    )
    columns = ("images", "median", "worst", "tensor")
    title = f"How far scales ({found.method}) were from the final ones"
    tables.append(Table(title=title, columns=columns, rows=curve, notes=(found.sentence,), left=(3,)))
    if found.spread:
        spread = tuple((one.tensor, f"{one.scale:.4g}", f"{one.relative_error:.1%}") for one in found.spread)
        title = "Scales that depend most on which images were taken"
        notes = (f"and {len(spread) - _MOST_SCALES} more",) if len(spread) > _MOST_SCALES else ()
        names = ("tensor", "scale", "standard error (jackknife)")
        tables.append(Table(title=title, columns=names, rows=spread[:_MOST_SCALES], notes=notes))
    if found.wideners:
        images = tuple((one.image, str(one.tensors), f"{one.share:.0%}", one.tensor) for one in found.wideners)
        columns = ("image", "tensors", "at most", "tensor")
        tables.append(Table(title="Images that alone widen ranges", columns=columns, rows=images, left=(0, 3)))
    return tables


def _tabulate_growth(layers: Sequence[LayerRecord]) -> list[Table]:
    worst = sorted(layers, key=lambda layer: layer.growth_max, reverse=True)[:_MOST_ROWS]
    rows = tuple(
        (layer.node, f"{layer.growth_mean:.2f}", f"{layer.growth_max:.2f}", f"{100 * layer.clipping:.0f} %")
        for layer in worst
        if layer.growth_max > 1
    )
    if not rows:
        return []
    title = "Weight scales over plain ones (the layers that grew most)"
    return [Table(title=title, columns=("node", "mean", "largest", "would clip"), rows=rows)]


def _tabulate_float(nodes: Mapping[str, str]) -> list[Table]:
    if not nodes:
        return []
    rows = tuple(nodes.items())
    notes = (f"and {len(rows) - _MOST_ROWS} more",) if len(rows) > _MOST_ROWS else ()
    columns = ("node", "why")
    return [Table(title="Left in float", columns=columns, rows=rows[:_MOST_ROWS], notes=notes, left=(0, 1))]


def _list_changes(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    names = sorted({*before, *after})
    counts = ((name, before.get(name, 0), after.get(name, 0)) for name in names)
    return [f"{name} {old} -> {new}" for name, old, new in counts if old != new]
