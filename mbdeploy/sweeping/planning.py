"""What a sweep will do: items to build and to time, what is there already, and how long the rest may take."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.card import ModelCard, card_digest
from mbdeploy.data import open_dataset
from mbdeploy.executing import Store, Work
from mbdeploy.executing.worker import read_versions
from mbdeploy.sweeping.jobs import Built
from mbdeploy.swept import Planned
from mbdeploy.targets import Job, find_device, open_target, parse_provider
from mbdeploy.targets.job import refuse_emulated_times

_JOBS = "mbdeploy.sweeping.jobs"


def plan_build(card: ModelCard, output: Path, recipes: Sequence[str], evaluating: dict[str, Any] | None) -> Work:
    """The item that makes the files of a variant and judges them."""
    folder = locate(output, card)
    given = msgspec.to_builtins(card.quantization)
    given.pop("recipe")
    told = {"recipes": list(recipes), "quantize": given, "data": evaluating if card.trained is not False else None}
    return Work(
        name=card.name,
        function=f"{_JOBS}:build_variant",
        request={**told, "card": str(folder / "card.toml"), "folder": str(folder)},
        identity={
            **told,
            "card": card_digest(card),
            "images": digest_sources(card, told["data"]),
            "folder": str(folder),
            "versions": {**read_versions(), **artifact.read_tools("torch", "onnxscript", "onnxsim")},
        },
    )


def digest_sources(card: ModelCard, evaluating: dict[str, Any] | None) -> dict[str, str]:
    """The images that a card is calibrated with, and those that its files are judged by, if they are."""
    images = {"calibration": open_dataset(card.quantization.calibration, split="calibrate").digest()}
    if evaluating is not None:
        chosen = open_dataset(evaluating["data"], labelled=True, limit=evaluating["limit"], seed=evaluating["seed"])
        images["data"] = chosen.digest()
    return images


def plan_time(card: ModelCard, built: Built, bench: dict[str, Any], device: Sequence[str]) -> Work:
    """The item that times these files."""
    digests = [made.sha256 for made in built.files]
    return Work(
        name=f"{card.name} on {bench['providers'][0]}, {bench['threads']} threads",
        function=f"{_JOBS}:time_variant",
        request={"models": [made.path for made in built.files], "digests": digests, "bench": bench},
        identity={"digests": digests, "bench": bench, "device": list(device), "versions": read_versions()},
        device=find_device(parse_provider(bench["providers"][0])),
        exclusive=True,
    )


def read_built(kept: Store, work: Work) -> Built | None:
    """What an earlier run built, if its files are there; a result without them is forgotten."""
    done = kept.read(work.key)
    built = None if done is None else msgspec.convert(done.value, Built, strict=False)
    if built is not None and not built.is_whole():
        kept.forget(work.key)
        return None
    return built


def foresee(
    kept: Store,
    builds: Sequence[Work],
    known: Sequence[Built | None],
    variants: Sequence[ModelCard],
    plan_times: Callable[[ModelCard, Built], list[Work]],
    places: int,
) -> list[Planned]:
    """The plan, with what items of the same kind took in earlier runs; a variant's own time goes before others'."""
    earlier: dict[str, list[tuple[str, float]]] = {}
    for one in kept.list_kept():
        name = one.identity.get("card", {}).get("name", "") if one.function.startswith(_JOBS) else ""
        earlier.setdefault(one.function, []).append((name, one.seconds))

    def expect(function: str, name: str) -> float | None:
        all_s = earlier.get(f"{_JOBS}:{function}", [])
        own = [seconds for variant, seconds in all_s if variant == name]
        return statistics.median(own or [seconds for _, seconds in all_s]) if all_s else None

    plan = []
    for card, work, built in zip(variants, builds, known, strict=True):
        is_kept = built is not None
        plan.append(
            Planned(
                name=f"build {card.name}",
                kept=is_kept,
                expected_s=None if is_kept else expect("build_variant", card.name),
            )
        )
        if built is None:
            expected = expect("time_variant", "")
            plan += [Planned(name=f"time {card.name}", kept=False, expected_s=expected) for _ in range(places)]
            continue
        for work in plan_times(card, built):
            is_kept = kept.read(work.key) is not None
            plan.append(
                Planned(
                    name=f"time {work.name}", kept=is_kept, expected_s=None if is_kept else expect("time_variant", "")
                )
            )
    return plan


def locate(output: Path, card: ModelCard) -> Path:
    """Where the files of a variant lie."""
    return output.absolute() / card.name


def describe_device(word: str, cluster: str | None) -> list[str]:
    """What times depend on beside the files: the host here, or the cluster by its address."""
    target = open_target(parse_provider(word))
    refuse_emulated_times(target, "bench")
    if cluster is not None and not cluster.startswith("local:"):
        return [word, cluster]
    host = target.run(Job(kind="probe")).host
    return [word, host.cpu, *host.isa]
