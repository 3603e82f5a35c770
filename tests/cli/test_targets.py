"""``mbdeploy targets``: what it lists, what set-up says, and its exit codes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mbdeploy.cli import program
from mbdeploy.cli import targets as command
from mbdeploy.errors import EXIT_BAD_INPUT, EXIT_OK, EXIT_UNAVAILABLE, UnavailableError
from mbdeploy.stages import instructions
from mbdeploy.targets import Answer, Job, emulation, ssh
from mbdeploy.targets.emulation import CPUS, Built, Manifest
from mbdeploy.targets.fake import FakeTarget
from mbdeploy.targets.process import ProcessTarget

MANIFEST = Manifest(
    home="/cache/prefix", python="3.11.2", libc="2.36", onnxruntime="1.2.3", numpy="2.2.6", sysroot=None, fetched=()
)


def run(*args: object) -> Result:
    return CliRunner().invoke(program, [str(arg) for arg in args])


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """What the command asks of ``build_prefix``, which answers with a prefix of one new CPU."""
    calls: list[dict[str, object]] = []

    def build_prefix(**keywords: object) -> Built:
        keywords.pop("on_progress")
        calls.append(keywords)
        folder = Path("/cache/prefix")
        return Built(
            folder=folder, manifest=MANIFEST, qemu="9.9.9", cpus=("cortex-a53", "max"), new=("max",), size_bytes=7
        )

    monkeypatch.setattr(emulation, "build_prefix", build_prefix)
    return calls


def test_every_target_is_listed_with_what_it_needs() -> None:
    result = run("targets", "list", "--format", "json")
    assert result.exit_code == EXIT_OK and result.stderr == ""
    rows = {row["provider"]: row for row in json.loads(result.stdout)["targets"]}
    assert {"cpu@local", "cpu@qemu:x86_64", *(f"arm@qemu:{cpu}" for cpu in CPUS), "arm@docker"} == set(rows)
    assert rows["cpu@local"] == {"provider": "cpu@local", "emulated": False, "needs": ""}
    assert rows["arm@qemu:max"]["emulated"] is True
    assert "mbdeploy targets setup qemu" in rows["arm@qemu:max"]["needs"]
    assert "available" in run("targets", "list").stdout


def test_set_up_hands_on_its_options_and_says_what_is_there_and_what_is_new(
    asked: list[dict[str, object]], tmp_path: Path
) -> None:
    result = run("targets", "setup", "qemu", "--cpu", "max", "--cpu", "a64fx", "--sysroot", tmp_path)
    assert result.exit_code == EXIT_OK
    assert asked == [{"sysroot": tmp_path, "mirror": None, "cpus": ("max", "a64fx")}]
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert {"folder /cache/prefix", "CPUs cortex-a53, max", "new max", "qemu 9.9.9"} <= set(lines)


def test_set_up_in_json_has_the_manifest(asked: list[dict[str, object]]) -> None:
    result = run("targets", "setup", "qemu", "--format", "json")
    plain = json.loads(result.stdout)
    assert (plain["schema_version"], plain["folder"]) == (1, "/cache/prefix")
    assert plain["manifest"]["onnxruntime"] == "1.2.3"


def test_a_set_up_that_fails_ends_in_three_with_its_cause_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def build_prefix(**keywords: object) -> Built:
        raise UnavailableError(where="targets setup qemu", expected="wheels", found="no index", todo="look")

    monkeypatch.setattr(emulation, "build_prefix", build_prefix)
    result = run("targets", "setup", "qemu")
    assert (result.exit_code, result.stdout) == (EXIT_UNAVAILABLE, "")
    assert result.stderr == "error: targets setup qemu: expected wheels, found no index; look\n"


@pytest.mark.parametrize("words", [("setup",), ("setup", "mars"), ("setup", "qemu", "--sysroot", "/no/such")])
def test_other_words_are_refused(words: tuple[str, ...]) -> None:
    assert run("targets", *words).exit_code == EXIT_BAD_INPUT


def test_the_group_alone_shows_its_commands() -> None:
    assert set(command.command.commands) == {"list", "setup", "worker"}
    assert "setup" in run("targets", "--help").stdout


def test_instructions_are_counted_on_emulated_cpus_only(conv_model_file: Path) -> None:
    result = run("bench", "--instructions", "--provider", "cpu", conv_model_file)
    assert result.exit_code == EXIT_BAD_INPUT
    assert "an emulated CPU, whose instructions can be counted" in result.stderr


def test_a_count_refuses_the_options_of_timing(conv_model_file: Path) -> None:
    result = run("bench", "--instructions", "--min-pairs", "3", conv_model_file)
    assert result.exit_code == EXIT_BAD_INPUT
    assert "found --min-pairs" in result.stderr


def test_a_count_is_shown_as_instructions_and_saved_raw(
    conv_model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = ProcessTarget(name="qemu:x", command=("qemu", "-cpu", "x"), emulator="qemu -cpu x")
    answer = FakeTarget(answer=lambda session, inputs: [inputs], emulated=True).run(Job(kind="probe"))
    asked: list[Job] = []

    def count(target: ProcessTarget, job: Job, on_progress: object) -> tuple[Answer, list[tuple[int, ...]]]:
        asked.append(job)
        return answer, [(3_100_000, 3_000_000, 3_200_000)]

    monkeypatch.setattr(instructions, "open_target", lambda provider: target)
    monkeypatch.setattr(instructions, "count_instructions", count)
    output = tmp_path / "counts.json"
    result = run("bench", "--instructions", conv_model_file, "--batch-size", "2", "-o", output)
    assert result.exit_code == EXIT_OK
    assert "3.0 M" in result.stdout and "instructions are not time" in result.stdout
    assert [job.inputs.shape for job in asked if job.inputs is not None] == [(2, 3, 16, 16)]
    saved = json.loads(output.read_text())["runs"][0]
    assert (saved["provider"], saved["models"][0]["instructions"]) == ("arm", [3_100_000, 3_000_000, 3_200_000])


@pytest.mark.cluster
@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs Dask distributed")
@pytest.mark.parametrize(("words", "resource"), [((), "latency=1"), (("--provider", "arm@ssh:pi@b1"), "dev_b1=1")])
def test_a_worker_has_one_thread_and_has_its_board_or_its_host_to_itself(
    words: tuple[str, ...], resource: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "_trusts_anyone", lambda words: False)  # (that asks ssh)
    result = run("targets", "worker", "tcp://head:8786", "--dry-run", *words)
    assert result.exit_code == EXIT_OK
    found = result.stdout.split()
    assert found[1:5] == ["-m", "dask", "worker", "tcp://head:8786"]
    assert " ".join(found[5:]) == f"--nworkers 1 --nthreads 1 --resources {resource} --no-dashboard"


@pytest.mark.cluster
@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs Dask distributed")
def test_a_worker_is_not_started_for_a_board_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, job: Job, on_progress: object = None) -> Answer:
        raise UnavailableError(where="ssh:b1", expected="a board", found="silence", todo="plug it in")

    monkeypatch.setattr(ssh, "_trusts_anyone", lambda words: False)
    monkeypatch.setattr(ProcessTarget, "run", refuse)
    monkeypatch.setattr("os.execv", lambda *words: pytest.fail("it was started"))
    result = run("targets", "worker", "tcp://head:8786", "--provider", "cpu@ssh:b1")
    assert (result.exit_code, result.stderr) == (
        EXIT_UNAVAILABLE,
        "error: ssh:b1: expected a board, found silence; plug it in\n",
    )


def test_a_worker_needs_a_scheduler_s_address() -> None:
    result = run("targets", "worker", "head")
    assert result.exit_code == EXIT_BAD_INPUT and "say tcp://HOST:8786" in result.stderr
