"""Calibration on disk: our own file, which merges exactly, and ONNX Runtime's calibration cache."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mbdeploy.bounds import current_bounds
from mbdeploy.errors import DataError, ModelError
from mbdeploy.preflight.arrays import opening_arrays
from mbdeploy.preflight.refusing import refusing_data
from mbdeploy.quant.calibrate import Observations
from mbdeploy.quant.ranges import Range

#: Images are observed in so many groups, by the key of their content: what differs between groups is chance.
GROUPS = 8
_SCHEMA = 1
_GROWTH = 16  # what JSON becomes in memory
_WHAT = "a calibration file that `mbdeploy calibrate` wrote"
_TODO = "make it again with `mbdeploy calibrate`"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What a file was observed of: the model's sha256, its tensors, and whether values were counted."""

    model: str
    tensors: tuple[str, ...]
    counting: bool
    schema_version: int = _SCHEMA


class Seen(msgspec.Struct, frozen=True, eq=False):
    """All groups of one model and data set, and the name of each image by its key."""

    identity: Identity
    groups: tuple[Observations, ...]
    names: dict[int, str]

    def whole(self) -> Observations:
        """All groups in one."""
        return merge_groups(self, range(GROUPS))


def make_seen(identity: Identity, names: Mapping[int, str]) -> Seen:
    """Empty observations of a model."""
    groups = (Observations(identity.tensors, counting=identity.counting, by_image=True) for _ in range(GROUPS))
    return Seen(identity, tuple(groups), dict(names))


def merge_groups(seen: Seen, chosen: Sequence[int]) -> Observations:
    """What some of the groups saw."""
    merged = Observations(seen.identity.tensors, counting=seen.identity.counting, by_image=True)
    for group in chosen:
        if seen.groups[group].images:
            merged.merge(seen.groups[group])
    return merged


def merge_seen(shards: Sequence[Seen]) -> Seen:
    """What all shards saw, whatever their order.

    Raises:
        DataError: they are not of the same model and kind.
    """
    first = shards[0].identity
    merged = make_seen(first, {})
    for shard in shards:
        if shard.identity != first:
            raise DataError(
                expected="shards of one model, calibrated in one way",
                found="shards that differ in model, tensors or method",
                todo="calibrate all shards with the same model and --calibration-method",
            )
        for into, group in zip(merged.groups, shard.groups, strict=True):
            if group.images:
                into.merge(group)
        merged.names.update(shard.names)
    return merged


def save_seen(seen: Seen, path: Path) -> None:
    """Write a ``.npz``; equal observations give equal bytes."""
    arrays: dict[str, Any] = {}
    for number, group in enumerate(seen.groups):
        tensors = seen.identity.tensors
        arrays[f"range_{number}"] = np.array([(group.ranges.low[name], group.ranges.high[name]) for name in tensors])
        arrays[f"images_{number}"] = np.array(group.images)
        for name, sums in sorted(group.means.sums.items()):
            arrays[f"means_{number}/{name}"] = sums
        if group.histograms is not None:
            arrays[f"exponents_{number}"] = np.array([group.histograms.exponents[name] for name in tensors])
            arrays[f"counts_{number}"] = np.array([group.histograms.counts[name] for name in tensors])
        keys = sorted(group.extremes or {})
        arrays[f"keys_{number}"] = np.array(keys, np.int64)
        arrays[f"extremes_{number}"] = np.array([(group.extremes or {})[key] for key in keys], np.float32).reshape(
            len(keys), len(tensors), 2
        )
    about = {"identity": msgspec.to_builtins(seen.identity), "names": sorted(seen.names.items())}
    arrays["about"] = np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_seen(path: Path) -> Seen:
    """Read what ``save_seen`` wrote.

    Raises:
        DataError: not such a file, or one of more than ``max_memory`` (:mod:`mbdeploy.bounds`).
    """
    try:
        with refusing_data(_WHAT, _TODO), opening_arrays(path) as opened:
            arrays = dict(zip(opened.names, opened.read(*opened.names), strict=True))
        if arrays["about"].nbytes > current_bounds().max_memory // _GROWTH:
            raise ValueError(f"{arrays['about'].nbytes} bytes of names")
        about = json.loads(arrays["about"].tobytes())
        identity = msgspec.convert(about["identity"], Identity)
        if identity.schema_version != _SCHEMA:
            raise ValueError(f"schema version {identity.schema_version}")
        seen = make_seen(identity, {int(key): str(name) for key, name in about["names"]})
        for number, group in enumerate(seen.groups):
            _fill_group(group, number, arrays, identity)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            where=path,
            expected=_WHAT,
            found=str(error).splitlines()[0] or type(error).__name__,
            todo=_TODO,
        ) from error
    return seen


def _fill_group(group: Observations, number: int, arrays: Mapping[str, Any], identity: Identity) -> None:
    for name, (low, high) in zip(identity.tensors, arrays[f"range_{number}"].tolist(), strict=True):
        group.ranges.low[name], group.ranges.high[name] = low, high
    group.means.images = int(arrays[f"images_{number}"])
    prefix = f"means_{number}/"
    group.means.sums = {name[len(prefix) :]: values for name, values in arrays.items() if name.startswith(prefix)}
    if group.histograms is not None:
        counts, exponents = arrays[f"counts_{number}"], arrays[f"exponents_{number}"].tolist()
        group.histograms.counts = dict(zip(identity.tensors, counts, strict=True))
        group.histograms.exponents = dict(zip(identity.tensors, exponents, strict=True))
    keys = arrays[f"keys_{number}"].tolist()
    group.extremes = dict(zip(keys, arrays[f"extremes_{number}"], strict=True))


def write_cache(ranges: Mapping[str, Range]) -> bytes:
    """ONNX Runtime's calibration cache (``TensorsData`` as JSON): what its ``calibration_cache_path`` reads."""
    data = {
        name: {"lowest": _wrap(low), "highest": _wrap(high), "CLS": "TensorData"}
        for name, (low, high) in sorted(ranges.items())
    }
    method = {"CLS": "CalibrationMethod", "value": "CalibrationMethod.MinMax"}  # these are ranges, however chosen
    cache = {"CLS": "TensorsData", "data": data, "calibration_method": method, "smooth_quant": False}
    return json.dumps(cache, indent=1).encode() + b"\n"


def read_cache(path: Path, tensors: Sequence[str]) -> dict[str, Range]:
    """The ranges of ``tensors`` in ONNX Runtime's calibration cache; others in it do not matter.

    Raises:
        DataError: not such a file, or a range that is not finite. ModelError: tensors that it does not have.
    """
    try:
        cache = json.loads(path.read_bytes())
        entries = cache.get("data", cache)  # written by `write_calibration_table`, it has no frame
        found = {
            name: (_unwrap(entry["lowest"]), _unwrap(entry["highest"]))
            for name, entry in entries.items()
            if isinstance(entry, dict) and "lowest" in entry
        }
        if not found:
            raise ValueError("no ranges")
        bad = [name for name, ends in found.items() if not np.isfinite(ends).all() or ends[0] > ends[1]]
        if bad:
            raise ValueError(f"the range {found[bad[0]]} of {bad[0]!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            where=path,
            expected="ONNX Runtime's calibration cache: JSON with lowest and highest of each tensor",
            found=str(error).splitlines()[0],
            todo="write it with `mbdeploy calibrate`, or with ONNX Runtime's save_tensors_data",
        ) from error
    missing = [name for name in tensors if name not in found]
    if missing:
        raise ModelError(
            where=path,
            expected=f"ranges of all {len(tensors)} tensors that are quantized",
            found=f"none of {missing[0]!r}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            todo="calibrate this very file: names change when a model is simplified",
        )
    return {name: found[name] for name in tensors}


def _wrap(value: float) -> dict[str, Any]:
    return {"data": float(np.float32(value)), "dtype": "float32", "CLS": "numpy.array"}


def _unwrap(value: Any) -> float:
    number = value["data"] if isinstance(value, dict) else value
    return float(np.asarray(number, np.float64).reshape(-1)[0])
