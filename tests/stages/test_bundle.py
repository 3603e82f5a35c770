"""Bundles: equal bytes, a self-check with the exit codes of verify, refusals, and unpacking that stays inside."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mbdeploy import artifact
from mbdeploy.artifact import Provenance
from mbdeploy.card import Budgets
from mbdeploy.cli import program
from mbdeploy.errors import DataError, ModelError, UsageError
from mbdeploy.stages.bundle import bundle, opening_bundle
from mbdeploy.stages.bundle_archive import unpack
from mbdeploy.stages.verify import plan, verify

Write = Callable[..., Path]


@pytest.fixture
def folder(write_mean_model: Write, mean_golden: Path) -> Path:
    """What ``mbdeploy run`` leaves, as far as a bundle reads it."""
    write_mean_model("fp32.onnx", metadata={"mbdeploy.stage": "fp32"})
    write_mean_model("simplified.onnx", metadata={"mbdeploy.stage": "simplified"})
    write_mean_model("int8.onnx", quantized=True, metadata={"mbdeploy.stage": "int8"})
    return mean_golden.parent


def judge(folder: Path, budgets: Budgets) -> None:
    """Leave the record of a parity that was judged by these budgets."""
    provenance: Provenance = plan([folder / "int8.onnx"], golden=folder / "golden.npz", budgets=budgets)
    artifact.write_json(folder / "results/parity.json", {})
    artifact.write_sidecar(folder / "results/parity.json", provenance, None)


def unpacked(archive: Path, place: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(place, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (found,) = place.iterdir()
    return found


def check_itself(place: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "agent.py", "verify", *args]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".tar.gz", ".zip"])
def test_equal_inputs_make_equal_bytes_wherever_and_whenever(folder: Path, tmp_path: Path, ending: str) -> None:
    copy = tmp_path / "elsewhere" / folder.name
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("elsewhere"), copy_function=shutil.copyfile)
    first = bundle(folder, output=tmp_path / f"one{ending}", all_variants=True)
    second = bundle(copy, output=tmp_path / f"two{ending}", all_variants=True)
    assert first.sha256 == second.sha256
    assert set(first.files) == {
        "README.txt",
        "sbom.cdx.json",
        "agent.py",
        "verify.py",
        "manifest.json",
        "golden.npz",
        "fp32.onnx",
        "simplified.onnx",
        "int8.onnx",
    }


@pytest.mark.slow
def test_a_bundle_passes_and_gives_the_numbers_of_verify(folder: Path, tmp_path: Path) -> None:
    budgets = Budgets(int8_sqnr_db=20, int8_top1_agreement=0.9)
    judge(folder, budgets)
    made = bundle(folder, output=tmp_path / "b.tar.gz", all_variants=True)
    assert made.budgets == budgets and made.judged_by == "results/parity.json"
    place = unpacked(tmp_path / "b.tar.gz", tmp_path / "board")
    done = check_itself(place, "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(done.stdout)["rows"]
    with opening_bundle(tmp_path / "b.tar.gz") as opened:
        report = verify(opened.models, golden=opened.golden, budgets=opened.budgets)
    checks = [check for row in rows for check in row["checks"]]
    assert [(check["name"], check["value"], check["bound"], check["passed"]) for check in checks] == [
        (check.name, pytest.approx(check.value, rel=1e-12), check.bound, check.passed) for check in report.checks
    ]
    table = check_itself(place)
    assert table.returncode == 0
    assert "sqnr_db" in table.stdout and "pass" in table.stdout and "int8.onnx" in table.stdout


@pytest.mark.slow
def test_a_gate_that_fails_ends_in_1_there_and_here(folder: Path, tmp_path: Path) -> None:
    judge(folder, Budgets(int8_sqnr_db=200))
    bundle(folder, output=tmp_path / "b.tar.gz")
    done = check_itself(unpacked(tmp_path / "b.tar.gz", tmp_path / "board"))
    assert done.returncode == 1
    assert "FAIL" in done.stdout
    here = CliRunner().invoke(program, ["verify", str(tmp_path / "b.tar.gz")])
    assert here.exit_code == 1
    assert "sqnr_db" in here.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["int8.onnx", "golden.npz", "agent.py", "README.txt"])
def test_a_changed_file_is_refused_before_anything_runs(folder: Path, tmp_path: Path, name: str) -> None:
    bundle(folder, output=tmp_path / "b.tar.gz")
    place = unpacked(tmp_path / "b.tar.gz", tmp_path / "board")
    with (place / name).open("ab") as file:
        file.write(b"\n")
    done = check_itself(place)
    assert done.returncode == 2
    assert f"{name} is not the file that was bundled" in done.stderr
    assert done.stdout == ""


def test_a_missing_file_is_refused_too(folder: Path, tmp_path: Path) -> None:
    bundle(folder, output=tmp_path / "b.tar.gz")
    place = unpacked(tmp_path / "b.tar.gz", tmp_path / "board")
    (place / "golden.npz").unlink()
    assert "golden.npz is missing" in check_itself(place).stderr
    (place / "manifest.json").write_text("{")
    done = check_itself(place)
    assert done.returncode == 2 and "manifest.json cannot be read" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--provider", "NnapiExecutionProvider"), 3, "int8.onnx: not compiled in"),
        (("--provider", "warp"), 2, "no provider 'warp'"),
        (("--threads", "0"), 2, "1 or more"),
        (("--nonsense",), 2, "unrecognized"),
    ],
)
def test_other_endings_have_the_exit_codes_of_mbdeploy(
    folder: Path, tmp_path: Path, args: tuple[str, ...], code: int, said: str
) -> None:
    bundle(folder, output=tmp_path / "b.tar.gz")
    done = check_itself(unpacked(tmp_path / "b.tar.gz", tmp_path / "board"), *args)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


@pytest.mark.slow
def test_a_model_that_its_runtime_refuses_ends_in_2(folder: Path, tmp_path: Path) -> None:
    bundle(folder, output=tmp_path / "b.tar.gz")
    place = unpacked(tmp_path / "b.tar.gz", tmp_path / "board")
    (place / "int8.onnx").write_bytes(b"\x08\x0a")
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["files"]["int8.onnx"] = artifact.digest_file(place / "int8.onnx")
    (place / "manifest.json").write_text(json.dumps(manifest))
    done = check_itself(place)
    assert done.returncode == 2
    assert done.stderr.startswith("error: int8.onnx: ")


@pytest.mark.slow
def test_a_model_with_external_data_brings_its_files(
    write_mean_model: Write, mean_golden: Path, tmp_path: Path
) -> None:
    write_mean_model("int8.onnx", external=True, metadata={"mbdeploy.stage": "fp32"})
    made = bundle(mean_golden.parent, output=tmp_path / "b.tar.gz")
    assert "weights.bin" in made.files
    assert check_itself(unpacked(tmp_path / "b.tar.gz", tmp_path / "board")).returncode == 0


def test_budgets_are_the_defaults_where_nobody_judged(folder: Path) -> None:
    made = bundle(folder)
    assert (made.budgets, made.judged_by) == (Budgets(), "defaults")
    assert Path(made.path) == folder / f"{made.name}.tar.gz"


def test_what_is_missing_in_the_folder_is_named(folder: Path) -> None:
    (folder / "fp32.onnx").unlink()
    bundle(folder)
    with pytest.raises(ModelError, match=r"expected fp32\.onnx"):
        bundle(folder, all_variants=True)
    with pytest.raises(UsageError, match=r"\.tar\.gz or \.zip"):
        bundle(folder, output=folder / "bundle.rar")


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "a/../../out.txt"])
def test_no_member_of_an_archive_leaves_its_folder(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(name, b"")
    (tmp_path / "in").mkdir()
    for evil in ("evil.tar.gz", "evil.zip"):
        with pytest.raises(DataError, match="a member named"):
            unpack(tmp_path / evil, tmp_path / "in")
    assert list((tmp_path / "in").iterdir()) == []


def test_links_and_other_files_in_an_archive_are_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as tar:
        tar.addfile(link)
    with pytest.raises(DataError, match="no plain file"):
        unpack(tmp_path / "evil.tar.gz", tmp_path)
    (tmp_path / "text.zip").write_text("no archive")
    (tmp_path / "text.tar.gz").write_bytes(b"\x1f\x8b\x08\x00" + b"\xff" * 40)
    for wrong in ("text.zip", "text.tar.gz", "absent.zip"):
        with pytest.raises(DataError, match="a bundle of plain files"), opening_bundle(tmp_path / wrong):
            pass


def test_a_bundle_that_was_changed_on_the_way_is_refused_here_as_well(folder: Path, tmp_path: Path) -> None:
    bundle(folder, output=tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    golden = next(name for name in content if name.endswith("golden.npz"))
    with zipfile.ZipFile(tmp_path / "changed.zip", "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data + b"x" if name == golden else data)
    with (
        pytest.raises(DataError, match="which is not the file"),
        opening_bundle(tmp_path / "changed.zip"),
    ):
        pass
    with zipfile.ZipFile(tmp_path / "less.zip", "w") as archive:
        for name, data in content.items():
            if name != golden:
                archive.writestr(name, data)
    with pytest.raises(DataError, match="npz' missing"), opening_bundle(tmp_path / "less.zip"):
        pass


def test_a_bundle_is_verified_alone(folder: Path, tmp_path: Path) -> None:
    bundle(folder, output=tmp_path / "b.zip")
    result = CliRunner().invoke(program, ["verify", str(tmp_path / "b.zip"), str(folder / "int8.onnx")])
    assert result.exit_code == 2
    assert "expected a bundle alone" in result.stderr


def test_the_command_prints_what_it_packed(folder: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        program, ["bundle", f"{folder}/", "-o", str(tmp_path / "b.zip"), "--all", "--format", "json"]
    )
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert shown["schema_version"] == 1
    assert shown["sha256"] == artifact.digest_file(tmp_path / "b.zip")
    assert np.array_equal(sorted(shown["files"]), list(shown["files"]))
