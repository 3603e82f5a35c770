"""An arm64 container: the agent under the Python of an image, by `docker run --platform linux/arm64`.

On an x86 host the container's programs run under the qemu that the kernel calls for them (binfmt_misc), on an arm64
host (Apple silicon, Graviton) on the real CPU, where times exist. Nothing but the job's folder is shared with the
container, and it has no network.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path

import msgspec

from mbdeploy.artifact import read_tools
from mbdeploy.errors import UnavailableError, UsageError
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.targets.emulation.prefix import find_onnxruntime
from mbdeploy.targets.job import Answer, Job
from mbdeploy.targets.process import FOLDER, ProcessTarget
from mbdeploy.targets.programs import call_program

PLATFORM = "linux/arm64"
SETUP = "mbdeploy targets setup docker"
_ARM = ("arm64", "aarch64")
#: As Docker's reference grammar has it, without a leading "-", which would be an option.
_IMAGE = re.compile(r"[a-z0-9][a-z0-9._/:@-]{0,254}", re.IGNORECASE)
_ASK_S = 30.0


class DockerTarget(msgspec.Struct, frozen=True, kw_only=True):
    """Containers of ``image``; ``emulator`` is None where the host's own CPU is arm64."""

    image: str
    emulator: str | None = None

    @property
    def name(self) -> str:
        """As it is asked for after the @."""
        return f"docker:{self.image}"

    @property
    def emulated(self) -> bool:
        """Whether times do not exist here."""
        return self.emulator is not None

    def run(self, job: Job, on_progress: Progress = ignore_progress) -> Answer:
        """Run the job in a container of its own, which is removed afterwards, however it ends.

        Raises:
            As ``ProcessTarget.run``.
        """
        container = f"mbdeploy-{secrets.token_hex(8)}"
        target = ProcessTarget(
            name=self.name, command=_compose(container, self.image), emulator=self.emulator, measured=False
        )
        try:
            return target.run(job, on_progress)
        except BaseException:  # Docker's client may be gone without its container
            with contextlib.suppress(UnavailableError):
                _ask("kill", container, expected="no container left", todo="")
            raise


def open_docker(argument: str) -> DockerTarget:
    """The target ``docker[:IMAGE]``; without an image, the one that ``SETUP`` makes for this ONNX Runtime.

    Raises:
        UsageError: what could not be an image. UnavailableError: no Docker here, or no such image.
    """
    image = argument or name_image()
    if not _IMAGE.fullmatch(image):
        raise UsageError(
            where=f"docker:{argument}",
            expected="an image, such as docker:registry/name:tag",
            found=repr(argument),
            todo="give the name that `docker images` shows",
        )
    machine = _find_host()
    todo = f"make it with `{SETUP}`" if not argument else f"`docker pull --platform {PLATFORM} {image}`"
    _ask("image", "inspect", "--format", "{{.Architecture}}", image, expected=f"an image {image}", todo=todo)
    return DockerTarget(image=image, emulator=None if machine in _ARM else f"{PLATFORM} on {machine}, by binfmt_misc")


def name_image() -> str:
    """The image that ``build_image`` makes.

    Raises:
        UnavailableError: there is no ONNX Runtime here whose version it could have.
    """
    return f"mbdeploy-arm64:onnxruntime-{find_onnxruntime()}"


def build_image(base: str = "python:3.12-slim") -> str:
    """Build an image with this installation's versions of ONNX Runtime and numpy on top of ``base``; its name.

    Raises:
        UnavailableError: no Docker here, or it cannot be built; the cause is Docker's own.
    """
    image = name_image()
    pins = f"onnxruntime=={find_onnxruntime()} numpy=={read_tools('numpy')['numpy']}"
    recipe = f"FROM --platform={PLATFORM} {base}\nRUN python -m pip install --no-cache-dir {pins}\n"
    _find_host()
    call_program(
        ["docker", "build", "--platform", PLATFORM, "--tag", image, "-"],
        where="targets setup docker",
        expected=f"an image from {base} with {pins}",
        todo="on an x86 host, register qemu for arm64 first: `docker run --privileged --rm tonistiigi/binfmt "
        "--install arm64`",
        stdin=recipe,
        wall_s=3600.0,
    )
    return image


def _compose(container: str, image: str) -> tuple[str, ...]:
    return (
        *("docker", "run", "--rm", "--init", "--name", container, "--platform", PLATFORM, "--network", "none"),
        *("--user", f"{os.getuid()}:{os.getgid()}", "--env", "HOME=/job", "--env", "OPENBLAS_NUM_THREADS=1"),
        *("--volume", f"{FOLDER}:/job", "--workdir", "/job", image, "python"),
    )


def _find_host() -> str:
    """The architecture that Docker's server runs on."""
    return _ask(
        "version",
        "--format",
        "{{.Server.Arch}}",
        expected="Docker with a server that answers",
        todo="install and start it, or emulate with arm@qemu",
    )


def _ask(*words: str, expected: str, todo: str) -> str:
    said, _ = call_program(
        ["docker", *words], where="docker", expected=expected, todo=todo, wall_s=_ASK_S, cwd=Path.cwd()
    )
    return said.strip()
