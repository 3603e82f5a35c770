"""The items of a search: networks to count, files to profile, a mix to find; and the plan that is shown first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.card import ModelCard
from mbdeploy.executing import Store, Work
from mbdeploy.executing.worker import read_versions
from mbdeploy.searching.jobs import Mixed
from mbdeploy.sweeping.jobs import Built
from mbdeploy.sweeping.planning import digest_sources
from mbdeploy.targets import find_device, parse_provider

_JOBS = "mbdeploy.searching.jobs"
#: Networks that one worker counts in a child: torch is loaded once for them.
_AT_ONCE = 16
#: What a profile takes: its times only say how a measured time is shared among layers.
_PROFILE = {"min_duration": 0.5, "min_pairs": 30}


def locate_card(output: Path, card: ModelCard) -> Path:
    """Where the card of a variant that may never be built lies."""
    return output.absolute() / "cards" / f"{card.name}.toml"


def plan_counts(variants: Sequence[ModelCard], output: Path) -> list[Work]:
    """The items that count all variants, several in each."""
    works = []
    for start in range(0, len(variants), _AT_ONCE):
        chunk = variants[start : start + _AT_ONCE]
        identity = {
            "nets": [[card.net, card.args, card.preprocess.channels, card.preprocess.size] for card in chunk],
            "versions": {**read_versions(), **artifact.read_tools("torch", "onnxscript")},
        }
        works.append(
            Work(
                name=f"{chunk[0].name} and {len(chunk) - 1} more",
                function=f"{_JOBS}:count_variants",
                request={"cards": [str(locate_card(output, card)) for card in chunk]},
                identity=identity,
                size=len(chunk),
            )
        )
    return works


def plan_profile(card: ModelCard, built: Built, provider: str, threads: int, device: Sequence[str]) -> Work:
    """The item that says where the time of a variant's files goes; on a device times of nodes are not the work's."""
    digests = [made.sha256 for made in built.files]
    profile = {**_PROFILE, "provider": provider, "threads": threads} if has_layer_times(provider) else None
    return Work(
        name=f"{card.name}, layer by layer",
        function=f"{_JOBS}:profile_variant",
        request={"models": [made.path for made in built.files], "digests": digests, "profile": profile},
        identity={"digests": digests, "profile": profile, "device": list(device), "versions": read_versions()},
        device=find_device(parse_provider(provider)),
        exclusive=True,
    )


def has_layer_times(provider: str) -> bool:
    """Whether a runtime says how long each node takes: ONNX Runtime on a CPU."""
    found = parse_provider(provider)
    return found.runtime == "onnxruntime" and found.ep == "CPUExecutionProvider"


def plan_mix(
    card: ModelCard,
    built: Built,
    recipe: str,
    target_ratio: float,
    place: dict[str, Any],
    evaluating: dict[str, Any] | None,
    device: Sequence[str],
) -> Work:
    """The item that looks for layers which are better left in float; ``place`` is where: provider, threads, seed."""
    model = Path(built.files[0].path)
    given = msgspec.to_builtins(card.quantization)
    mix = {**given, **place, "recipe": recipe, "target_ratio": target_ratio}
    told = {"sha256": built.files[0].sha256, "mix": mix, "data": evaluating}
    output = model.parent / f"{recipe}-mix.onnx"
    return Work(
        name=f"{card.name}, layers that stay in float",
        function=f"{_JOBS}:mix_variant",
        request={**told, "model": str(model), "output": str(output)},
        identity={
            **told,
            "images": digest_sources(card, evaluating),
            "device": list(device),
            "output": str(output),
            "versions": read_versions(),
        },
        device=find_device(parse_provider(place["provider"])),
        exclusive=True,
    )


def forget_lost(kept: Store, work: Work) -> None:
    """Let a mix whose file is gone, or another one, be none."""
    done = kept.read(work.key)
    if done is None:
        return
    made = msgspec.convert(done.value, Mixed, strict=False).made
    if made is not None and not made.is_whole():
        kept.forget(work.key)
