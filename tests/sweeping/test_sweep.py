"""A whole sweep over a small card: planned, done, found done, and done again where files are gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mbdeploy.card import load_card
from mbdeploy.errors import UsageError
from mbdeploy.sweeping.jobs import Built
from mbdeploy.sweeping.planning import plan_time
from mbdeploy.sweeping.sweep import sweep
from mbdeploy.swept import Planned, SweepReport
from mbdeploy.targets import ssh


def test_an_unknown_recipe_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="magic"):
        sweep(["mobilenet_v1_025"], output=tmp_path / "out", recipe=("magic",))
    assert not (tmp_path / "out").exists()


def test_times_under_emulation_are_refused_before_anything_is_built(stand_in_qemu: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="on which times do not exist"):
        sweep(["mobilenet_v1_025"], output=tmp_path / "out", providers=("cpu@qemu:haswell",), store=tmp_path / "store")


def test_times_on_a_board_ask_for_it_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "_trusts_anyone", lambda words: False)  # (that asks ssh)
    built = Built(macs=1, parameters=1, files=())
    card = load_card("mobilenet_v1_025")
    for word, device in (("cpu@ssh:board1", "dev_board1"), ("cpu", "")):
        work = plan_time(card, built, {"providers": [word], "threads": 1}, ["here"])
        assert (work.device, work.exclusive) == (device, True)


@pytest.mark.slow
def test_a_sweep_is_planned_done_kept_and_mended(tmp_path: Path, make_onnx_card: Callable[..., Path]) -> None:
    cards = [str(make_onnx_card(tmp_path, name)) for name in ("one", "other")]
    plans: list[Sequence[Planned]] = []

    def run(**changes: object) -> SweepReport:
        given = {
            "output": tmp_path / "out",
            "recipe": ("portable",),
            "min_duration": 0.05,
            "processes": 1,
            "store": tmp_path / "store",
            "on_plan": plans.append,
        }
        return sweep(cards, **{**given, **changes})  # type: ignore[arg-type]

    planned = run(dry_run=True)
    assert planned.rows == () and not (tmp_path / "out").exists()
    first = run()
    assert [(row.variant, row.recipe) for row in first.rows] == [
        ("one", "fp32"),
        ("one", "portable"),
        ("other", "fp32"),
        ("other", "portable"),
    ]
    assert {row.macs for row in first.rows} == {96 * 96 * 32 * 27 + 32 * 5} and first.rows[1].sqnr_db > 10
    assert first.rows[1].ratio is not None and first.rows[0].ratio is None
    again = run()
    assert again.rows == first.rows
    (tmp_path / "out" / "other" / "portable.onnx").unlink()
    mended = run()
    assert [row.sqnr_db for row in mended.rows] == [row.sqnr_db for row in first.rows]
    assert [[item.kept for item in plan] for plan in plans] == [
        [False] * 4,
        [False] * 4,
        [True] * 4,
        [True, True, False, False],
    ]
    assert plans[3][2].expected_s is not None and plans[1][2].expected_s is None
