"""What stands in the sidecar of a result that a command saves: everything that it was made from, and how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from mbdeploy import artifact
from mbdeploy.cli import program
from mbdeploy.golden import Golden, write_golden
from mbdeploy.model_file import write_metadata

QUICK = ["--processes", "1", "--min-duration", "0.01", "--min-pairs", "2", "--warmup", "0"]
#: Command -> its stage, what it reads besides the model, and what it was told.
COMMANDS: dict[str, tuple[list[str], str, set[str], dict[str, object]]] = {
    "verify": (["verify", "--threads", "2"], "verify", {"golden"}, {"threads": 2}),
    "matrix": (["verify", "--matrix"], "matrix", {"golden"}, {"threads": 1}),
    "evaluate": (["evaluate", "--data", "images", "--limit", "2"], "evaluate", {"data"}, {"provider": "cpu"}),
    "bench": (["bench", *QUICK], "bench", {"inputs"}, {"min_pairs": 2, "providers": ["cpu"]}),
}


@pytest.fixture
def folder(
    tmp_path: Path,
    make_conv_model: Callable[..., onnx.ModelProto],
    make_photos: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder to work in, with a model, its golden outputs, and images of two classes."""
    monkeypatch.chdir(tmp_path)
    for label in "ab":
        make_photos(Path("images") / label, count=2)
    model = make_conv_model(classes=5)
    write_metadata(model, {"mbdeploy.preprocess": '{"size": 16}'})
    Path("net.onnx").write_bytes(model.SerializeToString(deterministic=True))
    images = np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype(np.float32)
    import onnxruntime

    outputs = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"]).run(None, {"image": images})
    write_golden(
        Path("golden.npz"),
        Golden(input=images, outputs=tuple(outputs), output_names=("logits",), names=("a", "b", "c", "d")),
    )
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_result_that_a_command_saves_names_its_data_its_options_and_its_tools(command: str, folder: Path) -> None:
    words, stage, reads, told = COMMANDS[command]
    result = CliRunner().invoke(program, [words[0], "net.onnx", *words[1:], "-o", f"results/{command}.json"])
    assert result.exit_code in (0, 4), result.output  # (whether times are steady is not ours to say)
    sidecar = artifact.read_sidecar(folder / "results" / f"{command}.json")
    assert sidecar is not None
    found = sidecar.provenance
    assert (found.stage, set(found.parents)) == (stage, {"model 0", *reads})
    assert found.parents["model 0"] == artifact.digest_file(folder / "net.onnx")
    if stage != "evaluate":
        assert artifact.digest_file(folder / "golden.npz") in found.parents.values()
    assert {name: found.params[name] for name in told} == told
    assert found.tools == artifact.read_tools(*set(found.tools) - {"mbdeploy"}) and "onnxruntime" in found.tools


@pytest.mark.parametrize(
    ("mode", "given", "reads", "told"),
    [
        ("explain", {"min_pairs": 3}, {"inputs"}, {"min_pairs": 3, "provider": "cpu", "roofline": True}),
        ("tune", {"threads": 2}, {"inputs"}, {"threads": 2, "processes": 5}),
        ("scenario", {"scenario": "offline"}, {"inputs"}, {"scenario": "offline", "preset": "quick"}),
        ("instructions", {"providers": ("cpu@qemu:haswell",)}, set(), {"providers": ("cpu@qemu:haswell",)}),
    ],
)
def test_a_mode_of_bench_names_what_it_reads_and_its_own_options(
    mode: str, given: dict[str, object], reads: set[str], told: dict[str, object], folder: Path
) -> None:
    from mbdeploy.cli.bench_modes import _plan
    from mbdeploy.stages.bench_explain import explain
    from mbdeploy.stages.bench_scenario import run_scenario
    from mbdeploy.stages.bench_tune import tune
    from mbdeploy.stages.instructions import count

    functions = {"explain": explain, "tune": tune, "scenario": run_scenario, "instructions": count}
    found = _plan(mode, functions[mode], [Path("net.onnx")], given)
    assert (found.stage, set(found.parents)) == (mode, {"model 0", *reads})
    assert {name: found.params[name] for name in told} == told
    assert not {"on_progress", "logs", "inputs", "models"} & set(found.params)
    assert len(found.key) == 64  # (it can be written)


def test_tuning_several_models_names_the_images_of_each(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mbdeploy.stages import bench_tune
    from mbdeploy.stages.subject import read_subject

    def tune(path: Path, *, inputs: str | None = None, seed: int = 0, provider: str = "cpu", **_: object) -> object:
        ref = read_subject(path).ref
        return bench_tune.TuneResult(model=ref, provider=provider, answers=(), runs=(), chosen="defaults", code="")

    monkeypatch.setattr(bench_tune, "tune", tune)
    monkeypatch.setattr(bench_tune, "tabulate_tuning", lambda result: [])
    other = folder / "other" / "net.onnx"
    other.parent.mkdir()
    other.write_bytes(Path("net.onnx").read_bytes())
    golden = other.with_name("golden.npz")
    golden.write_bytes(Path("golden.npz").read_bytes() + b"\0")
    result = CliRunner().invoke(program, ["bench", "net.onnx", "other/net.onnx", "--tune", "-o", "results/tuned.json"])
    assert result.exit_code == 0, result.exception
    sidecar = artifact.read_sidecar(folder / "results" / "tuned.json")
    assert sidecar is not None
    assert sidecar.provenance.parents == {
        "model 0": artifact.digest_file(Path("net.onnx")),
        "inputs 0": artifact.digest_file(Path("golden.npz")),
        "model 1": artifact.digest_file(other),
        "inputs 1": artifact.digest_file(golden),
    }
