"""HTML pages from the templates of this package: everything is escaped, control characters included."""

from __future__ import annotations

from typing import Any

import jinja2
from markupsafe import Markup

from mbdeploy.stages.tables import escape_controls


def open_template(name: str, **words: Any) -> jinja2.Template:
    """A template by its file name; ``words`` are known in it beside what it is rendered with."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mbdeploy.stages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=escape_value,
    )
    environment.globals.update(words)
    return environment.get_template(name)


def escape_value(value: Any) -> Any:
    """Text without what steers a terminal; markup that we made, and other values, as they are."""
    return escape_controls(value) if isinstance(value, str) and not isinstance(value, Markup) else value
