"""How each number can be derived again: the file with the raw values, and the command that makes it anew."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from mbdeploy import artifact
from mbdeploy.mixing.report import MixReport
from mbdeploy.results import BenchRun
from mbdeploy.stages.reporting.reading import (
    BENCH,
    CALIBRATION,
    CONFIRMED,
    EVALUATION,
    EXPLANATION,
    MATRIX,
    PARITY,
    Saved,
)
from mbdeploy.stages.tables import Table

_Origin = tuple[str, str, str, list[str]]


def tabulate_origins(saved: Saved) -> Table:
    """One row a saved file: what follows from it, which of its fields hold it, its sha256 and its command."""
    rows = [
        (what, file, fields, artifact.digest_file(saved.folder / file)[:12], shlex.join(["mbdeploy", *words]))
        for what, file, fields, words in _list_origins(saved)
        if (saved.folder / file).is_file()
    ]
    again = shlex.join(["mbdeploy", "report", str(saved.folder), "--format", "json"])
    return Table(
        title="Where each number is from",
        columns=("what", "file", "fields", "sha256", "to measure it again"),
        rows=tuple(rows),
        notes=(f"To derive every number again from these files: {again}",),
        left=(0, 1, 2, 4),
    )


def list_missing(saved: Saved) -> list[tuple[str, str]]:
    """What this report does not have because it was not measured, and the command that would."""
    folder = saved.folder
    models = [str(folder / f"{stem}.onnx") for stem in saved.sidecars]
    known = (
        ("latency", not saved.runs, ["bench", *models[-2:], "-o", str(folder / BENCH)]),
        (
            "time of each layer, FP32 against INT8",
            saved.explanation is None,
            ["bench", *models[-2:], "--explain", "-o", str(folder / EXPLANATION)],
        ),
        ("parity", saved.parity is None, ["verify", *models, "-o", str(folder / PARITY)]),
        (
            "accuracy on labelled images",
            saved.evaluation is None and not (saved.export and not saved.export.trained),
            ["evaluate", *models, "--data", "DIR|CSV", "-o", str(folder / EVALUATION)],
        ),
        (
            "SQNR of every layer along the network",
            saved.quantize is not None and not (saved.parity and saved.parity.layers),
            ["verify", *models, "--layers", "-o", str(folder / PARITY)],
        ),
        (
            "every way to open a session",
            saved.matrix is None,
            ["verify", *models, "--matrix", "-o", str(folder / MATRIX)],
        ),
        (
            "histograms of activations",
            not (folder / CALIBRATION).is_file(),
            ["calibrate", str(folder / "simplified.onnx"), "--calibration", "DATA"],
        ),
    )
    return [(what, shlex.join(["mbdeploy", *words])) for what, missing, words in known if missing]


def _list_origins(saved: Saved) -> Iterator[_Origin]:
    folder = saved.folder
    if saved.quantize is not None:
        made = saved.quantize
        words = ["quantize", str(folder / "simplified.onnx"), "--recipe", made.recipe]
        if made.samples:
            words += ["--calibration", made.data, "--num-calibration-samples", str(made.samples)]
        words += ["--calibration-method", made.method] if not made.ranges else ["--ranges", made.ranges]
        fields = "record.layers, record.float_nodes"
        yield "layers, ranges, scales", "int8.onnx.json", fields, [*words, "-o", str(folder / "int8.onnx")]
    if saved.parity is not None:
        models = list(dict.fromkeys(row.model.path for row in saved.parity.rows))
        words = ["verify", *models, *repeat_provider(dict.fromkeys(row.provider for row in saved.parity.rows))]
        words += ["--layers"] if saved.parity.layers else []
        yield "parity, gates, placement", PARITY, "rows[].metrics, checks, layers", [*words, "-o", str(folder / PARITY)]
    if saved.matrix is not None:
        models = list(dict.fromkeys(str(folder / f"{row.model}.onnx") for row in saved.matrix.rows))
        words = ["verify", *models, "--matrix", *repeat_provider(saved.matrix.hosts)]
        yield "ways to open a session", MATRIX, "rows[].reference", [*words, "-o", str(folder / MATRIX)]
    yield from _describe_runs(saved)
    if saved.explanation is not None:
        profiled = [model.model.path for model in saved.explanation.models]
        words = ["bench", *profiled, "--explain", "--provider", saved.explanation.provider]
        words += ["--threads", str(saved.explanation.threads), "-o", str(folder / EXPLANATION)]
        yield "time of each layer", EXPLANATION, "models[].layers", words
    if saved.evaluation is not None:
        first = saved.evaluation.models[0]
        models = [evaluated.model.path for evaluated in saved.evaluation.models]
        limit = ["--limit", str(len(first.predictions))]
        words = ["evaluate", *models, "--data", saved.evaluation.data, *limit, "--provider", first.provider]
        yield "accuracy", EVALUATION, "models[].predictions", [*words, "-o", str(folder / EVALUATION)]
    for file, found in saved.searches.items():
        yield "INT8 within goals", file, "turns, timed, made[].sqnr_db", _describe_search(saved, file, found)
    yield "histograms", CALIBRATION, "counts_*, range_*", _describe_calibration(saved)


def _describe_search(saved: Saved, file: str, found: MixReport) -> list[str]:
    goals = {name: value for name, value in msgspec.structs.asdict(found.goals).items() if value is not None}
    words = ["quantize", found.model.path]
    for name, value in goals.items():
        words += [f"--{name.replace('_', '-')}", f"{value:g}"]
    made = saved.quantize
    known = made is not None and bool(made.samples)
    words += ["--calibration", made.data if made is not None and known else "DATA"]
    words += ["--search-data", found.data, "--num-search-samples", str(found.images)]
    words += ["--provider", found.provider, "--threads", str(found.threads)]
    return [*words, "-o", str(saved.folder / file.replace(".mix.json", ".onnx"))]


def _describe_calibration(saved: Saved) -> list[str]:
    """The command; the images have a name only if they are those that the INT8 file was calibrated with."""
    words = ["calibrate", str(saved.folder / "simplified.onnx"), "--calibration"]
    sidecar = artifact.read_sidecar(saved.folder / CALIBRATION)
    if sidecar is None:
        return [*words, "DATA"]
    made, params = saved.quantize, sidecar.provenance.params
    same = made is not None and made.data_digest == sidecar.provenance.parents.get("calibration")
    words.append(made.data if made is not None and same else "DATA")
    return [*words, "--num-calibration-samples", str(params["samples"]), "--calibration-method", str(params["method"])]


def _describe_runs(saved: Saved) -> Iterator[_Origin]:
    """One command for all runs of a file: they differ in their provider, thread count and batch only."""
    if saved.runs:
        yield "times, ratios, memory", BENCH, "series[].wall_ns, cpu_ns", _name_bench(saved, BENCH, saved.runs)
    if saved.confirmed:
        words = _name_bench(saved, CONFIRMED, saved.confirmed)
        yield "the same again in full, by check", CONFIRMED, "series[].wall_ns, cpu_ns", words


def _name_bench(saved: Saved, file: str, runs: Sequence[BenchRun]) -> list[str]:
    first = runs[0]
    words = ["bench", *(series.model.path for series in first.series)]
    words += repeat_provider(dict.fromkeys(run.provider for run in runs))
    for option, values in (
        ("--threads", [run.threads for run in runs]),
        ("--batch-size", [run.batch_size for run in runs]),
    ):
        words += [option, ",".join(str(value) for value in dict.fromkeys(values))]
    words += ["--inputs", first.inputs, "--min-duration", f"{first.min_duration_s:g}"]
    return [*words, "--tolerance", f"{first.tolerance:g}", "--seed", str(first.seed), "-o", str(saved.folder / file)]


def repeat_provider(providers: Iterable[str]) -> list[str]:
    """``--provider`` for each."""
    return [word for provider in providers for word in ("--provider", provider)]
