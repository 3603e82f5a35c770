"""NNCF's `quantize` on an ONNX model, run in its own environment by quantizers.py: `python run_nncf.py JOB.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx

SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    # MIXED: asymmetric activations. The slow bias correction and halved weights are what its documentation offers
    # for accuracy, and for CPUs without VNNI.
    "best": {
        "preset": nncf.QuantizationPreset.MIXED,
        "target_device": nncf.TargetDevice.CPU,
        "fast_bias_correction": False,
        "advanced_parameters": nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
    },
}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    inputs = np.load(job["calibration"])["inputs"]
    images = nncf.Dataset([{job["input"]: inputs[row : row + 1]} for row in range(len(inputs))])
    model = nncf.quantize(onnx.load(job["model"]), images, subset_size=len(inputs), **SETTINGS[job["setting"]])
    onnx.save(model, job["output"])


if __name__ == "__main__":
    main()
