"""An init as tables: every budget, before and now, with what was measured and the slack."""

from __future__ import annotations

from mbdeploy.gating.init import InitRecord
from mbdeploy.stages.tables import Table


def tabulate_init(record: InitRecord) -> list[Table]:
    """One row a budget."""
    rows = tuple(
        (one.key, _say(getattr(record.before, one.key)), _say(one.measured), _say(one.value), one.slack)
        for one in record.budgets
    )
    written = f"Written: {', '.join(record.written)}." if record.written else "Nothing was written: add --force to."
    columns = ("budget", "before", "measured", "now", "slack")
    title = f"Budgets of {record.card}"
    return [Table(title=title, columns=columns, rows=rows, notes=(written,), left=(0, 4))]


def _say(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
