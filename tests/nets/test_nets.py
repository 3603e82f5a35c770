"""The contract that every row of the table of networks keeps, and how a name or an argument is refused."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import pytest
import torch
from torch import nn

from mbdeploy.card import ModelCard, list_cards
from mbdeploy.errors import CardError
from mbdeploy.nets import NETS, build_net, list_alphas

CLASSES = 7
# Rows that take arguments are tested in more than one form; every row is tested at its defaults.
VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {}) for name in NETS),
    ("mobilenet_v1", {"alpha": 0.25, "shallow": True, "act": "relu"}),
    ("mobilenet_v1", {"alpha": 0.5, "cifar": True}),
    ("mobilenet_v2", {"alpha": 0.35}),
    ("mobilenet_v3", {"variant": "small", "alpha": 0.75}),
    ("squeezenet", {"version": "1.0"}),
    ("squeezenext", {"variant": "2.0-SqNxt-23v5"}),
    ("shufflenet_v1", {"groups": 8, "alpha": 0.25}),
    ("shufflenet_v1", {"groups": 4, "alpha": 0.5}),
    ("shufflenet_v1", {"groups": 1}),
    ("shufflenet_v2", {"alpha": 0.5}),
    ("espnet", {"p": 1, "q": 1}),
    ("espnetv2", {"alpha": 1.25}),
    ("fbnet", {"variant": "a"}),
    ("fbnet", {"variant": "b"}),
    ("efficientnet", {"variant": "lite0"}),
    ("ghostnet", {"alpha": 0.5}),
    ("resnet50", {"variant": "v1.5"}),
)
# The fully connected layers of these want 224 pixels, and hold too many weights to fill for a test.
HEAVY = {"alexnet": "meta", "vgg16": "meta"}

pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def choose_tier(net: str, args: dict[str, Any]) -> Any:
    """Each row at its defaults; its other forms wait for the sweep."""
    words = ",".join(f"{key}={value}" for key, value in args.items())
    return pytest.param(net, args, id=f"{net}-{words}", marks=pytest.mark.sweep if args else pytest.mark.slow)


FORMS = [choose_tier(net, args) for net, args in VARIANTS]


@pytest.mark.parametrize(("net", "args"), FORMS)
def test_every_net_gives_one_row_of_scores_per_image(net: str, args: dict[str, Any]) -> None:
    size = 224 if net in HEAVY else 64
    with torch.device(HEAVY.get(net, "cpu")), torch.no_grad():
        built = build_net(net, classes=CLASSES, in_channels=1, **args).eval()
        for batch in (1, 3):
            scores = built(torch.ones(batch, 1, size, size))
            assert scores.shape == ((batch, CLASSES, size, size) if net == "espnet" else (batch, CLASSES))


@pytest.mark.parametrize(("net", "args"), FORMS)
def test_features_have_the_channels_and_strides_that_the_net_states(net: str, args: dict[str, Any]) -> None:
    torch.manual_seed(0)
    built: Any = build_net(net, features_only=True, **args).eval()
    size = 64
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        maps = built(images)
        again = built(images)
        alone = built(images[1:])
    assert [found.shape[1] for found in maps] == list(built.channels)
    for found, stride in zip(maps, built.strides, strict=True):
        for side in found.shape[2:]:
            assert abs(side - size / stride) <= 3  # three: SqueezeNet's first convolution is not padded
    assert list(built.strides) == sorted(set(built.strides))
    for one, two, three in zip(maps, again, alone, strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(one[1:], three, rtol=1e-4, atol=1e-4)  # no image sees another


@pytest.mark.sweep
@pytest.mark.parametrize(("net", "args"), FORMS)
def test_every_net_exports_with_a_dynamic_batch(net: str, args: dict[str, Any]) -> None:
    built = build_net(net, classes=CLASSES, **args).eval()
    size = 224 if net in HEAVY else 64
    images = torch.randn(2, 3, size, size)
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(built, (images,), dynamic_shapes=shapes)
    more = torch.cat([images, images[:1]])
    with torch.no_grad():
        torch.testing.assert_close(program.module()(more), built(more), rtol=1e-4, atol=1e-4)


def test_an_unknown_net_is_refused_with_all_names() -> None:
    with pytest.raises(CardError, match=r"net nope: expected one of alexnet, .*vgg16, found no such net"):
        build_net("nope")


def test_an_unknown_argument_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CardError, match=r"arguments among alpha, classes, .*, found beta, gamma"):
        build_net("mobilenet_v2", gamma=1, beta=2)


@pytest.mark.parametrize(
    ("net", "args", "message"),
    [
        ("mobilenet_v1", {"act": "tanh"}, r"activation: expected one of none, relu, .*found 'tanh'"),
        ("efficientnet", {"variant": "b9"}, r"efficientnet variant: expected one of b0, .*lite4, found 'b9'"),
        ("shufflenet_v1", {"groups": 5}, r"groups: expected one of 1, 2, 3, 4, 8, found '5'"),
        ("mobilenet_v2", {"alpha": "wide"}, r"net mobilenet_v2: .*found .'alpha': 'wide'."),
        ("mobilenet_v2", {"classes": -3}, r"net mobilenet_v2: .*found .'classes': -3."),
    ],
)
def test_an_argument_out_of_range_is_refused(net: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(CardError, match=message):
        build_net(net, **args)


def test_a_net_of_one_width_lists_none_and_one_that_publishes_none_those_of_mobilenets() -> None:
    assert list_alphas("vgg16") == ()
    assert list_alphas("shufflenet_v2") == (0.5, 1.0, 1.5, 2.0)
    assert list_alphas("conv_mobilenet") == (0.25, 0.5, 0.75, 1.0)
    with pytest.raises(CardError, match="net nope"):
        list_alphas("nope")


def test_an_entry_point_is_loaded_when_no_row_has_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    point = metadata.EntryPoint("plugged", "torch.nn:Conv2d", "mbdeploy.nets")

    def entry_points(*, group: str) -> metadata.EntryPoints:
        return metadata.EntryPoints([point] if group == "mbdeploy.nets" else [])

    monkeypatch.setattr("mbdeploy.nets.metadata.entry_points", entry_points)
    built = build_net("plugged", in_channels=1, out_channels=2, kernel_size=3)
    assert isinstance(built, nn.Conv2d)
    assert list_alphas("plugged") == ()
    with pytest.raises(CardError, match="plugged"):
        build_net("nope")


CARDS = [card for card in list_cards() if card.net is not None]


def choose_tier_of_card(card: ModelCard) -> Any:
    """The first card of each network; the others wait for the sweep."""
    is_first = card is next(one for one in CARDS if one.net == card.net)
    return pytest.param(card, id=card.name, marks=pytest.mark.slow if is_first else pytest.mark.sweep)


@pytest.mark.parametrize("card", [choose_tier_of_card(card) for card in CARDS])
def test_every_card_names_a_net_that_takes_its_arguments_and_its_input(card: ModelCard) -> None:
    assert card.path.endswith(f"{card.name}.toml")
    assert card.trained != ("seeded weights (not trained)" in card.summary)
    assert card.source.startswith("https://")
    assert card.licence == "Apache-2.0"
    side = card.preprocess.size
    net = card.net or ""
    with torch.device(HEAVY.get(net, "cpu")), torch.no_grad():
        scores = build_net(net, **card.args).eval()(torch.ones(1, card.preprocess.channels, side, side))
    assert scores.ndim == (4 if card.task == "segment" else 2)


def test_every_net_has_a_card() -> None:
    assert {card.net for card in CARDS} >= set(NETS)
