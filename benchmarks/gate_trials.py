"""How often the 5 % gate of `bench` errs: false alarms in A/A, a true +10 % missed, verdicts from wide intervals.

    python benchmarks/gate_trials.py [--trials 100] [--neighbours 0 2] [--cores 2] [--save rows.json]

One trial is one `bench` at its defaults, but without rests, over three files: a chain of 20 equal convolutions, a copy
of it (A/A: a FAIL is a false alarm), and a chain of 22 (a FAIL is a find). What 22 over 20 comes to is measured first
and apart, over 20 processes. Neighbours are processes that keep a core busy each, one with convolutions, the next with
copies in memory.
Trials beside other work say so by the system's load over the last minute, which is saved with each.
The loop's own cost is measured on a stand-in for a session that takes 5 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import mbdeploy
from mbdeploy.derive import choose_clock, compare_series, judge_run
from mbdeploy.estimate import estimate_proportion
from mbdeploy.results import BenchRun
from mbdeploy.targets import agent

CHANNELS, SIDE, LAYERS, MORE = 32, 20, 20, 22
INFERENCE_NS = 5_000_000


def write_chain(path: Path, layers: int) -> Path:
    """A stem and then so many 3x3 convolutions of one shape, so that time is as their number."""
    draw = np.random.default_rng(0)
    shapes = [(CHANNELS, 3, 3, 3), *[(CHANNELS, CHANNELS, 3, 3)] * layers]
    weights = [
        numpy_helper.from_array((draw.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32), f"w{k}")
        for k, shape in enumerate(shapes)
    ]
    nodes = [
        helper.make_node("Conv", [f"t{k}" if k else "x", f"w{k}"], [f"t{k + 1}"], f"conv{k}", pads=[1, 1, 1, 1])
        for k in range(len(shapes))
    ]
    nodes += [helper.make_node("GlobalAveragePool", [f"t{len(shapes)}"], ["y"], "pool")]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CHANNELS, 1, 1])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def keep_busy(model: str | None) -> None:
    """A neighbour: convolutions if there is a model, else copies of 32 MB."""
    if model is None:
        source = np.ones(1 << 25, np.uint8)
        while True:
            source.copy()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    image = np.ones((1, 3, SIDE, SIDE), np.float32)
    while True:
        session.run(None, {"x": image})


@contextlib.contextmanager
def having_neighbours(count: int, model: Path) -> Iterator[None]:
    spawning = multiprocessing.get_context("spawn")
    busy = [
        spawning.Process(target=keep_busy, args=(None if number % 2 else str(model),), daemon=True)
        for number in range(count)
    ]
    for process in busy:
        process.start()
    try:
        yield
    finally:
        for process in busy:
            process.terminate()
            process.join()


def run_trial(models: Sequence[Path], images: Path, max_duration: float, seed: int) -> list[dict[str, Any]]:
    """One `bench`: a row for the A/A gate and one for the slower file."""
    started = time.monotonic()
    [run] = mbdeploy.bench(models, inputs=images, max_duration=max_duration, cool_down=0, seed=seed)
    took_s = time.monotonic() - started
    control, *gates = judge_run(run)
    when = {"took_s": round(took_s, 1), "load": round(os.getloadavg()[0], 2)}
    return [
        {**describe_gate(run, index, gate.passed, control.passed), **when} for index, gate in enumerate(gates, start=1)
    ]


def describe_gate(run: BenchRun, index: int, passed: bool | None, control: bool | None) -> dict[str, Any]:
    ratio = compare_series(run, index)
    return {
        "ratio": [round(bound, 5) for bound in (ratio.value, ratio.low, ratio.high)],
        "passed": passed,
        "control": control,
        "width": (ratio.high - ratio.low) / ratio.value,
        "processes": max(run.series[0].process) + 1,
        "pairs": ratio.n,
    }


def sum_up(rows: Sequence[dict[str, Any]], wanted: bool, tolerance: float = 0.05) -> dict[str, Any]:
    """How often the gate failed (``wanted``: that is a find, else a false alarm), with its 95 % interval."""
    failed = sum(row["passed"] is False for row in rows)
    share = estimate_proportion(failed, len(rows))
    return {
        "found" if wanted else "false_alarms": failed,
        "n": len(rows),
        "share": [round(bound, 4) for bound in (share.value, share.low, share.high)],
        "inconclusive": sum(row["passed"] is None for row in rows),
        "verdicts_from_wide_intervals": sum(row["passed"] is not None and row["width"] > tolerance for row in rows),
        "median_ratio": round(statistics.median(row["ratio"][0] for row in rows), 4),
        "median_width": round(statistics.median(row["width"] for row in rows), 4),
        "processes": [f(row["processes"] for row in rows) for f in (min, statistics.median, max)],
        "median_trial_s": statistics.median(row["took_s"] for row in rows),
        "median_load": statistics.median(row["load"] for row in rows),
    }


class Sleepless:
    """A session of the agent's that takes 5 ms of CPU time and does nothing else."""

    device = "cpu"

    def stage(self, images: Any) -> Any:
        def run() -> None:
            end = time.thread_time_ns() + INFERENCE_NS
            while time.thread_time_ns() < end:
                pass

        return run


def measure_overhead(calls: int = 20, rounds: int = 32) -> dict[str, float]:
    """What the loop adds to inferences of 5 ms, by the CPU's clock: beside their samples, and inside them.

    Medians over calls of half a second, after which the loop tells its progress.
    """
    agent.say = lambda **message: None
    job = {"max_rounds": rounds, "min_rounds": rounds, "min_duration_s": 0}
    outside, inside = [], []
    for _ in range(calls):
        times = agent.Times([Sleepless(), Sleepless(), Sleepless()], [np.zeros(1)], time.thread_time_ns)
        began = time.thread_time_ns()
        agent.measure(times, job)
        spent = time.thread_time_ns() - began
        samples = [cpu for series in times.cpu for cpu in series]
        outside.append((spent - sum(samples)) / len(samples) / INFERENCE_NS)
        inside.append(statistics.median(samples) / INFERENCE_NS - 1)
    return {
        "n": calls * rounds * 3,
        "beside_the_samples": round(statistics.median(outside), 5),
        "inside_the_samples": round(statistics.median(inside), 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--neighbours", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--max-duration", type=float, default=60.0)
    parser.add_argument("--save", type=Path, help="every trial's ratios and verdicts, as JSON")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    answer: dict[str, Any] = {"cores": arguments.cores, "overhead_of_5_ms": measure_overhead()}
    saved: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = write_chain(folder / "base.onnx", LAYERS)
        models = [base, Path(shutil.copy(base, folder / "same.onnx")), write_chain(folder / "more.onnx", MORE)]
        images = folder / "images.npz"
        np.savez(images, inputs=np.random.default_rng(1).standard_normal((16, 3, SIDE, SIDE), dtype=np.float32))
        [apart] = mbdeploy.bench(models[::2], inputs=images, processes=20, min_duration=20, max_duration=0)
        truth = compare_series(apart, 1)
        answer["true_ratio"] = [round(bound, 4) for bound in (truth.value, truth.low, truth.high)]
        answer["inference_ms"] = round(statistics.median(apart.series[0].wall_ns) / 1e6, 2)
        answer["clock"] = choose_clock(apart)
        answer["cpu"] = apart.host.cpu
        for count in arguments.neighbours:
            with having_neighbours(count, base):
                trials = [run_trial(models, images, arguments.max_duration, seed) for seed in range(arguments.trials)]
            same, more = zip(*trials, strict=True)
            saved[f"{count} neighbours"] = {"same": same, "more": more}
            answer[f"{count} neighbours"] = {"A/A": sum_up(same, wanted=False), "+10 %": sum_up(more, wanted=True)}
    if arguments.save:
        arguments.save.write_text(json.dumps({**answer, "trials": saved}, indent=1))
    print(json.dumps(answer, indent=1))


if __name__ == "__main__":
    main()
