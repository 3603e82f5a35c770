"""golden.npz: real preprocessed inputs and the network's own outputs, written once and compared with ever after."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from mbdeploy.bounds import current_bounds, name_option
from mbdeploy.errors import DataError
from mbdeploy.preflight.arrays import opening_arrays
from mbdeploy.preflight.refusing import refusing_data, show_bytes

_WHAT = "a golden.npz"
_TODO = "make it again with `mbdeploy export --force`, or give another file with --golden"


class Golden(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Images (n, c, h, w) float32 and, for each of the model's outputs in its order, n reference results.

    ``outputs[i]`` has shape (n, …) and float32 values; ``output_names[i]`` is its name in the graph;
    ``names`` are those of the images.
    """

    input: NDArray[np.float32]
    outputs: tuple[NDArray[np.float32], ...]
    output_names: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


def read_golden(path: Path) -> Golden:
    """Read golden.npz, without unpickling anything, and check it.

    Raises:
        DataError: missing, not an npz, more than ``max_memory`` (:mod:`mbdeploy.bounds`), without images or outputs,
            of unlike lengths, not finite.
    """
    try:
        with refusing_data(_WHAT, _TODO), opening_arrays(path) as arrays:
            count = sum(name.startswith("output_") and name != "output_names" for name in arrays.names)
            wanted = ("input", "output_names", "names", *(f"output_{index}" for index in range(count)))
            images, output_names, names, *outputs = arrays.read(*wanted)
            golden = Golden(
                input=images,
                outputs=tuple(outputs),
                output_names=tuple(output_names.tolist()),
                names=tuple(names.tolist()),
            )
    except KeyError as error:
        raise _refuse(path, "the arrays input, output_0, names and output_names", str(error.args[0])) from error
    except TypeError as error:
        raise _refuse(path, _WHAT, f"names that are no lists ({error})") from error
    _check(golden, path)
    return golden


def write_golden(path: Path, golden: Golden) -> None:
    """Write ``golden`` to ``path`` as it is (wrap it in ``artifact.writing``); equal arrays give equal bytes.

    Raises:
        DataError: what ``read_golden`` would refuse.
    """
    _check(golden, path)
    arrays = {f"output_{index}": output for index, output in enumerate(golden.outputs)}
    with path.open("wb") as file:  # given a name, numpy would append .npz to it
        np.savez(
            file,
            allow_pickle=False,
            input=golden.input,
            names=np.array(golden.names, dtype=np.str_),
            output_names=np.array(golden.output_names, dtype=np.str_),
            **arrays,
        )


def find_degenerate(output: NDArray[np.float32], inputs: NDArray[np.float32]) -> str | None:
    """Why no comparison with this output could fail, or None: not finite, empty, or constant.

    Constant means one value throughout, or the same result for every image although the images differ.
    """
    if output.size == 0:
        return "empty"
    if not np.isfinite(output).all():
        return f"{np.count_nonzero(~np.isfinite(output))} of {output.size} values are NaN or infinite"
    if output.size > len(output) and np.ptp(output) == 0:
        return f"every value is {output.flat[0]:g}"
    if not _varies(output) and _varies(inputs):
        return f"the same for all {len(output)} images"
    return None


def _varies(values: NDArray[np.float32]) -> bool:
    return bool((values != values[:1]).any())


def _check(golden: Golden, path: Path) -> None:
    count = len(golden.input)
    if golden.input.ndim != 4 or golden.input.dtype != np.float32:
        raise _refuse(path, "images as float32 (n, c, h, w)", f"{golden.input.dtype} {golden.input.shape}")
    if count == 0:
        raise _refuse(path, "at least one image", "none")
    if len(golden.names) != count:
        raise _refuse(path, f"{count} image names, one an image", f"{len(golden.names)}")
    if not golden.outputs or len(golden.outputs) != len(golden.output_names):
        found = f"{len(golden.outputs)} outputs and {len(golden.output_names)} names"
        raise _refuse(path, "outputs, each with its name", found)
    total, most = sum(array.nbytes for array in (golden.input, *golden.outputs)), current_bounds().max_memory
    if total > most:
        todo = f"take fewer images, or raise {name_option('max_memory')}"
        raise DataError(where=path, expected=f"at most {show_bytes(most)} bytes", found=show_bytes(total), todo=todo)
    _check_values(golden.input, "input", path)
    for name, output in zip(golden.output_names, golden.outputs, strict=True):
        if output.ndim < 1 or len(output) != count or output.dtype != np.float32:
            raise _refuse(path, f"float32 ({count}, …) for output {name}", f"{output.dtype} {output.shape}")
        _check_values(output, f"output {name}", path)


def _check_values(values: NDArray[np.float32], what: str, path: Path) -> None:
    if values.size == 0 or not np.isfinite(values).all():
        found = "none" if values.size == 0 else f"{np.count_nonzero(~np.isfinite(values))} that are NaN or infinite"
        raise _refuse(path, f"finite values in {what}", found)


def _refuse(path: Path, expected: str, found: str) -> DataError:
    return DataError(where=path, expected=expected, found=found, todo=_TODO)
