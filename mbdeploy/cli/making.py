"""Options that say how files are made: exported, calibrated, quantized, in which variants."""

from __future__ import annotations

import click

from mbdeploy.cli.options import DATA, provider, read_counts, take_options


def _read_shape(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"expected three numbers C,H,W, found {text!r}", ctx, parameter)
    return tuple(int(part) for part in parts)


def _read_words(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(word.strip() for word in text.split(",") if word.strip())


def _read_widths(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    try:
        widths = tuple(map(float, (text or "1").split(",")))
    except ValueError:
        widths = (0.0,)
    if not all(0 < width <= 100 for width in widths):
        raise click.BadParameter(f"expected numbers above 0, such as 0.25,0.5,1, found {text!r}", ctx, parameter)
    return None if text is None else widths


exporting = take_options(
    click.option(
        "--exporter",
        type=click.Choice(["dynamo", "torchscript"]),
        show_default="dynamo",
        help="torch.export, or the older tracer.",
    ),
    click.option("--opset", type=click.IntRange(1, 1000), show_default="18", help="ONNX opset to write."),
)
weights = click.option("--weights", metavar="FILE", help="Weights to load instead of the card's.")
input_shape = click.option(
    "--input-shape",
    metavar="C,H,W",
    callback=_read_shape,
    help="The network's input, such as 3,224,224, where no card says it.",
)
open_shape = click.option(
    "--input-shape",
    metavar="C,H,W",
    callback=_read_shape,
    help="Fix the size of the image, such as 3,320,320, where the file leaves it open.",
)
golden = take_options(
    click.option("--golden-data", type=DATA, help="Images of golden.npz.  [default: the card's]"),
    click.option(
        "--num-golden-samples",
        type=click.IntRange(1, 100_000),
        show_default="32",
        help="How many images golden.npz holds.",
    ),
)
_METHODS = click.Choice(["minmax", "percentile", "entropy", "mse"])
recipe_method = click.option(
    "--calibration-method", type=_METHODS, help="How activation ranges are chosen.  [default: the recipe's]"
)
own_method = click.option(
    "--calibration-method", type=_METHODS, show_default="mse", help="How activation ranges are chosen."
)
calibrating = take_options(
    click.option(
        "--calibration",
        type=DATA,
        help="Images: a folder, a manifest's name or file, a CSV, or an .npz of inputs.",
    ),
    click.option(
        "--num-calibration-samples",
        type=click.IntRange(1, 10_000_000),
        show_default="128",
        help="How many of the images to use.",
    ),
)
quantizing = take_options(
    click.option(
        "--recipe",
        metavar="NAME",
        show_default="accurate",
        help="accurate, portable, reduce-range, u8u8 or s8s8-symmetric.",
    ),
    click.option(
        "--fast", "recipe", flag_value="portable", default=None, help="Seconds, not a minute: --recipe portable."
    ),
    click.option(
        "--without",
        multiple=True,
        type=click.Choice(["refit", "feedback", "bias"]),
        help="Leave out a technique of the recipe.",
    ),
    click.option(
        "--keep-float",
        multiple=True,
        metavar="NODE",
        help="A node that stays in float, or a pattern such as 'features.0.*'. Repeatable.",
    ),
    calibrating,
    recipe_method,
)
#: What a mix of INT8 and float must reach, and what only matters for the search for it.
GOALS = frozenset({"max_drop", "min_sqnr", "target_ratio"})
SEARCHING = frozenset({"search_data", "num_search_samples", "provider"})
goals = take_options(
    click.option("--max-drop", type=click.FloatRange(0), metavar="POINTS", help="Top-1 that may be lost, at most."),
    click.option("--min-sqnr", type=click.FloatRange(0), metavar="DB", help="SQNR of the outputs, at least."),
    click.option(
        "--target-ratio", type=click.FloatRange(0), metavar="SHARE", help="Time over optimised FP32's, at most."
    ),
    click.option(
        "--search-data",
        type=DATA,
        help="Images to judge by; labelled ones for --max-drop.  [default: the calibration's, but for those used]",
    ),
    click.option(
        "--num-search-samples", type=click.IntRange(1, 10_000_000), show_default="128", help="How many of them."
    ),
    provider,
)
#: The axes of a sweep over cards.
families = take_options(
    click.option(
        "--alpha", metavar="N[,N...]", callback=_read_widths, help="Width multipliers.  [default: the card's]"
    ),
    click.option(
        "--rho", metavar="N[,N...]", callback=read_counts, help="Input sizes in pixels.  [default: the card's]"
    ),
    click.option(
        "--recipe", metavar="NAME[,NAME...]", callback=_read_words, show_default="accurate", help="Recipes for INT8."
    ),
)
