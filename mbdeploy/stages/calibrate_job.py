"""The calibrate stage's children: one observes a shard of the images, one merges what all shards saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import data, model_file
from mbdeploy.isolate import Progress
from mbdeploy.quant.adequacy import judge_images
from mbdeploy.quant.calibrate import observe
from mbdeploy.quant.calibration_file import GROUPS, Identity, load_seen, make_seen, merge_seen, save_seen, write_cache
from mbdeploy.quant.running import digest_image
from mbdeploy.stages.material import read_material, refuse_unknown_method


def observe_shard(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """Observe the images of ``request["shard"]`` (first number, step) and write them to ``request["output"]``."""
    refuse_unknown_method(request["method"])
    images = data.open_dataset(
        request["calibration"], split="calibrate", limit=request["samples"], seed=request["seed"]
    )
    first, step = request["shard"]
    images = msgspec.structs.replace(images, samples=images.samples[first::step])
    material = read_material(request, images)
    identity = Identity(
        model=model_file.digest_model(Path(request["model"])),
        tensors=tuple(material.plan.tensors),
        counting=request["method"] != "minmax",
    )
    names: dict[int, str] = {}

    def name_images() -> Any:
        batches = data.load_batches(images, material.preprocess, batch_size=1, input_shape=material.image_shape)
        for batch in batches:
            names[digest_image(batch.inputs)] = batch.names[0]
            yield batch.inputs

    seen = make_seen(identity, {})
    observe(
        material.prepared,
        material.plan.tensors,
        material.plan.list_corrected_inputs(),
        name_images(),
        into=lambda key: seen.groups[key % GROUPS],
        threads=request["threads"],
        on_image=lambda what, done: on_progress(what, done, len(images)),
    )
    seen.names.update(names)
    save_seen(seen, Path(request["output"]))
    return {"images": len(images)}


def merge_shards(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """Merge ``request["shards"]`` into ``request["output"]`` and ``request["cache"]``, and judge the images."""
    shards = [load_seen(Path(path)) for path in request["shards"]]
    seen = merge_seen(shards)
    found = judge_images(seen, request["method"])
    save_seen(seen, Path(request["output"]))
    Path(request["cache"]).write_bytes(write_cache(seen.whole().choose(request["method"]).ranges))
    built: dict[str, Any] = msgspec.to_builtins(found)
    return built
