"""The script that goes with a reduced model: it shows the difference with numpy and the runtime alone."""

from __future__ import annotations

import inspect
from typing import Any, Literal

import msgspec

from mbdeploy.tracing import faults

Opening = Literal["built in", "plug-in", "openvino"]
"""How a script opens the provider: one of ONNX Runtime's own, a library beside it, or OpenVINO's own runtime."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What the last session must not hold for the difference to be there: see :mod:`mbdeploy.tracing.faults`.

    ``refuses_degenerate``: as in a gate, outputs that are no numbers or one value throughout hold nothing.
    """

    metric: str
    bound: float
    refuses_degenerate: bool = False


_SCRIPT = '''"""Shows a difference between how a runtime executes a model and what the model says.

    {command}

{story}

Needs {needs}. It ends in
10  if the difference is there,
 0  if it is not: on another CPU, or in another version,
 3  if it cannot be run here: a package, or the provider, is not there or takes no node,
 4  if nobody can tell: what should be right is not what is expected either,
and in anything else if the script itself could not go on.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

SHOWN, NOT_SHOWN, UNAVAILABLE, UNKNOWN = 10, 0, 3, 4


def stop(code, words):
    print(words)
    sys.exit(code)


try:
    import numpy as np
    import onnxruntime as ort
except ImportError as error:
    stop(UNAVAILABLE, f"a package is missing: {{error}}")

HERE = Path(__file__).resolve().parent
CPU = "CPUExecutionProvider"
PROVIDER, PROVIDER_OPTIONS = {provider!r}, {provider_options!r}
THREADS = {threads!r}
#: A name -> the model file, the level of graph optimisation, the session configuration, whether on PROVIDER.
SESSIONS = {sessions!r}
SCALE = {scale!r}
#: The last session shows the difference if this does not hold there.
METRIC, BOUND, REFUSES_DEGENERATE = {metric!r}, {bound!r}, {refuses_degenerate!r}


{functions}

def run(file, level, config, own):
    answer, size = open_own(str(HERE / file), level, config) if own else open_cpu(str(HERE / file), level, config)
    size, parts = size or len(images), []
    for start in range(0, len(images), size):
        chunk = images[start : start + size]
        padded = np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk), axis=0)])
        parts.append(np.asarray(answer(np.ascontiguousarray(padded)))[: len(chunk)])
    values = np.concatenate(parts)
    return (values.astype(np.float32) - zero_point) * np.float32(SCALE) if SCALE else values


def list_options(level, config):
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    return options


def use(session):
    name, batch = session.get_inputs()[0].name, session.get_inputs()[0].shape[0]
    return lambda values: session.run(None, {{name: values}})[0], batch if isinstance(batch, int) else 0


def open_cpu(path, level, config):
    return use(ort.InferenceSession(path, list_options(level, config), providers=[CPU]))


{opening}

arrays = np.load(HERE / "arrays.npz", allow_pickle=False)
images, expected, zero_point = arrays["x"], arrays["expected"], np.float32(arrays["zero_point"])
print("onnxruntime", ort.__version__)
holding = []
for name, how in SESSIONS.items():
    values = run(*how)
    value = measure_fault(METRIC, expected, values)
    if REFUSES_DEGENERATE and is_degenerate(expected, values):
        value = float("nan")
    holding.append(holds_bound(METRIC, value, BOUND))
    error = measure_fault("max_abs", expected, values)
    steps = f" ({{error / SCALE:.1f}} steps)" if SCALE else ""
    print(f"{{name:40}} SQNR {{measure_fault('sqnr_db', expected, values):7.2f}} dB, max abs {{error:.4g}}{{steps}}")
    print(f"{{'':40}} {{METRIC}} {{value:.4g}}, bound {{BOUND:.4g}}: {{'holds' if holding[-1] else 'does not hold'}}")
if not holding[0]:
    stop(UNKNOWN, f"nobody can tell: {{next(iter(SESSIONS))!r}} is not what is expected either")
if holding[-1]:
    stop(NOT_SHOWN, "the difference is not here")
stop(SHOWN, "the difference is here")
'''

_BUILT_IN = """def open_own(path, level, config):
    if PROVIDER not in ort.get_available_providers():
        stop(UNAVAILABLE, f"{PROVIDER} is not in this onnxruntime: {', '.join(ort.get_available_providers())}")
    if PROVIDER != CPU and hasattr(ort, "preload_dlls"):  # CUDA's libraries may lie in wheels
        ort.preload_dlls()
    return use_own(path, list_options(level, config), [(PROVIDER, PROVIDER_OPTIONS), CPU][: 1 + (PROVIDER != CPU)])
"""

_PLUG_IN = """def open_own(path, level, config):
    import importlib

    try:
        library = importlib.import_module({module!r}).get_library_path()
        ort.register_execution_provider_library(PROVIDER, library)
    except Exception as error:
        stop(UNAVAILABLE, f"{plug_in} cannot be loaded: {{error}}")
    devices = [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER]
    if not devices:
        stop(UNAVAILABLE, f"{{PROVIDER}} has no device here")
    options = list_options(level, config)
    options.add_provider_for_devices(devices[:1], PROVIDER_OPTIONS)
    batch = ort.InferenceSession(path, providers=[CPU]).get_inputs()[0].shape[0]
    if isinstance(batch, str):  # such providers take no graph whose shapes are open
        options.add_free_dimension_override_by_name(batch, 1)
    return use_own(path, options, None)
"""

_USE_OWN = """def use_own(path, options, providers):
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = ort.InferenceSession(path, options, providers=providers, enable_fallback=0)
    except Exception as error:
        if PROVIDER == CPU:
            raise
        stop(UNAVAILABLE, f"{PROVIDER} cannot be opened here: {error}")
    if PROVIDER not in session.get_providers():
        stop(UNAVAILABLE, f"onnxruntime fell back to {', '.join(session.get_providers())}")
    if hasattr(session, "get_provider_graph_assignment_info"):  # older ones do not say
        takers = {part.ep_name for part in session.get_provider_graph_assignment_info()}
        if takers and PROVIDER not in takers:
            stop(UNAVAILABLE, f"{PROVIDER} took no node: all went to {', '.join(sorted(takers))}")
    return use(session)


"""

_OPENVINO = """def open_own(path, level, config):
    options = dict(PROVIDER_OPTIONS)
    if "ONEDNN_MAX_CPU_ISA" in options:  # it is no property, and read once, with the first kernel
        os.environ["ONEDNN_MAX_CPU_ISA"] = options.pop("ONEDNN_MAX_CPU_ISA")
    try:
        import openvino as ov
    except ImportError as error:
        stop(UNAVAILABLE, f"a package is missing: {error}")
    print("openvino", ov.__version__)
    core = ov.Core()
    if "CPU" not in core.available_devices:
        stop(UNAVAILABLE, f"OpenVINO has no CPU here: {', '.join(core.available_devices)}")
    core.set_property("CPU", {**options, "INFERENCE_NUM_THREADS": str(THREADS)})
    model = core.read_model(path)
    shape = model.input(0).partial_shape
    if shape[0].is_dynamic:
        shape[0] = len(images)
        model.reshape(shape)
    request = core.compile_model(model, "CPU").create_infer_request()
    return lambda values: request.infer([values])[0], shape[0].get_length()
"""


def write_script(
    *, opening: Opening, plug_in: str, version: str, judgement: Judgement, provider_version: str = "", **parts: Any
) -> str:
    """The script's text; ``parts`` are its words in braces, ``plug_in`` is the package that carries the provider."""
    openings = {
        "built in": _USE_OWN + _BUILT_IN,
        "plug-in": _USE_OWN + _PLUG_IN.format(plug_in=plug_in, module=plug_in.replace("-", "_")),
        "openvino": _OPENVINO,
    }
    more = f", and {plug_in} (it was {provider_version})" if plug_in else ""
    functions = (faults.measure_fault, faults.is_degenerate, faults.holds_bound)
    return _SCRIPT.format(
        needs=f"numpy, onnxruntime (it was {version}){more}",
        opening=openings[opening],
        functions="\n\n".join(inspect.getsource(function) for function in functions),
        **msgspec.structs.asdict(judgement),
        **parts,
    )
