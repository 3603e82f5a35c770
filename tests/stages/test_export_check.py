"""The check of an export against torch: every image, and batch sizes that were not traced."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mbdeploy.stages.export_check import split_batches


@given(st.integers(1, 200))
def test_the_compared_batches_begin_with_1_2_5_and_miss_no_image(count: int) -> None:
    batches = split_batches(count)
    assert [len(batch) for batch in batches[:3]] == [1, 2, 5]
    assert all(1 <= len(batch) <= 8 for batch in batches)
    assert {int(index) for batch in batches for index in batch} == set(range(count))
    assert sum(map(len, batches)) == max(count, 8)
