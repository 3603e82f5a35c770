"""The agent: probes a machine, runs models there and times them; the only code that touches a runtime.

    python agent.py FOLDER
    python agent.py verify      (in a bundle: see bundle_verify.py, which lies there as verify.py)

FOLDER holds job.json (mbdeploy/targets/job.py says what is in it), the models and input.npy; the agent
adds result.json and the outputs, and says on standard output, in JSON lines, where it is and why it
cannot go on. It needs Python >= 3.9, numpy and a runtime and imports nothing of ours: it is copied to
boards and into emulators as it is. That makes it one file, longer than the others.
"""

from __future__ import annotations

import collections
import ctypes
import functools
import gc
import glob
import importlib.util
import json
import mmap
import os
import platform
import statistics
import sys
import time
from importlib import metadata
from typing import Any, Callable, NoReturn


def end_with_parent() -> None:
    """End when the process does whose number MBDEPLOY_PARENT is, however it ends; do nothing where it is not set.

    Such a process starts this program itself: one that died before this line is not our parent any more.
    """
    told = os.environ.pop("MBDEPLOY_PARENT", "")
    if told and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG
    if told and told != str(os.getppid()):
        sys.exit(f"error: process {told}, for which this is done, is gone or did not start it itself")


if __name__ == "__main__":
    end_with_parent()  # first of all: importing numpy takes a while, and seconds under emulation

try:
    import numpy as np
except ImportError as error:
    sys.stderr.write(f"error: numpy cannot be imported: {error}\n")
    sys.exit(3)  # as for any other thing that is not here

Job = dict[str, Any]
Array = Any  # an ndarray; numpy.typing is not in every numpy that boards have

CPU = "CPUExecutionProvider"
OPENVINO = "OpenVINO"
#: An option of ours for OpenVINO: the newest instruction set that its kernels (oneDNN) may use in this process.
ISA = "ONEDNN_MAX_CPU_ISA"
#: ONNX Runtime's providers that keep tensors on a device of their own, by its name for that device.
DEVICES = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}
#: Packages that bring a provider as a library for a plain ONNX Runtime, by the provider's name.
PLUGINS = {"QNNExecutionProvider": "onnxruntime_qnn"}
#: Words of the runtimes for the type of a tensor; others are kept as they are.
TYPES = {"float": "float32", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "u8": "uint8", "i8": "int8"}
#: What ONNX Runtime does without these keys; they are set and recorded, so that nothing is hidden.
SESSION_DEFAULTS = {"session.intra_op.allow_spinning": "1", "session.force_spinning_stop": "0"}
LEVELS = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
# Warm-up ends when for every session the median of its last WINDOW times is within STEADY of the median
# of the WINDOW before, or after LONGEST_S seconds, but not before the second round.
WINDOW, STEADY, LONGEST_S = 5, 0.05, 3.0
#: Where Linux shows its sensors of energy and power, and for how long a session runs before them.
POWERCAP, HWMON, ENERGY_S = "/sys/class/powercap", "/sys/class/hwmon", 1.0


class RefusedError(Exception):
    """The job cannot be done: "rejected" (this model), "unavailable" (on this machine), "outdated" (by this version of
    the runtime), "usage" (these options) or "simulated" (times of what only simulates a device)."""

    def __init__(self, kind: str, cause: str) -> None:
        super().__init__(cause)
        self.kind = kind


# ---- sessions: what a runtime must offer -----------------------------------------------------------


class OnnxRuntime:
    """One ONNX Runtime session that runs on the provider it was asked for, or refuses.

    With ``record``, ``read_placement`` tells after the first run which provider ran each node of the
    optimised graph; recording costs time and memory, so a session that is measured goes without.
    """

    #: The nodes that each provider took, before they were fused or compiled, by operator; older runtimes do not say.
    _assigned: dict[str, dict[str, int]] | None = None

    def __init__(self, spec: Job, record: bool) -> None:
        ort = import_onnxruntime()
        self._ort = ort
        if is_outdated(ort.__version__, spec.get("refusing")):
            raise RefusedError("outdated", f"onnxruntime {ort.__version__} takes no model of its opset or IR version")
        self.provider: str = spec["provider"]
        self._allow_fallback: bool = spec["allow_fallback"]
        self._devices = find_devices(ort, self.provider)
        if self.provider not in ort.get_available_providers():
            raise RefusedError("unavailable", "not compiled in")
        #: Where tensors lie between host and provider: "cpu" is the host itself.
        self.device = DEVICES.get(self.provider, "cpu")
        if self.device == "cuda":
            preload_cuda(ort)
        options = ort.SessionOptions()
        options.intra_op_num_threads = spec["threads"]
        options.inter_op_num_threads = 1
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[spec["optimization"]])
        options.enable_cpu_mem_arena = spec["arena"]
        options.log_severity_level = 3
        config = {**SESSION_DEFAULTS, **spec["session_config"]}
        for key, value in config.items():
            options.add_session_config_entry(key, value)
        if record:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            options.enable_profiling = True
            options.profile_file_prefix = os.path.abspath(f"profile_{id(self)}")
        if self._devices:  # (such providers take no graph whose shapes are open)
            for name in read_open_batches(ort, spec["model"]):
                options.add_free_dimension_override_by_name(name, 1)
        self._session = self._create(ort, spec, options)
        self._check_providers(record)
        self.settings = {
            "runtime": f"onnxruntime {ort.__version__}",
            "threads": spec["threads"],
            "inter_op_threads": 1,
            "optimization": spec["optimization"],
            "arena": spec["arena"],
            "session_config": config,
            "provider_options": self._session.get_provider_options()[self.provider],
            "device": self.device,
        }
        if self._devices and platform.machine() == "x86_64":
            self.settings["simulated"] = f"{self.provider} on {platform.machine()}"
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or not inputs[0].shape:
            raise RefusedError("rejected", f"{len(inputs)} inputs where one batch of images is expected")
        self._input = inputs[0].name
        #: The batch size that the file is fixed to, or None.
        self.batch = inputs[0].shape[0] if isinstance(inputs[0].shape[0], int) else None
        self.output_names = [output.name for output in self._session.get_outputs()]

    def _create(self, ort: Any, spec: Job, options: Any) -> Any:
        wanted = [(self.provider, spec["provider_options"])] + ([CPU] if self.provider != CPU else [])
        try:
            if self._devices:
                options.add_provider_for_devices(self._devices[:1], spec["provider_options"])
                return ort.InferenceSession(spec["model"], options, enable_fallback=0)
            return ort.InferenceSession(spec["model"], options, providers=wanted, enable_fallback=0)
        except Exception as error:
            failed = error
        if self.provider != CPU:
            # Is it the model or the provider? The CPU can tell.
            try:
                ort.InferenceSession(spec["model"], providers=[CPU], enable_fallback=0)
            except Exception as error:
                raise RefusedError("rejected", first_line(error)) from error
            raise RefusedError("unavailable", first_line(failed)) from failed
        raise RefusedError("rejected", first_line(failed)) from failed

    def _check_providers(self, recorded: bool) -> None:
        listed = self._session.get_providers()
        if self.provider not in listed:
            raise RefusedError("unavailable", f"ONNX Runtime fell back to {', '.join(listed)}")
        if not recorded or not hasattr(self._session, "get_provider_graph_assignment_info"):
            return  # older runtimes do not say; the profile of the first run still does
        assigned: dict[str, dict[str, int]] = {}
        for part in self._session.get_provider_graph_assignment_info():
            operators = assigned.setdefault(part.ep_name, {})
            for node in part.get_nodes():
                operators[node.op_type] = operators.get(node.op_type, 0) + 1
        self._assigned = {provider: operators for provider, operators in assigned.items() if operators}
        if self._assigned and self.provider not in self._assigned:
            raise RefusedError("unavailable", f"it took no node of this model: all went to {', '.join(self._assigned)}")

    def run(self, images: Array) -> list[Array]:
        """The outputs for a batch of images."""
        outputs: list[Array] = self._session.run(self.output_names, {self._input: images})
        return outputs

    def stage(self, images: Array) -> Callable[[], Any]:
        """What runs this batch, without arguments; on a device, with the batch copied to it and outputs left there."""
        if self.device == "cpu":
            return functools.partial(self.run, images)
        number = int(self.settings["provider_options"].get("device_id", 0))
        self._binding = self._session.io_binding()
        value = self._ort.OrtValue.ortvalue_from_numpy(images, self.device, number)
        self._binding.bind_ortvalue_input(self._input, value)
        for name in self.output_names:
            self._binding.bind_output(name, self.device, number)
        self._binding.synchronize_inputs()
        return self._run_bound

    def _run_bound(self) -> None:
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()  # a run may return while the device still works

    def fetch(self) -> None:
        """Copy the outputs of a staged run back to the host."""
        if self.device != "cpu":
            self._binding.copy_outputs_to_cpu()

    def read_placement(self) -> dict[str, Any]:
        """Which provider ran each node of the optimised graph, in the order of execution: see ``sum_placement``."""
        nodes = [(name, operator, provider, kind) for name, operator, provider, kind, *_ in self.read_profile()]
        if nodes and all(provider != self.provider for _, _, provider, _ in nodes):
            if not self._allow_fallback:
                raise RefusedError("unavailable", "it ran no node of this model")
            self.settings["fallback"] = "it ran no node of this model"
        return sum_placement(nodes, self.provider, self._assigned)

    def read_profile(self) -> list[list[Any]]:
        """Every node that ran, in the order of execution: see Ran in job.py."""
        path = self._session.end_profiling()
        with open(path, encoding="utf-8") as file:
            events = json.load(file)
        os.remove(path)
        ran: dict[Any, list[Any]] = {}
        for event in events:
            name, kernel, _ = event["name"].partition("_kernel_time")
            if event.get("cat") == "Node" and kernel:
                facts = event["args"]
                first = next(iter(facts.get("input_type_shape") or [{}]))
                shapes = [shape for output in facts.get("output_type_shape") or [] for shape in output.values()]
                about = [name, facts["op_name"], facts["provider"], name_type(*first), shapes, []]
                ran.setdefault((name, facts["node_index"]), about)[-1].append(event.get("dur", 0))
        return list(ran.values())


class OpenVino:
    """One model compiled by OpenVINO for the CPU; provider options are OpenVINO's properties.

    It is compiled for the one batch size of the job: with a dynamic one it runs other, slower code.
    """

    provider = OPENVINO
    device = "cpu"

    def __init__(self, spec: Job, record: bool) -> None:
        options = dict(spec["provider_options"])
        isa = options.pop(ISA, "")
        if os.environ.setdefault(ISA, isa) != isa:  # it is read once, with the first kernel
            raise RefusedError("usage", f"{ISA}={isa} after {ISA}={os.environ[ISA]} in the same process")
        ov = import_openvino()
        if spec["session_config"] or spec["optimization"] != "all":
            raise RefusedError("rejected", "OpenVINO has neither session configuration nor optimisation levels")
        properties = {**options, "INFERENCE_NUM_THREADS": str(spec["threads"])}
        core = ov.Core()
        try:
            core.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plug-in: without it nothing is checked yet
            core.set_property("CPU", {**properties, "PERF_COUNT": "YES" if record else "NO"})
        except RuntimeError as error:
            raise RefusedError("usage", last_line(error)) from error
        try:
            model = core.read_model(spec["model"])
            if len(model.inputs) != 1 or not model.input(0).partial_shape.rank.get_length():
                raise RefusedError("rejected", f"{len(model.inputs)} inputs where one batch of images is expected")
            shape = model.input(0).partial_shape
            if shape[0].is_dynamic:
                shape[0] = spec["batch_size"]
                model.reshape(shape)
            self._model = core.compile_model(model, "CPU")
        except RuntimeError as error:
            raise RefusedError("rejected", last_line(error)) from error
        self._request = self._model.create_infer_request()
        self.batch = shape[0].get_length()
        self.output_names = [output.any_name for output in self._model.outputs]
        used = {key: name_property(self._model.get_property(key)) for key in properties}
        self.settings = {
            "runtime": f"openvino {ov.__version__}",
            "threads": spec["threads"],
            "batch": self.batch,
            "provider_options": {**used, ISA: isa} if isa else used,
            "device": self.device,
        }

    def run(self, images: Array) -> list[Array]:
        """The outputs for a batch of images."""
        outputs = self._request.infer([images], share_inputs=True)
        return [outputs[index] for index in range(len(self.output_names))]

    def stage(self, images: Array) -> Callable[[], Any]:
        """What runs this batch, without arguments."""
        return functools.partial(self.run, images)

    def fetch(self) -> None:
        """The outputs are on the host already."""

    def read_placement(self) -> dict[str, Any]:
        """The layers of the compiled model that were executed, in that order: see ``sum_placement``."""
        layers = []
        for layer in self._model.get_runtime_model().get_ops():
            facts = {key: value.astype(str) for key, value in layer.get_rt_info().items()}
            if facts["execTimeMcs"] != "not_executed":  # weights are packed when the model is compiled
                node = (layer.get_friendly_name(), facts["layerType"], OPENVINO, name_type(facts["runtimePrecision"]))
                layers.append((int(facts["execOrder"]), node))
        return sum_placement([node for _, node in sorted(layers)], OPENVINO)


#: The runtime seam: a class with OnnxRuntime's constructor, attributes and methods; one row a runtime.
RUNTIMES: dict[str, Any] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}


def sum_placement(
    ran: list[tuple[str, str, str, str]], provider: str, assigned: dict[str, dict[str, int]] | None = None
) -> dict[str, Any]:
    """Nodes as (name, operator, provider, type of the first input), counted, and those that another provider ran.

    ``assigned`` are the nodes that each provider took before, by operator, where that is known.
    """
    placement: dict[str, Any] = {
        "nodes": dict(collections.Counter(node[2] for node in ran)),
        "operators": dict(collections.Counter(node[1] for node in ran)),
        "elsewhere": sorted(f"{operator} {name}" for name, operator, where, _ in ran if where != provider),
        "ran": ran,
    }
    return {**placement, "assigned": assigned} if assigned else placement


def name_property(value: Any) -> str:
    return value.get_type_name() if hasattr(value, "get_type_name") else str(value)


def name_type(word: str = "") -> str:
    return TYPES.get(word, word)


def import_onnxruntime() -> Any:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # 1.31 holds a client that reports to its maker
    try:
        import onnxruntime
    except ImportError as error:
        raise RefusedError("unavailable", f"onnxruntime cannot be imported: {first_line(error)}") from error
    return onnxruntime


def is_outdated(version: str, refusing: Any) -> bool:
    """Whether this is ``refusing``, the newest (major, minor) that is known not to take a model, or an older one."""
    parts = version.split(".")[:2]
    return bool(refusing) and all(part.isdigit() for part in parts) and [int(part) for part in parts] <= list(refusing)


def find_devices(ort: Any, provider: str) -> list[Any]:
    """What a provider that comes as a library of its own can run on; empty for one that is compiled in."""
    package = PLUGINS.get(provider)
    if package is None or importlib.util.find_spec(package) is None:
        return []
    if provider not in ort.get_available_providers():
        try:
            ort.register_execution_provider_library(provider, importlib.import_module(package).get_library_path())
        except Exception as error:
            raise RefusedError("unavailable", f"{package} cannot be loaded: {first_line(error)}") from error
    return [device for device in ort.get_ep_devices() if device.ep_name == provider]


def read_open_batches(ort: Any, model: str) -> list[str]:
    """The names of the batch sizes that a model's inputs leave open."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model, options, providers=[CPU])
    except Exception as error:
        raise RefusedError("rejected", first_line(error)) from error
    return [node.shape[0] for node in session.get_inputs() if node.shape and isinstance(node.shape[0], str)]


def import_openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise RefusedError("unavailable", f"openvino cannot be imported: {first_line(error)}") from error
    return openvino


IMPORTS = {"onnxruntime": import_onnxruntime, "openvino": import_openvino}


def preload_cuda(ort: Any) -> None:
    """Load CUDA's libraries from NVIDIA's wheels, where ONNX Runtime would not look by itself."""
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()


def open_session(job: Job, index: int, record: bool = False) -> Any:
    """Open a session; one that may fall back runs on the CPU provider where its own is not, and its settings say so."""
    say(at=[index, "loading"])
    spec = {**job["sessions"][index], "batch_size": job["batch_size"]}
    try:
        session = RUNTIMES[spec["runtime"]](spec, record)
    except RefusedError as refusal:
        if refusal.kind != "unavailable" or not spec["allow_fallback"]:
            raise
        session = OnnxRuntime({**spec, "provider": CPU, "provider_options": {}}, record)
        session.settings["fallback"] = str(refusal)
    if job["kind"] in ("bench", "memory", "profile") and "simulated" in session.settings:
        raise RefusedError("simulated", session.settings["simulated"])
    say(at=[index, "running"])
    return session


def run_checked(session: Any, images: Array) -> list[Array]:
    """Run one batch; refuse outputs that are not arrays with one row an image."""
    try:
        outputs: list[Array] = session.run(images)
    except Exception as error:
        raise RefusedError("rejected", f"{first_line(error)} (batch of {len(images)})") from error
    for index, output in enumerate(outputs):
        if not isinstance(output, np.ndarray) or output.ndim == 0 or len(output) != len(images):
            found = getattr(output, "shape", type(output).__name__)
            refuse_output(session, index, f"is {found}, where the first axis has to be the batch, {len(images)}")
    return outputs


def refuse_output(session: Any, index: int, what: str) -> NoReturn:
    raise RefusedError("rejected", f"output {session.output_names[index]!r} {what}")


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def last_line(error: BaseException) -> str:
    """OpenVINO's messages begin with places in its own source and end with what is wrong."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()


# ---- jobs ------------------------------------------------------------------------------------------


def probe(job: Job) -> list[Job]:
    import_onnxruntime()
    return []


def infer(job: Job) -> list[Job]:
    """Every session over all images: one session in memory at a time, outputs written batch by batch."""
    images = load_images(mapped=True)
    job = {**job, "batch_size": min(job["batch_size"], len(images))}
    results = []
    for index in range(len(job["sessions"])):
        session = open_session(job, index, record=True)
        placement = infer_images(session, images, job["batch_size"], index, len(job["sessions"]))
        results.append({"settings": session.settings, "output_names": session.output_names, "placement": placement})
        del session
        gc.collect()
    return results


def infer_images(session: Any, images: Array, batch_size: int, index: int, of: int) -> dict[str, Any]:
    """Write out_INDEX_K.npy; a fixed batch gets its last chunk padded, and the padding's outputs are dropped."""
    size = session.batch or batch_size
    files: list[Array] = []
    placement: dict[str, Any] = {}
    for start in range(0, len(images), size):
        chunk = np.ascontiguousarray(images[start : start + size])
        count = len(chunk)
        if session.batch is not None and count < size:
            chunk = np.concatenate([chunk, np.repeat(chunk[-1:], size - count, axis=0)])
        outputs = run_checked(session, chunk)
        if not files:
            placement = session.read_placement()
        for k, output in enumerate(outputs):
            if len(files) == k:
                shape = (len(images), *output.shape[1:])
                files.append(np.lib.format.open_memmap(f"out_{index}_{k}.npy", "w+", output.dtype, shape))
            if files[k].shape[1:] != output.shape[1:]:
                refuse_output(session, k, "changes its shape from batch to batch")
            files[k][start : start + count] = output[:count]
        say(progress=["running", index * len(images) + start + count, len(images) * of])
    return placement


def bench(job: Job) -> list[Job]:
    """All sessions by turns on the same inputs: load, first run, warm-up, then rounds until there are enough."""
    images = load_images()
    batches = cut_batches(images, job["batch_size"])
    results: list[Job] = []
    sessions: list[Any] = []
    for index, spec in enumerate(job["sessions"]):
        known = job["sessions"].index(spec)
        if known < index:  # the A/A control is the baseline once more
            results.append({**results[known], "settings": dict(results[known]["settings"])})
            continue
        recorded = open_session(job, index, record=True)
        run_checked(recorded, batches[0])
        results.append({"settings": recorded.settings, "placement": recorded.read_placement()})
        del recorded
    for index, result in enumerate(results):
        began = time.perf_counter_ns()
        session = open_session(job, index)
        loaded = time.perf_counter_ns()
        run_checked(session, batches[0])
        result.update(load_ns=loaded - began, first_ns=time.perf_counter_ns() - loaded)
        sessions.append(session)
    # With one thread the caller does the work and its own clock counts nothing else; a pool needs the process's.
    alone = all(isinstance(session, OnnxRuntime) and session.provider == CPU for session in sessions)
    alone = alone and all(spec["threads"] == 1 for spec in job["sessions"])
    clock = time.thread_time_ns if alone else time.process_time_ns
    gc.collect()
    gc.disable()
    warmup = Times(sessions, batches, clock)
    warm_up(warmup, job["warmup"])
    times = Times(sessions, batches, clock)
    measure(times, job)
    gc.enable()
    for index, result in enumerate(results):
        result.update(wall_ns=times.wall[index], cpu_ns=times.cpu[index], warmup_ns=warmup.wall[index])
        result.update(copy_ns=times.copies[index])
        result["settings"]["cpu_clock"] = "thread" if alone else "process"
        result["settings"]["warmup_is_steady"] = is_steady(warmup)
        result.update(measure_energy(sessions[index], batches, result["settings"]))
    return results


def profile(job: Job) -> list[Job]:
    """All sessions by turns, as in ``bench``, with the time of each node; writing it down slows each run a little."""
    batches = cut_batches(load_images(), job["batch_size"])
    sessions = [open_session(job, index, record=True) for index in range(len(job["sessions"]))]
    for session in sessions:
        if not isinstance(session, OnnxRuntime):
            raise RefusedError("usage", "only ONNX Runtime says how long each node takes")
        run_checked(session, batches[0])
    warmup = Times(sessions, batches, time.process_time_ns)
    warm_up(warmup, job["warmup"])
    times = Times(sessions, batches, time.process_time_ns)
    measure(times, job)
    results = []
    for index, session in enumerate(sessions):
        nodes = session.read_profile()
        for node in nodes:
            node[-1] = node[-1][-times.rounds :]
        results.append({"settings": session.settings, "wall_ns": times.wall[index], "profile": nodes})
    return results


class Times:
    """Rounds so far: each runs every session once on one batch; ``wall[i][r]`` and ``cpu[i][r]`` are in ns.

    ``copies[i][r]`` is what the copies to a device and back took, which are in neither of them; empty on the host.
    """

    def __init__(self, sessions: list[Any], batches: list[Array], clock: Callable[[], int]) -> None:
        self.wall: list[list[int]] = [[] for _ in sessions]
        self.cpu: list[list[int]] = [[] for _ in sessions]
        self.copies: list[list[int]] = [[] for _ in sessions]
        self.spent: list[int] = [0] * len(sessions)  # the sums of ``wall``, which nobody should add up in the loop
        self.rounds = 0
        self._orders = [order_round(len(sessions), number) for number in range(2 * len(sessions))]  # then they recur
        self._sessions, self._batches, self._clock = sessions, batches, clock

    def add_round(self) -> None:
        images, clock = self._batches[self.rounds % len(self._batches)], self._clock
        for index in self._orders[self.rounds % len(self._orders)]:
            session = self._sessions[index]
            staging = time.perf_counter_ns()
            run = session.stage(images)
            cpu_began, began = clock(), time.perf_counter_ns()
            run()
            ended, cpu_ended = time.perf_counter_ns(), clock()
            self.wall[index].append(ended - began)
            self.spent[index] += ended - began
            self.cpu[index].append(cpu_ended - cpu_began)
            if session.device != "cpu":
                fetching = time.perf_counter_ns()
                session.fetch()
                self.copies[index].append(time.perf_counter_ns() - fetching + began - staging)
        self.rounds += 1


def order_round(count: int, number: int) -> list[int]:
    """The order in which round ``number`` runs ``count`` sessions.

    Round 2k+1 is round 2k backwards (A B B A), so drift cancels; each such pair starts one session later
    than the pair before, so each session is first, last and its own neighbour equally often.
    """
    shift = number // 2 % count
    order = [(shift + step) % count for step in range(count)]
    return order if number % 2 == 0 else order[::-1]


def warm_up(times: Times, rounds: int | None) -> None:
    """Rounds that do not count: so many of them, or (None) until the times are steady."""
    deadline = time.monotonic() + LONGEST_S
    while times.rounds < rounds if rounds is not None else not is_steady(times):
        if rounds is None and times.rounds >= 2 and time.monotonic() > deadline:
            break
        times.add_round()


def is_steady(times: Times) -> bool:
    if times.rounds < 2 * WINDOW:
        return False
    before = [statistics.median(wall[-2 * WINDOW : -WINDOW]) for wall in times.wall]
    last = [statistics.median(wall[-WINDOW:]) for wall in times.wall]
    return all(abs(last[index] - median) <= STEADY * median for index, median in enumerate(before))


def measure(times: Times, job: Job) -> None:
    """Whole A B B A pairs until every session has its minimum of rounds and of seconds."""
    reported = 0.0
    while times.rounds < job["max_rounds"]:
        shortest_s = min(times.spent) / 1e9
        if times.rounds >= job["min_rounds"] and times.rounds % 2 == 0 and shortest_s >= job["min_duration_s"]:
            break
        times.add_round()
        if time.monotonic() - reported > 0.5:
            reported = time.monotonic()
            expected = int(times.rounds * job["min_duration_s"] / shortest_s) if shortest_s else 0
            total = min(max(expected, job["min_rounds"], times.rounds), job["max_rounds"])
            say(progress=["measuring", times.rounds, total])


def load_images(mapped: bool = False) -> Array:
    """The images in input.npy; a map is made of what is there, so nothing is allocated on the word of its header."""
    try:
        images = np.load("input.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RefusedError("rejected", f"input.npy cannot be read: {first_line(error)}") from error
    if images.ndim != 4 or images.dtype != np.float32:
        raise RefusedError("rejected", f"input.npy holds {images.dtype} {images.shape}, and not images as float32")
    return images if mapped else np.array(images)


def cut_batches(images: Array, size: int) -> list[Array]:
    """Consecutive batches of exactly ``size`` images; too few images are repeated."""
    if len(images) < size:
        images = np.resize(images, (size, *images.shape[1:]))
    return [np.ascontiguousarray(images[k : k + size]) for k in range(0, len(images) - size + 1, size)]


def memory(job: Job) -> list[Job]:
    """Peak resident memory of this process: runtime and input there, model loaded, one inference done."""
    IMPORTS[job["sessions"][0]["runtime"]]()
    images = load_images()
    base = read_peak_bytes()
    session = open_session(job, 0)
    loaded = read_peak_bytes()
    run_checked(session, cut_batches(images, session.batch or job["batch_size"])[0])
    peak = read_peak_bytes()
    return [{"settings": session.settings, "base_bytes": base, "loaded_bytes": loaded, "peak_bytes": peak}]


def measure_energy(session: Any, batches: list[Array], settings: dict[str, Any]) -> dict[str, int]:
    """What this machine's sensors counted over a second of runs in a row, in microjoules; nothing without a sensor.

    They count whole packages or boards, with all that runs there; ``settings`` say which they were.
    """
    counters, meters = find_sensors()
    if not counters and not meters:
        return {}
    before = [(path, span, read_number(path)) for path, span in counters]
    spent, runs, began = 0.0, 0, time.perf_counter()
    while time.perf_counter() - began < ENERGY_S or runs < 2:
        started = time.perf_counter()
        session.run(batches[runs % len(batches)])
        runs += 1
        if not counters:
            spent += sum(map(read_number, meters)) * (time.perf_counter() - started)
    for path, span, count in before:
        spent += (read_number(path) - count) % span
    settings["energy_sensors"] = [path for path, _ in counters] or meters
    return {"energy_uj": round(spent), "energy_runs": runs}


def find_sensors() -> tuple[list[tuple[str, int]], list[str]]:
    """Counters of energy (RAPL's packages) with the number at which each starts again, else meters of power (INA)."""
    counters = []
    for zone in sorted(glob.glob(os.path.join(POWERCAP, "intel-rapl:*"))):
        span = read_number(os.path.join(zone, "max_energy_range_uj")) + 1
        path = os.path.join(zone, "energy_uj")
        if read_text(os.path.join(zone, "name")).startswith("package") and read_text(path) and span > 1:
            counters.append((path, span))
    chips = [os.path.dirname(path) for path in sorted(glob.glob(os.path.join(HWMON, "hwmon*", "name")))]
    chips = [chip for chip in chips if read_text(os.path.join(chip, "name")).startswith("ina")]
    meters = [path for chip in chips for path in sorted(glob.glob(os.path.join(chip, "power*_input")))]
    return counters, [] if counters else [path for path in meters if read_text(path)]


def read_number(path: str) -> int:
    text = read_text(path).strip()
    return int(text) if text.isdigit() else 0


def read_peak_bytes() -> int:
    # ru_maxrss is the second choice: on Linux it starts at the size of the parent that forked us.
    for line in read_text("/proc/self/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ---- the machine: raw facts, which targets/host.py judges ------------------------------------------


def read_facts(job: Job) -> dict[str, Any]:
    """What this machine says about itself."""
    ort = sys.modules.get("onnxruntime")
    broken = find_broken() if job["kind"] == "probe" else {}
    providers = list(ort.get_available_providers()) if ort else []
    beside = {OPENVINO: "openvino", **(PLUGINS if ort else {})}
    providers += [
        name
        for name, package in beside.items()
        if importlib.util.find_spec(package) and name not in broken and name not in providers
    ]
    facts = {
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "cpuinfo": read_text("/proc/cpuinfo").split("\n\n")[0],
        "cores": os.cpu_count(),
        "affinity": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cgroup_cores": read_cgroup_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "versions": {"python": platform.python_version(), **read_versions(job["distributions"])},
        "providers": providers,
        "broken": broken,
        "onnxruntime": getattr(ort, "__version__", ""),
        "cuda": read_cuda(ort) if "CUDAExecutionProvider" in providers else {},
        "nvidia_devices": sorted(glob.glob("/dev/nvidia[0-9]*")),
        "nvidia_driver": can_load("libcuda.so.1"),
        "cpuid": {},
    }
    # Under emulation /proc/cpuinfo is still the host's; only the instruction itself tells.
    if job["emulated"] and facts["machine"] == "x86_64":
        facts["cpuid"] = {f"{leaf}.{part}": read_cpuid(leaf, part) for leaf, part in ((1, 0), (7, 0), (7, 1))}
    return facts


def read_cgroup_cores() -> float | None:
    """The CPU quota of this process's control group and of those above it, in cores; None without one."""
    quotas = []
    for line in read_text("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = "/sys/fs/cgroup", ["cpu.max"]
        elif "cpu" in controllers.split(","):
            root, names = f"/sys/fs/cgroup/{controllers}", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):
            words = " ".join(read_text(os.path.join(root, *parts[:depth], name)) for name in names).split()
            if len(words) == 2 and words[0] not in ("max", "-1"):
                quotas.append(int(words[0]) / int(words[1]))
    return min(quotas) if quotas else None


def read_versions(distributions: list[str]) -> dict[str, str]:
    versions = {}
    for name in distributions:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def find_broken() -> dict[str, str]:
    """Runtimes and providers that are installed and cannot be loaded, with the reason."""
    probes: dict[str, Callable[[], Any]] = {OPENVINO: import_openvino} if importlib.util.find_spec("openvino") else {}
    probes.update({name: functools.partial(find_devices, import_onnxruntime(), name) for name in PLUGINS})
    broken = {}
    for name, load in probes.items():
        try:
            load()
        except RefusedError as refusal:
            broken[name] = str(refusal)
    return broken


def read_cuda(ort: Any) -> dict[str, Any]:
    """The CUDA that ONNX Runtime was built for, the one that the driver supports, and libraries that do not load."""
    preload_cuda(ort)
    built = str(getattr(ort, "cuda_version", ""))
    wanted = ["libcudnn.so.9", *(f"{name}.so.{built.split('.')[0]}" for name in ("libcudart", "libcublasLt") if built)]
    facts = {"built": built, "driver": "", "missing": [name for name in wanted if not can_load(name)]}
    if can_load("libcuda.so.1"):
        version = ctypes.c_int()
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)) == 0:
            facts["driver"] = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return facts


def can_load(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def read_cpuid(leaf: int, subleaf: int) -> list[int]:
    """EAX, EBX, ECX, EDX of the x86-64 instruction CPUID, as the (emulated) CPU answers it."""
    # push rbx; mov eax, edi; mov ecx, esi; mov r8, rdx; cpuid; mov [r8], eax; mov [r8+4], ebx;
    # mov [r8+8], ecx; mov [r8+12], edx; pop rbx; ret
    code = bytes.fromhex("53 89f8 89f1 4989d0 0fa2 418900 41895804 41894808 4189500c 5b c3")
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    function = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)
    registers = (ctypes.c_uint32 * 4)()
    function(ctypes.addressof(ctypes.c_char.from_buffer(page)))(leaf, subleaf, ctypes.addressof(registers))
    return list(registers)


def read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


# ---- entry -----------------------------------------------------------------------------------------

JOBS = {"probe": probe, "infer": infer, "bench": bench, "memory": memory, "profile": profile}
_lines = sys.stdout


def say(**message: Any) -> None:
    _lines.write(json.dumps(message) + "\n")
    _lines.flush()


def main(folder: str) -> int:
    global _lines
    # What native code prints must not be taken for our words: descriptor 1 becomes standard error.
    _lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    os.chdir(folder)
    return answer()


def answer() -> int:
    """Do the job of the current folder: result.json, or words about why there is none; the exit code."""
    with open("job.json", encoding="utf-8") as file:
        job = json.load(file)
    try:
        sessions = JOBS[job["kind"]](job)
    except RefusedError as refusal:
        say(refused=refusal.kind, cause=str(refusal), facts=read_facts(job))
        return 1
    with open("result.json.part", "w", encoding="utf-8") as file:
        json.dump({"sessions": sessions, "facts": read_facts(job)}, file)
    os.replace("result.json.part", "result.json")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["verify"]:
        sys.exit(importlib.import_module("verify").main(sys.argv[2:]))
    sys.exit(main(sys.argv[1]))
