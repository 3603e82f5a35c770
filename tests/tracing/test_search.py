"""The search probes few places and ends at one whose own sources hold."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from mbdeploy.tracing.search import find_first


@given(count=st.integers(1, 200), data=st.data())
def test_in_a_line_it_finds_the_first(count: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, count - 1))
    asked: list[int] = []

    def probe(places: Sequence[int]) -> dict[int, bool]:
        asked.extend(places)
        return {place: place >= first for place in places}

    assert find_first(count, probe, [[k - 1] if k else [] for k in range(count)]) == first
    assert len(asked) == len(set(asked)) <= 3 * 8 + 2


def test_where_the_last_holds_there_is_nothing_to_find() -> None:
    assert find_first(5, lambda places: dict.fromkeys(places, False), [[]] * 5) is None


def test_on_another_branch_it_goes_back_to_the_source() -> None:
    # 0 -> 1 -> 3 and 0 -> 2 -> 3, and only the branch over 1 fails: 2 holds, though it comes later.
    bad = {1, 3}
    found = find_first(4, lambda places: {k: k in bad for k in places}, [[], [0], [0], [1, 2]])
    assert found == 1
