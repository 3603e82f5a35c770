"""Signatures: a folder that holds can be signed offline, and no change to it or to the signature passes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_files import make_file

from mbdeploy.cli import program
from mbdeploy.errors import DataError
from mbdeploy.provenance.checking import verify_artifacts
from mbdeploy.provenance.manifest import MANIFEST, vouch_for_folder
from mbdeploy.provenance.signing import SIGNATURE


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private key and its public one, P-256, as PEM files."""
    pytest.importorskip("model_signing", reason="needs model-signing: pip install 'mbdeploy[signing]'")
    return make_keys(tmp_path, "own")


def make_keys(folder: Path, name: str) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_signed_folder_holds_under_the_key_and_under_no_other(folder: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    assert verify_artifacts(folder, sign=private).signed
    assert verify_artifacts(folder, verify_key=public).holds
    _, other = make_keys(folder.parent, "other")
    report = verify_artifacts(folder, verify_key=other)
    assert not report.holds and "is not good" in report.detail


def test_a_folder_without_a_manifest_gets_one_when_it_is_signed(made: Path, keys: tuple[Path, Path]) -> None:
    assert not verify_artifacts(made, verify_key=keys[1]).holds
    assert verify_artifacts(made, sign=keys[0], verify_key=None).holds
    assert verify_artifacts(made, verify_key=keys[1]).holds


def test_no_change_passes_a_signature(folder: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    verify_artifacts(folder, sign=private)
    make_file(folder, "report.md", b"another report")  # with a sidecar that is right
    assert not verify_artifacts(folder, verify_key=public).holds
    vouch_for_folder(folder)
    report = verify_artifacts(folder, verify_key=public)
    assert all(one.state == "holds" for one in report.findings)
    assert not report.holds and report.signed is False
    for content in (b"", b"{}", b"\xff", (folder / SIGNATURE).read_bytes()[:-40]):
        (folder / SIGNATURE).write_bytes(content)
        assert not verify_artifacts(folder, verify_key=public).holds
    (folder / SIGNATURE).unlink()
    assert verify_artifacts(folder, verify_key=public).detail == f"there is no {SIGNATURE}"
    (folder / MANIFEST).unlink()
    assert verify_artifacts(folder, verify_key=public).detail == f"there is no {MANIFEST}"


def test_a_folder_that_does_not_hold_is_not_signed(folder: Path, keys: tuple[Path, Path]) -> None:
    (folder / "int8.onnx").write_bytes(b"x")
    report = verify_artifacts(folder, sign=keys[0])
    assert report.signed is False and not (folder / SIGNATURE).exists()


def test_a_key_that_is_none_is_refused(folder: Path, keys: tuple[Path, Path]) -> None:
    bad = folder.parent / "bad.pem"
    bad.write_text("not a key")
    verify_artifacts(folder, sign=keys[0])
    for options in ({"sign": bad}, {"verify_key": bad}, {"sign": folder / "no.pem"}, {"sign": keys[1]}):
        with pytest.raises(DataError, match="a PEM key of an elliptic curve"):
            verify_artifacts(folder, **options)


@pytest.mark.parametrize("option", ["--sign", "--verify-key"])
def test_without_the_package_it_ends_in_3_with_the_command_that_helps(
    folder: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model_signing", "model_signing.signing", "model_signing.verifying"):
        monkeypatch.setitem(sys.modules, name, None)
    done = CliRunner().invoke(program, ["verify-artifacts", str(folder), option, "key.pem"])
    assert done.exit_code == 3
    assert done.stderr.endswith("run `pip install 'mbdeploy[signing]'`\n")
