"""How `mbdeploy evaluate` scales: decoding beside inference, 2 workers against 1, kill -9, and 1,000 in a simulation.

    python benchmarks/scaling.py MODEL.onnx... --data labels.csv --limit 640 --output scaling.json

Run it on an idle machine with at least two cores: neighbours take from two workers more than from one.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import json
import os
import random
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbdeploy.data import load_batches, open_dataset
from mbdeploy.executing import Store, Work, open_executor, submit
from mbdeploy.results import EvalReport, encode_result
from mbdeploy.stages.evaluate import evaluate
from mbdeploy.stages.evaluate_job import BATCH
from mbdeploy.stages.evaluate_parts import choose_shard_size
from mbdeploy.stages.subject import choose_preprocess, plan_session, read_subjects
from mbdeploy.targets import Job, open_target, parse_provider

#: ImageNet's validation and training sets.
IMAGES = (50_000, 1_281_167)
WORKERS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
SHARD_SIZES = (64, 256, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int, default=640)
    parser.add_argument("--preprocess")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("scaling.json"))
    args = parser.parse_args()
    given = {"data": args.data, "limit": args.limit, "preprocess": args.preprocess}
    found: dict[str, Any] = {"images": args.limit, "cores": os.cpu_count(), "load": os.getloadavg()}
    with tempfile.TemporaryDirectory() as scratch:
        found["decoding_s"], found["inference_s"] = time_alone(args.models, repeat=args.repeat, **given)
        report, found["one_process_s"] = take_best(lambda _: evaluate(args.models, **given), args.repeat)
        found |= compare_workers(args.models, report, Path(scratch), args.repeat, given)
        found["kill_nine"] = kill_one(args.models, report, Path(scratch, "killed"), given)
        found["overhead_s"] = {
            word: time_overhead(word, Path(scratch, "empty", word)) for word in ("processes", "dask")
        }
        durations = [kept.seconds for kept in Store(Path(scratch, "1-0")).list_kept()]
    slower = max(found["decoding_s"], found["inference_s"])
    found["throughput_of_slower"] = slower / found["one_process_s"]
    found["recorded_s"] = durations
    found["simulation"] = simulate_all(durations, choose_shard_size(args.limit, None), found["overhead_s"]["dask"])
    args.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def take_best(work: Callable[[int], Any], repeat: int) -> tuple[Any, float]:
    """The result and the shortest time of several runs, which are told their number."""
    times = []
    for number in range(repeat):
        started = time.perf_counter()
        result = work(number)
        times.append(time.perf_counter() - started)
    return result, min(times)


def compare_workers(
    models: Sequence[Path], report: EvalReport, scratch: Path, repeat: int, given: dict[str, Any]
) -> dict[str, Any]:
    """One worker and two by turns: wall clock, processor time of all processes, and whether the reports are one.

    ``speed_up`` is the median over the pairs, so that neighbours weigh on both alike. ``speed_up_if_idle`` is what the
    processor times would give on two idle cores: twice one worker's time over two workers'.
    """
    walls: dict[int, list[float]] = {1: [], 2: []}
    cpus: dict[int, list[float]] = {1: [], 2: []}
    identical = []
    for number in range(repeat):
        for workers in (1, 2):
            started, before = time.perf_counter(), os.times()
            shared = evaluate(models, workers=workers, store=scratch / f"{workers}-{number}", **given)
            after = os.times()
            walls[workers].append(time.perf_counter() - started)
            cpus[workers].append(sum(after[:4]) - sum(before[:4]))
            identical.append(encode_result(shared) == encode_result(report))
    return {
        "workers_wall_s": walls,
        "workers_cpu_s": cpus,
        "identical": all(identical),
        "speed_up": statistics.median(one / two for one, two in zip(walls[1], walls[2], strict=True)),
        "speed_up_if_idle": 2 * min(cpus[1]) / min(cpus[2]),
    }


def time_alone(
    models: Sequence[Path], *, data: str, limit: int, preprocess: str | None, repeat: int
) -> tuple[float, float]:
    """Seconds to decode all images without running anything, and to run all without decoding."""
    subjects, dataset = read_subjects(models), open_dataset(data, labelled=True, limit=limit)
    how, where = choose_preprocess(dataset, subjects, preprocess), parse_provider("cpu")
    sessions = tuple(plan_session(subject, where) for subject in subjects)

    def decode(_: int) -> np.ndarray:
        inputs = None
        for batch in load_batches(dataset, how, batch_size=BATCH):
            inputs = batch.inputs if inputs is None else inputs
        assert inputs is not None
        return inputs

    inputs, decoding_s = take_best(decode, repeat)
    sizes = [min(BATCH, limit - start) for start in range(0, limit, BATCH)]

    def infer(_: int) -> None:
        for size in sizes:
            open_target(where).run(Job(kind="infer", sessions=sessions, inputs=inputs[:size]))

    return decoding_s, take_best(infer, repeat)[1]


def kill_one(models: Sequence[Path], report: EvalReport, store: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Evaluate with two workers and kill one, which is at work, once a first result is there."""
    killed: list[int] = []

    def kill() -> None:
        while not list(store.glob("??/*.json")):
            time.sleep(0.05)
        worker = find_workers()[0]
        os.kill(worker, signal.SIGKILL)
        killed.append(worker)

    thread = threading.Thread(target=kill)
    thread.start()
    shared = evaluate(models, workers=2, store=store, **given)
    thread.join()
    shards = -(-given["limit"] // choose_shard_size(given["limit"], None))
    return {
        "killed": len(killed),
        "identical": encode_result(shared) == encode_result(report),
        "results_kept": len(list(Store(store).list_kept())),
        "shards": shards,
        "workers_left": len(find_workers()),
    }


def find_workers() -> list[int]:
    """Worker processes of this one (Linux)."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"mbdeploy.executing.worker" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


def time_overhead(word: str, store: Path, items: int = 200) -> float:
    """Seconds that an item costs beside its work: 200 empty ones, results on disk included, without the start."""
    works = [Work(name="empty", function="operator:is_", request={}, identity={"n": n}) for n in range(items)]
    cluster, workers = ("local:1", None) if word == "dask" else (None, 1)
    marks: list[float] = []
    with open_executor(workers, cluster) as executor:
        list(submit(works, executor, Store(store), on_progress=lambda *_: marks.append(time.perf_counter())))
    return statistics.median(b - a for a, b in itertools.pairwise(marks[2:]))


def simulate_all(durations: Sequence[float], recorded: int, overhead_s: float) -> list[dict[str, float]]:
    """Speed-up over one worker, for numbers of images, sizes of shards and numbers of workers."""
    rows = []
    for images, size in itertools.product(IMAGES, SHARD_SIZES):
        items = draw_items(durations, recorded, size, images)
        alone = simulate(items, 1, overhead_s)
        found = {f"workers_{count}": round(alone / simulate(items, count, overhead_s), 1) for count in WORKERS}
        rows.append({"images": images, "shard": size, "items": len(items), **found})
    return rows


def draw_items(durations: Sequence[float], recorded: int, size: int, images: int) -> list[float]:
    """Durations of shards of ``size`` images, each made of recorded ones."""
    drawn = random.Random(0)
    return [sum(drawn.choice(durations) for _ in range(size // recorded)) for _ in range(-(-images // size))]


def simulate(items: Sequence[float], workers: int, overhead_s: float) -> float:
    """When the last result is there: a free worker takes the next item, results are taken in one at a time."""
    free = [0.0] * workers
    ends = []
    for seconds in items:
        ends.append(heapq.heappop(free) + seconds)
        heapq.heappush(free, ends[-1])
    taken = 0.0
    for end in sorted(ends):
        taken = max(taken, end) + overhead_s
    return taken


if __name__ == "__main__":
    main()
