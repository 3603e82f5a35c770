"""What workers do for a check: make a card's files and judge them, or time them. A refusal is an answer, too."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.card import ModelCard, card_digest, load_card
from mbdeploy.errors import CardError, MbdeployError, ModelError, pack_error
from mbdeploy.gating.lint import lint_model
from mbdeploy.gating.measured import Measured, collect_gates
from mbdeploy.gating.measuring import confirm_times, narrow, pick_timing, verify_emulated
from mbdeploy.gating.report import Lint
from mbdeploy.gating.steps import holding
from mbdeploy.gating.tracing import Traced, list_failed, trace
from mbdeploy.gating.versions import Versions, compare_answers, time_versions
from mbdeploy.isolate import Progress
from mbdeploy.pipeline import TIMED, VERIFIED, StageRun, describe_measuring, run
from mbdeploy.results import BenchRun, ParityReport
from mbdeploy.stages import verify
from mbdeploy.stages.bench import bench
from mbdeploy.stages.facts import derive_latency

#: An error in words (``errors.pack_error``); None where there was none.
Refused = dict[str, Any] | None
MADE = (*VERIFIED, "golden.npz")


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A card's files on one provider: parity, first nodes that diverge, answers beside another version's."""

    refused: Refused = None
    report: ParityReport | None = None
    traced: tuple[Traced, ...] = ()
    versions: Versions | None = None
    versions_refused: Refused = None

    def is_whole(self, request: dict[str, Any]) -> bool:
        """Whether nothing was refused."""
        return self.refused is None and self.versions_refused is None


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A card's files by name and SHA-256, what the rules find in the INT8 file, and providers that are no boards."""

    refused: Refused = None
    stages: tuple[StageRun, ...] = ()
    files: dict[str, str] = {}
    lint: tuple[Lint, ...] = ()
    lint_refused: Refused = None
    judged: dict[str, Judged] = {}

    def is_whole(self, request: dict[str, Any]) -> bool:
        """Whether nothing was refused, and the files are still there and the same."""
        if self.refused is not None or self.lint_refused is not None:
            return False
        try:
            refuse_others({**request, "files": self.files})
        except ModelError:
            return False
        return all(one.is_whole(request) for one in self.judged.values())


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """A card's times on one provider: the quick run, one in full if that failed, and one beside another version."""

    refused: Refused = None
    run: BenchRun | None = None
    confirmed: tuple[BenchRun, ...] = ()
    versions: tuple[BenchRun, ...] = ()
    versions_refused: Refused = None

    def is_whole(self, request: dict[str, Any]) -> bool:
        """Whether nothing was refused."""
        return self.refused is None and self.versions_refused is None


def make_card(request: dict[str, Any], on_progress: Progress) -> Made:
    """Export, simplify and quantize into ``request["folder"]``; what is fresh there is kept. Then judge."""
    fields: dict[str, Any] = {}
    folder, options = Path(request["folder"]), request["options"]
    with _noting(fields, "refused"):
        card = _read_card(request)
        with holding(folder):
            told = {**narrow(options, ()), "trust": request["trust"], "on_progress": on_progress}
            fields["stages"] = run(card.path, output=folder, until="quantize", **told).stages
            fields["files"] = {name: artifact.digest_file(folder / name) for name in MADE}
            fields["judged"] = {word: _judge(card, folder, word, request, on_progress) for word in request["words"]}
            with _noting(fields, "lint_refused"):
                fields["lint"] = lint_model(folder / VERIFIED[-1], ignore=request["ignore"], on_progress=on_progress)
    return Made(**fields)


def judge_card(request: dict[str, Any], on_progress: Progress) -> Judged:
    """The files of ``request["folder"]`` on the provider ``request["words"]`` names, which is a board."""
    try:
        card = _read_card(request)
        refuse_others(request)
    except MbdeployError as error:
        return Judged(refused=pack_error(error))
    return _judge(card, Path(request["folder"]), request["words"][0], request, on_progress)


def time_card(request: dict[str, Any], on_progress: Progress) -> Timed:
    """Time the files of ``request["folder"]`` on one provider, now, and beside ``request["other"]`` if there is one."""
    fields: dict[str, Any] = {}
    folder, word, tolerance = Path(request["folder"]), request["words"][0], request["tolerance"]
    options = {**request["options"], "on_progress": on_progress}
    with _noting(fields, "refused"):
        card = _read_card(request)
        refuse_others(request)
        _, timing = describe_measuring(card, folder, providers=[word], **request["options"])
        quick = bench([folder / name for name in TIMED], on_progress=on_progress, **timing)[0]
        part = Measured(checks=(), parity=(), latency=(derive_latency(quick),))
        fields["run"], fields["confirmed"] = quick, tuple(confirm_times(card, folder, part, options, tolerance))
        if request["other"] is not None:
            timing = pick_timing(options)
            told = {**timing, "providers": [word], "tolerance": tolerance}
            with _noting(fields, "versions_refused"):
                fields["versions"] = tuple(time_versions(folder, Path(request["other"]), **told))
    return Timed(**fields)


def digest_card(card: ModelCard) -> str:
    """The SHA-256 of what a card says."""
    return hashlib.sha256(msgspec.json.encode(card_digest(card), order="deterministic")).hexdigest()


def refuse_others(request: dict[str, Any]) -> None:
    """Raise ModelError if the files of the folder are not those that are meant."""
    for name, sha256 in request["files"].items():
        path = Path(request["folder"], name)
        if not path.is_file() or artifact.digest_file(path) != sha256:
            raise ModelError(
                where=path,
                expected=f"sha256 {sha256[:12]}…",
                found="another file, or none",
                todo="let every worker see the same files, and run the check again",
            )


def _judge(card: ModelCard, folder: Path, word: str, request: dict[str, Any], on_progress: Progress) -> Judged:
    """Parity on one provider, where what fails begins to, and the answers of both versions."""
    fields: dict[str, Any] = {}
    options = {**request["options"], "on_progress": on_progress}
    with _noting(fields, "refused"):
        fields["report"] = report = _VERIFY[word in request["emulated"]](card, folder, word, options)
        gates = collect_gates(card, Measured(checks=report.checks, parity=(), latency=()))
        fields["traced"] = tuple(trace(card, folder, list_failed(gates), options))
        if request["other"] is not None and word not in request["emulated"]:
            opening = {key: options[key] for key in ("threads", "allow_fallback", "on_progress")}
            with _noting(fields, "versions_refused"):
                fields["versions"] = compare_answers(
                    card.name, folder, Path(request["other"]), providers=[word], **opening
                )
    return Judged(**fields)


def _verify_real(card: ModelCard, folder: Path, word: str, options: dict[str, Any]) -> ParityReport:
    told = narrow(options, [word])
    on_progress = told.pop("on_progress")
    verifying, _ = describe_measuring(card, folder, providers=[word], **told)
    return verify.verify([folder / name for name in VERIFIED], on_progress=on_progress, **verifying)


#: Whether the provider is emulated -> how it is verified.
_VERIFY: dict[bool, Callable[..., ParityReport]] = {False: _verify_real, True: verify_emulated}


def _read_card(request: dict[str, Any]) -> ModelCard:
    card = load_card(request["card"])
    if digest_card(card) != request["digest"]:
        raise CardError(
            where=request["card"],
            expected="the card that the check began with",
            found="another one",
            todo="let every worker see the same files, and run again",
        )
    return card


@contextlib.contextmanager
def _noting(fields: dict[str, Any], name: str) -> Iterator[None]:
    """Note an error of ours under this name, so that what was found before it is not lost."""
    try:
        yield
    except MbdeployError as error:
        fields[name] = pack_error(error)
