"""Results come back from JSON as they were, the numbers that JSON lacks included."""

from __future__ import annotations

import json
import math

import pytest

from mbdeploy.results import Check, Metrics, decode_result, encode_result


@pytest.mark.parametrize("number", [math.inf, -math.inf, 1.5, 0.0, 1e308])
def test_every_number_survives_being_saved(number: float) -> None:
    metrics = Metrics(images=1, elements=2, max_abs=0.0, sqnr_db=number, cosine=1.0)
    assert decode_result(encode_result(metrics), Metrics) == metrics


def test_nan_is_saved_as_nan_and_not_as_null() -> None:
    gate = Check(name="n", subject="s", value=math.nan, bound=1.0, comparison=">=", passed=False)
    saved = encode_result({"checks": (gate, gate)})
    assert json.loads(saved)["checks"][1]["value"] == "nan"
    assert math.isnan(decode_result(encode_result(gate), Check).value)


def test_words_that_look_like_numbers_stay_words() -> None:
    gate = Check(name="inf", subject="nan", value=1.0, bound=1.0, comparison=">=", passed=None)
    assert decode_result(encode_result(gate), Check) == gate
