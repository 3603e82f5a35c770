"""Rules over where and in which type nodes ran: read from the user's words, judged over a recorded placement."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

import msgspec

from mbdeploy.errors import UsageError
from mbdeploy.quant.metrics import check
from mbdeploy.results import BenchRun, Check, PlacedNode, Placement
from mbdeploy.stages.subject import Kind, read_word
from mbdeploy.targets import parse_provider

_FLOATS = frozenset({"float32", "float16", "bfloat16"})
#: A rule's word for a family of operators, in lower case -> what ONNX Runtime and OpenVINO call them after fusion.
_FAMILIES: Mapping[str, frozenset[str]] = {
    "conv": frozenset(
        "Conv FusedConv NhwcConv NhwcFusedConv ConvTranspose QLinearConv QLinearConvTranspose ConvInteger "
        "Convolution GroupConvolution Deconvolution".split()
    ),
    "gemm": frozenset(
        "Gemm FusedGemm QGemm MatMul FusedMatMul QLinearMatMul MatMulInteger MatMulIntegerToFloat "
        "DynamicQuantizeMatMul FullyConnected".split()
    ),
}
_QUANTIZING = frozenset({"QuantizeLinear", "DequantizeLinear", "FakeQuantize"})
_NAMED = 4


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule as it was written; ``word`` is its provider or operator, ``percent`` its bound where it has one."""

    text: str
    form: str
    word: str = ""
    percent: float = 0.0


class _Form(msgspec.Struct, frozen=True):
    """One way to write a rule: an example, a pattern with groups ``word`` and ``percent``, and who is at fault.

    The value that is gated is the share of nodes at no fault, in percent, if ``of_nodes``, else the number at fault.
    """

    example: str
    pattern: str
    find_faults: Callable[[Rule, Sequence[PlacedNode]], list[PlacedNode]]
    of_nodes: bool = False


def _find_elsewhere(rule: Rule, ran: Sequence[PlacedNode]) -> list[PlacedNode]:
    ep = parse_provider(rule.word).ep
    return [node for node in ran if node.provider != ep]


def _find_floats(rule: Rule, ran: Sequence[PlacedNode]) -> list[PlacedNode]:
    word = rule.word.lower()
    family = {name.lower() for name in _FAMILIES.get(word, (word,))}
    return [node for node in ran if node.operator.lower() in family and node.type in _FLOATS]


def _find_between(rule: Rule, ran: Sequence[PlacedNode]) -> list[PlacedNode]:
    places = [index for index, node in enumerate(ran) if node.operator in _FAMILIES["conv"]]
    inside = ran[places[0] : places[-1]] if places else []
    return [node for node in inside if node.operator in _QUANTIZING]


_FORMS: Mapping[str, _Form] = {
    "share": _Form(
        "cuda>=95%", r"(?P<word>[\w-]+)\s*>=\s*(?P<percent>\d+(\.\d+)?)\s*%", _find_elsewhere, of_nodes=True
    ),
    "float": _Form("no float Conv", r"no float (?P<word>\w+)", _find_floats),
    "between": _Form("no Q/DQ left between convolutions", r"no q/?dq( left)? between conv(olution)?s", _find_between),
}


def parse_rules(texts: Sequence[str]) -> tuple[Rule, ...]:
    """Read rules such as those of the table above.

    Raises:
        UsageError: one that no form fits, a provider that no table knows, or more than 100 %.
    """
    return tuple(map(_parse_rule, dict.fromkeys(texts)))


def _parse_rule(text: str) -> Rule:
    for name, form in _FORMS.items():
        match = re.fullmatch(form.pattern, text.strip(), re.IGNORECASE)
        if match is None:
            continue
        groups = {"word": "", "percent": "0", **match.groupdict()}
        rule = Rule(text=text, form=name, word=groups["word"], percent=float(groups["percent"]))
        if form.of_nodes:
            parse_provider(rule.word)
        if rule.percent <= 100:
            return rule
    raise UsageError(
        where="--require-placement",
        expected=f"a rule such as {', '.join(repr(form.example) for form in _FORMS.values())}",
        found=repr(text),
        todo="write it in one of these ways",
    )


def check_rules(rules: Sequence[Rule], words: Sequence[str], kinds: Sequence[Kind]) -> None:
    """Refuse a rule that would judge nothing: no such provider was asked for, or no file is INT8.

    Raises:
        UsageError: such a rule.
    """
    for rule in rules:
        if not any(_applies(rule, word, kind) for word in words for kind in kinds):
            share = _FORMS[rule.form].of_nodes
            raise UsageError(
                where=f"--require-placement {rule.text!r}",
                expected=f"--provider {rule.word}" if share else "an INT8 file to judge",
                found=", ".join(words) if share else "none",
                todo="give it, or leave out the rule",
            )


def _applies(rule: Rule, word: str, kind: str) -> bool:
    """A share holds for its own provider; the other rules hold for INT8 files, whose float twin breaks them rightly."""
    if _FORMS[rule.form].of_nodes:
        return parse_provider(rule.word).ep == parse_provider(word).ep
    return kind == "int8"


def judge_placement(rules: Sequence[Rule], placement: Placement, model: str, provider: str, kind: str) -> list[Check]:
    """One gate a rule that applies to this file on this provider (as rows are labelled).

    Rules: 1. ``PROVIDER>=N%`` counts nodes of the optimised graph that this provider ran; fusion is done by then.
    2. ``no float OPERATOR``: no node of this family (Conv, Gemm) or name reads a float. 3. ``no Q/DQ left between
    convolutions``: none runs after the first convolution and before the last. 4. Without any recorded node no rule
    holds.
    """
    checks = []
    for rule in rules:
        if not _applies(rule, read_word(provider), kind):
            continue
        form, total = _FORMS[rule.form], len(placement.ran)
        faults = form.find_faults(rule, placement.ran)
        value = float(len(faults)) if not form.of_nodes else 100.0 * (1 - len(faults) / total) if total else 0.0
        gate = check(
            rule.text,
            f"{model} on {provider}",
            value if total else math.nan,
            rule.percent,
            ">=" if form.of_nodes else "<=",
        )
        more = f" and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        named = ", ".join(f"{node.operator} {node.name} ({node.type} on {node.provider})" for node in faults[:_NAMED])
        note = named + more if total else "no node was recorded"
        checks.append(gate if gate.passed else msgspec.structs.replace(gate, note=note))
    return checks


def judge_placements(run: BenchRun) -> list[Check]:
    """The gates that a saved run asked for, over each of its series."""
    rules = parse_rules(run.require_placement)
    return [
        gate
        for series in run.series
        for gate in judge_placement(rules, series.placement, series.model.name, series.provider, series.kind)
    ]
