"""AMD Quark for ONNX, run in its own environment by quantizers.py: `python run_quark.py JOB.json`."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime.quantization import CalibrationDataReader
from quark.onnx import ModelQuantizer
from quark.onnx.quantization.config import Config, get_default_config

# A preset, and what is set over it: scales per channel with the halved weights for CPUs without VNNI, and the option
# that keeps int32 biases in range. "adaround" is the accurate preset as it comes.
PER_CHANNEL = {"per_channel": True, "extra_options": {"AdjustWeightScaleForInt32Bias": True}}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "defaults": ("A8W8", {}),
    "per-channel": ("INT8_CNN_DEFAULT", PER_CHANNEL),
    "best": ("INT8_CNN_DEFAULT", {**PER_CHANNEL, "reduce_range": True}),
    "adaround": ("INT8_CNN_ACCURATE", {}),
}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, inputs: np.ndarray, name: str) -> None:
        self.inputs, self.name = inputs, name
        self.rewind()

    def rewind(self) -> None:
        self.feeds: Iterator[dict[str, np.ndarray]] = (
            {self.name: self.inputs[row : row + 1]} for row in range(len(self.inputs))
        )

    def reset_iter(self) -> None:  # Quark reads the images several times
        self.rewind()

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)

    def __len__(self) -> int:
        return len(self.inputs)


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    preset, options = SETTINGS[job["setting"]]
    settings = copy.deepcopy(get_default_config(preset))
    for option, value in options.items():
        before = getattr(settings, option)
        setattr(settings, option, {**before, **value} if isinstance(value, dict) else value)
    reader = Reader(np.load(job["calibration"])["inputs"], job["input"])
    ModelQuantizer(Config(global_quant_config=settings)).quantize_model(job["model"], job["output"], reader)


if __name__ == "__main__":
    main()
