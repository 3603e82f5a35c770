"""``bench``'s other modes: one at a time, and only with options that they have."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from mbdeploy.cli import program


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--tune", "--explain"], "--tune and --explain: expected one of these"),
        (["--preset", "rapid"], "expected options that go with it, found --preset"),
        (["--tune", "--threads", "1,2"], "expected one value of --threads"),
        (["--explain", "--provider", "cpu", "--provider", "openvino"], "expected one value of --provider"),
        (["--instructions", "--warmup", "2"], "found --warmup"),
        (["--scenario", "server", "--min-pairs", "9"], "found --min-pairs"),
        (["--threads", "1,x"], "expected numbers from 1 to 65536"),
        (["--batch-size", "0"], "expected numbers from 1 to 65536"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(args: list[str], message: str, conv_model_file: Path) -> None:
    result = CliRunner().invoke(program, ["bench", str(conv_model_file), *args])
    assert message in (result.stderr or str(result.exception))
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("words", "logs"), [((), "conv.single-stream.loadgen"), (("-o", "results/run.json"), "results/run.loadgen")]
)
def test_the_logs_of_loadgen_are_kept_beside_the_result_or_else_beside_the_model(
    words: tuple[str, ...], logs: str, conv_model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mbdeploy.errors import UsageError
    from mbdeploy.stages import bench_scenario

    asked: list[Path | None] = []

    def run_scenario(models: list[Path], *, scenario: str, logs: Path | None = None, on_progress: object) -> None:
        asked.append(logs)
        raise UsageError(where=scenario, expected="no run", found="one", todo="stop here")

    monkeypatch.chdir(conv_model_file.parent)
    monkeypatch.setattr(bench_scenario, "run_scenario", run_scenario)
    CliRunner().invoke(program, ["bench", conv_model_file.name, "--scenario", "single-stream", *words])
    assert asked == [Path(logs)]


def test_a_folder_with_a_manifests_name_is_meant_where_it_is_written_as_a_path(
    conv_model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(conv_model_file.parent)
    result = CliRunner().invoke(program, ["bench", conv_model_file.name, "--inputs", "./photos"])
    assert "./photos" in result.stderr
    assert "nothing of that name" in result.stderr
