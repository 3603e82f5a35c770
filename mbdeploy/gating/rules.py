"""RULES: every gate that a check knows, by id, with what it asks and the card's budget that bounds it."""

from __future__ import annotations

import msgspec

from mbdeploy.costs.rules import RULES as COST_RULES


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A gate: the name of its ``Check``, what it asks, and what to do where it fails."""

    name: str
    title: str
    sentence: str
    change: str
    statistical: bool = False


RULES: dict[str, Rule] = {
    "MB401": Rule(
        name="max_abs",
        title="float file differs",
        sentence="The FP32 or simplified file must give torch's outputs, within export_max_abs or simplify_max_abs.",
        change="see the first node that diverges; another --exporter may translate it rightly",
    ),
    "MB402": Rule(
        name="sqnr_db",
        title="too much quantization noise",
        sentence="SQNR of the INT8 (or float16) outputs against the golden ones, at least int8_sqnr_db.",
        change="see the first node that diverges; keep it in float by keep_float, or use recipe accurate",
    ),
    "MB403": Rule(
        name="top1_agreement",
        title="too many changed classes",
        sentence="Share of golden images on which the INT8 file finds the reference's best class.",
        change="see docs/mixing.md: some layers may have to stay in float",
    ),
    "MB404": Rule(
        name="exact_gap_db",
        title="executed otherwise than stored",
        sentence="How far the outputs as executed lie below the exact ones of the same file: saturation.",
        change="use recipe accurate or portable, whose weights do not saturate; `mbdeploy audit` names the layers",
    ),
    "MB405": Rule(
        name="latency_ratio",
        title="INT8 too slow",
        sentence="INT8 time over optimised FP32, measured in turns, at most latency_ratio.",
        change="see `mbdeploy inspect` for float islands, or freeze the budget on this host by --update-budgets",
        statistical=True,
    ),
    "MB406": Rule(
        name="A/A control",
        title="unsteady machine",
        sentence="The same file against itself must take the same time; else no time is judged.",
        change="use a quieter machine, or a longer --min-duration",
    ),
    "MB407": Rule(
        name="placement",
        title="nodes ran elsewhere, or in float",
        sentence="A rule of --require-placement over where nodes ran, and in which type.",
        change="see the nodes at fault in the note, and docs/providers.md; an inconclusive rule cannot be judged there",
    ),
    "MB411": Rule(
        name="baseline_sqnr_db",
        title="noisier than the baseline",
        sentence="SQNR of this INT8 file minus that of the other version, on the same images run now.",
        change="see what changed in the card, the weights or the calibration images",
        statistical=True,
    ),
    "MB412": Rule(
        name="baseline_top1",
        title="fewer right classes than the baseline",
        sentence="Share of images won minus lost against the other version, counted image by image.",
        change="see what changed in the card, the weights or the calibration images",
        statistical=True,
    ),
    "MB413": Rule(
        name="baseline_latency",
        title="slower than the baseline",
        sentence="Time of this INT8 file over the other version's, in turns in one process tree.",
        change="compare both by `mbdeploy inspect`, and run it again on a quieter machine",
        statistical=True,
    ),
    "MB421": Rule(
        name="audit_errors",
        title="errors of the audit",
        sentence="Findings of severity error in the INT8 file: it would answer otherwise on another CPU, or wrongly.",
        change="see the findings; `mbdeploy explain ID` says more of each, and --ignore ID leaves one out",
    ),
}
#: The rule of gates that are called as the user wrote them.
PLACEMENT = "MB407"
#: The name of a Check -> the rule's id.
IDS = {rule.name: code for code, rule in RULES.items()}


def describe_rule(code: str) -> tuple[str, str]:
    """A rule's title and its sentence, of gates, ``inspect`` and ``audit`` alike."""
    from mbdeploy.auditing.rules import RULES as AUDIT_RULES

    if code in RULES:
        return RULES[code].title, RULES[code].sentence
    if code in AUDIT_RULES:
        return AUDIT_RULES[code].title, AUDIT_RULES[code].sentence
    return COST_RULES[code].sentence.rstrip("."), COST_RULES[code].sentence
