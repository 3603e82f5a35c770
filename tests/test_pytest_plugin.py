"""The pytest plugin in suites of its own: what is collected, how tests end, and that it stays out of the way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mbdeploy.gating import check
from mbdeploy.gating.report import CardResult, Gate, Refusal
from mbdeploy.results import Check
from mbdeploy.stages.bisect import Divergence

pytest_plugins = ["pytester"]

CARD = """
name = "tiny"
summary = "for this test"
net = "mobilenet_v1"
args = { alpha = 0.25 }
weights = { seed = 0 }
preprocess = { size = 32 }
quantization = { calibration = "photos", num_calibration_samples = 3, recipe = "portable" }
[budgets]
int8_sqnr_db = 5.0
"""
INSTALLED = any(point.value == "mbdeploy.pytest_plugin" for point in metadata.entry_points(group="pytest11"))
#: A suite's conftest.py with which its cards are timed for a moment instead of seconds.
QUICK_BENCH = """
import functools

def pytest_runtest_setup(item):
    from mbdeploy.gating import measuring

    measuring.run = functools.partial(measuring.run, min_duration=0.05)
"""
PLUGIN = () if INSTALLED else ("-p", "mbdeploy.pytest_plugin")


def gate(variant: str, passed: bool | None, note: str = "") -> Gate:
    check = Check(
        name="sqnr_db", subject=f"{variant} on cpu", value=9.5, bound=15, comparison=">=", passed=passed, note=note
    )
    return Gate(card="tiny", variant=variant, provider="cpu", rule="MB402", check=check)


@pytest.fixture
def checked(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A card in models/, whose check fails INT8, doubts the simplified file, and has no CUDA; the calls made."""
    (pytester.mkdir("models") / "tiny.toml").write_text(CARD)
    calls: list[Any] = []
    divergence = Divergence(
        subject="int8 on cpu, default", cause="runtime", measure="executed", node="conv7", operator="Conv"
    )

    def check_card(card: Any, folder: Path, providers: tuple[str, ...], **options: Any) -> CardResult:
        calls.append((card.name, folder, providers, options))
        return CardResult(
            card="tiny",
            path=card.path,
            folder=str(folder),
            seconds=0.0,
            gates=(gate("fp32", True), gate("simplified", None, "too few images"), gate("int8", False)),
            refusals=(Refusal(provider="cuda", error="UnavailableError", text="no GPU here", exit_code=3),),
            divergences=(divergence,),
        )

    monkeypatch.setattr(check, "check_card", check_card)
    return calls


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-W", "error", "-p", "no:cacheprovider", *PLUGIN, *args)


def test_every_variant_on_every_provider_is_a_test_with_a_readable_name(
    pytester: pytest.Pytester, checked: list[Any]
) -> None:
    args = ("models", "--mbdeploy-provider", "cpu", "--mbdeploy-provider", "cuda", "--collect-only", "-q")
    lines = run(pytester, *args).outlines
    names = [f"{variant}[{provider}]" for variant in ("fp32", "simplified", "int8") for provider in ("cpu", "cuda")]
    assert [line for line in lines if "::" in line] == [f"models/tiny.toml::{name}" for name in names]
    assert checked == []


def test_a_card_is_checked_once_and_its_gates_decide(pytester: pytest.Pytester, checked: list[Any]) -> None:
    result = run(pytester, "models", "--mbdeploy-provider", "cpu", "--mbdeploy-output", "made", "-rs")
    result.assert_outcomes(passed=1, skipped=1, failed=1)
    assert checked == [("tiny", Path("made/tiny"), ("cpu",), {"trust": False})]
    result.stdout.fnmatch_lines_random(["*inconclusive: sqnr_db: too few images*"])


def test_a_failure_shows_the_table_and_the_first_node_and_no_traceback(
    pytester: pytest.Pytester, checked: list[Any]
) -> None:
    result = run(pytester, "models", "--mbdeploy-provider", "cpu", "-k", "int8")
    result.assert_outcomes(failed=1, deselected=2)
    result.stdout.fnmatch_lines(["*int8?cpu?*", "*9.5*>= 15*FAIL*", "first at Conv conv7*"])
    result.stdout.no_fnmatch_line("*Traceback*")


def test_a_provider_that_is_not_here_fails_its_own_tests(pytester: pytest.Pytester, checked: list[Any]) -> None:
    result = run(pytester, "models", "--mbdeploy-provider", "cpu", "--mbdeploy-provider", "cuda", "-k", "fp32")
    result.assert_outcomes(passed=1, failed=1, deselected=4)
    result.stdout.fnmatch_lines(["*no GPU here*"])


def test_a_gate_that_was_never_judged_does_not_pass(pytester: pytest.Pytester, checked: list[Any]) -> None:
    result = run(pytester, "models", "--mbdeploy-provider", "openvino", "-k", "fp32")
    result.assert_outcomes(failed=1, deselected=2)
    result.stdout.fnmatch_lines(["*no gate judged fp32 on openvino*"])


def test_junitxml_has_the_same_names(pytester: pytest.Pytester, checked: list[Any]) -> None:
    run(pytester, "models", "--mbdeploy-provider", "cpu", "--junitxml", "j.xml")
    cases = ElementTree.parse(pytester.path / "j.xml").findall(".//testcase")
    assert [case.get("name") for case in cases] == ["fp32[cpu]", "simplified[cpu]", "int8[cpu]"]


def test_nothing_is_collected_unless_it_is_asked_for(pytester: pytest.Pytester, checked: list[Any]) -> None:
    assert run(pytester, "models").ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_other_toml_files_are_left_alone(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("broken.toml").write_text("= [")
    pytester.path.joinpath("other.toml").write_text('name = "not a card"')
    assert run(pytester, "--mbdeploy-provider", "cpu").ret == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.slow
def test_the_fixture_compares_on_the_providers_that_were_asked_for(
    pytester: pytest.Pytester, conv_model_file: Path
) -> None:
    pytester.makepyfile(
        f"""
        import numpy as np

        def test_parity(mbdeploy_parity):
            images = np.random.default_rng(0).normal(size=(2, 3, 16, 16))
            assert len(mbdeploy_parity({str(conv_model_file)!r}, {str(conv_model_file)!r}, images, max_abs=1e-6)) == 1
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_the_plugin_loads_nothing_heavy() -> None:
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; import mbdeploy.pytest_plugin; "
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'numpy', 'msgspec', 'PIL', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.slow
def test_a_real_card_passes_with_two_workers_that_do_not_do_it_twice(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, make_onnx_card: Callable[..., Path]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(check.__file__).parents[2]))
    make_onnx_card(pytester.path / "models", more="[budgets]\nint8_sqnr_db = 5.0\n")
    pytester.makeconftest(QUICK_BENCH)
    workers = ("-n", "2") if util.find_spec("xdist") else ()
    args = ("models", "--mbdeploy-provider", "cpu", "-W", "error", "-v", "-p", "no:hypothesispytest", *PLUGIN, *workers)
    result = pytester.runpytest_subprocess(*args)
    result.assert_outcomes(passed=3)
    written = {path.name: path.stat().st_mtime_ns for path in (pytester.path / "out/tiny").glob("*.onnx")}
    assert set(written) == {"fp32.onnx", "simplified.onnx", "int8.onnx"}
    pytester.runpytest_subprocess(*args).assert_outcomes(passed=3)
    assert written == {path.name: path.stat().st_mtime_ns for path in (pytester.path / "out/tiny").glob("*.onnx")}
