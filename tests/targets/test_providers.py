"""The words of --provider, and why a provider is not there."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from mbdeploy.errors import UnavailableError, UsageError
from mbdeploy.targets import PROVIDERS, open_target, parse_provider, table
from mbdeploy.targets.fake import FakeTarget
from mbdeploy.targets.providers import explain_absence, find_conflict, limits_memory, list_absent

FACTS = {
    "machine": "x86_64",
    "providers": ["CPUExecutionProvider"],
    "versions": {"python": "3.11", "onnxruntime": "1.31.1"},
    "nvidia_devices": [],
    "nvidia_driver": False,
}
WITH_CUDA = {
    **FACTS,
    "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "versions": {"onnxruntime-gpu": "1.31.1"},
}


@pytest.mark.parametrize(
    ("word", "name", "ep", "target"),
    [
        ("cpu", "cpu", "CPUExecutionProvider", "local"),
        ("CPU@local", "cpu", "CPUExecutionProvider", "local"),
        ("cpu@qemu:haswell", "cpu", "CPUExecutionProvider", "qemu:haswell"),
        ("cuda", "cuda", "CUDAExecutionProvider", "local"),
        ("arm@ssh:pi@board:22", "arm", "CPUExecutionProvider", "ssh:pi@board:22"),
        ("ACLExecutionProvider", "ACLExecutionProvider", "ACLExecutionProvider", "local"),
    ],
)
def test_a_word_is_a_provider_and_where_it_runs(word: str, name: str, ep: str, target: str) -> None:
    provider = parse_provider(word)
    assert (provider.word, provider.name, provider.ep, provider.target) == (word, name, ep, target)


@pytest.mark.parametrize("word", ["", "gpu", "cpu@", "@local", "CPUExecution"])
def test_other_words_are_refused_with_the_known_ones(word: str) -> None:
    with pytest.raises(UsageError):
        parse_provider(word)


def test_every_row_of_the_table_can_be_said() -> None:
    assert all(parse_provider(name).ep == row.ep for name, row in PROVIDERS.items())


def test_a_wheel_without_the_provider_is_named_with_the_one_to_install() -> None:
    found, todo = explain_absence("CUDAExecutionProvider", FACTS, "not compiled in")
    assert found == "onnxruntime 1.31.1, which does not have it"
    assert "pip uninstall onnxruntime" in todo and "pip install onnxruntime-gpu" in todo


def test_cuda_without_device_and_driver_says_both_and_the_runtimes_own_cause() -> None:
    found, todo = explain_absence("CUDAExecutionProvider", WITH_CUDA, "fell back")
    assert found == "no NVIDIA device (/dev/nvidia0); no NVIDIA driver (libcuda.so.1); fell back"
    assert todo == "run where there is an NVIDIA GPU"


def test_with_a_device_the_runtimes_own_cause_is_what_is_left() -> None:
    facts = {**WITH_CUDA, "nvidia_devices": ["/dev/nvidia0"], "nvidia_driver": True}
    found, todo = explain_absence("CUDAExecutionProvider", facts, "libcudnn.so.9 not found")
    assert found == "libcudnn.so.9 not found"
    assert "libraries" in todo


@pytest.mark.parametrize(
    ("cuda", "found", "todo"),
    [
        ({"built": "12.8", "driver": "11.8", "missing": []}, "a driver for CUDA 11.8, and", "an NVIDIA GPU"),
        ({"built": "12.8", "driver": "12.4", "missing": ["libcudnn.so.9"]}, "not load: libcudnn.so.9", "[cuda,cudnn]"),
        ({"built": "12.8", "driver": "13.0", "missing": []}, "", "driver and libraries"),
        ({"built": "", "driver": "", "missing": []}, "", "driver and libraries"),
    ],
)
def test_a_cuda_that_does_not_match_is_said_before_any_model_is_loaded(
    cuda: dict[str, object], found: str, todo: str
) -> None:
    facts = {**WITH_CUDA, "nvidia_devices": ["/dev/nvidia0"], "nvidia_driver": True, "cuda": cuda}
    said, advice = explain_absence("CUDAExecutionProvider", facts, "")
    assert found in said and bool(found) == bool(said)
    assert todo in advice


def test_two_wheels_of_onnx_runtime_in_one_place_are_named_as_the_cause() -> None:
    versions = {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.30.0", "openvino": "2026.4"}
    found, todo = explain_absence("CUDAExecutionProvider", {**FACTS, "versions": versions}, "")
    assert found == "onnxruntime 1.31.1 and onnxruntime-gpu 1.30.0, which overwrite each other's files"
    assert todo.startswith("`pip uninstall onnxruntime onnxruntime-gpu`")
    assert find_conflict({"onnxruntime": "1.31.1", "openvino": "2026.4"}) is None


def test_openvino_is_a_wheel_beside_onnxruntime_and_one_that_does_not_import_says_so() -> None:
    found, todo = explain_absence("OpenVINO", FACTS, "")
    assert (found, todo) == ("no package openvino", "`pip install openvino`, beside onnxruntime")
    broken = {
        **FACTS,
        "versions": {"openvino": "2026.4"},
        "broken": {"OpenVINO": "openvino cannot be imported: no tbb"},
    }
    assert explain_absence("OpenVINO", broken, "") == ("openvino cannot be imported: no tbb", "reinstall openvino")


def test_float_is_float32_on_every_provider_unless_the_user_says_otherwise() -> None:
    assert parse_provider("openvino").options["INFERENCE_PRECISION_HINT"] == "f32"
    assert parse_provider("cuda").options == parse_provider("CUDAExecutionProvider").options == {"use_tf32": "0"}
    assert parse_provider("cpu").options == {}
    assert [parse_provider(word).runtime for word in ("openvino", "openvino-ep", "cpu")] == [
        "openvino",
        "onnxruntime",
        "onnxruntime",
    ]


def test_every_recipe_in_the_table_is_one_that_quantize_has() -> None:
    from mbdeploy.quant.recipes import find_recipe

    assert all(find_recipe(row.recipe) for row in PROVIDERS.values() if row.recipe)


def test_where_q_dq_runs_in_integers_the_recipe_that_cards_take_by_default_is_the_one_to_take() -> None:
    from mbdeploy.card import Quantization

    for name in ("cpu", "arm", "openvino"):
        assert PROVIDERS[name].recipe == Quantization().recipe


def test_a_provider_that_no_table_knows_is_explained_too() -> None:
    assert "check its name" in explain_absence("FooExecutionProvider", FACTS, "")[1]


def test_every_absent_provider_has_a_reason_and_the_present_ones_none() -> None:
    absent = list_absent(FACTS)
    assert "cpu" not in absent
    assert absent["arm"] == "this machine is x86_64; emulated ones: `mbdeploy targets list`"
    assert set(absent) == set(PROVIDERS) - {"cpu"}
    assert set(list_absent({**FACTS, "machine": "aarch64"})) == set(PROVIDERS) - {"cpu", "arm"}
    assert "no NVIDIA device" in list_absent(WITH_CUDA)["cuda"]


def test_a_cuda_process_has_no_limit_on_its_address_space() -> None:
    assert limits_memory("CPUExecutionProvider") and not limits_memory("CUDAExecutionProvider")


def test_an_unknown_target_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="local, qemu"):
        open_target(parse_provider("cpu@mars"))


def test_local_takes_no_argument() -> None:
    with pytest.raises(UsageError, match="plain `local`"):
        open_target(parse_provider("cpu@local:x"))


def test_arm_is_not_answered_by_another_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table.platform, "machine", lambda: "x86_64")
    with pytest.raises(UnavailableError, match="this machine, which is x86_64"):
        open_target(parse_provider("arm@local"))
    monkeypatch.setattr(table.platform, "machine", lambda: "arm64")
    assert open_target(parse_provider("arm")).name == "local"


def open_plugged(argument: str) -> FakeTarget:
    return FakeTarget(answer=lambda session, inputs: [inputs], name=f"plugged:{argument}")


def test_a_plug_in_target_is_loaded_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("plugged", f"{__name__}:open_plugged", "mbdeploy.targets")
    asked = []

    def entry_points(*, group: str, name: str) -> list[EntryPoint]:
        asked.append((group, name))
        return [point] if name == "plugged" else []

    monkeypatch.setattr(table, "entry_points", entry_points)
    assert open_target(parse_provider("cpu@plugged:here")).name == "plugged:here"
    assert asked == [("mbdeploy.targets", "plugged")]


def test_the_page_on_providers_has_every_row_of_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "providers.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*) \|$", page, re.MULTILINE))
    assert list(rows) == list(PROVIDERS)
    for name, row in PROVIDERS.items():
        runs_as, wheel, recipe, options = re.split(r" ?\| ?", rows[name])
        assert runs_as.startswith(row.ep) and recipe == (row.recipe or "float")
        assert wheel == (f"`{row.wheel}`" if row.wheel else "no wheel: a build of one's own")
        assert re.findall(r"`(\w+)=(\w+)`", options) == list(row.options.items())
