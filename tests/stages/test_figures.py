"""What the notes below a table say of where it was measured."""

from __future__ import annotations

from mbdeploy.stages.figures import describe_board


def test_a_boards_heat_and_frequency_are_shown_before_and_after() -> None:
    board = {
        "before": {"celsius": 51.3, "governors": ["ondemand", "ondemand"], "mhz": [1500, 2400]},
        "after": {"celsius": 63.0, "governors": ["ondemand", "performance"], "mhz": [1500, 1500]},
        "cooled_s": 12.2,
    }
    (note,) = describe_board(board)
    assert note == (
        "The board: at 51.3, then 63.0 °C; at 1500/2400, then 1500 MHz; governor ondemand, then ondemand/performance; "
        "after 12 s of cooling down."
    )


def test_what_a_board_did_not_say_is_not_shown() -> None:
    assert describe_board({}) == []
    assert describe_board({"before": {}, "after": {}, "cooled_s": 0.0}) == []
    assert describe_board({"before": {"celsius": 51.3}, "after": {}, "cooled_s": 0.0}) == [
        "The board: at 51.3, then unknown °C."
    ]
