"""MLPerf's LoadGen around one session: the child that it runs in, and what its log says."""

from __future__ import annotations

import json
import queue
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mbdeploy.isolate import Progress
from mbdeploy.preflight.arrays import read_array
from mbdeploy.targets import agent

#: Word -> LoadGen's name, and which of its settings takes what is expected: a latency in ns, or queries a second.
SCENARIOS = {
    "single-stream": ("SingleStream", "single_stream_expected_latency_ns"),
    "multi-stream": ("MultiStream", "multi_stream_expected_latency_ns"),
    "server": ("Server", "server_target_qps"),
    "offline": ("Offline", "offline_expected_qps"),
}
#: Word -> queries and seconds, at least.
PRESETS = {"rapid": (64, 6.0), "quick": (128, 10.0), "normal": (1024, 60.0)}
#: Samples of a multi-stream query: LoadGen's default.
STREAMS = 8
_TRIED = 10
_RATES = ("result_samples_per_second", "result_completed_samples_per_sec", "result_qps_with_loadgen_overhead")
_LOG = "mlperf_log_detail.txt"
_MARK = ":::MLLOG "


class Server:
    """A session that answers queries in batches: at once, or (``waits``) in a thread of its own, as they come in."""

    def __init__(self, session: Any, images: Any, batch_size: int, waits: bool) -> None:
        import mlperf_loadgen

        self._loadgen, self._session, self._images, self._size = mlperf_loadgen, session, images, batch_size
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve) if waits else None
        if self._thread:
            self._thread.start()

    def issue(self, samples: Sequence[Any]) -> None:
        """LoadGen's callback: these samples are to be answered."""
        if self._thread:
            for sample in samples:
                self._waiting.put(sample)
        else:
            for start in range(0, len(samples), self._size):
                self._answer(samples[start : start + self._size])

    def close(self) -> None:
        """Let the thread end."""
        if self._thread:
            self._waiting.put(None)
            self._thread.join()

    def _serve(self) -> None:
        while (sample := self._waiting.get()) is not None:
            samples = [sample]
            while len(samples) < self._size and not self._waiting.empty():
                following = self._waiting.get()
                if following is None:  # the end
                    self._answer(samples)
                    return
                samples.append(following)
            self._answer(samples)

    def _answer(self, samples: Sequence[Any]) -> None:
        chosen = [sample.index for sample in samples]
        if self._session.batch:  # a fixed batch is filled up
            chosen += chosen[-1:] * (self._session.batch - len(chosen))
        self._session.run(np.ascontiguousarray(self._images[chosen]))
        response = self._loadgen.QuerySampleResponse
        self._loadgen.QuerySamplesComplete([response(sample.id, 0, 0) for sample in samples])


def run_loadgen(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """Run a scenario and leave LoadGen's logs in ``request["logs"]``; the answer holds what was expected of it.

    A server gets half the queries that this session can answer one by one, and four times its latency as the bound of
    the 99th percentile, unless the request says otherwise.
    """
    import mlperf_loadgen as loadgen

    images = read_array(Path(request["images"]))
    session = agent.RUNTIMES[request["session"]["runtime"]](request["session"], False)
    size = request["batch_size"]
    batch_ns = _time_batch(session, images, size)
    name, expectation = SCENARIOS[request["scenario"]]
    queries, seconds = PRESETS[request["preset"]]
    target_qps = request["target_qps"] or 0.5e9 / _time_batch(session, images, session.batch or 1)
    target_ns = round(1e6 * request["target_latency"]) if request["target_latency"] else 4 * batch_ns
    expected = {
        "single-stream": batch_ns,
        "multi-stream": batch_ns * -(-STREAMS // size),
        "server": target_qps,
        "offline": 1e9 * size / batch_ns,
    }[request["scenario"]]
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, name)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_query_count = queries
    settings.min_duration_ms = round(1000 * seconds)
    settings.multi_stream_samples_per_query = STREAMS
    settings.server_target_latency_ns = target_ns
    settings.qsl_rng_seed = settings.sample_index_rng_seed = settings.schedule_rng_seed = request["seed"]
    setattr(settings, expectation, expected)
    log = loadgen.LogSettings()
    log.enable_trace = False
    log.log_output.outdir = request["logs"]
    log.log_output.copy_summary_to_stdout = False
    server = Server(session, images, size, waits=request["scenario"] == "server")
    on_progress(request["scenario"], 0, 0)
    sut = loadgen.ConstructSUT(server.issue, lambda: None)
    library = loadgen.ConstructQSL(len(images), len(images), lambda chosen: None, lambda chosen: None)
    try:
        loadgen.StartTestWithLogSettings(sut, library, settings, log)
    finally:
        server.close()
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(sut)
    told = {"queries": float(queries), "seconds": seconds, expectation: float(expected)}
    return {**told, "server_target_latency_ns": float(target_ns)} if request["scenario"] == "server" else told


def read_log(folder: Path) -> dict[str, Any]:
    """Results in LoadGen's detailed log, by its own keys: those of results and of early stopping."""
    found: dict[str, Any] = {}
    for line in (folder / _LOG).read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(_MARK):
            entry = json.loads(line.removeprefix(_MARK))
            found[entry["key"]] = entry["value"]
    return {key: value for key, value in found.items() if key.startswith(("result_", "early_stopping_"))}


def read_percentiles(results: Mapping[str, Any]) -> dict[float, int]:
    """Latency of a query in ns by percentile, as LoadGen saw it."""
    of_queries = [key for key in results if key.endswith("_percentile_per_query_latency_ns")]  # of several samples
    keys = of_queries or [key for key in results if key.endswith("_percentile_latency_ns")]
    return {float(key.split("_")[1]): results[key] for key in keys}


def read_rate(results: Mapping[str, Any]) -> float:
    """Samples a second; 0 where LoadGen says nothing of it."""
    if "result_mean_query_latency_ns" in results:  # multi-stream: one query after the other
        return STREAMS * 1e9 / float(results["result_mean_query_latency_ns"])
    return float(next((results[key] for key in _RATES if key in results), 0.0))


def _time_batch(session: Any, images: Any, size: int) -> int:
    """The median of a few runs in nanoseconds; the first one does not count."""
    batch = np.resize(images, (size, *images.shape[1:]))
    taken = []
    for _ in range(_TRIED + 1):
        began = time.perf_counter_ns()
        session.run(batch)
        taken.append(time.perf_counter_ns() - began)
    return round(statistics.median(taken[1:]))
