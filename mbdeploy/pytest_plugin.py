"""The pytest plugin: with ``--mbdeploy-provider``, every card × variant × provider is a test of its own.

Nothing of it is at work, or imported, in a suite that does not ask: what is heavy is loaded by the first such test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mbdeploy.card import ModelCard
    from mbdeploy.gating.report import CardResult, Gate
    from mbdeploy.results import Metrics

VARIANTS = ("fp32", "simplified", "int8")
_TOPMOST_KEYS = {"name", "weights", "preprocess"}


class GatesFailedError(AssertionError):
    """Gates of a card that do not hold; pytest shows their table."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The plugin's options, in a group of their own."""
    group = parser.getgroup("mbdeploy", "mbdeploy: model cards as tests")
    group.addoption(
        "--mbdeploy-provider",
        action="append",
        metavar="NAME",
        help="Collect model cards (.toml) and check their files on this provider, such as cpu. Repeatable.",
    )
    group.addoption("--mbdeploy-output", default="out", metavar="DIR", help="Where cards' files lie.  [default: out]")
    group.addoption(
        "--mbdeploy-trust", action="store_true", help="Allow Python code that cards name (factories) to run."
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A card, where ``--mbdeploy-provider`` asks for them."""
    if file_path.suffix != ".toml" or not parent.config.getoption("--mbdeploy-provider") or not is_card(file_path):
        return None
    file: pytest.Collector = CardFile.from_parent(parent, path=file_path)
    return file


def is_card(path: Path) -> bool:
    """Whether a TOML file is a model card: it has a name, weights and a preprocessing."""
    import msgspec

    from mbdeploy.decoding import decode_toml

    try:
        plain = decode_toml(path.read_bytes(), dict[str, Any])
    except (msgspec.MsgspecError, OSError):
        return False
    return plain.keys() >= _TOPMOST_KEYS


class CardFile(pytest.File):
    """One card; it is taken through the pipeline when its first test runs."""

    _result: CardResult | None = None

    def collect(self) -> Iterator[pytest.Item]:
        """One test for each variant on each provider."""
        from mbdeploy.card import load_card

        card = load_card(self.path)
        for variant in VARIANTS:
            for provider in dict.fromkeys(self.config.getoption("--mbdeploy-provider")):
                item: pytest.Item = CardItem.from_parent(
                    self, name=f"{variant}[{provider}]", card=card, variant=variant, provider=provider
                )
                yield item

    def check(self, card: ModelCard) -> CardResult:
        """The card's gates; other workers that are at work on it are waited for, and find it done."""
        from mbdeploy.gating.check import check_card

        if self._result is None:
            folder = Path(self.config.getoption("--mbdeploy-output")) / card.name
            providers = tuple(dict.fromkeys(self.config.getoption("--mbdeploy-provider")))
            self._result = check_card(card, folder, providers, trust=self.config.getoption("--mbdeploy-trust"))
        return self._result


class CardItem(pytest.Item):
    """One variant of a card on one provider."""

    def __init__(self, *, card: ModelCard, variant: str, provider: str, **fields: Any) -> None:
        super().__init__(**fields)
        self.card, self.variant, self.provider = card, variant, provider

    def runtest(self) -> None:
        """Fail with the gates that do not hold; skip where nothing fails and something is inconclusive."""
        result, gates = self._find_gates()
        verdicts = [gate.check.passed for gate in gates]
        refused = [one for one in result.refusals if one.provider in ("", self.provider)]
        if not refused and not gates and self.variant != "int8" and self._is_emulated():
            pytest.skip("emulators are slow at float arithmetic: only the INT8 file runs there")
        if refused or not gates or False in verdicts:
            raise GatesFailedError("; ".join(one.text for one in refused) or self.describe())
        if None in verdicts:
            notes = [f"{gate.check.name}: {gate.check.note}" for gate in gates if gate.check.passed is None]
            pytest.skip(f"inconclusive: {'; '.join(notes)}")

    def describe(self) -> str:
        """The figures, the gates and the first node that diverges, as text."""
        from mbdeploy.gating.report import describe_divergence, find_divergence
        from mbdeploy.stages.figures import tabulate_checks, tabulate_parity
        from mbdeploy.stages.tables import render_tables

        result, gates = self._find_gates()
        if not gates:
            return f"no gate judged {self.variant} on {self.provider}"
        facts = [fact for fact in result.parity if (fact.model, fact.provider) == (self.variant, self.provider)]
        text = render_tables([*tabulate_parity(facts), *tabulate_checks([gate.check for gate in gates])])
        found = [one for gate in gates if (one := find_divergence(result, gate))]
        return "\n".join([text, *(["", describe_divergence(found[0])] if found else [])])

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What gates found, without a traceback; anything else as pytest shows it."""
        return str(excinfo.value) if isinstance(excinfo.value, GatesFailedError) else super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int, str]:
        """The card, the line of its budgets, and the test's name."""
        from mbdeploy.gating.cards import find_line

        return self.path, find_line(self.path.read_text(encoding="utf-8"), "budgets") - 1, self.name

    def _is_emulated(self) -> bool:
        from mbdeploy.targets import open_target, parse_provider

        return open_target(parse_provider(self.provider)).emulated

    def _find_gates(self) -> tuple[CardResult, list[Gate]]:
        assert isinstance(self.parent, CardFile)
        result = self.parent.check(self.card)
        return result, [gate for gate in result.gates if (gate.variant, gate.provider) == (self.variant, self.provider)]


@pytest.fixture
def mbdeploy_parity(request: pytest.FixtureRequest) -> Callable[..., tuple[Metrics, ...]]:
    """``mbdeploy.testing.assert_parity`` on every ``--mbdeploy-provider``, or on the CPU."""
    from mbdeploy.testing import assert_parity

    providers = dict.fromkeys(request.config.getoption("--mbdeploy-provider") or ["cpu"])

    def assert_everywhere(*args: Any, **keywords: Any) -> tuple[Metrics, ...]:
        return tuple(
            metrics for provider in providers for metrics in assert_parity(*args, provider=provider, **keywords)
        )

    return assert_everywhere
