"""mbdeploy: light CNNs from PyTorch to one INT8 ONNX file, with proof that it gives the same answers everywhere."""

from __future__ import annotations

import importlib
from typing import Any

#: The public names and where each one lives; nothing heavy is imported before a name is used.
_PUBLIC = {
    "ModelCard": "mbdeploy.card",
    "Preprocess": "mbdeploy.card",
    "audit": "mbdeploy.stages.audit",
    "bench": "mbdeploy.stages.bench",
    "bundle": "mbdeploy.stages.bundle",
    "calibrate": "mbdeploy.stages.calibrate",
    "check": "mbdeploy.gating.check",
    "evaluate": "mbdeploy.stages.evaluate",
    "export": "mbdeploy.stages.export",
    "halve": "mbdeploy.stages.halve",
    "history": "mbdeploy.remembering.history",
    "inspect": "mbdeploy.stages.inspect",
    "list_cards": "mbdeploy.card",
    "load_card": "mbdeploy.card",
    "open_dataset": "mbdeploy.data",
    "quantize": "mbdeploy.stages.quantize",
    "quantize_within": "mbdeploy.tradeoff",
    "remember": "mbdeploy.remembering.recording",
    "report": "mbdeploy.stages.report",
    "run": "mbdeploy.pipeline",
    "search": "mbdeploy.searching.search",
    "simplify": "mbdeploy.stages.simplify",
    "sweep": "mbdeploy.sweeping.sweep",
    "verify": "mbdeploy.stages.verify",
    "verify_artifacts": "mbdeploy.provenance.checking",
    "verify_matrix": "mbdeploy.stages.matrix",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
