"""Which layers deserve INT8, family by family: all in INT8 against the best mix, and whether to ship either.

    python benchmarks/mixing.py mobilenet_v3_large ghostnet LITE0.onnx … [--min-sqnr 20] [--recipe accurate]

Each model is a card, exported and simplified here, or a simplified float file with its preprocessing inside (else
--preprocess). One row each: time over optimised FP32's (one thread, CPU time) and SQNR with all in INT8, the same of
the mix that was chosen and written, what stays in float, and the search's own verdict, with why. Times of the mix
that was written are those of several processes; the others are estimates. Raw results: --json FILE.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

import mbdeploy
from mbdeploy.mixing.report import MixReport
from mbdeploy.mixing.verdict import judge_search
from mbdeploy.results import encode_result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--min-sqnr", type=float, default=20.0)
    parser.add_argument("--recipe", default="accurate")
    parser.add_argument("--calibration", default="photos")
    parser.add_argument("--num-calibration-samples", type=int, default=128)
    parser.add_argument("--search-data")
    parser.add_argument("--num-search-samples", type=int, default=64)
    parser.add_argument("--preprocess")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows, raw = [], {}
    for word in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            began = time.process_time(), time.monotonic()
            report = mbdeploy.quantize_within(
                make_float(word, Path(folder)),
                output=Path(folder) / "int8.onnx",
                min_sqnr=arguments.min_sqnr,
                recipe=arguments.recipe,
                calibration=arguments.calibration,
                num_calibration_samples=arguments.num_calibration_samples,
                search_data=arguments.search_data,
                num_search_samples=arguments.num_search_samples,
                preprocess=arguments.preprocess,
            )
        rows.append({"model": Path(word).stem, **describe(report), "wall_s": round(time.monotonic() - began[1])})
        raw[word] = report
        print(msgspec.json.encode(rows[-1]).decode(), flush=True)
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(encode_result(raw)))


def make_float(word: str, folder: Path) -> Path:
    """The simplified float file of a card, or the file itself."""
    if Path(word).suffix == ".onnx":
        return Path(word)
    mbdeploy.export(word, output=folder / "fp32.onnx")
    mbdeploy.simplify(folder / "fp32.onnx", output=folder / "simplified.onnx")
    return folder / "simplified.onnx"


def describe(report: MixReport) -> dict[str, Any]:
    """One row: before, after and verdict."""
    first, final = report.mixes[0], report.final
    made = [[mix.name, round(mix.ratio.value, 3), round(mix.sqnr_db, 2)] for mix in report.made]
    verdict = judge_search(report)
    fastest = min(report.mixes, key=lambda mix: mix.ratio.value)
    return {
        "all_int8": [round(first.ratio.value, 3), round(first.sqnr_db, 2)],
        "fastest": [round(fastest.ratio.value, 3), round(fastest.sqnr_db, 2)],
        "made_in_full": made,
        "final": None if final is None else [round(final.ratio.value, 3), round(final.sqnr_db, 2)],
        "interval": None if final is None else [round(final.ratio.low, 3), round(final.ratio.high, 3)],
        "in_float": [] if final is None else list(final.keep_float),
        "verdict": verdict.answer,
        "why": [*verdict.reasons, report.reason],
    }


if __name__ == "__main__":
    main()
