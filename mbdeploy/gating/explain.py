"""What every code that the program can end or mark something with means: rules, verdicts, exit codes, errors."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import msgspec

from mbdeploy.errors import UsageError
from mbdeploy.gating.rules import RULES

_INSPECT, _AUDIT, _GATE = "finding of inspect", "finding of audit", "gate of check"
_VERDICT, _EXIT, _ERROR = "verdict", "exit code", "error"

#: Findings of ``inspect``: what to do, beside the sentence of the rule itself.
_COSTS: Mapping[str, str] = {
    "MB101": "At equal multiply-adds a 1x1 convolution moves least with as many inputs as outputs (ShuffleNet v2, G1): "
    "bring the widths closer together, by a smaller expansion factor.",
    "MB102": "Groups save multiply-adds and not bytes (ShuffleNet v2, G2): use fewer of them, with fewer channels.",
    "MB103": "Small convolutions side by side leave parallel hardware idle (ShuffleNet v2, G3): merge them into one.",
    "MB104": "They have no multiply-adds and take time all the same (ShuffleNet v2, G4): drop shortcuts and shuffles "
    "that accuracy does not need, and run `mbdeploy simplify`.",
    "MB105": "Vector units compute eight or sixteen channels at a time: round widths to a multiple.",
    "MB201": "Each way there and back is a conversion of a whole map: use operators that have an int8 kernel, or leave "
    "the neighbours in float as well (docs/mixing.md).",
    "MB202": "Quantize weights per channel, as every recipe here does.",
    "MB203": "A scale must reach the largest outlier: train with ReLU6, or choose ranges by --calibration-method.",
    "MB204": "Two products are added in 16 bits there and clip: recipes accurate and portable keep below that, and "
    "give the same answers on every CPU.",
    "MB205": "Recipes here widen the scale of such channels until the bias fits; other tools cut the bias off.",
}
_VERDICTS: Mapping[str, str] = {
    "OK": "The native step ran in its child to the end and answered.",
    "REJECTED": "The library said no to this file or input, with the reason behind the colon. Check how it was made.",
    "CRASHED": "The library killed its own process (a signal such as SIGSEGV). The file or the library has a bug; "
    "nothing else was harmed.",
    "TIMEOUT": "The step took longer than its limit and was stopped, with everything that it had started.",
    "OOM": "The step ran out of memory, of the machine's or of its limit.",
    "DEGENERATE": "The outputs are no result: NaN, infinite, empty, constant, or of another shape. No gate passes.",
    "TRANSPORT": "The way to the machine broke (ssh, a container, the emulator), not the model. Try it again.",
    "CHANGED": "onnxsim ended well, but its file gives other outputs than the original on golden images, so that "
    "the file was simplified without it.",
    "pass": "The gate's value holds its bound.",
    "FAIL": "The gate's value does not hold its bound; NaN never does. Exit code 1.",
    "inconclusive": "The samples cannot tell: too few, too scattered, or an A/A control that did not pass. Measure "
    "longer or on a quieter machine; it is never counted as a pass. Exit code 4.",
    "ship": "Parity gates hold, and INT8 is faster than optimised FP32 beyond doubt.",
    "don't ship": "A parity gate failed, accuracy is lost, or INT8 is not faster than optimised FP32.",
}
_EXITS: Mapping[str, str] = {
    "0": "Everything that was asked ran, and every gate holds.",
    "1": "A gate failed: the files were made and measured, and a figure is beyond its bound.",
    "2": "Bad usage or input: an option, a card, a model or data that cannot be used. The message says which.",
    "3": "A provider, a target or a package that was asked for is not available here. --allow-fallback runs on the "
    "CPU instead, and labels it.",
    "4": "Inconclusive: nothing failed, and something could not be told on this machine.",
    "5": "A bug of mbdeploy. Run it again with --verbose and report what it prints.",
    "130": "Interrupted, by Ctrl-C or the signal of the same name.",
    "141": "Whoever read the standard output has gone, as in `mbdeploy list | head -1`.",
    "143": "Ended by SIGTERM or SIGHUP; what was begun is cleared away.",
}
_ERRORS: Mapping[str, str] = {
    "MbdeployError": "The root of all errors below; each says where, what was expected and found, and what to do.",
    "UsageError": "The command or the call contradicts itself, or lacks something. Exit code 2.",
    "CardError": "A model card that is not there, or has a key or value that no card has. Exit code 2.",
    "ModelError": "A model file, or a network, that cannot be used. Exit code 2.",
    "DataError": "Calibration, golden or labelled data, or saved results, that cannot be used. Exit code 2.",
    "OutputError": "The result cannot be written: no room, no permission, or another process at work. Exit code 2.",
    "UnavailableError": "A provider, target or package that is not here. Exit code 3.",
    "StepError": "A native step that crashed, hung or ran out of memory on this input. Exit code 2.",
}


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What a code means. ``kind`` says what it marks; ``title`` is its short name, "" where it has none."""

    code: str
    kind: str
    title: str
    text: str
    schema_version: int = 1


def list_entries() -> dict[str, Entry]:
    """Every code and its meaning, in the order of kinds and tables."""
    from mbdeploy.auditing.rules import RULES as AUDIT_RULES
    from mbdeploy.costs.rules import RULES as COST_RULES

    entries = [
        *(
            Entry(code=code, kind=_INSPECT, title="", text=f"{COST_RULES[code].sentence} {text}")
            for code, text in _COSTS.items()
        ),
        *(
            Entry(
                code=code,
                kind=f"{_AUDIT} ({rule.severity})",
                title=rule.title,
                text=f"{rule.sentence} To do: {rule.change}.",
            )
            for code, rule in AUDIT_RULES.items()
        ),
        *(
            Entry(code=code, kind=_GATE, title=rule.title, text=f"{rule.sentence} To do: {rule.change}.")
            for code, rule in RULES.items()
        ),
        *(
            Entry(code=code, kind=kind, title="", text=text)
            for kind, table in ((_VERDICT, _VERDICTS), (_EXIT, _EXITS), (_ERROR, _ERRORS))
            for code, text in table.items()
        ),
    ]
    return {entry.code: entry for entry in entries}


def explain(code: str) -> Entry:
    """The entry of a code, written in any case.

    Raises:
        UsageError: no such code; the nearest ones are named.
    """
    entries = list_entries()
    words = {known.lower(): known for known in entries}
    if code.lower() in words:
        return entries[words[code.lower()]]
    near = difflib.get_close_matches(code.lower(), words, n=4, cutoff=0.4)
    raise UsageError(
        where=code,
        expected="a code that mbdeploy uses",
        found="none of this name",
        todo=f"try {', '.join(words[name] for name in near)}" if near else "see `mbdeploy explain` for all of them",
    )
