"""Workers that answer a search at once, from a law and not from a machine: times, accuracies and costs are made up."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from hosts import HOST
from law import make_network, take_ns
from runs import make_series

from mbdeploy import artifact
from mbdeploy.card import load_card
from mbdeploy.estimate import Interval
from mbdeploy.executing import Done, Work
from mbdeploy.mixing.report import Goals, Mix, MixReport
from mbdeploy.results import BenchRun, ModelRef, Series, encode_result
from mbdeploy.searching.jobs import Counted, Mixed, Profile, Profiled
from mbdeploy.sweeping.jobs import Built, Made

#: The share of FP32's time that other files take.
_SHARES = {"fp32": 1.0, "portable": 0.5, "portable-mix": 0.4}


def read_scale(name: str) -> int:
    """How much a variant of this name does: its input size in units of 32 pixels."""
    return int(name.rpartition("-r")[2]) // 32


def take_time_ns(name: str, recipe: str) -> float:
    """The law's time of a file, 1000 ns outside its layers."""
    return _SHARES[recipe] * (sum(map(take_ns, make_network(read_scale(name)))) + 1000.0)


def rate(name: str, recipe: str) -> float:
    """The law's accuracy of a file: it grows with the size, and 8 bits cost a point."""
    return round(0.5 + 0.05 * read_scale(name) - (0.01 if recipe != "fp32" else 0.0), 4)


class FakeExecutor(msgspec.Struct):
    """Answers every item of a search; ``asked`` holds the functions called and the names of the items."""

    asked: list[tuple[str, str]]
    words: str = "a fake"
    link: str = ""

    def close(self) -> None:
        """Nothing is held."""

    def run(self, works: Sequence[Work]) -> Generator[Done, None, None]:
        for work in works:
            function = work.function.rpartition(":")[2]
            self.asked.append((function, work.name))
            value = msgspec.json.decode(encode_result(globals()[f"_{function}"](work.request)))
            yield Done(key=work.key, value=value, seconds=1.0, worker="fake")


def _count_variants(request: dict[str, Any]) -> list[Counted]:
    names = [load_card(path).name for path in request["cards"]]
    return [Counted(macs=1, layers=make_network(read_scale(name))) for name in names]


def _build_variant(request: dict[str, Any]) -> Built:
    folder = Path(request["folder"])
    files = [_make(folder, "simplified", "fp32")]
    files += [_make(folder, recipe, recipe) for recipe in request["recipes"]]
    return Built(macs=1, parameters=1, files=tuple(files))


def _profile_variant(request: dict[str, Any]) -> Profiled:
    layers = make_network(read_scale(Path(request["models"][0]).parent.name))
    profiles = []
    for path in map(Path, request["models"]):
        recipe = _read_recipe(path)
        us = {layer.name: 2 * _SHARES[recipe] * take_ns(layer) / 1e3 for layer in layers}
        profiles.append(Profile(layers_us=us, run_us=2 * take_time_ns(path.parent.name, recipe) / 1e3))
    return Profiled(layers=layers, files=tuple(profiles))


def _time_variant(request: dict[str, Any]) -> BenchRun:
    series = [_time(Path(path)) for path in request["models"]]
    return BenchRun(
        provider="cpu",
        threads=1,
        batch_size=1,
        warmup=None,
        min_duration_s=0.0,
        inputs="golden.npz",
        tolerance=0.05,
        seed=0,
        series=tuple(series),
        control=series[0],
        host=HOST,
    )


def _mix_variant(request: dict[str, Any]) -> Mixed:
    output = Path(request["output"])
    made = _make(output.parent, output.stem, "portable")
    ratio = Interval(value=0.4, low=0.4, high=0.4, n=9, confidence=0.95)
    mix = Mix(
        name="+ stem",
        keep_float=("stem",),
        ratio=ratio,
        sqnr_db=30.0,
        drop=ratio,
        size_bytes=1,
        reward=1.0,
        on_front=True,
    )
    report = MixReport(
        model=_refer(output),
        provider="cpu",
        threads=1,
        host=HOST,
        data="photos",
        images=1,
        labelled=False,
        held_out=True,
        goals=Goals(target_ratio=request["mix"]["target_ratio"]),
        effects=(),
        mixes=(mix,),
        made=(mix,),
        chosen="+ stem",
        reason="",
        final=mix,
        checks=(),
    )
    return Mixed(report=report, made=msgspec.structs.replace(made, recipe=f"{request['mix']['recipe']}+mix"))


def _make(folder: Path, stem: str, recipe: str) -> Made:
    path = folder / f"{stem}.onnx"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(f"{folder.name} {stem}".encode())
    value = rate(folder.name, recipe)
    top1 = Interval(value=value, low=value - 0.01, high=value + 0.01, n=100, confidence=0.95)
    return Made(recipe=recipe, path=str(path), sha256=artifact.digest_file(path), size_bytes=9, sqnr_db=20.0, top1=top1)


def _read_recipe(path: Path) -> str:
    return "fp32" if path.stem == "simplified" else path.stem


def _refer(path: Path) -> ModelRef:
    return ModelRef(name=path.stem, path=str(path), sha256="0", size_bytes=1)


def _time(path: Path) -> Series:
    """Ten times of each of three processes that differ by a thousandth."""
    middle = take_time_ns(path.parent.name, _read_recipe(path))
    times = [round(middle * (1 + shift)) for shift in (-0.001, 0.0, 0.001) for _ in range(10)]
    return make_series(
        _refer(path),
        times,
        peak_bytes=3,
        loaded_bytes=2,
        process=tuple(process for process in range(3) for _ in range(10)),
    )
