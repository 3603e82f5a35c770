"""What 8 bits still cost with the recipe `accurate`: how much more one kind of care could bring, at the very most.

    python benchmarks/ceilings.py MODEL.onnx LABELS.csv [--preprocess tf] [--num-calibration-samples 128]

MODEL is a simplified float file. Beside `accurate` itself stand two files that nobody should ship. One is made without
the rule that no pair of weights may saturate: permuting input channels, so that neighbours collide less, cannot bring
more than that. The other has the weights of `accurate` and float activations. The first of the images calibrate,
--num-samples of the others evaluate. Files are judged exact, with Q/DQ in float.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import onnx
from int8 import split_images
from onnx import helper, numpy_helper

import mbdeploy
from mbdeploy.isolate import Outcome, Verdict, ignore_progress
from mbdeploy.quant.recipes import RECIPES, find_recipe, scale_plainly
from mbdeploy.stages import quantize_job

UNPAIRED = msgspec.structs.replace(
    find_recipe("accurate"), name="unpaired", weight_scales=scale_plainly, pair_safe=False
)


def run_here(function: str, request: dict[str, Any], **_: Any) -> Outcome:
    """The quantize stage's child in this process, which knows the recipe above."""
    value = quantize_job.quantize_model(request, ignore_progress)
    return Outcome(verdict=Verdict.OK, value=json.loads(json.dumps(value)))


def free_activations(source: Path, target: Path) -> None:
    """A copy of a Q/DQ file in which activations are clipped as before, since that is its ReLUs, but not rounded."""
    model = onnx.load(source)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    rounded = {node.output[0]: node for node in model.graph.node if node.op_type == "QuantizeLinear"}
    kept = []
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in rounded:
            quantize = rounded[node.input[0]]
            scale, zero = (constants[name] for name in quantize.input[1:3])
            ends = [f"{node.output[0]}_low", f"{node.output[0]}_high"]
            limits = np.iinfo(zero.dtype)
            for name, limit in zip(ends, (limits.min, limits.max), strict=True):
                value = np.float32((int(limit) - int(zero)) * scale)
                model.graph.initializer.append(numpy_helper.from_array(value, name))
            kept.append(helper.make_node("Clip", [quantize.input[0], *ends], [node.output[0]], node.name))
        elif node.op_type != "QuantizeLinear":
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    onnx.save(model, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--preprocess")
    parser.add_argument("--num-samples", type=int)
    parser.add_argument("--num-calibration-samples", type=int, default=128)
    arguments = parser.parse_args()
    limit = arguments.num_calibration_samples
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rest = folder / "rest.csv"
        count = split_images(arguments.labels, limit, rest, arguments.num_samples)
        files = {
            words: folder / f"{words.replace(' ', '_')}.onnx" for words in ("accurate", "unpaired", "weights only")
        }
        with mock.patch.dict(RECIPES, unpaired=UNPAIRED), mock.patch("mbdeploy.stages.quantize.run_step", run_here):
            for recipe in ("accurate", "unpaired"):
                mbdeploy.quantize(
                    arguments.model,
                    output=files[recipe],
                    recipe=recipe,
                    preprocess=arguments.preprocess,
                    calibration=str(arguments.labels),
                    num_calibration_samples=limit,
                )
        free_activations(files["accurate"], files["weights only"])
        parity = mbdeploy.verify(
            list(files.values()),
            reference=arguments.model,
            data=str(rest),
            preprocess=arguments.preprocess,
            num_samples=count,
        )
        cells = {cell.model.name: cell for cell in parity.rows if (cell.mode, cell.against) == ("exact", "reference")}
        rows = {
            words: {
                "sqnr_db": round(cells[file.stem].metrics.sqnr_db, 2),
                "agreement": cells[file.stem].metrics.top1_agreement,
            }
            for words, file in files.items()
        }
    print(json.dumps({"model": arguments.model.name, "n": count, "n_calibration": limit, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
