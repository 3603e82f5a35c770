"""A bundle's check of itself: its models run on this machine, judged as ``mbdeploy verify`` judges them.

    python agent.py verify

``mbdeploy bundle`` copies this file, as verify.py, beside agent.py, the models, golden.npz and manifest.json. It needs
Python >= 3.9 and numpy (the agent, in a process of its own, needs the runtime) and imports nothing of ours, so the
metrics and gates of quant/metrics.py and stages/parity.py are here once more; a test holds the two to one another.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

Array = Any
Metrics = dict[str, Any]

HERE = Path(__file__).resolve().parent
CPU = "CPUExecutionProvider"
BAD_INPUT, UNAVAILABLE = 2, 3
#: What the agent says of a refusal -> the exit code.
REFUSALS = {"unavailable": UNAVAILABLE, "outdated": UNAVAILABLE, "rejected": BAD_INPUT, "usage": BAD_INPUT}
VERDICTS = {True: "pass", False: "FAIL", None: "inconclusive"}
BLOCK_ELEMENTS = 1 << 20
VARIES = 1e-3
LIMIT_S = 3600
NEVER_ROUNDING_DB = 3.0
#: What golden.npz may hold in all, as mbdeploy's --max-memory has it by default, and its header at most.
MOST_BYTES = 2 << 30
LONGEST_HEADER = 10_000


class BundleError(Exception):
    """This bundle cannot be judged here; ``code`` is the exit code that says why."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


# ---- metrics and gates: mbdeploy/quant/metrics.py and mbdeploy/stages/parity.py have the same ------


def compare_outputs(ref: Array, out: Array, scale: float | None = None) -> Metrics:
    """How far ``out`` (n, …) is from ``ref``; with a reason under "degenerate" no number here may be believed."""
    found = find_fault(ref, out)
    sums = dict.fromkeys(("max_abs", "signal", "noise", "energy", "product"), 0.0)
    agree = voters = 0
    images = len(ref) if found is None else 0
    rows = max(1, BLOCK_ELEMENTS * images // ref.size) if images else 1
    for start in range(0, images, rows):
        block = slice(start, start + rows)
        a, b = ref[block].astype(np.float64).ravel(), out[block].astype(np.float64).ravel()
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # find_degenerate calls these by their names
            error = a - b
            for name, x, y in (("signal", a, a), ("noise", error, error), ("energy", b, b), ("product", a, b)):
                sums[name] += float(x @ y)
        sums["max_abs"] = max(sums["max_abs"], float(np.abs(error).max()))
        if ref.ndim in (2, 4) and ref.shape[1] > 1:
            same = ref[block].argmax(axis=1) == out[block].argmax(axis=1)
            agree, voters = agree + int(np.count_nonzero(same)), voters + same.size
    fault = found or find_degenerate(ref, out, sums)
    counted = {"images": images, "elements": ref.size if images else 0, "degenerate": fault}
    if fault is not None:
        nothing = {"top1_agreement": None, "max_lsb": None}
        return {**counted, **nothing, "max_abs": math.nan, "sqnr_db": math.nan, "cosine": math.nan}
    norm = math.sqrt(sums["signal"]) * math.sqrt(sums["energy"])
    return {
        **counted,
        "max_abs": sums["max_abs"],
        "sqnr_db": ratio_db(sums["signal"], sums["noise"]),
        "cosine": min(1.0, max(-1.0, sums["product"] / norm)) if norm > 0 else math.nan,
        "top1_agreement": agree / voters if voters else None,
        "max_lsb": sums["max_abs"] / scale if scale else None,
    }


def find_fault(ref: Array, out: Array) -> str | None:
    if ref.shape != out.shape:
        return f"shape mismatch: reference {ref.shape}, output {out.shape}"
    if ref.ndim == 0 or ref.size == 0:
        return f"empty: shape {ref.shape}"
    for name, array in (("reference", ref), ("output", out)):
        if array.dtype.kind not in "fiub":
            return f"{name} of type {array.dtype}, which is not a real number"
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            return f"non-finite {name}: {bad} of {array.size} values are NaN or infinite"
    return None


def find_degenerate(ref: Array, out: Array, sums: dict[str, float]) -> str | None:
    if not math.isfinite(sums["signal"] + sums["noise"] + sums["energy"]):
        return "values whose squares overflow"
    if sums["noise"] == 0 < sums["max_abs"]:
        return "differences so small that their squares vanish"
    if ref.size > 1:
        for name, array in (("reference", ref), ("output", out)):
            if array.min() == array.max():
                return f"constant {name}: every value is {float(array.flat[0]):g}"
        if (ref != ref[:1]).any() and not (out != out[:1]).any():
            return f"constant output: the same for all {len(ref)} images"
        if ref.ndim == 3:  # detections: places, and their attributes, which are the shorter axis
            axes = (0, 2) if ref.shape[1] <= ref.shape[2] else (0, 1)
            low, high = (pick(axis=axes).astype(np.float64) for pick in (ref.min, ref.max))
            varies = high - low > VARIES * np.maximum(abs(low), abs(high))
            lost = np.count_nonzero(varies & (out.min(axis=axes) == out.max(axis=axes)))
            if lost:
                return f"constant output: {lost} of {len(low)} attributes, which vary in the reference"
    return None


def ratio_db(signal_power: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal_power / noise) if signal_power > 0 else -math.inf


def judge_gate(name: str, value: float | None, bound: float, comparison: str, note: str = "") -> dict[str, Any]:
    """A gate; NaN, and a metric that does not exist (None), never pass."""
    number = math.nan if value is None else float(value)
    passed = number >= bound if comparison == ">=" else number <= bound
    return {
        "name": name,
        "value": number,
        "bound": bound,
        "comparison": comparison,
        "passed": bool(passed),
        "note": note,
    }


def judge_gap(expected: Array, ran: Array, ideal: Array, executed: Metrics, exact: Metrics, bound: float) -> Metrics:
    """The gate on saturation: see ``_judge_gap`` of mbdeploy/stages/parity.py."""
    above, below = exact["sqnr_db"], executed["sqnr_db"]
    gate = judge_gate("exact_gap_db", 0.0 if above == below else above - below, bound, "<=")
    if not gate["passed"] and gate["value"] < NEVER_ROUNDING_DB:
        errors = [sum_errors(expected, output) for output in (ran, ideal)]
        if find_lowest_ratio(*errors) <= 1:
            note = f"{len(expected)} images cannot tell it from rounding; give more with --num-samples"
            gate.update(passed=None, note=note)
    return gate


def sum_errors(ref: Array, out: Array) -> Array:
    return np.array([np.square(ref[k].astype(np.float64) - out[k].astype(np.float64)).sum() for k in range(len(ref))])


def find_lowest_ratio(above: Array, below: Array) -> float:
    """The lower end of ``mbdeploy.estimate.estimate_ratio_of_sums``, with its 99 % confidence."""
    total, n = float(below.sum()), len(above)
    ratio = float(above.sum()) / total if total > 0 else math.inf
    if n < 2 or not math.isfinite(ratio):
        return 0.0
    deviation = math.sqrt(float(np.square(above - ratio * below).sum()) * n / (n - 1)) / total
    return max(ratio - statistics.NormalDist().inv_cdf(0.5 + 0.99 / 2) * deviation, 0.0)


def judge_outputs(model: dict[str, Any], expected: list[Array], ran: list[Array], ideal: list[Array]) -> list[Metrics]:
    """One row an output: its metrics as executed and exact, and the gates of the manifest over them."""
    rows = []
    for index, ref in enumerate(expected):
        scale = model["output_scales"][index]
        executed, exact = (compare_outputs(ref, outputs[index], scale) for outputs in (ran, ideal))
        gates = []
        for metric, comparison, bound in model["gates"]:
            if executed[metric] is not None or executed["degenerate"] or not bound <= 0:
                gates.append(judge_gate(metric, executed[metric], bound, comparison))
        if model["exact_gap_db"] is not None:
            gates.append(judge_gap(ref, ran[index], ideal[index], executed, exact, model["exact_gap_db"]))
        if executed["degenerate"]:
            gates = [{**gate, "note": executed["degenerate"]} for gate in gates]
        rows.append({"output": index, "executed": executed, "exact": exact, "checks": gates})
    return rows


# ---- the bundle: its files, and its models run by the agent ----------------------------------------


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json, after every file that it names was found to be the one it means."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        files = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(BAD_INPUT, f"manifest.json cannot be read ({error}); unpack the bundle again") from error
    for name in sorted(files):
        try:
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as error:
            raise BundleError(BAD_INPUT, f"{name} is missing ({error.strerror}); unpack the bundle again") from error
        if digest != files[name]:
            raise BundleError(BAD_INPUT, f"{name} is not the file that was bundled; unpack the bundle again")
    return manifest


def read_golden(path: Path) -> dict[str, Array]:
    """The arrays of golden.npz, once each is known to be numbers or text of just the size that its header declares.

    mbdeploy/preflight/zips.py and arrays.py look at the same.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.flag_bits & 1 or member.compress_type not in (0, 8) for member in members):
                raise ValueError("a member that is encrypted, or packed in another way than numpy does")
            if len({member.filename for member in members}) < len(members):
                raise ValueError("two members of one name")
            if sum(member.file_size for member in members) > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES >> 30} GiB of arrays")
            for member in members:
                with archive.open(member) as stream:
                    check_header(stream, member)
        with np.load(path, allow_pickle=False) as golden:
            return {name: golden[name] for name in golden.files}
    except Exception as error:  # zipfile and numpy raise nearly anything on damaged bytes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BundleError(BAD_INPUT, f"{path.name} cannot be read ({reason}); unpack the bundle again") from error


def check_header(stream: Any, member: zipfile.ZipInfo) -> None:
    start = stream.read(12)
    width = {(1, 0): 2, (2, 0): 4}[tuple(start[6:8])]
    length = int.from_bytes(start[8 : 8 + width], "little")
    if not start.startswith(b"\x93NUMPY") or length > LONGEST_HEADER:
        raise ValueError(f"{member.filename}, which is no array")
    text = (start[8:] + stream.read(length))[: width + length]
    parse = np.lib.format.read_array_header_1_0 if width == 2 else np.lib.format.read_array_header_2_0
    shape, _, dtype = parse(io.BytesIO(text))
    size = member.file_size - 8 - width - length
    if dtype.hasobject or dtype.itemsize == 0 or min(shape, default=0) < 0:
        raise ValueError(f"{member.filename} of {dtype} {shape}")
    if math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{member.filename}, of {size} bytes where {dtype} {shape} needs others")


def find_provider(manifest: dict[str, Any], word: str) -> dict[str, Any]:
    """How a provider is opened, by mbdeploy's word for it or by ONNX Runtime's name."""
    rows = manifest["providers"]
    row = rows.get(word.lower()) or next((one for one in rows.values() if one["ep"] == word), None)
    if row is None and not word.endswith("ExecutionProvider"):
        known = ", ".join(rows)
        raise BundleError(BAD_INPUT, f"no provider {word!r}; choose one of {known}, or an …ExecutionProvider")
    machine = {"arm64": "aarch64"}.get(platform.machine(), platform.machine())
    if row is not None and row["machine"] not in ("", machine):
        raise BundleError(UNAVAILABLE, f"{word} means {row['machine']}, and this machine is {machine}")
    return row or {"ep": word, "runtime": "onnxruntime", "options": {}, "machine": "", "compiles": False}


def plan_job(manifest: dict[str, Any], folder: Path, threads: int, *ways: dict[str, Any]) -> dict[str, Any]:
    """The agent's job: every model in the first way, then in the next; a way is a provider with an ``optimization``."""
    return {
        "kind": "infer",
        "batch_size": 16,
        "emulated": False,
        "distributions": manifest["distributions"],
        "sessions": [
            {
                "model": str(folder / model["file"]),
                "runtime": way["runtime"],
                "provider": way["ep"],
                "provider_options": way["options"],
                "session_config": {},
                "optimization": way["optimization"],
                "threads": threads,
                "arena": True,
                "allow_fallback": False,
                "refusing": model.get("refusing"),
            }
            for way in ways
            for model in manifest["models"]
        ],
    }


def run_apart(job: dict[str, Any], images: Array) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The job's sessions with their outputs, and the facts of this machine.

    The agent runs in a process of its own: a model that kills its runtime must not end this one.
    """
    with tempfile.TemporaryDirectory(prefix="mbdeploy-bundle-") as folder:
        np.save(Path(folder, "input.npy"), images)
        Path(folder, "job.json").write_text(json.dumps(job), encoding="utf-8")
        told, code, stderr = run_agent(folder)
        if code != 0:
            index, step = told.get("at", (None, "starting"))
            where = "agent.py" if index is None else Path(job["sessions"][index]["model"]).name
            ended = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
            cause = told.get("cause") or f"{ended} while {step}" + "".join(f": {line}" for line in stderr[-1:])
            raise BundleError(REFUSALS.get(told.get("refused", ""), BAD_INPUT), f"{where}: {cause}")
        result = json.loads(Path(folder, "result.json").read_text(encoding="utf-8"))
        sessions: list[dict[str, Any]] = result["sessions"]
        for number, session in enumerate(sessions):
            files = (Path(folder, f"out_{number}_{k}.npy") for k in range(len(session["output_names"])))
            session["outputs"] = [np.array(np.load(file, mmap_mode="r", allow_pickle=False)) for file in files]
        return sessions, result["facts"]


def run_agent(folder: str) -> tuple[dict[str, Any], int, list[str]]:
    """All that the agent said, its exit code, and its lines on standard error; its input stays open while it works."""
    told: dict[str, Any] = {}
    with Path(folder, "stderr").open("w+", encoding="utf-8", errors="replace") as errors:
        command = [sys.executable, str(HERE / "agent.py"), folder]
        environment = {**os.environ, "MBDEPLOY_PARENT": str(os.getpid())}
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment
        ) as agent:
            watch = threading.Timer(LIMIT_S, agent.kill)
            watch.start()
            assert agent.stdout is not None
            for line in agent.stdout:
                told.update(json.loads(line))
            agent.wait()
            watch.cancel()
        errors.seek(0)
        return told, agent.returncode, errors.read().strip().splitlines()


def verify(folder: Path, word: str, threads: int, num_samples: int) -> dict[str, Any]:
    """Every model of the bundle, as executed on the provider and exact, against the golden outputs."""
    manifest = read_manifest(folder)
    provider = find_provider(manifest, word)
    models = manifest["models"]
    golden = read_golden(folder / manifest["golden"])
    try:
        images = golden["input"][:num_samples]
        expected = [golden[f"output_{k}"][:num_samples] for k in range(len(golden["output_names"]))]
    except (KeyError, TypeError, IndexError) as error:
        raise BundleError(BAD_INPUT, f"golden.npz is not one of mbdeploy ({error}); make the bundle again") from error
    executed = {**provider, "optimization": "all"}
    exact = {**provider, "optimization": "none"}
    if not provider["compiles"]:
        sessions, facts = run_apart(plan_job(manifest, folder, threads, executed, exact), images)
    else:  # such a provider makes integer kernels of Q/DQ at every level: it has no exact way
        exact = {"ep": CPU, "runtime": "onnxruntime", "options": {}, "optimization": "none"}
        sessions, facts = run_apart(plan_job(manifest, folder, threads, executed), images)
        sessions += run_apart(plan_job(manifest, folder, threads, exact), images)[0]
    rows = []
    for index, model in enumerate(models):
        ran, ideal = sessions[index], sessions[index + len(models)]
        if len(ran["output_names"]) != len(expected):
            raise BundleError(BAD_INPUT, f"{model['file']}: {len(ran['output_names'])} outputs, not {len(expected)}")
        for row in judge_outputs(model, expected, ran["outputs"], ideal["outputs"]):
            name = ran["output_names"][row["output"]]
            rows.append({"model": model["file"], "provider": word, **row, "output": name, "session": ran["settings"]})
    host = {key: facts[key] for key in ("machine", "system", "versions", "providers")}
    return {"schema_version": 1, "bundle": manifest["name"], "images": len(images), "host": host, "rows": rows}


# ---- what is shown ---------------------------------------------------------------------------------


def find_code(report: dict[str, Any]) -> int:
    """1 if a gate failed, else 4 if one was inconclusive, else 0."""
    verdicts = [check["passed"] for row in report["rows"] for check in row["checks"]]
    return 1 if False in verdicts else 4 if None in verdicts else 0


def format_table(report: dict[str, Any]) -> str:
    lines = [("file", "output", "SQNR dB", "exact dB", "top-1", "max abs", "gate", "value", "bound", "verdict")]
    notes = []
    for row in report["rows"]:
        ran, top1 = row["executed"], row["executed"]["top1_agreement"]
        head = [row["model"], row["output"], name_db(ran["sqnr_db"]), name_db(row["exact"]["sqnr_db"])]
        head += ["n/a" if top1 is None else f"{100 * top1:.1f} %", f"{ran['max_abs']:.3g}"]
        for check in row["checks"]:
            bound = f"{check['comparison']} {check['bound']:.4g}"
            lines.append((*head, check["name"], f"{check['value']:.3g}", bound, VERDICTS[check["passed"]]))
            head = [""] * len(head)
            notes += [f"{check['name']}, {row['model']}: {check['note']}"] if check["note"] else []
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(widths[k]) for k, cell in enumerate(line)).rstrip() for line in lines]
    provider = report["rows"][0]["provider"]
    title = f"{report['bundle']} on {provider}, {platform.machine()}, {report['images']} images"
    return "\n".join([title, "", *text, *notes])


def name_db(value: float) -> str:
    return "equal" if value == math.inf else f"{value:.4g}"


def name_non_finite(plain: Any) -> Any:
    """JSON has no NaN and no infinity: they are written as words, as in mbdeploy's own results."""
    if isinstance(plain, float):
        return plain if math.isfinite(plain) else str(plain)
    if isinstance(plain, dict):
        return {key: name_non_finite(value) for key, value in plain.items()}
    return [name_non_finite(value) for value in plain] if isinstance(plain, (list, tuple)) else plain


def main(arguments: list[str]) -> int:
    """The command ``verify``."""
    parser = argparse.ArgumentParser(
        prog="agent.py verify",
        description="Check this bundle on this machine.",
        epilog="Exit codes: 0 fine, 1 a gate failed, 2 bad input, 3 a provider that is not here, 4 inconclusive.",
    )
    parser.add_argument("--provider", default="cpu", help="cpu, cuda, xnnpack, … or an …ExecutionProvider (cpu)")
    parser.add_argument("--threads", type=int, default=1, help="intra-op threads (1)")
    parser.add_argument("--num-samples", type=int, default=64, help="how many of the golden images (64)")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="how to print the result")
    given = parser.parse_args(arguments)
    if given.threads < 1 or given.num_samples < 1:
        parser.error("--threads and --num-samples are 1 or more")
    try:
        report = verify(HERE, given.provider, given.threads, given.num_samples)
    except BundleError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.code
    shown = json.dumps(name_non_finite(report), indent=2) if given.format == "json" else format_table(report)
    sys.stdout.write(shown + "\n")
    return find_code(report)
