"""The search's child: which moves there are, and mixed files by the dozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mbdeploy.isolate import Progress
from mbdeploy.mixing.kit import Placer, read_kit
from mbdeploy.mixing.moves import find_moves
from mbdeploy.model_file import save_model
from mbdeploy.quant.keeping import match_nodes
from mbdeploy.quant.qdq import Plan


def list_moves(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """The moves over the kit in ``request["kit"]``, and ``kept``: the nodes that
    ``request["keep_float"]`` means."""
    model = read_kit(Path(request["kit"])).floats
    kept = match_nodes(model, request["keep_float"])
    plan = Plan(model, kept)
    return {
        "moves": msgspec.to_builtins(find_moves(model, plan.layers)),
        "kept": kept,
    }


def place_mixes(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """Write one file for each of ``request["mixes"]``, by its path: the nodes that stay in float.

    ``request["alone"]`` are those that hold nothing in INT8 but the layers named.
    """
    placer = Placer(read_kit(Path(request["kit"])))
    for path, keep_float in request["mixes"].items():
        save_model(placer.place(keep_float), Path(path))
    for path, layers in request["alone"].items():
        save_model(placer.place_alone(layers), Path(path))
    return {}
