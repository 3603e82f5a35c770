"""Rules over where and in which type nodes ran: read from the user's words, judged over a recorded placement."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from mbdeploy.errors import UsageError
from mbdeploy.quant.metrics import check
from mbdeploy.results import BenchRun, Check, PlacedNode, Placement
from mbdeploy.stages.subject import Kind, read_word
from mbdeploy.targets import parse_provider
from mbdeploy.targets.providers import find_row

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
_CONVOLUTIONS = frozenset(name.lower() for name in _FAMILIES["conv"])
_QUANTIZING = frozenset({"QuantizeLinear", "DequantizeLinear", "FakeQuantize"})
_QUANTIZE_NAMES = frozenset(name.lower() for name in _QUANTIZING)
_NAMED = 4


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule as it was written; ``word`` is its provider or operator, ``percent`` its bound where it has one."""

    text: str
    form: str
    word: str = ""
    percent: float = 0.0


class _Found(msgspec.Struct, frozen=True):
    """What a rule found: the value that is gated, who is at fault, and why there is no value, if there is none.

    With ``blind`` nothing is known either way, because parts of the graph were compiled into single nodes.
    """

    value: float = math.nan
    faults: Sequence[str] = ()
    cause: str = ""
    blind: bool = False


class _Form(msgspec.Struct, frozen=True):
    """One way to write a rule: an example, a pattern with groups ``word`` and ``percent``, and what judges.

    The value that is gated is the share of nodes at no fault, in percent, if ``of_nodes``, else the number at fault.
    """

    example: str
    pattern: str
    judge: Callable[[Rule, Placement], _Found]
    of_nodes: bool = False


def _judge_share(rule: Rule, placement: Placement) -> _Found:
    ep, ran = parse_provider(rule.word).ep, placement.ran
    assigned = placement.assigned if any(node.provider == ep for node in ran) else {}
    if assigned:
        total = sum(sum(operators.values()) for operators in assigned.values())
        others = {provider: operators for provider, operators in assigned.items() if provider != ep}
        faults = [
            f"{count} {name} on {provider}" for provider, names in others.items() for name, count in names.items()
        ]
        return _Found(100.0 * sum(assigned.get(ep, {}).values()) / total, faults)
    elsewhere = [node for node in ran if node.provider != ep]
    compiled = _name_compiled(ran)
    if elsewhere and compiled and len(elsewhere) < len(ran):
        return _Found(cause=f"this runtime does not say how many nodes are in {compiled}", blind=True)
    return _Found(100.0 * (len(ran) - len(elsewhere)) / len(ran), _name_nodes(elsewhere))


def _judge_floats(rule: Rule, placement: Placement) -> _Found:
    word = rule.word.lower()
    family = {name.lower() for name in _FAMILIES.get(word, (word,))}
    meant = [node for node in placement.ran if node.operator.lower() in family]
    if faults := [node for node in meant if node.type in _FLOATS]:
        return _Found(len(faults), _name_nodes(faults))
    hiding = [node for node in placement.ran if _may_hide(node, family, placement)]
    if hiding:
        return _Found(cause=f"the types in {_name_compiled(hiding)} are not told", blind=True)
    return _Found(0.0) if meant else _Found(cause=f"no {rule.word} was recorded, so there is nothing to judge")


def _judge_between(rule: Rule, placement: Placement) -> _Found:
    ran = placement.ran
    places = [index for index, node in enumerate(ran) if node.operator in _FAMILIES["conv"]]
    inside = ran[places[0] : places[-1]] if places else ()
    if faults := [node for node in inside if node.operator in _QUANTIZING]:
        return _Found(len(faults), _name_nodes(faults))
    hiding = [
        node
        for node in ran
        if _may_hide(node, _CONVOLUTIONS, placement) or (node in inside and _may_hide(node, _QUANTIZE_NAMES, placement))
    ]
    if hiding:
        return _Found(cause=f"where Q/DQ run in {_name_compiled(hiding)} is not told", blind=True)
    if len(places) < 2:
        return _Found(cause="fewer than two convolutions were recorded, so nothing lies between two")
    return _Found(0.0)


def _is_compiled(node: PlacedNode) -> bool:
    """Whether a node is a part of the graph that its provider compiled into one; no operator has their underscores."""
    row = find_row(node.provider)
    if row is not None:
        return row.compiles and row.runtime == "onnxruntime"  # (OpenVINO's own runtime tells its layers)
    return "_" in node.operator


def _may_hide(node: PlacedNode, family: Collection[str], placement: Placement) -> bool:
    """Whether a compiled node may hold such operators: its provider took some, or nobody says what it took."""
    taken = placement.assigned.get(node.provider)
    return _is_compiled(node) and (taken is None or any(name.lower() in family for name in taken))


def _name_compiled(nodes: Sequence[PlacedNode]) -> str:
    counts = Counter(node.provider for node in nodes if _is_compiled(node))
    return ", ".join(f"what {provider} compiled into {count} of the nodes" for provider, count in counts.items())


def _name_nodes(nodes: Sequence[PlacedNode]) -> list[str]:
    return [f"{node.operator} {node.name} ({node.type} on {node.provider})" for node in nodes]


_FORMS: Mapping[str, _Form] = {
    "share": _Form("cuda>=95%", r"(?P<word>[\w-]+)\s*>=\s*(?P<percent>\d+(\.\d+)?)\s*%", _judge_share, of_nodes=True),
    "float": _Form("no float Conv", r"no float (?P<word>\w+)", _judge_floats),
    "between": _Form("no Q/DQ left between convolutions", r"no q/?dq( left)? between conv(olution)?s", _judge_between),
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


def choose_rules(texts: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """The rules that judge something on one of these providers, of those that were checked for all."""
    return tuple(rule.text for rule in parse_rules(texts) if any(_applies(rule, word, "int8") for word in words))


def _applies(rule: Rule, word: str, kind: str) -> bool:
    """A share holds for its own provider; the other rules hold for INT8 files, whose float twin breaks them rightly."""
    if _FORMS[rule.form].of_nodes:
        return parse_provider(rule.word).ep == parse_provider(word).ep
    return kind == "int8"


def judge_placement(rules: Sequence[Rule], placement: Placement, model: str, provider: str, kind: str) -> list[Check]:
    """One gate a rule that applies to this file on this provider (as rows are labelled).

    Rules: 1. ``PROVIDER>=N%`` counts the nodes that this provider took, before they were fused or compiled into one;
    where the runtime does not say, or the provider ran none, those of the optimised graph. 2. ``no float OPERATOR``:
    no node of this family (Conv, Gemm) or name reads a float. 3. ``no Q/DQ left between convolutions``: none runs after
    the first convolution and before the last. 4. A rule that finds nothing to judge has no value and fails. 5. One that
    finds no fault, but cannot look into what a provider compiled, is inconclusive and has no value either.
    """
    checks = []
    for rule in rules:
        if not _applies(rule, read_word(provider), kind):
            continue
        form = _FORMS[rule.form]
        found = form.judge(rule, placement) if placement.ran else _Found(cause="no node was recorded")
        gate = check(
            rule.text,
            f"{model} on {provider}",
            found.value,
            rule.percent,
            ">=" if form.of_nodes else "<=",
        )
        more = f" and {len(found.faults) - _NAMED} more" if len(found.faults) > _NAMED else ""
        note = found.cause or ", ".join(found.faults[:_NAMED]) + more
        verdict = None if found.blind else gate.passed
        checks.append(gate if gate.passed else msgspec.structs.replace(gate, passed=verdict, note=note))
    return checks


def judge_placements(run: BenchRun) -> list[Check]:
    """The gates that a saved run asked for, over each of its series."""
    rules = parse_rules(run.require_placement)
    return [
        gate
        for series in run.series
        for gate in judge_placement(rules, series.placement, series.model.name, series.provider, series.kind)
    ]
