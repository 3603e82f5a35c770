"""``mbdeploy verify``: the same images through every variant, compared with the golden outputs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from mbdeploy.calls import describe_call
from mbdeploy.cli import options, places
from mbdeploy.cli.endings import judge_checks
from mbdeploy.cli.screen import Screen
from mbdeploy.errors import UsageError

T = TypeVar("T", bound=msgspec.Struct)


@click.command("verify")
@click.argument("models", metavar="MODEL.onnx...|CARD|BUNDLE", nargs=-1, required=True)
@options.result_file
@click.option(
    "--golden", type=Path, metavar="FILE", help="golden.npz to compare with.  [default: the one beside the model]"
)
@click.option(
    "--reference", type=Path, metavar="FILE", help="An FP32 ONNX file to compare with instead (needs --data)."
)
@click.option("--data", type=options.DATA, help="Images for --reference.")
@click.option("--num-samples", type=click.IntRange(1, 10_000_000), show_default="64", help="How many of them.")
@options.preprocess
@options.providers
@options.sessions
@options.allow_fallback
@options.require_placement
@options.threads
@click.option(
    "--matrix",
    is_flag=True,
    default=None,
    help="In every way a session can be opened, and where failing cells go wrong.",
)
@click.option(
    "--reduce", "reduce_to", type=Path, metavar="DIR", help="With --matrix: write the smallest failing parts there."
)
@click.option(
    "--layers", is_flag=True, default=None, help="SQNR of every INT8 layer against the float file, along the network."
)
@click.option(
    "--one-by-one/--no-one-by-one",
    default=None,
    help="With --layers: a session for each tensor where there is no other way.  [default: --one-by-one]",
)
@click.option(
    "--budgets",
    metavar="CARD",
    help="Judge by this card's budgets.  [default: those of a card among the models, else mbdeploy's]",
)
@options.limits
@options.table_format
@options.words
@click.pass_obj
def command(
    screen: Screen,
    /,
    models: tuple[str, ...],
    output: Path | None,
    matrix: bool | None,
    reduce_to: Path | None,
    **keywords: Any,
) -> int:
    """Compare ONNX files with golden outputs.

    Each INT8 file runs as executed and exact (Q/DQ in float), so that saturation is
    a number of its own. Exit code 1 says that a gate failed, 3 that a provider is not here.
    """
    if reduce_to is not None and not matrix:
        raise UsageError(where="--reduce", expected="--matrix with it", found="none", todo="add --matrix")
    if matrix:
        for name in ("layers", "one_by_one"):
            if keywords.pop(name) is not None:
                where = f"--{name.replace('_', '-')}"
                raise UsageError(where=where, expected="it without --matrix", found="both", todo="run them apart")
        return _show_matrix(screen, models, output, {**keywords, "reduce_to": reduce_to})
    from mbdeploy.stages import figures
    from mbdeploy.stages.facts import derive_parity
    from mbdeploy.stages.layer_facts import derive_layers
    from mbdeploy.stages.layer_tables import tabulate_layers
    from mbdeploy.stages.verify import plan, verify

    with _finding(models) as found:
        asked = {**found, **options.keep_given(keywords)}
        with screen.progress() as on_progress:
            result = _name_bundle(verify(**asked, on_progress=on_progress), models, keywords)
        screen.save(output, result, lambda: plan(**asked))
    tables = [*figures.tabulate_parity(derive_parity(result)), *tabulate_layers(derive_layers(result.layers))]
    tables += figures.tabulate_checks(result.checks)
    screen.show(tables, result)
    return judge_checks(result.checks)


def _show_matrix(screen: Screen, models: Sequence[str], output: Path | None, keywords: dict[str, Any]) -> int:
    from mbdeploy.stages.matrix import verify_matrix
    from mbdeploy.stages.matrix_tables import tabulate_matrix
    from mbdeploy.stages.verify import plan

    with _finding(models) as found:
        asked = {**found, **options.keep_given(keywords)}
        with screen.progress() as on_progress:
            result = verify_matrix(**asked, on_progress=on_progress)
        result = _name_bundle(result, models, {**keywords, "matrix": True})
        like = options.keep_known(plan, asked)  # it reads what `verify` reads, in more ways
        path = output or places.name_result(models, "matrix")
        screen.save(path, result, lambda: msgspec.structs.replace(plan(**like), stage="matrix"))
    screen.show(tabulate_matrix(result), result)
    return judge_checks(result.checks)


@contextlib.contextmanager
def _finding(words: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The models that the words mean, with what a card or a bundle says of them, as keywords of ``verify``."""
    if not places.is_bundle(words):
        yield {"models": places.find_models(words), **places.read_budgets(words)}
        return
    from mbdeploy.stages.bundle import opening_bundle

    with opening_bundle(Path(words[0])) as opened:
        yield msgspec.structs.asdict(opened)


def _name_bundle(result: T, words: Sequence[str], keywords: Mapping[str, Any]) -> T:
    """The result, whose call names the bundle that was given in place of the files it was unpacked to for a while."""
    if not places.is_bundle(words):
        return result
    call = describe_call("verify", options.keep_given(keywords), models=words)
    return msgspec.structs.replace(result, call=call)
