"""What a loaded network is and does: a saved program, its weights, its outputs on a batch, its errors in one line."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mbdeploy.errors import ModelError

INPUT_NAME = "image"
#: Where an output lies in what a forward method returns: keys and places, from the outside in.
_Path = tuple[Any, ...]

_SHOWN_NAMES = 4
_NAME = re.compile(r"[A-Za-z]\w*", re.ASCII)
_RAISED_BY = re.compile(
    r"The following call raised this error:\s*(?:.*\n)*?\s*File \"([^\"]+)\", line (\d+), in \w+\n\s*(.+)"
)


def load_program(path: Path, shape: tuple[int, int, int]) -> torch.export.ExportedProgram:
    """Open a .pt2 file that takes one batch of images of ``shape`` (C, H, W), however large the batch.

    Only for trusted files: torch.export.load unpickles (with ``weights_only=False`` in torch 2.13).

    Raises:
        ModelError: not a program that torch.export.save wrote, or one with other inputs.
    """
    try:
        program = torch.export.load(path)
    except (RuntimeError, OSError, KeyError, ValueError, EOFError, AssertionError, zipfile.BadZipFile) as error:
        raise ModelError(
            where=path,
            expected="a program that torch.export.save wrote",
            found=condense_error(error),
            todo="save it again with this version of torch",
        ) from error
    names = program.graph_signature.user_inputs
    shapes = [tuple(node.meta["val"].shape) for node in program.graph.nodes if node.name in names]
    if len(shapes) != 1 or len(shapes[0]) != 4 or isinstance(shapes[0][0], int) or shapes[0][1:] != shape:
        raise ModelError(
            where=path,
            expected=f"one input of shape (any batch, {', '.join(map(str, shape))})",
            found=" and ".join(f"({', '.join(map(str, found))})" for found in shapes) or "none",
            todo="check --input-shape, and save the program with a dynamic first axis",
        )
    return program


def check_weights(network: nn.Module, where: str) -> None:
    """Refuse weights that are not finite, or in another float type than float32.

    Raises:
        ModelError: naming the first few tensors.
    """
    tensors = [*network.named_parameters(), *network.named_buffers()]
    floats = [(name, tensor) for name, tensor in tensors if tensor.is_floating_point()]
    other = [f"{name} ({str(tensor.dtype)[6:]})" for name, tensor in floats if tensor.dtype != torch.float32]
    if other:
        raise ModelError(
            where=where,
            expected="float32 weights",
            found=_list_names(other),
            todo="call .float() on the network; mbdeploy makes the other precisions",
        )
    broken = [name for name, tensor in floats if not torch.isfinite(tensor).all()]
    if broken:
        raise ModelError(
            where=where,
            expected="finite weights",
            found=f"NaN or infinity in {_list_names(broken)}",
            todo="train again, or take an earlier checkpoint",
        )


def run_network(network: nn.Module, images: Tensor, where: str) -> dict[str, Tensor]:
    """All outputs of one batch by name, tuples and dicts taken apart in their order: float32, first axis the batch.

    Rules: 1. an output in a dict or a named tuple is called by its key there, one in a list within it by key and place
    (``boxes_1``). 2. Others, and all where a key is no identifier or a name is the input's or another's, are
    ``output_0`` and so on. 3. It runs on one thread, so that the result does not depend on the number of cores.

    Raises:
        ModelError: the network fails, or returns something else.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            found = dict(_flatten(network(images), ()))
    except Exception as error:  # whatever a user's network raises
        raise ModelError(
            where=where,
            expected=f"a network that runs on a batch of {tuple(images.shape)}",
            found=condense_error(error),
            todo="check --input-shape and the forward method",
        ) from error
    finally:
        torch.set_num_threads(threads)
    if not found:
        raise ModelError(where=where, expected="at least one output", found="none", todo="return one from forward")
    outputs = dict(zip(_name_outputs(list(found)), found.values(), strict=True))
    for index, output in enumerate(outputs.values()):
        if not isinstance(output, Tensor) or output.dtype != torch.float32:
            kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
            raise ModelError(
                where=where,
                expected="outputs that are float32 tensors",
                found=f"{str(kind).removeprefix('torch.')} as output {index}",
                todo="return the logits themselves, without argmax, from the forward method",
            )
        if output.ndim < 1 or len(output) != len(images):
            raise ModelError(
                where=where,
                expected=f"one result an image along the first axis ({len(images)} images)",
                found=f"shape {tuple(output.shape)} of output {index}",
                todo="keep the batch as the first axis of every output",
            )
    return outputs


def condense_error(error: BaseException) -> str:
    """The line of a torch error that says what is wrong, and the user's line that it is about."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip() or type(error).__name__
    lines = [line.strip().split(" (unhinted:")[0] for line in text.splitlines() if line.strip()]
    first = f"{lines[0]} {lines[1].lstrip('- ')}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]
    raised_by = _RAISED_BY.search(text)
    place = f" in {Path(raised_by[1]).name}, line {raised_by[2]}: {raised_by[3].strip()}" if raised_by else ""
    return first[:300].rstrip(". ") + place


def _flatten(output: Any, path: _Path) -> Iterable[tuple[_Path, Any]]:
    if isinstance(output, tuple) and (fields := getattr(output, "_fields", None)):  # a named tuple
        output = dict(zip(fields, output, strict=True))
    if isinstance(output, Mapping):
        for key, part in output.items():
            yield from _flatten(part, (*path, key))
    elif isinstance(output, (list, tuple)):
        for index, part in enumerate(output):
            yield from _flatten(part, (*path, index))
    else:
        yield path, output


def _name_outputs(paths: list[_Path]) -> list[str]:
    names = ["_".join(map(str, path)) for path in paths]
    said = all(path and isinstance(path[0], str) for path in paths) and all(map(_NAME.fullmatch, names))
    if said and len({INPUT_NAME, *names}) == len(names) + 1:
        return names
    return [f"output_{index}" for index in range(len(paths))]


def _list_names(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more
