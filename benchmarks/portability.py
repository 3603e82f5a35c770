"""One INT8 file on CPUs with and without VNNI: ours against `quantize_static`'s per-channel U8S8 file.

    python benchmarks/portability.py FLOAT.onnx IMAGES --preprocess tf [--num-images 24] \\
        [--provider cpu --provider cpu@qemu:haswell]

FLOAT.onnx is a simplified float model. Both files are calibrated on the same 128 images (manifest `photos`). SQNR is
against FP32, on the same images on every provider: what differs along a row is the CPU alone. An emulated x86 CPU
without VNNI (cpu@qemu:haswell) needs qemu's user emulator.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

import mbdeploy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images")
    parser.add_argument("--preprocess", required=True)
    parser.add_argument("--calibration", default="photos")
    parser.add_argument("--recipe", default="accurate")
    parser.add_argument("--num-images", type=int, default=24)
    parser.add_argument("--provider", action="append")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        ours, plain = Path(name) / "mbdeploy.onnx", Path(name) / "quantize_static.onnx"
        mbdeploy.quantize(
            arguments.model,
            output=ours,
            calibration=arguments.calibration,
            preprocess=arguments.preprocess,
            recipe=arguments.recipe,
        )
        peer = [sys.executable, str(Path(__file__).with_name("quantize_cost.py"))]
        peer += [str(arguments.model), arguments.calibration, "--preprocess", arguments.preprocess]
        subprocess.run([*peer, "--peer-output", str(plain)], check=True, capture_output=True)
        report = mbdeploy.verify(
            [plain, ours],
            reference=arguments.model,
            data=arguments.images,
            preprocess=arguments.preprocess,
            num_samples=arguments.num_images,
            providers=arguments.provider or ["cpu", "cpu@qemu:haswell"],
        )
    rows = [
        {
            "file": row.model.name,
            "provider": row.provider,
            "mode": row.mode,
            "sqnr_db": round(row.metrics.sqnr_db, 3),
            "top1_agreement": row.metrics.top1_agreement,
            "max_abs": row.metrics.max_abs,
        }
        for row in report.rows
        if row.against == "reference"
    ]
    answer = {"model": arguments.model.name, "n": arguments.num_images, "rows": rows}
    hosts = {name: [host.emulator or host.cpu, *host.isa] for name, host in report.hosts.items()}
    print(msgspec.json.format(msgspec.json.encode({**answer, "hosts": hosts}), indent=1).decode())


if __name__ == "__main__":
    main()
