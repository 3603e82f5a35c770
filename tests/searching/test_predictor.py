"""The predictor against machines whose law is known."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from law import make_layer, make_network, measure_network

from mbdeploy.searching.features import FINE, describe_layer, list_layers
from mbdeploy.searching.predictor import cross_validate, fit_predictor


@pytest.mark.parametrize("recipe", ["fp32", "portable"])
def test_a_linear_law_is_recovered_from_profiles_and_foretells_networks_that_were_left_out(recipe: str) -> None:
    measured = [measure_network(f"net{scale}", make_network(scale)) for scale in (1, 2, 3, 5, 8)]
    fit = cross_validate(measured, recipe)
    assert (fit.basis, fit.networks) == ("layers", 5)
    assert fit.largest_error == pytest.approx(0, abs=1e-6)
    assert fit.coefficients_ns["MACs of depthwise conv"] == pytest.approx(5.0)
    predictor = fit_predictor(measured, is_float=recipe == "fp32")
    unseen = measure_network("unseen", make_network(13))
    assert predictor.predict_ns(unseen.layers) == pytest.approx(unseen.latency_ns)


def test_without_profiles_whole_networks_are_fitted() -> None:
    measured = [measure_network(f"net{scale}", make_network(scale), profiled=False) for scale in range(1, 9)]
    fit = cross_validate(measured, "fp32")
    assert fit.basis == "whole networks"
    assert set(fit.coefficients_ns) <= {"dense MACs", "depthwise MACs", "bytes", "layers", "networks"}
    assert fit.median_error == pytest.approx(0, abs=0.05)


def test_errors_are_those_of_networks_left_out_and_the_largest_is_named() -> None:
    measured = [measure_network(f"net{scale}", make_network(scale)) for scale in (1, 2, 3, 5)]
    odd = msgspec.structs.replace(measured[2], latency_ns=2 * measured[2].latency_ns)
    fit = cross_validate([*measured[:2], odd, measured[3]], "fp32")
    assert fit.largest_error is not None and fit.median_error is not None
    worst = max(fit.left_out, key=lambda one: abs(one.error))
    assert worst.name == "net3" and worst.error == pytest.approx(-0.5, abs=0.01)
    assert fit.largest_error == pytest.approx(abs(worst.error)) and fit.median_error < fit.largest_error


def test_with_two_networks_nobody_knows_the_error() -> None:
    fit = cross_validate([measure_network(f"net{scale}", make_network(scale)) for scale in (1, 2)], "fp32")
    assert (fit.median_error, fit.largest_error, fit.left_out) == (None, None, ())


def test_layers_that_run_inside_others_and_views_take_no_time() -> None:
    fused = msgspec.structs.replace(make_layer("relu"), fused=True)
    view = msgspec.structs.replace(make_layer("view"), bytes_fp32=0, bytes_int8=0)
    assert [layer.name for layer in list_layers([fused, view, make_layer("conv")])] == ["conv"]


def test_channels_of_depthwise_layers_count_in_whole_blocks() -> None:
    narrow = msgspec.structs.replace(make_layer("narrow", "depthwise conv", macs=90), groups=24)
    assert describe_layer(narrow, is_float=True)[FINE.index("MACs of depthwise conv")] == 90 * 32 / 24
    pointwise = msgspec.structs.replace(make_layer("pointwise", macs=90), output=(1, 24, 4, 4))
    assert describe_layer(pointwise, is_float=True)[FINE.index("MACs of pointwise conv")] == 90


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(1e3, 1e7), min_size=4, max_size=4))
def test_no_times_make_more_work_take_less_time(latencies_ns: list[float]) -> None:
    measured = [
        msgspec.structs.replace(measure_network(f"net{scale}", make_network(scale)), latency_ns=latency_ns)
        for scale, latency_ns in zip((1, 2, 3, 5), latencies_ns, strict=True)
    ]
    predictor = fit_predictor(measured, is_float=True)
    assert all(one >= 0 for one in predictor.coefficients)
    small, large = (predictor.predict_ns(make_network(scale)) for scale in (4, 6))
    assert 0 <= small <= large
