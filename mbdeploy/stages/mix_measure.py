"""Where the search measures: images, FP32's outputs for them, and a target that runs and times mixed files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mbdeploy.data import Dataset, load_batches, open_dataset
from mbdeploy.data.samples import Sample, take_samples
from mbdeploy.errors import DataError
from mbdeploy.estimate import Interval, estimate_paired_difference, estimate_proportion
from mbdeploy.isolate import Progress
from mbdeploy.mixing.front import compute_reward
from mbdeploy.mixing.report import Goals, Mix
from mbdeploy.mixing.turns import Turns, compare_turns
from mbdeploy.quant.metrics import compare_outputs
from mbdeploy.results import Host
from mbdeploy.stages.classes import settle_background
from mbdeploy.stages.subject import (
    Subject,
    check_inputs,
    choose_preprocess,
    choose_spinning,
    entitle,
    plan_session,
    read_subject,
)
from mbdeploy.targets import Answer, Job, Provider, Target, open_target, parse_provider
from mbdeploy.targets.job import refuse_emulated_times

#: Images on which single moves are compared; mixes are compared on all.
_FEW = 32
#: Rounds in one process: of six moves by turns, and of the mixes. Both are estimates, to choose by.
_MOVE_ROUNDS, _MIX_ROUNDS = 40, 120
_WARMUP = 3
#: What optimised FP32 is called among files that took turns.
FLOAT = "optimised FP32"


class Laboratory(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A target with images of ``source`` on it. ``expected`` is FP32's first output (n, …) for ``images`` (n, c, h, w).

    ``labels`` are class numbers as the model counts them, or None. ``held_out`` says that no image was calibrated on.
    """

    subject: Subject
    provider: Provider
    target: Target
    threads: int
    source: str
    images: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    held_out: bool
    expected: NDArray[Any]
    host: Host

    def measure_sqnr(self, paths: Sequence[Path]) -> list[float]:
        """SQNR of each file's outputs against FP32's in dB, on few images; NaN for outputs that cannot be believed."""
        outputs = self._run("infer", paths, self.images[:_FEW])
        expected = self.expected[:_FEW]
        return [compare_outputs(expected, ran.outputs[0]).sqnr_db for ran in outputs.sessions]

    def time_against(self, baseline: tuple[str, Path], files: Mapping[str, Path], rounds: int = _MOVE_ROUNDS) -> Turns:
        """The files by turns with the baseline: CPU time counts with one thread on a CPU, else wall time."""
        sessions = self._run("bench", [baseline[1], *files.values()], self.images[:_FEW], rounds).sessions
        by_cpu = self.threads == 1 and sessions[0].settings.get("device", "cpu") == "cpu"
        return Turns(
            names=(baseline[0], *files),
            clock="cpu" if by_cpu else "wall",
            wall_ns=tuple(ran.wall_ns for ran in sessions),
            cpu_ns=tuple(ran.cpu_ns for ran in sessions),
        )

    @property
    def batch(self) -> int:
        """How many images a file is timed with at once."""
        return self.subject.signature.batch or 1

    def measure_mixes(self, made: Mapping[str, tuple[Path, tuple[str, ...]]], goals: Goals) -> tuple[list[Mix], Turns]:
        """Every mix against optimised FP32, on all images and in one run."""
        paths = {name: path for name, (path, _) in made.items()}
        turns = self.time_against((FLOAT, self.subject.path), paths, _MIX_ROUNDS)
        ratios = compare_turns(turns)
        outputs = [ran.outputs[0] for ran in self._run("infer", list(paths.values()), self.images).sessions]
        target = goals.target_ratio or next(iter(ratios.values())).value
        mixes = [
            self._describe(name, path, kept, ratios[name], output, target)
            for (name, (path, kept)), output in zip(made.items(), outputs, strict=True)
        ]
        return mixes, turns

    def measure_made(self, plain: Mix, path: Path, ratio: Interval, target: float) -> Mix:
        """A mix that was quantized in full, on all images; its time was taken elsewhere. ``target`` is the reward's."""
        output = self._run("infer", [path], self.images).sessions[0].outputs[0]
        found = self._describe(plain.name, path, plain.keep_float, ratio, output, target)
        return msgspec.structs.replace(found, on_front=plain.on_front)

    def _describe(
        self, name: str, path: Path, kept: tuple[str, ...], ratio: Interval, output: NDArray[Any], target: float
    ) -> Mix:
        drop, lost, gained = self._measure_drop(output)
        return Mix(
            name=name,
            keep_float=kept,
            ratio=ratio,
            sqnr_db=compare_outputs(self.expected, output).sqnr_db,
            drop=drop,
            size_bytes=path.stat().st_size,
            reward=compute_reward(drop.value, ratio.value, target),
            on_front=False,
            lost=lost,
            gained=gained,
        )

    def _measure_drop(self, output: NDArray[Any]) -> tuple[Interval, int, int]:
        """Points of top-1 lost, and images lost and gained; without labels, of images (pixels) whose class changed."""
        gained = 0
        if self.labels is not None:
            before, after = (values.argmax(axis=1).reshape(-1) == self.labels for values in (self.expected, output))
            gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
            found = estimate_paired_difference(lost, gained, len(self.labels))  # the float model's gain is our loss
        else:
            agreement = compare_outputs(self.expected, output).top1_agreement
            share = float("nan") if agreement is None else 1 - agreement
            lost = 0 if agreement is None else round(share * len(self.images))
            found = msgspec.structs.replace(estimate_proportion(lost, len(self.images)), value=share)
        points = {name: 100 * getattr(found, name) for name in ("value", "low", "high")}
        return msgspec.structs.replace(found, **points), lost, gained

    def _run(self, kind: Any, paths: Sequence[Path], images: NDArray[np.float32], rounds: int = 0) -> Answer:
        config = choose_spinning(self.provider, self.threads)
        mixes = msgspec.structs.replace(self.subject, companions=())  # all weights of a mixed file are inside
        subjects = (
            self.subject if path == self.subject.path else msgspec.structs.replace(mixes, path=path) for path in paths
        )
        sessions = tuple(
            plan_session(subject, self.provider, threads=self.threads, session_config=config) for subject in subjects
        )
        size = self.batch if kind == "bench" else self.subject.signature.batch or 16
        job = Job(
            kind=kind,
            sessions=sessions,
            inputs=images,
            batch_size=size,
            min_duration_s=0.0,
            min_rounds=rounds,
            warmup=_WARMUP,
        )
        return self.target.run(job)


def open_laboratory(
    model: Path,
    search_data: str,
    *,
    calibrated_on: tuple[str, int, int] | None,
    limit: int,
    preprocess: str | None,
    provider: str,
    threads: int,
    on_progress: Progress,
) -> Laboratory:
    """Load at most ``limit`` images and run FP32 on them.

    Images that calibrated are left out where others remain; a label is used where every image has one.

    Raises:
        UsageError: times do not exist on this target. DataError: unusable images.
    """
    subject = read_subject(model, "fp32")
    asked = parse_provider(provider)
    target = open_target(asked)
    refuse_emulated_times(target, "bench")
    dataset, held_out = _choose_images(search_data, calibrated_on, limit)
    batches = list(load_batches(dataset, choose_preprocess(dataset, [subject], preprocess)))
    images = np.concatenate([batch.inputs for batch in batches])
    check_inputs([subject], images.shape, search_data)
    answer = target.run(
        Job(kind="infer", sessions=(plan_session(subject, asked, threads=threads),), inputs=images),
        entitle(on_progress, f"FP32 on {asked.word}"),
    )
    expected = answer.sessions[0].outputs[0]
    labels = None
    if all(batch.labels is not None for batch in batches) and expected.size == len(images) * expected.shape[1]:
        labels = np.concatenate([batch.labels for batch in batches if batch.labels is not None])
        labels = labels + settle_background([subject], expected.shape[1], int(labels.max()), search_data)
    return Laboratory(
        subject=subject,
        provider=asked,
        target=target,
        threads=threads,
        source=search_data,
        images=images,
        labels=labels,
        held_out=held_out,
        expected=expected,
        host=answer.host,
    )


def _choose_images(search_data: str, calibrated_on: tuple[str, int, int] | None, limit: int) -> tuple[Dataset, bool]:
    """At most ``limit`` samples, labelled if they can be; whether none of them calibrated."""
    try:
        dataset = open_dataset(search_data, split="check", labelled=True)
    except DataError:
        dataset = open_dataset(search_data, split="check")
    seen = set()
    if calibrated_on is not None:
        source, count, seed = calibrated_on
        chosen = open_dataset(source, split="calibrate", limit=count, seed=seed)
        seen = {_identify(sample) for sample in chosen.samples}
    fresh = tuple(sample for sample in dataset.samples if _identify(sample) not in seen)
    samples = take_samples(fresh or dataset.samples, limit, 0)
    return msgspec.structs.replace(dataset, samples=samples), bool(fresh)


def _identify(sample: Sample) -> tuple[object, ...]:
    return Path(sample.path).resolve(), sample.box, sample.row
