"""The inspect stage: what a network costs and where it will hurt, from an ONNX file or a card."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy.card import ModelCard, load_card
from mbdeploy.costs.report import InspectReport, Peaks, Roofline, Sweep
from mbdeploy.costs.roofline import bound_layers
from mbdeploy.errors import UnavailableError, UsageError
from mbdeploy.isolate import Progress, demand_value, ignore_progress, run_step
from mbdeploy.watch import Limits

Shape = tuple[int, int, int]
_LIMITS = Limits(wall_s=300.0)


def inspect(
    model: str | Path,
    *,
    card: str | None = None,
    input_shape: Shape | None = None,
    as_standard_conv: bool = False,
    sweep: bool = False,
    measure: bool = False,
    ignore: Sequence[str] = (),
    limits: Limits | None = None,
    on_progress: Progress = ignore_progress,
) -> InspectReport:
    """Count a network layer by layer and look for what will hurt on a device; ``model`` is an ONNX file or a card.

    A card is traced to a temporary file, which needs torch; a file needs nothing but itself. A dynamic
    batch is taken as 1, other dynamic axes as ``input_shape`` (C, H, W) says. ``as_standard_conv`` adds the
    same network with standard convolutions; ``sweep`` a card's network over width and resolution (needs
    torch); ``measure`` the roofline of this machine, one thread. ``ignore`` names rules to leave out.
    ``card`` is the one a file was exported from, if the file does not say so itself.

    Raises:
        UsageError: an unknown rule, or a sweep without a card whose net takes alpha. CardError, ModelError:
        a card or file that cannot be used. UnavailableError: torch is needed and not here. StepError: the
        native step crashed, hung or ran out of memory.
    """
    request: dict[str, Any] = {
        "input_shape": input_shape,
        "as_standard_conv": as_standard_conv,
        "ignore": list(ignore),
    }
    limits = limits or _LIMITS
    with tempfile.TemporaryDirectory(prefix="mbdeploy-inspect-") as folder:
        path = Path(model)
        if not _is_file(path):
            traced = load_card(model)
            _check_torch(traced)
            card, path = traced.path, Path(folder) / f"{traced.name}.onnx"
            on_progress("tracing the card's network", 0, 0)
            told = {"card": traced.path, "output": str(path)}
            _run("mbdeploy.stages.inspect_torch:trace_card", told, traced.name, limits)
        found = _run("mbdeploy.stages.inspect_job:inspect_file", {**request, "model": str(path)}, model, limits)
    report = msgspec.convert(found["report"], InspectReport)
    if sweep:
        report = msgspec.structs.replace(report, sweep=_sweep(_find_card(card or found["card"], model), limits))
    if measure:
        on_progress("measuring this machine's peaks", 0, 0)
        report = msgspec.structs.replace(report, roofline=_measure(report, limits))
    return report


def render_inspection(report: InspectReport, *, format: str = "table", color: bool = False) -> str:
    """The report as terminal text (``table``), ``md``, ``json``, ``csv`` (layers only) or one ``html`` page.

    Raises:
        UsageError: another format.
    """
    from mbdeploy.stages import inspect_tables, inspect_text, tables

    if format in ("table", "md"):
        parts = [
            inspect_text.lay_out(table)
            if format == "table" and inspect_text.is_long(table)
            else tables.render_tables([table], format=format, color=color)
            for table in inspect_tables.tabulate_inspection(report)
        ]
        return ("\n\n" if format == "md" else "\n\n\n").join(parts)
    if format == "json":
        return tables.render_json(report)
    if format == "csv":
        return inspect_tables.write_csv(report)
    if format == "html":
        from mbdeploy.stages.inspect_page import render_page

        return render_page(report)
    raise UsageError(
        where=format, expected="table, md, json, csv or html", found="no such format", todo="choose one of these"
    )


def _is_file(path: Path) -> bool:
    return path.suffix == ".onnx" or (path.is_file() and path.suffix != ".toml")


def _check_torch(card: ModelCard) -> None:
    if importlib.util.find_spec("torch") is None:
        raise UnavailableError(
            where=card.name,
            expected="an ONNX file, or PyTorch to make one from the card",
            found="no package torch",
            todo="run `pip install mbdeploy[export]`, or give the path of an .onnx file",
        )


def _find_card(name: str, model: str | Path) -> ModelCard:
    if not name:
        raise UsageError(
            where=model,
            expected="a card, or a file that was exported from one, for --sweep",
            found="a file that names no card",
            todo="give the card's name instead of the file",
        )
    return load_card(name)


def _sweep(card: ModelCard, limits: Limits) -> Sweep:
    _check_torch(card)
    found = _run("mbdeploy.stages.inspect_torch:sweep_card", {"card": card.path}, card.name, limits)
    return msgspec.convert(found, Sweep)


def _measure(report: InspectReport, limits: Limits) -> Roofline:
    from mbdeploy.targets import Job, open_target, parse_provider

    host = open_target(parse_provider("cpu")).run(Job(kind="probe")).host
    found = _run("mbdeploy.stages.inspect_peaks:measure_peaks", {}, report.model, limits)
    return bound_layers(report, msgspec.convert({**found, "host": msgspec.to_builtins(host)}, Peaks))


def _run(function: str, request: dict[str, Any], where: object, limits: Limits) -> dict[str, Any]:
    outcome = run_step(function, request, limits=limits)
    answer: dict[str, Any] = demand_value(
        outcome,
        where=where,
        expected="a model that can be looked at",
        todo="check how the file was made (`python -m onnx.checker` on it may say more)",
    )
    return answer
