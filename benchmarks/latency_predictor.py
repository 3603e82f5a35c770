"""How far off is the latency that `mbdeploy search` predicts, on networks that its predictor has not seen?

    python benchmarks/latency_predictor.py mobilenet_v1:0.25,0.5,1:128,224 mobilenet_v2:0.5,1:128,224 squeezenet_1_1

Each word is CARD:WIDTHS:SIZES. Every network is built in FP32 and by --recipe, timed (the two by turns, --processes
fresh processes) and profiled on --provider. Then each network is predicted from all the others (left out alone), and
from networks of other cards only (left out with its family), by three predictors: `layers`, which search uses;
`whole_networks`, which it uses where a runtime gives no times of layers; and `macs`, time in proportion to MACs, for
comparison. Errors are absolute, as shares of the measured time. What is built and timed is kept in --store.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.card import ModelCard
from mbdeploy.executing import Store, Work, open_executor, submit
from mbdeploy.results import BenchRun
from mbdeploy.searching.choosing import describe_measured
from mbdeploy.searching.features import list_layers
from mbdeploy.searching.jobs import Profiled
from mbdeploy.searching.planning import plan_profile
from mbdeploy.searching.predictor import Measured, fit_predictor
from mbdeploy.sweeping.jobs import Built
from mbdeploy.sweeping.planning import describe_device, locate, plan_build, plan_time
from mbdeploy.sweeping.variants import list_variants, write_card

Predict = Callable[[Sequence[Measured], Measured], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="CARD:WIDTHS:SIZES")
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--recipe", default="portable")
    parser.add_argument("--min-duration", type=float, default=1.0)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("out/latency_predictor"))
    parser.add_argument("--store", type=Path, default=Path("out/latency_predictor/store"))
    arguments = parser.parse_args()
    families = [(word.partition(":")[0], card) for word in arguments.networks for card in list_cards(word)]
    measured, host = measure([card for _, card in families], arguments)
    groups = [family for family, _ in families]
    found = {kind: compare(rows, groups, is_float=kind == "fp32") for kind, rows in measured.items()}
    print(msgspec.json.format(msgspec.json.encode({"networks": len(groups), **host, **found}), indent=1).decode())


def list_cards(word: str) -> list[ModelCard]:
    """The variants that one word means."""
    card, widths, sizes = [*word.split(":"), "", ""][:3]
    return list_variants(
        [card], [float(one) for one in widths.split(",") if one], [int(one) for one in sizes.split(",") if one]
    )


def measure(
    cards: Sequence[ModelCard], arguments: argparse.Namespace
) -> tuple[dict[str, list[Measured]], dict[str, Any]]:
    """FP32 and INT8 files of every card, timed and profiled."""
    kept = Store(arguments.store)
    device = describe_device(arguments.provider, None)
    timing = {"min_duration": arguments.min_duration, "processes": arguments.processes, "seed": 0}
    place = {"providers": [arguments.provider], "threads": arguments.threads}
    for card in cards:
        artifact.write_bytes(locate(arguments.output, card) / "card.toml", write_card(card).encode())
    with open_executor(1, None) as executor:

        def do(works: Sequence[Work], kind: Any) -> list[Any]:
            return [msgspec.convert(done.value, kind, strict=False) for done in submit(works, executor, kept)]

        made = do([plan_build(card, arguments.output, [arguments.recipe], None) for card in cards], Built)
        pairs = list(zip(cards, made, strict=True))
        runs = do([plan_time(card, one, {**timing, **place}, device) for card, one in pairs], BenchRun)
        where = (arguments.provider, arguments.threads, device)
        profiles = do([plan_profile(card, one, *where) for card, one in pairs], Profiled)
    rows = {
        kind: [
            describe_measured(card.name, profile, run, number)
            for card, profile, run in zip(cards, profiles, runs, strict=True)
        ]
        for number, kind in enumerate(("fp32", arguments.recipe))
    }
    return rows, {"cpu": runs[0].host.cpu, "provider": arguments.provider, "threads": arguments.threads}


def compare(rows: Sequence[Measured], groups: Sequence[str], *, is_float: bool) -> dict[str, Any]:
    """Errors of each predictor on networks left out alone, and with their family."""

    def by_layers(others: Sequence[Measured], one: Measured) -> float:
        return fit_predictor(others, is_float=is_float).predict_ns(one.layers)

    def by_networks(others: Sequence[Measured], one: Measured) -> float:
        plain = [msgspec.structs.replace(other, layers_us=None) for other in others]
        return fit_predictor(plain, is_float=is_float).predict_ns(one.layers)

    found: dict[str, Any] = {}
    for name, predict in {"layers": by_layers, "whole_networks": by_networks, "macs": by_macs}.items():
        alone = try_out(rows, predict, lambda index: {index})
        found[name] = {"left_out_alone": describe(alone)}
        if len(set(groups)) > 2:
            family = try_out(
                rows, predict, lambda index: {n for n, group in enumerate(groups) if group == groups[index]}
            )
            found[name]["left_out_with_family"] = describe(family)
    found["layers"]["each"] = {
        row.name: [round(row.latency_ns / 1e6, 3), round(error, 3)]
        for row, error in zip(rows, try_out(rows, by_layers, lambda index: {index}), strict=True)
    }
    return found


def by_macs(others: Sequence[Measured], one: Measured) -> float:
    """The median time for a MAC, times the MACs."""
    return statistics.median(other.latency_ns / count_macs(other) for other in others) * count_macs(one)


def count_macs(one: Measured) -> int:
    return sum(layer.macs for layer in list_layers(one.layers))


def try_out(rows: Sequence[Measured], predict: Predict, leave: Callable[[int], set[int]]) -> list[float]:
    """The error of each network, as a share, predicted without those that ``leave`` names."""
    errors = []
    for index, row in enumerate(rows):
        others = [other for number, other in enumerate(rows) if number not in leave(index)]
        errors.append(predict(others, row) / row.latency_ns - 1)
    return errors


def describe(errors: Sequence[float]) -> dict[str, float]:
    sizes = sorted(map(abs, errors))
    return {"median": round(statistics.median(sizes), 3), "largest": round(sizes[-1], 3), "n": len(sizes)}


if __name__ == "__main__":
    main()
