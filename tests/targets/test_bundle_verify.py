"""The bundle's own copy of metrics and gates gives the same numbers as the package's."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbdeploy.estimate import estimate_ratio_of_sums
from mbdeploy.quant.metrics import check, compare_outputs
from mbdeploy.stages.bundle import _list_providers
from mbdeploy.targets import Job, bundle_verify, folder, parse_provider
from mbdeploy.targets.job import Session
from mbdeploy.targets.providers import PROVIDERS, compiles

METRICS = ("images", "elements", "max_abs", "sqnr_db", "cosine", "top1_agreement", "max_lsb", "degenerate")
SHAPES = st.sampled_from([(1, 3), (4, 5), (4, 1), (6, 2), (3, 4, 2, 2), (5,), (2, 3, 4), (3, 5, 2), (0, 3)])


def make_pair(seed: int, shape: tuple[int, ...], noise: float, fault: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ref = rng.normal(size=shape).astype(np.float32)
    out = (ref + noise * rng.normal(size=shape)).astype(np.float32)
    if fault == "nan" and out.size:
        out.flat[0] = np.nan
    elif fault == "constant":
        out[:] = 1
    elif fault == "same":
        out[:] = out[:1]
    elif fault == "shape":
        out = out[..., :-1]
    elif fault == "huge":
        out = out.astype(np.float64) * 1e200
    elif fault == "lost" and ref.ndim == 3:
        out[:, :1] = 0.5
        out[:, :, -1:] = 0.5
    elif fault == "tiny":
        ref, out = ref.astype(np.float64) * 1e-200, out.astype(np.float64) * 1e-200
    return ref, out


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shape=SHAPES,
    noise=st.sampled_from([0.0, 1e-3, 0.5]),
    fault=st.sampled_from(["", "", "", "nan", "constant", "same", "shape", "huge", "tiny", "lost"]),
    scale=st.sampled_from([None, 0.25]),
)
def test_metrics_are_those_of_the_package(
    seed: int, shape: tuple[int, ...], noise: float, fault: str, scale: float | None
) -> None:
    ref, out = make_pair(seed, shape, noise, fault)
    ours = compare_outputs(ref, out, scale)
    theirs = bundle_verify.compare_outputs(ref, out, scale)
    assert set(theirs) == set(METRICS)
    for name in METRICS:
        expected = getattr(ours, name)
        if isinstance(expected, float):
            expected = pytest.approx(expected, rel=1e-12, nan_ok=True)
        assert theirs[name] == expected, name


def test_differences_whose_squares_vanish_are_no_equality() -> None:
    ref, out = make_pair(0, (4, 5), 0.5, "tiny")
    with np.errstate(all="raise"):
        found = bundle_verify.compare_outputs(ref, out)
    assert found["degenerate"] == "differences so small that their squares vanish"


def test_metrics_over_several_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_verify, "BLOCK_ELEMENTS", 12)
    ref, out = make_pair(0, (11, 5), 0.3, "")
    ours, theirs = compare_outputs(ref, out), bundle_verify.compare_outputs(ref, out)
    assert theirs["sqnr_db"] == pytest.approx(ours.sqnr_db, rel=1e-12)
    assert (theirs["top1_agreement"], theirs["max_abs"]) == (ours.top1_agreement, ours.max_abs)


@given(value=st.one_of(st.none(), st.floats()), bound=st.floats(-10, 10), comparison=st.sampled_from([">=", "<="]))
def test_gates_are_those_of_the_package(value: float | None, bound: float, comparison: Any) -> None:
    ours, theirs = check("m", "s", value, bound, comparison), bundle_verify.judge_gate("m", value, bound, comparison)
    assert theirs["passed"] is ours.passed


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 1000), noise=st.floats(0.01, 1), worse=st.floats(0.9, 2.5), images=st.integers(1, 20))
def test_the_gate_on_saturation_is_that_of_the_package(seed: int, noise: float, worse: float, images: int) -> None:
    from mbdeploy.results import Placement
    from mbdeploy.stages.parity import _judge_gap, compare_cell
    from mbdeploy.stages.reference import Reference
    from mbdeploy.stages.subject import Subject
    from mbdeploy.targets import Ran

    rng = np.random.default_rng(seed)
    ref = rng.normal(size=(images, 7)).astype(np.float32)
    ideal = ref + noise * rng.normal(size=ref.shape).astype(np.float32)
    ran = ref + noise * worse * rng.normal(size=ref.shape).astype(np.float32)
    from mbdeploy.model_file import Signature
    from mbdeploy.results import ModelRef

    subject = Subject(
        ref=ModelRef(name="m", path="m", sha256="", size_bytes=0),
        path=Path("m"),
        signature=Signature(input="x", shape=(None, 1, 1, 1), outputs=("y",)),
        kind="int8",
        preprocess=None,
        labels=None,
        output_scales=(None,),
        companions=(),
    )
    nowhere = Placement(nodes={}, operators={})
    runs = [Ran(outputs=(output,), output_names=("y",), placement=nowhere) for output in (ran, ideal)]
    against = Reference(name="", inputs=ref, outputs=(ref,))
    ours = _judge_gap(compare_cell(subject, "cpu", 0, *runs, against, borrowed=False), 0.3)
    model = {"output_scales": [None], "gates": [], "exact_gap_db": 0.3}
    (row,) = bundle_verify.judge_outputs(model, [ref], [ran], [ideal])
    (theirs,) = row["checks"]
    assert (theirs["passed"], theirs["note"]) == (ours.passed, ours.note)
    assert theirs["value"] == pytest.approx(ours.value, rel=1e-12)


@given(st.lists(st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)), min_size=1, max_size=9))
def test_the_ratio_of_errors_is_that_of_the_package(pairs: list[tuple[float, float]]) -> None:
    above, below = (np.array(column) for column in zip(*pairs, strict=True))
    expected = estimate_ratio_of_sums(above, below).low
    assert bundle_verify.find_lowest_ratio(above, below) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "word", sorted({*PROVIDERS, *(row.ep for row in PROVIDERS.values()), "NoSuchExecutionProvider"})
)
def test_a_provider_is_opened_as_the_package_opens_it(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_verify.platform, "machine", lambda: "aarch64")
    provider = parse_provider(word)
    found = bundle_verify.find_provider({"providers": _list_providers()}, word)
    assert (found["ep"], found["runtime"]) == (provider.ep, provider.runtime)
    assert (found["options"], found["compiles"]) == (provider.options, compiles(provider.ep))


def test_the_job_says_to_the_agent_what_a_target_says(tmp_path: Path) -> None:
    session = Session(model=tmp_path / "m.onnx", provider="CPUExecutionProvider")
    session.model.write_bytes(b"")
    job = Job(kind="infer", sessions=(session,))
    with folder.making(job, emulated=False, distributions=["onnxruntime"]) as place:
        said = json.loads((place / "job.json").read_text())
    way = {"runtime": "onnxruntime", "ep": "CPUExecutionProvider", "options": {}, "optimization": "all"}
    manifest = {"models": [{"file": "m.onnx"}], "distributions": ["onnxruntime", "numpy"]}
    ours = bundle_verify.plan_job(manifest, tmp_path, 1, way)
    assert ours["sessions"] == [{**said["sessions"][0], "model": str(tmp_path / "m.onnx")}]
    of_benches = {"warmup", "min_duration_s", "min_rounds", "max_rounds"}
    assert ours == {**{key: value for key, value in said.items() if key not in of_benches}, **ours}
    assert set(said) - set(ours) == of_benches


def test_it_is_python_3_9_and_imports_the_standard_library_and_numpy() -> None:
    tree = ast.parse(Path(bundle_verify.__file__).read_text(encoding="utf-8"), feature_version=(3, 9))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    import sys

    assert imported - set(sys.stdlib_module_names) == {"numpy"}
