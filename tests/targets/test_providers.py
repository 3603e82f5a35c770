"""The words of --provider, and why a provider is not there."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from mbdeploy.errors import UnavailableError, UsageError
from mbdeploy.targets import PROVIDERS, open_target, parse_provider, table
from mbdeploy.targets.fake import FakeTarget
from mbdeploy.targets.providers import explain_absence, limits_memory, list_absent

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


def test_a_provider_that_no_table_knows_is_explained_too() -> None:
    assert "check its name" in explain_absence("FooExecutionProvider", FACTS, "")[1]


def test_every_absent_provider_has_a_reason_and_the_present_ones_none() -> None:
    absent = list_absent(FACTS)
    assert "cpu" not in absent
    assert absent["arm"] == "this machine is x86_64"
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
        open_target(parse_provider("arm"))
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
