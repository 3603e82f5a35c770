"""onnxruntime's `quantize_static`, run in its own environment by quantizers.py: `python run_ort.py JOB.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

PER_CHANNEL = {
    "quant_format": QuantFormat.QDQ,
    "activation_type": QuantType.QUInt8,
    "weight_type": QuantType.QInt8,
    "per_channel": True,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "per-channel": PER_CHANNEL,
    "best": {**PER_CHANNEL, "reduce_range": True},  # what its documentation advises for x86 CPUs without VNNI
}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, inputs: np.ndarray, name: str) -> None:
        self.feeds: Iterator[dict[str, np.ndarray]] = ({name: inputs[row : row + 1]} for row in range(len(inputs)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    reader = Reader(np.load(job["calibration"])["inputs"], job["input"])
    quantize_static(job["model"], job["output"], reader, **SETTINGS[job["setting"]])


if __name__ == "__main__":
    main()
