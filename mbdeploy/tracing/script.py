"""The script that goes with a reduced model: it shows the difference with numpy and ONNX Runtime alone."""

from __future__ import annotations

from typing import Any

_SCRIPT = '''"""Shows a difference between how a runtime executes a model and what the model says.

    {command}

{story}

Needs numpy and onnxruntime (it was {version}). Exit code 1: the difference is there; 0: not on this CPU or version.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

HERE = Path(__file__).resolve().parent
PROVIDER, PROVIDER_OPTIONS = {provider!r}, {provider_options!r}
#: A name -> the model file, the level of graph optimisation, the session configuration, whether on PROVIDER.
SESSIONS = {sessions!r}
SCALE = {scale!r}
LIMIT_DB = {limit_db!r}


def run(file, level, config, own):
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    providers = [(PROVIDER, PROVIDER_OPTIONS)] if own else ["CPUExecutionProvider"]
    session = ort.InferenceSession(str(HERE / file), options, providers=providers)
    return session.run(None, {{session.get_inputs()[0].name: arrays["x"]}})[0].astype(np.float64)


def db(reference, values):
    noise = float(np.square(reference - values).sum())
    return float("inf") if noise == 0 else 10 * np.log10(float(np.square(reference).sum()) / noise)


arrays = np.load(HERE / "arrays.npz", allow_pickle=False)
expected = arrays["expected"].astype(np.float64)
found = {{name: run(*how) for name, how in SESSIONS.items()}}
print("onnxruntime", ort.__version__)
for name, values in found.items():
    values = (values - arrays["zero_point"]) * SCALE if SCALE else values
    error = np.abs(values - expected)
    steps = f", {{error.max() / SCALE:.1f}} steps" if SCALE else ""
    print(f"{{name:40}} SQNR {{db(expected, values):7.2f}} dB, max abs {{error.max():.4g}}{{steps}}, "
          f"{{100 * np.mean(error > 0):.1f}} % of elements differ")
    found[name] = db(expected, values)
first, last = found.values()
sys.exit(0 if last >= (first if LIMIT_DB is None else LIMIT_DB) else 1)
'''


def write_script(**parts: Any) -> str:
    """The script's text; ``parts`` are its words in braces."""
    return _SCRIPT.format(**parts)
