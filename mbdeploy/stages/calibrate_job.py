"""The calibrate stage's children: one observes shards of the images, one merges what all shards saw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact, data, model_file
from mbdeploy.isolate import Progress
from mbdeploy.quant.adequacy import judge_images
from mbdeploy.quant.calibrate import observe
from mbdeploy.quant.calibration_file import (
    GROUPS,
    Identity,
    Seen,
    load_seen,
    make_seen,
    merge_seen,
    save_seen,
    write_cache,
)
from mbdeploy.quant.running import digest_image
from mbdeploy.stages.material import Material, read_material, refuse_unknown_method


def observe_shards(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """Observe the images of each of ``request["parts"]``: its ``shard`` (first number, step) goes to the file ``made``.

    Where a part brings its ``provenance``, the file is vouched for and moved to ``output`` at once, so that it stays
    when the next one is stopped.
    """
    refuse_unknown_method(request["method"])
    images = data.open_dataset(
        request["calibration"], split="calibrate", limit=request["samples"], seed=request["seed"]
    )
    material = read_material(request, images)
    identity = Identity(
        model=model_file.digest_model(Path(request["model"])),
        tensors=tuple(material.plan.tensors),
        counting=request["method"] != "minmax",
    )
    parts = [images.samples[first::step] for first, step in (part["shard"] for part in request["parts"])]
    total, before = sum(map(len, parts)), 0
    for part, samples in zip(request["parts"], parts, strict=True):

        def tell(what: str, done: int, before: int = before) -> None:
            on_progress(what, before + done, total)

        made = Path(part["made"])
        shard = msgspec.structs.replace(images, samples=samples)
        seen = _observe(shard, material, identity, threads=request["threads"], on_image=tell)
        with artifact.writing(made) as temporary:
            save_seen(seen, temporary)
        if part["provenance"] is not None:
            provenance = msgspec.convert(part["provenance"], artifact.Provenance)
            artifact.write_sidecar(made, provenance, {"images": len(samples)})
            artifact.move_made(made, Path(part["output"]))
        before += len(samples)
    return {"images": total}


def _observe(
    images: data.Dataset,
    material: Material,
    identity: Identity,
    *,
    threads: int,
    on_image: Callable[[str, int], None],
) -> Seen:
    seen = make_seen(identity, {})

    def name_images() -> Any:
        batches = data.load_batches(images, material.preprocess, batch_size=1, input_shape=material.image_shape)
        for batch in batches:
            seen.names[digest_image(batch.inputs)] = batch.names[0]
            yield batch.inputs

    observe(
        material.prepared,
        material.plan.tensors,
        material.plan.list_corrected_inputs(),
        name_images(),
        into=lambda key: seen.groups[key % GROUPS],
        threads=threads,
        on_image=on_image,
    )
    return seen


def merge_shards(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """Merge ``request["shards"]`` into ``request["output"]`` and ``request["cache"]``, and judge the images."""
    shards = [load_seen(Path(path)) for path in request["shards"]]
    seen = merge_seen(shards)
    found = judge_images(seen, request["method"])
    save_seen(seen, Path(request["output"]))
    Path(request["cache"]).write_bytes(write_cache(seen.whole().choose(request["method"]).ranges))
    built: dict[str, Any] = msgspec.to_builtins(found)
    return built
