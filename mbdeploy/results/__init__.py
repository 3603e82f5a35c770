"""What is saved: hosts, parity, latency and evaluation as raw facts; everything else is derived when it is shown."""

from mbdeploy.results.accuracy import EvalReport, Evaluated, Prediction
from mbdeploy.results.encoding import SCHEMA_VERSION, decode_result, encode_result
from mbdeploy.results.hosts import Host, ModelRef, PlacedNode, Placement
from mbdeploy.results.parity import (
    Check,
    LayerCurve,
    LayerRow,
    Metrics,
    Mode,
    ParityReport,
    ParityRow,
    is_about,
    name_gate,
    name_subject,
    split_subject,
)
from mbdeploy.results.timing import BenchRun, Series

__all__ = [
    "BenchRun",
    "Check",
    "EvalReport",
    "Evaluated",
    "Host",
    "LayerCurve",
    "LayerRow",
    "Metrics",
    "Mode",
    "ModelRef",
    "ParityReport",
    "ParityRow",
    "PlacedNode",
    "Placement",
    "Prediction",
    "SCHEMA_VERSION",
    "Series",
    "decode_result",
    "encode_result",
    "is_about",
    "name_gate",
    "name_subject",
    "split_subject",
]
