"""Reports made by hand, with a gate of every end, for tests of the formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mbdeploy.gating.report import CardResult, CheckReport, Gate, Lint, Place, Refusal, find_worst
from mbdeploy.gating.rules import IDS
from mbdeploy.results import Check
from mbdeploy.stages.bisect import Divergence

CARD = """name = "tiny"
summary = "for this test"
net = "mobilenet_v1"

[weights]
seed = 0

[quantization]
calibration = "photos"

[budgets]
# measured, then frozen
int8_sqnr_db = 15.0
"""


@pytest.fixture
def make_gate() -> Callable[..., Gate]:
    return build_gate


def build_gate(name: str = "sqnr_db", passed: bool | None = True, value: float = 12.0, **fields: Any) -> Gate:
    check = Check(name=name, subject="int8 on cpu", value=value, bound=15.0, comparison=">=", passed=passed)
    return Gate(card="tiny", variant="int8", provider="cpu", rule=IDS[name], check=check, **fields)


@pytest.fixture
def report(tmp_path: Path) -> CheckReport:
    """A card with gates that hold, fail and are inconclusive, a provider that is not here, and one finding."""
    path = tmp_path / "models" / "tiny.toml"
    path.parent.mkdir()
    path.write_text(CARD)
    result = CardResult(
        card="tiny",
        path=str(path),
        folder="out/tiny",
        seconds=1.5,
        gates=(
            build_gate("max_abs"),
            build_gate("sqnr_db", False, budget="int8_sqnr_db"),
            build_gate("baseline_latency", None, p_value=0.04, adjusted=0.08),
        ),
        refusals=(Refusal(provider="cuda", error="UnavailableError", text="no GPU", exit_code=3),),
        lint=(
            Lint(
                rule="MB301",
                level="error",
                title="saturation without VNNI",
                summary="1 of 2 layers",
                change="repair it",
                places=(Place(node="conv\x1b[31m<script>", text="4 of 8 channels"), Place(node="", text="all")),
            ),
        ),
        divergences=(
            Divergence(
                subject="int8 on cpu, default",
                cause="rounding",
                measure="sqnr_db",
                node="conv1",
                operator="Conv",
                before=16.0,
                after=12.0,
            ),
        ),
    )
    return CheckReport(
        cards=(result,), providers=("cpu", "cuda"), baseline="", exit_code=find_worst([result.exit_code])
    )
