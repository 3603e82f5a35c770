"""A page that needs nothing else: styles, script, Plotly and every number are inside."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup

from mbdeploy.results import encode_result
from mbdeploy.stages.pages import open_template
from mbdeploy.stages.reporting.chart import Chart, escape_for_plotly
from mbdeploy.stages.reporting.names import shorten
from mbdeploy.stages.reporting.svg import render_svg

_MARKS = {"ship": "✓", "don't ship": "✗", "inconclusive": "?", "pass": "✓", "FAIL": "✗"}
_CLASSES = {"ship": "good", "pass": "good", "don't ship": "bad", "FAIL": "bad", "inconclusive": "open"}


def render_frame(
    template: str, *, title: str, charts: Sequence[Chart], facts: Any, command: str, **content: Any
) -> str:
    """The page of a template that extends ``frame.html``: ``charts`` are those that it draws, ``facts`` what it shows.

    Nothing in the page may load anything or run any script but the two that are named here by their digests.
    ``command`` is the word of mbdeploy that made it.
    """
    script = resources.files("mbdeploy.stages").joinpath("templates/report.js").read_text(encoding="utf-8")
    plotly = _read_plotly()
    page: str = open_part(template).render(
        title=title,
        command=command,
        charts=_embed([escape_for_plotly(msgspec.to_builtins(chart)) for chart in charts]),
        facts=_embed(_shorten_all(msgspec.json.decode(encode_result(facts)))),
        script=Markup(script),
        plotly=Markup(base64.b64encode(gzip.compress(plotly.encode(), 9, mtime=0)).decode()),
        policy=" ".join(f"'sha256-{_digest(text)}'" for text in (script, plotly)),
        **content,
    )
    return page.rstrip("\n")


def open_part(template: str) -> jinja2.Template:
    """A template that may use the macros of ``parts.html``."""
    return open_template(template, marks=_MARKS, classes=_CLASSES, short=shorten, render_svg=render_svg)


def _read_plotly() -> str:
    from plotly.offline import get_plotlyjs

    text: str = get_plotlyjs()
    return text


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embed(value: Any) -> Markup:
    """JSON for a data block of the page: nothing in it can end the block, whatever a name holds."""
    text = encode_result(value).decode()
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _shorten_all(plain: Any) -> Any:
    """The same facts with names that somebody can read: a page is no place for one of megabytes."""
    if isinstance(plain, str):
        return shorten(plain, 1000)
    if isinstance(plain, dict):
        return {shorten(key, 1000): _shorten_all(value) for key, value in plain.items()}
    return [_shorten_all(value) for value in plain] if isinstance(plain, list) else plain
