"""``mbdeploy targets``: the machines that models can be run on, and how to make another one."""

from __future__ import annotations

from pathlib import Path

import click

from mbdeploy.cli import options
from mbdeploy.cli.screen import Screen
from mbdeploy.errors import EXIT_OK, UsageError


@click.group("targets", no_args_is_help=False)
@options.words
def command() -> None:
    """Show where models can run, or make a target that is missing."""


@command.command("list")
@options.table_format
@options.words
@click.pass_obj
def list_targets(screen: Screen, /) -> None:
    """List what may follow the @ of --provider, and what each one still needs.

    Emulated CPUs give answers, never times.
    """
    from mbdeploy.cli.target_tables import describe_targets, tabulate_targets

    targets = describe_targets()
    screen.show(tabulate_targets(targets), targets)


@command.command("worker")
@click.argument("address", metavar="ADDRESS")
@options.provider
@click.option("--dry-run", is_flag=True, help="Only print the command.")
@options.words
@click.pass_obj
def worker(screen: Screen, /, address: str, provider: str | None, dry_run: bool) -> None:
    """Start a Dask worker that alone talks to a board, or measures on this host.

    ADDRESS is the scheduler's, such as tcp://head:8786. With --provider arm@ssh:pi@board
    the worker is that board's proxy: it has the resource dev_board=1, and what needs the
    board goes there, one item at a time. Any other provider gives it latency=1: it is
    the one of this host that takes times. It does shared work as well.
    """
    import os
    import shlex

    from mbdeploy.executing.proxy import plan_worker

    words = plan_worker(address, dry_run=dry_run, **options.keep_given({"provider": provider}))
    if not dry_run:
        screen.note(f"starting {shlex.join(words)}")
        os.execv(words[0], words)
    screen.write(shlex.join(words))


@command.command("setup")
@click.argument("target", type=click.Choice(["qemu", "docker"]))
@click.option(
    "--cpu",
    "cpus",
    multiple=True,
    metavar="NAME",
    help="An ARM CPU that qemu can be. Repeatable.  [default: cortex-a53, cortex-a72, cortex-a76, neoverse-n1, "
    "a64fx, max]",
)
@click.option(
    "--sysroot",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="An arm64 root with a Python, in place of the distribution's packages.",
)
@click.option("--mirror", metavar="URI", help="A mirror of the distribution that has arm64, in place of apt's sources.")
@click.option("--base", metavar="IMAGE", help="docker: an image with Python.  [default: python:3.12-slim]")
@options.table_format
@options.words
@click.pass_obj
def setup(
    screen: Screen, /, target: str, cpus: tuple[str, ...], sysroot: Path | None, mirror: str | None, base: str | None
) -> int:
    """Build an arm64 Python with ONNX Runtime, so that --provider arm runs here.

    For qemu it lies in the cache directory: no root is needed, and nothing of this
    system changes. The Python comes from the distribution's arm64 packages, numpy and
    ONNX Runtime from your pip index. What is there already is not built again. For
    docker it is an image (--base says on top of which), for --provider arm@docker.
    """
    if target == "docker":
        if cpus or sysroot or mirror:
            raise UsageError(
                where="targets setup docker",
                expected="--base alone",
                found="an option of qemu's",
                todo="leave out --cpu, --sysroot and --mirror",
            )
        return _build_image(screen, base)
    if base:
        raise UsageError(where="targets setup qemu", expected="options of qemu's", found="--base", todo="leave it out")
    from mbdeploy.cli.target_tables import describe_built, tabulate_built
    from mbdeploy.targets.emulation import build_prefix

    with screen.progress() as on_progress:
        built = build_prefix(sysroot=sysroot, mirror=mirror, cpus=cpus, on_progress=on_progress)
    screen.show(tabulate_built(built), describe_built(built))
    return EXIT_OK


def _build_image(screen: Screen, base: str | None) -> int:
    from mbdeploy.cli.target_tables import describe_image, tabulate_image
    from mbdeploy.targets.docker import build_image

    with screen.progress():
        image = build_image(**({"base": base} if base else {}))
    screen.show(tabulate_image(image), describe_image(image))
    return EXIT_OK
