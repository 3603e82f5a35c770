"""How `mbdeploy evaluate` scales: decoding beside inference, 2 workers against 1, kill -9, and 1,000 in a simulation.

    python benchmarks/scaling.py MODEL.onnx... --data labels.csv --limit 640 --output scaling.json
    python benchmarks/scaling.py MODEL.onnx --data labels.csv --limit 448 --repeat 5 --parts throughput,workers

Run it on an idle machine with at least two cores: neighbours take from two workers more than from one. What is compared
runs in turns (1 worker, 2 workers, 1 worker, …) over files that were read once before; figures are ratios of medians.
"""

from __future__ import annotations

import argparse
import collections
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

import msgspec

from mbdeploy.data import load_batches, open_dataset
from mbdeploy.executing import Store, Work, open_executor, submit
from mbdeploy.results import EvalReport, encode_result
from mbdeploy.stages.evaluate import evaluate
from mbdeploy.stages.evaluate_job import BATCH
from mbdeploy.stages.evaluate_parts import choose_shard_size
from mbdeploy.stages.subject import choose_preprocess, plan_session, read_subjects
from mbdeploy.targets import Job, open_target, parse_provider

PARTS = ("throughput", "workers", "kill", "simulation")
#: ImageNet's validation and training sets.
IMAGES = (50_000, 1_281_167)
WORKERS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
SHARD_SIZES = (64, 256, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int, default=640)
    parser.add_argument("--preprocess")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of them, by commas")
    parser.add_argument("--output", type=Path, default=Path("scaling.json"))
    args = parser.parse_args()
    parts = args.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    given = {"data": args.data, "limit": args.limit, "preprocess": args.preprocess}
    found: dict[str, Any] = {"images": args.limit, "cores": os.cpu_count(), "load": os.getloadavg()}
    report = evaluate(args.models, **given)  # not timed: every file is in the page cache from here on
    with tempfile.TemporaryDirectory() as scratch:
        if "throughput" in parts:
            found["throughput"] = compare_throughput(args.models, args.repeat, given)
        if "workers" in parts:
            found["workers"] = compare_workers(args.models, report, Path(scratch), args.repeat, given)
        if "kill" in parts:
            found["kill_nine"] = kill_one(args.models, report, Path(scratch, "killed"), given)
        if "simulation" in parts:
            found |= simulate_recorded(args.models, Path(scratch), given)
    found["load_after"] = os.getloadavg()
    args.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def compare_throughput(models: Sequence[Path], repeat: int, given: dict[str, Any]) -> dict[str, Any]:
    """Decoding alone, inference alone and ``evaluate``, in turns; all in one process and on one thread each.

    ``throughput_of_slower`` is the median time of the slower of the two alone over that of ``evaluate``: 1 where the
    other one is hidden behind it.
    """
    decode, infer = plan_alone(models, **given)
    works = {"decoding": decode, "inference": infer, "evaluate": lambda: evaluate(models, **given)}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _, (name, work) in itertools.product(range(repeat), works.items()):
        started = time.perf_counter()
        work()
        seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    slower = max(medians["decoding"], medians["inference"])
    return {
        "n": repeat,
        "seconds": seconds,
        "medians_s": medians,
        "throughput_of_slower": slower / medians["evaluate"],
        "of_each_turn": sorted(
            max(one, two) / both
            for one, two, both in zip(seconds["decoding"], seconds["inference"], seconds["evaluate"], strict=True)
        ),
    }


def compare_workers(
    models: Sequence[Path], report: EvalReport, scratch: Path, repeat: int, given: dict[str, Any]
) -> dict[str, Any]:
    """One worker and two in turns, each with a store of its own, and whether all reports are one.

    ``speed_up`` is the ratio of the medians of the wall clock, ``of_each_turn`` the ratios of neighbours.
    ``working_s`` is what the busiest worker's items took; the rest, ``starting_s``, is the command's and the workers'
    start and end, which does not shrink with their number: ``speed_up_without_start`` leaves it out.
    ``speed_up_if_idle`` is what the processor times would give on two idle cores.
    """
    seconds: dict[str, dict[int, list[float]]] = {
        name: {1: [], 2: []} for name in ("wall_s", "working_s", "starting_s", "cpu_s")
    }
    identical = []
    for number, workers in itertools.product(range(repeat), (1, 2)):
        store = scratch / f"{workers}-{number}"
        started, before = time.perf_counter(), os.times()
        shared = evaluate(models, workers=workers, store=store, **given)
        wall, after = time.perf_counter() - started, os.times()
        busy: collections.Counter[str] = collections.Counter()
        for kept in Store(store).list_kept():
            busy[kept.worker] += kept.seconds
        working = max(busy.values())
        cpu = sum(after[:4]) - sum(before[:4])
        values = {"wall_s": wall, "working_s": working, "starting_s": wall - working, "cpu_s": cpu}
        for name, value in values.items():
            seconds[name][workers].append(value)
        identical.append(encode_comparable(shared) == encode_comparable(report))
    medians = {name: {count: statistics.median(v) for count, v in one.items()} for name, one in seconds.items()}
    return {
        "n": repeat,
        "seconds": seconds,
        "medians": medians,
        "identical": all(identical),
        "speed_up": medians["wall_s"][1] / medians["wall_s"][2],
        "of_each_turn": sorted(one / two for one, two in zip(*seconds["wall_s"].values(), strict=True)),
        "speed_up_without_start": medians["working_s"][1] / medians["working_s"][2],
        "speed_up_if_idle": 2 * medians["cpu_s"][1] / medians["cpu_s"][2],
    }


def encode_comparable(report: EvalReport) -> bytes:
    """A report without its lists of nodes: ONNX Runtime names those that it adds itself in an order of chance."""
    models = tuple(
        msgspec.structs.replace(one, placement=msgspec.structs.replace(one.placement, ran=())) for one in report.models
    )
    return encode_result(msgspec.structs.replace(report, models=models))


def plan_alone(
    models: Sequence[Path], *, data: str, limit: int, preprocess: str | None
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Two functions: decode all images without running anything, and run as many without decoding."""
    subjects, dataset = read_subjects(models), open_dataset(data, labelled=True, limit=limit)
    how, where = choose_preprocess(dataset, subjects, preprocess), parse_provider("cpu")
    sessions = tuple(plan_session(subject, where) for subject in subjects)
    inputs = next(iter(load_batches(dataset, how, batch_size=BATCH))).inputs
    sizes = [min(BATCH, limit - start) for start in range(0, limit, BATCH)]

    def decode() -> None:
        for _ in load_batches(dataset, how, batch_size=BATCH):
            pass

    def infer() -> None:
        for size in sizes:
            open_target(where).run(Job(kind="infer", sessions=sessions, inputs=inputs[:size]))

    return decode, infer


def simulate_recorded(models: Sequence[Path], scratch: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The simulation, with the durations of one worker's items and the measured cost of an item."""
    evaluate(models, workers=1, store=scratch / "recorded", **given)
    durations = [kept.seconds for kept in Store(scratch / "recorded").list_kept()]
    overhead = {word: time_overhead(word, scratch / "empty" / word) for word in ("processes", "dask")}
    return {
        "recorded_s": durations,
        "overhead_s": overhead,
        "simulation": simulate_all(durations, choose_shard_size(given["limit"], None), overhead["dask"]),
    }


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
        "identical": encode_comparable(shared) == encode_comparable(report),
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
