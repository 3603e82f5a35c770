"""Verify: what passes, what fails and why, on this machine and on targets that are made up."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from mbdeploy.card import Budgets
from mbdeploy.errors import DataError, ModelError, StepError, UnavailableError, UsageError
from mbdeploy.results import ParityReport, decode_result, encode_result
from mbdeploy.stages.parity import GATES
from mbdeploy.stages.verify import plan, verify
from mbdeploy.targets import Session
from mbdeploy.targets.fake import FakeTarget

Write = Callable[..., Path]
Plug = Callable[[str, FakeTarget], str]


def answer_mean(session: Session, inputs: np.ndarray) -> list[np.ndarray]:
    return [2 * inputs.mean(axis=(2, 3))]


def answer_saturated(session: Session, inputs: np.ndarray) -> list[np.ndarray]:
    """Exact in float; as executed, everything above 0.5 is clipped."""
    exact = 2 * inputs.mean(axis=(2, 3))
    return [exact if session.optimization == "none" else np.minimum(exact, 0.5)]


def list_passed(report: ParityReport) -> dict[str, bool | None]:
    return {check.name: check.passed for check in report.checks}


def test_variants_of_one_network_pass_on_this_machine(write_mean_model: Write, mean_golden: Path) -> None:
    metadata = {"mbdeploy.stage": "simplified"}
    models = [
        write_mean_model(),
        write_mean_model("s.onnx", metadata=metadata),
        write_mean_model("q.onnx", quantized=True),
    ]
    report = verify(models, golden=mean_golden, budgets=Budgets(int8_sqnr_db=20, int8_top1_agreement=0.9))
    assert all(check.passed for check in report.checks)
    assert [check.name for check in report.checks] == [
        "max_abs",
        "max_abs",
        "sqnr_db",
        "top1_agreement",
        "exact_gap_db",
    ]
    assert [(row.model.name, row.mode, row.against) for row in report.rows] == [
        ("fp32", "executed", "reference"),
        ("fp32", "exact", "reference"),
        ("s", "executed", "reference"),
        ("s", "exact", "reference"),
        ("q", "executed", "reference"),
        ("q", "exact", "reference"),
        ("q", "executed", "exact"),
    ]
    assert report.rows[0].metrics.max_abs < 1e-6
    assert report.rows[0].metrics.images == 12
    assert report.rows[4].metrics.max_lsb is not None and report.rows[4].metrics.max_lsb <= 0.51
    assert report.rows[6].metrics.max_lsb == 0
    assert report.rows[0].placement.nodes.keys() == {"CPUExecutionProvider"}
    assert report.rows[1].session["optimization"] == "none"
    assert report.hosts["cpu"].cores >= 1
    assert decode_result(encode_result(report), ParityReport) == report


def test_wrong_weights_and_outputs_that_overflow_fail_their_gate(write_mean_model: Write, mean_golden: Path) -> None:
    overflowing = write_mean_model("inf.onnx", factor=3e38)
    model = onnx.load(overflowing)
    model.graph.node[-1].output[0] = "once"
    model.graph.node.append(onnx.helper.make_node("Mul", ["once", "factor"], ["y"], "twice"))
    onnx.save(model, overflowing)
    report = verify([write_mean_model(factor=2.1), overflowing], golden=mean_golden)
    wrong, infinite = report.checks
    assert wrong.passed is False and 0 < wrong.value < 1 and wrong.note == ""
    assert infinite.passed is False and math.isnan(infinite.value) and "non-finite output" in infinite.note


def test_weights_that_are_nan_are_refused_before_anything_runs(write_mean_model: Write, mean_golden: Path) -> None:
    with pytest.raises(ModelError, match="expected finite weights, found NaN"):
        verify([write_mean_model(factor=math.nan)], golden=mean_golden)


def test_an_fp32_file_run_over_data_is_a_reference_too(
    write_mean_model: Write, tmp_path: Path, mean_images: np.ndarray
) -> None:
    np.savez(tmp_path / "images.npz", inputs=mean_images)
    reference = write_mean_model("reference.onnx", external=True)
    report = verify(
        [write_mean_model("q.onnx", quantized=True)],
        reference=reference,
        data=str(tmp_path / "images.npz"),
        num_samples=5,
    )
    assert report.rows[0].metrics.images == 5
    assert report.rows[0].metrics.sqnr_db > 20
    assert report.reference == f"{reference} over {tmp_path / 'images.npz'}"


def test_saturation_is_a_number_of_its_own(write_mean_model: Write, mean_golden: Path, plug_fake: Plug) -> None:
    word = plug_fake("clipping", FakeTarget(answer=answer_saturated))
    report = verify([write_mean_model("q.onnx", quantized=True)], golden=mean_golden, providers=[word])
    executed, exact, saturation = report.rows
    assert exact.metrics.sqnr_db == math.inf
    assert saturation.against == "exact" and saturation.metrics.max_abs == executed.metrics.max_abs > 0
    assert saturation.metrics.max_lsb == pytest.approx(64 * saturation.metrics.max_abs)
    assert list_passed(report)["exact_gap_db"] is False


def test_on_an_emulated_target_the_exact_answers_come_from_this_machine(
    write_mean_model: Write, mean_golden: Path, plug_fake: Plug
) -> None:
    word = plug_fake("board", FakeTarget(answer=answer_saturated, emulated=True))
    report = verify([write_mean_model("q.onnx", quantized=True)], golden=mean_golden, providers=[word])
    assert [(row.mode, row.against) for row in report.rows] == [("executed", "reference"), ("executed", "exact")]
    assert [check.note for check in report.checks] == ["", "", "exact on this machine's CPU"]
    assert report.hosts[word].emulator == "fake"
    assert list_passed(report)["exact_gap_db"] is False


def test_a_kind_that_is_given_chooses_the_gates(write_mean_model: Write, mean_golden: Path, plug_fake: Plug) -> None:
    word = plug_fake("true", FakeTarget(answer=answer_mean))
    models = [write_mean_model()]
    assert set(list_passed(verify(models, golden=mean_golden, providers=[word]))) == {"max_abs"}
    as_int8 = verify(models, golden=mean_golden, providers=[word], kind="int8")
    assert list_passed(as_int8) == {"sqnr_db": True, "top1_agreement": True, "exact_gap_db": True}


def test_no_agreement_is_asked_of_an_output_without_classes(
    write_mean_model: Write, mean_golden: Path, plug_fake: Plug, tmp_path: Path, mean_images: np.ndarray
) -> None:
    from mbdeploy.golden import read_golden, write_golden

    flat = msgspec.structs.replace(read_golden(mean_golden), outputs=(mean_images.mean(axis=(1, 2, 3)),))
    write_golden(tmp_path / "flat.npz", flat)
    fake = FakeTarget(answer=lambda session, inputs: [inputs.mean(axis=(1, 2, 3))])
    word = plug_fake("regressor", fake)
    report = verify([write_mean_model()], golden=tmp_path / "flat.npz", providers=[word], kind="int8")
    assert list_passed(report) == {"sqnr_db": True, "exact_gap_db": True}
    wanted = Budgets(int8_top1_agreement=0.9)
    asked = verify([write_mean_model()], golden=tmp_path / "flat.npz", providers=[word], kind="int8", budgets=wanted)
    assert list_passed(asked)["top1_agreement"] is False


def test_every_provider_has_its_own_rows_and_host_and_is_run_once(
    write_mean_model: Write, mean_golden: Path, plug_fake: Plug
) -> None:
    words = [plug_fake("one", FakeTarget(answer=answer_mean)), plug_fake("two", FakeTarget(answer=answer_mean))]
    report = verify([write_mean_model()], golden=mean_golden, providers=[*words, words[0]])
    assert [row.provider for row in report.rows] == [words[0]] * 2 + [words[1]] * 2
    assert set(report.hosts) == set(words)


def test_files_of_one_name_are_told_apart_by_their_folders(
    write_mean_model: Write, mean_golden: Path, plug_fake: Plug
) -> None:
    word = plug_fake("true", FakeTarget(answer=answer_mean))
    models = [write_mean_model("old/int8.onnx"), write_mean_model("new/int8.onnx")]
    report = verify(models, golden=mean_golden, providers=[word])
    assert {row.model.name for row in report.rows} == {"old/int8", "new/int8"}


def test_golden_beside_the_first_model_is_found_without_being_named(
    write_mean_model: Write, mean_golden: Path, plug_fake: Plug
) -> None:
    word = plug_fake("true", FakeTarget(answer=answer_mean))
    assert verify([write_mean_model()], providers=[word], num_samples=3).rows[0].metrics.images == 3


def test_cuda_without_cuda_is_unavailable_and_says_why(write_mean_model: Write, mean_golden: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA compiled in")
    with pytest.raises(UnavailableError, match="onnxruntime-gpu") as caught:
        verify([write_mean_model()], golden=mean_golden, providers=["cuda"])
    assert caught.value.exit_code == 3


def test_a_model_with_a_broken_graph_is_a_step_error_that_names_it(
    write_mean_model: Write, mean_golden: Path, tmp_path: Path
) -> None:
    import onnx

    model = onnx.load(write_mean_model())
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(StepError, match=r"odd\.onnx.*REJECTED while loading"):
        verify([tmp_path / "odd.onnx"], golden=mean_golden)


def test_inputs_that_contradict_each_other_are_refused_before_anything_runs(
    write_mean_model: Write, mean_golden: Path, tmp_path: Path, mean_images: np.ndarray
) -> None:
    model = write_mean_model()
    with pytest.raises(UsageError, match="at least one model"):
        verify([])
    with pytest.raises(UsageError, match="one reference"):
        verify([model], golden=mean_golden, reference=model)
    with pytest.raises(UsageError, match="give --data"):
        verify([model], reference=model)
    with pytest.raises(UsageError, match="1 thread or more"):
        verify([model], threads=0)
    with pytest.raises(ModelError, match="no such file"):
        verify([tmp_path / "missing.onnx"], golden=mean_golden)
    with pytest.raises(DataError, match="missing"):
        verify([model], golden=tmp_path / "missing.npz")
    mean_golden.unlink()
    with pytest.raises(UsageError, match=r"no golden\.npz beside the model"):
        verify([model])


def test_golden_that_does_not_fit_the_model_is_refused(
    write_mean_model: Write, mean_golden: Path, tmp_path: Path, mean_images: np.ndarray
) -> None:
    from mbdeploy.golden import read_golden, write_golden

    golden = read_golden(mean_golden)
    write_golden(tmp_path / "large.npz", msgspec.structs.replace(golden, input=np.repeat(mean_images, 2, axis=3)))
    with pytest.raises(DataError, match=r"images of \[3, 4, 4\]"):
        verify([write_mean_model()], golden=tmp_path / "large.npz")
    two = msgspec.structs.replace(golden, outputs=golden.outputs * 2, output_names=("a", "b"))
    write_golden(tmp_path / "two.npz", two)
    with pytest.raises(DataError, match="an output for each of the 1"):
        verify([write_mean_model()], golden=tmp_path / "two.npz")


def test_the_freshness_key_follows_files_and_options(
    write_mean_model: Write, mean_golden: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_mean_model()
    key = plan([model]).key
    assert plan([model], golden=mean_golden).key == key
    assert plan([model], threads=2).key != key
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("mbdeploy.stages.verify.identify_machine", lambda: {"cpu": "another one"})
        assert plan([model]).key != key
    assert plan([model], budgets=Budgets(export_max_abs=1)).key != key
    write_mean_model(factor=3)
    assert plan([model]).key != key


def test_every_budget_in_the_table_is_one_that_cards_have() -> None:
    names = {budget for gates in GATES.values() for _, _, budget in gates}
    assert names <= set(Budgets.__struct_fields__)


def test_verify_never_imports_torch_or_the_runtime() -> None:
    program = (
        "import sys, mbdeploy.stages.verify, mbdeploy.stages.bench, mbdeploy.stages.evaluate\n"
        "raise SystemExit(bool({'torch', 'onnxruntime', 'onnxsim'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_gap_that_few_images_scatter_is_inconclusive_and_one_that_all_images_show_fails(
    write_mean_model: Write, mean_golden: Path, plug_fake: Plug
) -> None:
    """Exact misses every image by 0.1; executed by twice that on one image in twelve, or by a fifth more on all."""

    def answer(session: Session, inputs: np.ndarray, errors: np.ndarray) -> list[np.ndarray]:
        outputs = answer_mean(session, inputs)[0]
        if session.optimization != "none":
            return [outputs + errors[: len(outputs), np.newaxis]]
        return [outputs + np.float32(0.1)]

    one, every = np.full(12, 0.1, np.float32), np.full(12, 0.12, np.float32)
    one[0] = 0.2
    found = {}
    for name, errors in (("one", one), ("every", every)):
        word = plug_fake(
            name, FakeTarget(answer=lambda session, inputs, errors=errors: answer(session, inputs, errors))
        )
        report = verify([write_mean_model("q.onnx", quantized=True)], golden=mean_golden, providers=[word])
        found[name] = next(check for check in report.checks if check.name == "exact_gap_db")
    assert found["one"].value == pytest.approx(10 * math.log10(15 / 12), abs=1e-3)
    assert found["one"].passed is None and found["one"].note.startswith("12 images cannot tell it from rounding")
    assert found["every"].value == pytest.approx(20 * math.log10(1.2), abs=1e-3)
    assert (found["every"].passed, found["every"].note) == (False, "")


@pytest.mark.slow
def test_on_openvino_the_exact_answers_come_from_onnx_runtime_here(
    write_mean_model: Write, mean_golden: Path, real_openvino: None
) -> None:
    report = verify([write_mean_model("q.onnx", quantized=True)], golden=mean_golden, providers=["cpu", "openvino"])
    on_cpu, on_openvino = ([row for row in report.rows if row.provider == word] for word in ("cpu", "openvino"))
    assert [(row.mode, row.against) for row in on_openvino] == [("executed", "reference"), ("executed", "exact")]
    assert on_openvino[0].session["runtime"].startswith("openvino 20")
    assert on_openvino[0].session["provider_options"]["INFERENCE_PRECISION_HINT"] == "f32"
    assert on_openvino[0].placement.nodes.keys() == {"OpenVINO"}
    assert on_openvino[1].metrics.max_lsb is not None and on_openvino[1].metrics.max_lsb <= 1
    assert abs(on_openvino[0].metrics.sqnr_db - on_cpu[0].metrics.sqnr_db) < 0.5
    gap = [check for check in report.checks if check.name == "exact_gap_db"]
    assert [check.note for check in gap] == ["", "exact on this machine's CPU"]


def test_openvino_refuses_onnx_runtimes_session_configuration(write_mean_model: Write, mean_golden: Path) -> None:
    with pytest.raises(UsageError, match=r"openvino: expected options of openvino.*--session-config a\.b"):
        verify([write_mean_model()], golden=mean_golden, providers=["openvino"], session_config={"a.b": "1"})


@pytest.mark.slow
def test_without_openvino_it_is_unavailable_and_with_fallback_the_cpu_answers_for_it(
    write_mean_model: Write, mean_golden: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "broken" / "openvino"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('a library of it is missing')")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    with pytest.raises(UnavailableError, match="a library of it is missing"):
        verify([write_mean_model()], golden=mean_golden, providers=["openvino"])
    report = verify([write_mean_model()], golden=mean_golden, providers=["openvino"], allow_fallback=True)
    assert {row.provider for row in report.rows} == {"openvino (fell back to cpu)"}
    assert "a library of it is missing" in report.rows[0].session["fallback"]
    assert report.rows[0].placement.nodes.keys() == {"CPUExecutionProvider"}
