"""Signatures over a manifest with plain key pairs, made and checked offline by the package model-signing."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from mbdeploy import artifact
from mbdeploy.errors import DataError, UnavailableError, name_cause

SIGNATURE = "manifest.json.sig"
#: What the package lets through when a key is of another kind, locked, or none.
_BAD_KEY = (ValueError, TypeError, AttributeError)


def sign_file(path: Path, signature: Path, key: Path) -> None:
    """Sign ``path`` with a private key (PEM: an elliptic curve's, P-256, P-384 or P-521) into ``signature``.

    Raises:
        UnavailableError: no package model-signing. DataError: a key that cannot be used.
        OutputError: the signature cannot be written.
    """
    module = _load("model_signing.signing")
    _find_key(key)
    with artifact.writing(signature) as temporary:
        try:
            module.Config().use_elliptic_key_signer(private_key=key).sign(path, temporary)
        except _BAD_KEY as error:
            raise _refuse_key(key, str(error)) from error


def verify_file(path: Path, signature: Path, key: Path) -> str:
    """Why the signature of ``path`` is not good under a public key (PEM); nothing if it is.

    Raises:
        UnavailableError: no package model-signing. DataError: a key that cannot be used.
    """
    module = _load("model_signing.verifying")
    _find_key(key)
    for one in (path, signature):
        if not one.is_file():
            return f"there is no {one.name}"
    try:
        verifier = module.Config().use_elliptic_key_verifier(public_key=key)
    except _BAD_KEY as error:
        raise _refuse_key(key, str(error)) from error
    try:
        verifier.verify(path, signature)
    except Exception as error:  # a file from outside: whatever goes wrong with it, it is not a good signature
        return f"the signature of {path.name} is not good: {name_cause(error)}"
    return ""


def _load(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnavailableError(
            expected="model-signing, which makes and checks signatures",
            found=f"no package {error.name}",
            todo="run `pip install 'mbdeploy[signing]'`",
        ) from error


def _find_key(key: Path) -> None:
    if not key.is_file():
        raise _refuse_key(key, "no such file")


def _refuse_key(key: Path, found: str) -> DataError:
    return DataError(
        where=key,
        expected="a PEM key of an elliptic curve (P-256, P-384 or P-521)",
        found=(found.splitlines() or ["something else"])[0],
        todo="make a pair with `openssl ecparam -genkey -name prime256v1 -noout` and `openssl ec -pubout`",
    )
