"""``bench``'s other modes: one at a time, and only with options that they have."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from mbdeploy.cli import program


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--tune", "--explain"], "--tune and --explain: expected one of these"),
        (["--preset", "rapid"], "expected options that go with it, found --preset"),
        (["--tune", "--threads", "1,2"], "expected one value of --threads"),
        (["--explain", "--provider", "cpu", "--provider", "openvino"], "expected one value of --provider"),
        (["--instructions", "--warmup", "2"], "found --warmup"),
        (["--scenario", "server", "--min-pairs", "9"], "found --min-pairs"),
        (["--threads", "1,x"], "expected numbers from 1 to 65536"),
        (["--batch-size", "0"], "expected numbers from 1 to 65536"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(args: list[str], message: str, conv_model_file: Path) -> None:
    result = CliRunner().invoke(program, ["bench", str(conv_model_file), *args])
    assert message in (result.stderr or str(result.exception))
    assert result.stdout == ""
