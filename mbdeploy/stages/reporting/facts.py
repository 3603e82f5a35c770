"""What follows from a folder's files: the facts that the tables, the JSON and the page all show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from mbdeploy.derive import Verdict
from mbdeploy.mixing.report import MixReport
from mbdeploy.mixing.verdict import judge_search
from mbdeploy.records import ExportRecord, QuantizeRecord, SimplifyRecord
from mbdeploy.results import SCHEMA_VERSION, BenchRun, Check, Host, ModelRef, ParityReport, Placement
from mbdeploy.stages.bench_explain import ExplainResult
from mbdeploy.stages.facts import (
    AccuracyFacts,
    LatencyFacts,
    ParityFact,
    derive_accuracy,
    derive_latency,
    derive_parity,
)
from mbdeploy.stages.layer_facts import CurveFact, derive_layers
from mbdeploy.stages.matrix import MatrixReport, MatrixRow
from mbdeploy.stages.reporting.reading import BENCH, CONFIRMED, EVALUATION, EXPLANATION, MATRIX, Saved
from mbdeploy.stages.verdict import judge_int8
from mbdeploy.timing.layers import LayerTime


class FileFact(msgspec.Struct, frozen=True, kw_only=True):
    """A model file of the folder, as its sidecar vouches for it."""

    name: str
    size_bytes: int
    sha256: str
    tools: dict[str, str]


class PlacementFact(msgspec.Struct, frozen=True, kw_only=True):
    """Where the nodes of one session ran: how many on each provider, and how many of each operator by type.

    ``assigned`` counts the nodes that each provider took before they were fused; empty where nobody says.
    """

    model: str
    provider: str
    file: str
    nodes: dict[str, int]
    operators: dict[str, dict[str, int]]
    elsewhere: tuple[str, ...]
    assigned: dict[str, int] = {}


class SearchFact(msgspec.Struct, frozen=True, kw_only=True):
    """A search for INT8 within goals without its raw times, the file that holds them, and its verdict."""

    file: str
    verdict: Verdict
    search: MixReport


class HostFact(msgspec.Struct, frozen=True, kw_only=True):
    """A host without its providers (each runtime has its own), and what was measured on it: ``"FILE: PROVIDER"``."""

    host: Host
    measured: tuple[str, ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about one model. A part that has not been measured is None or empty.

    ``explanation`` is a profile's layers without their samples. ``stale`` names results of other files than those that
    now lie in the folder: a file was made anew since.
    """

    model: str
    trained: bool | None
    files: tuple[FileFact, ...]
    export: ExportRecord | None
    simplify: SimplifyRecord | None
    quantize: QuantizeRecord | None
    parity: tuple[ParityFact, ...]
    checks: tuple[Check, ...]
    latency: tuple[LatencyFacts, ...]
    accuracy: tuple[AccuracyFacts, ...]
    verdicts: tuple[Verdict, ...] = ()
    explanation: ExplainResult | None = None
    matrix: tuple[MatrixRow, ...] = ()
    layers: tuple[CurveFact, ...] = ()
    placements: tuple[PlacementFact, ...] = ()
    hosts: tuple[HostFact, ...] = ()
    stale: tuple[str, ...] = ()
    searches: tuple[SearchFact, ...] = ()
    schema_version: int = SCHEMA_VERSION


def derive_report(saved: Saved) -> Report:
    """The facts of a folder; a pure function of what was saved."""
    export, parities = saved.export, saved.parities.values()
    trained = export.trained if export else None
    checks = tuple(check for parity in parities for check in parity.checks)
    latency = tuple(derive_latency(run) for _, run in choose_runs(saved))
    accuracy = (derive_accuracy(saved.evaluation),) if saved.evaluation else ()
    return Report(
        model=saved.folder.resolve().name,
        trained=trained,
        files=tuple(
            FileFact(
                name=sidecar.file,
                size_bytes=sidecar.size_bytes,
                sha256=sidecar.sha256,
                tools=sidecar.provenance.tools,
            )
            for sidecar in saved.sidecars.values()
        ),
        export=export,
        simplify=saved.simplify,
        quantize=saved.quantize,
        parity=tuple(fact for parity in parities for fact in derive_parity(parity)),
        checks=checks,
        latency=latency,
        accuracy=accuracy,
        verdicts=judge_int8(latency, checks, accuracy, trained=trained),
        explanation=_drop_samples(saved.explanation) if saved.explanation else None,
        matrix=saved.matrix.rows if saved.matrix else (),
        layers=tuple(curve for parity in parities for curve in derive_layers(parity.layers)),
        placements=tuple(_derive_placements(saved)),
        hosts=_group_hosts(_list_hosts(saved)),
        stale=tuple(dict.fromkeys(_list_stale(saved))),
        searches=tuple(
            SearchFact(
                file=file,
                verdict=judge_search(found),
                search=msgspec.structs.replace(found, turns=(), timed={}),
            )
            for file, found in saved.searches.items()
        ),
    )


def choose_runs(saved: Saved) -> list[tuple[str, BenchRun]]:
    """The timed runs, each with its file: where ``check`` timed the same files again in full, that one counts."""
    again = {_identify(run): run for run in saved.confirmed}
    return [(CONFIRMED, again[_identify(run)]) if _identify(run) in again else (BENCH, run) for run in saved.runs]


def _identify(run: BenchRun) -> tuple[object, ...]:
    return run.provider, run.threads, run.batch_size, tuple(series.model.sha256 for series in run.series)


def find_host(report: Report, file: str, provider: str) -> Host | None:
    """The host on which a file's measurements on a provider were taken."""
    return next((fact.host for fact in report.hosts if f"{file}: {provider}" in fact.measured), None)


def _list_hosts(saved: Saved) -> Iterator[tuple[Host, str]]:
    found: dict[str, ParityReport | MatrixReport] = {**saved.parities}
    if saved.matrix is not None:
        found[MATRIX] = saved.matrix
    for file, one in found.items():
        yield from ((host, f"{file}: {provider}") for provider, host in one.hosts.items())
    yield from ((run.host, f"{file}: {run.provider}") for file, run in choose_runs(saved))
    yield from ((search.host, f"{file}: {search.provider}") for file, search in saved.searches.items())
    if saved.explanation is not None:
        yield saved.explanation.host, f"{EXPLANATION}: {saved.explanation.provider}"
    if saved.evaluation is not None:
        for provider in dict.fromkeys(model.provider for model in saved.evaluation.models):
            yield saved.evaluation.host, f"{EVALUATION}: {provider}"


def _group_hosts(found: Iterable[tuple[Host, str]]) -> tuple[HostFact, ...]:
    """Hosts that are equal in everything that was recorded are one."""
    groups: list[tuple[Host, list[str]]] = []
    for answered, what in found:
        host = msgspec.structs.replace(answered, providers=())
        known = next((measured for other, measured in groups if other == host), None)
        if known is None:
            groups.append((host, [what]))
        else:
            known.append(what)
    return tuple(HostFact(host=host, measured=tuple(dict.fromkeys(measured))) for host, measured in groups)


def _list_stale(saved: Saved) -> Iterator[str]:
    now = {Path(sidecar.file).stem: sidecar.sha256 for sidecar in saved.sidecars.values()}
    found: list[tuple[str, ModelRef]] = [
        (file, row.model) for file, parity in saved.parities.items() for row in parity.rows
    ]
    found += [(file, series.model) for file, run in choose_runs(saved) for series in run.series]
    found += [(EXPLANATION, one.model) for one in (saved.explanation.models if saved.explanation else ())]
    found += [(EVALUATION, one.model) for one in (saved.evaluation.models if saved.evaluation else ())]
    for name, search in saved.searches.items():
        written = [search.timed[search.chosen].series[1].model] if search.chosen in search.timed else []
        found += [(name, model) for model in (search.model, *written)]
    for file, model in found:
        if now.get(model.name, model.sha256) != model.sha256:
            yield f"{file} is of another {model.name} than the one that is here: measure it again"


def _drop_samples(found: ExplainResult) -> ExplainResult:
    def drop(row: LayerTime | None) -> LayerTime | None:
        return row and msgspec.structs.replace(row, samples_us=())

    models = tuple(
        msgspec.structs.replace(model, wall_ns=(), layers=tuple(row for layer in model.layers if (row := drop(layer))))
        for model in found.models
    )
    differences = tuple(
        msgspec.structs.replace(pair, first=drop(pair.first), second=drop(pair.second)) for pair in found.differences
    )
    return msgspec.structs.replace(found, models=models, differences=differences)


def _derive_placements(saved: Saved) -> Iterator[PlacementFact]:
    """One fact a model and provider: from the parity run as executed, else from the timed one."""
    seen: set[tuple[str, str]] = set()
    found: list[tuple[str, str, str, Placement]] = [
        (row.model.name, row.provider, file, row.placement)
        for file, parity in saved.parities.items()
        for row in parity.rows
        if row.mode == "executed"
    ]
    found += [
        (series.model.name, run.provider, file, series.placement)
        for file, run in choose_runs(saved)
        for series in run.series
    ]
    for model, provider, file, placement in found:
        if (model, provider) not in seen:
            seen.add((model, provider))
            yield PlacementFact(
                model=model,
                provider=provider,
                file=file,
                nodes=placement.nodes,
                operators=_count_types(placement),
                elsewhere=placement.elsewhere,
                assigned={provider: sum(operators.values()) for provider, operators in placement.assigned.items()},
            )


def _count_types(placement: Placement) -> dict[str, dict[str, int]]:
    counted = Counter((node.operator, node.type) for node in placement.ran)
    operators: dict[str, dict[str, int]] = {}
    for (operator, kind), count in sorted(counted.items()):
        operators.setdefault(operator, {})[kind] = count
    return operators or {operator: {"": count} for operator, count in sorted(placement.operators.items())}
