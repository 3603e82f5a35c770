"""The folder in which an agent works: its own code, the job, links to the models, the inputs."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from mbdeploy.errors import ModelError, OutputError
from mbdeploy.preflight.external import copy_plain
from mbdeploy.targets.job import Job, Session
from mbdeploy.targets.opsets import find_refusing

_AGENT = Path(__file__).with_name("agent.py")
_PREFIX = "mbdeploy-job-"
_ABANDONED_S = 600.0


@contextlib.contextmanager
def making(job: Job, *, emulated: bool, distributions: Sequence[str]) -> Iterator[Path]:
    """Make a fresh folder with everything the agent reads, and remove it afterwards.

    Rules: 1. a model lies in ``mK/model.onnx``, its companions beside it under their own relative
    names; names of the user's files appear nowhere. 2. Models are hard links where the system allows
    them, else copies; external data are copies, for ONNX Runtime reads whatever lies under their name.
    3. The folder is locked while it is in use; folders of processes that were killed are removed by the
    next job.

    Raises:
        ModelError: a companion that would lie outside the model's folder, or is missing.
        OutputError: no room in the temporary directory.
    """
    _sweep(Path(tempfile.gettempdir()))
    with _writing():
        place = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        with (place / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with _writing():
                _fill(place, job, emulated, distributions)
            yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            where=tempfile.gettempdir(),
            expected="room for the files of a run",
            found=(error.strerror or str(error)).lower(),
            todo="free some space there, or set TMPDIR to another folder",
        ) from error


def _fill(place: Path, job: Job, emulated: bool, distributions: Sequence[str]) -> None:
    shutil.copyfile(_AGENT, place / "agent.py")
    if job.inputs is not None:
        np.save(place / "input.npy", job.inputs, allow_pickle=False)
    models: dict[Path, str] = {}
    for session in job.sessions:
        if session.model not in models:
            models[session.model] = _place_model(place / f"m{len(models)}", session)
    plain = {
        "kind": job.kind,
        "batch_size": job.batch_size,
        "warmup": job.warmup,
        "min_duration_s": job.min_duration_s,
        "min_rounds": job.min_rounds,
        "max_rounds": job.max_rounds,
        "emulated": emulated,
        "distributions": [*distributions, "numpy"],
        "sessions": [
            {
                "model": models[session.model],
                "runtime": session.runtime,
                "provider": session.provider,
                "provider_options": session.provider_options,
                "session_config": session.session_config,
                "optimization": session.optimization,
                "threads": session.threads,
                "arena": session.arena,
                "allow_fallback": session.allow_fallback,
                "refusing": find_refusing(session.opset, session.ir_version),
            }
            for session in job.sessions
        ],
    }
    (place / "job.json").write_text(json.dumps(plain), encoding="utf-8")


def _place_model(folder: Path, session: Session) -> str:
    folder.mkdir()
    _link(session.model, folder / "model.onnx")
    for name in session.companions:
        relative = PurePosixPath(name)
        source = session.model.parent / relative
        if relative.is_absolute() or ".." in relative.parts or not source.is_file():
            raise ModelError(
                where=session.model,
                expected="external data in files of the model's own folder",
                found=repr(name),
                todo="put the file there, or save the model with its weights inside",
            )
        copy_plain(source, folder / relative)
    return f"{folder.name}/model.onnx"


def _link(source: Path, target: Path) -> None:
    real = source.resolve()  # a hard link to a symbolic link would dangle in here
    try:
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)


def _sweep(parent: Path) -> None:
    """Remove job folders whose maker is gone: nobody holds their lock. Young ones may not be locked yet."""
    for place in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - place.stat().st_mtime < _ABANDONED_S or place.stat().st_uid != os.getuid():
                continue
            with (place / ".lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place, ignore_errors=True)
