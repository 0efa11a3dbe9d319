"""Values that are made later are those of a network that was built whole. Covers `initial_values`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
from distributed.kind_work import KINDS
from torch import nn

from harness.models.config import MaeConfig
from harness.models.interface import Network
from harness.models.layers.initial_values import deferred, materialise
from harness.models.mae import MaskedAutoencoder

CONFIG = MaeConfig(
    width=16, depth=2, heads=2, patch=8, crop=32, decoder_width=16, decoder_depth=1, decoder_heads=2, base_width=8,
    base_depth=1,
)  # fmt: skip
EARLIER = {
    "encoder.cls_token": 0.00627913866,
    "encoder.patch_embed.proj.weight": 30.3822951,
    "encoder.blocks.1.in_proj.weight": 28.1154076,
    "encoder.blocks.1.ls.gamma": 1.59999992e-07,
    "decoder.mask_token": 0.00471992681,
    "decoder.pred.weight": 31.3442723,
}
"""Sums of squares before values could be made later, with the seed 3."""
VARIANTS = list(product(("mae", "released"), ("standard", "mup"), ("mlp", "timm-0.8.13")))


def assert_same_as_whole(build: Callable[[], Network]) -> None:
    """All tensors are equal bit for bit, and so is the generator afterwards."""
    torch.manual_seed(3)
    whole, expected = build(), torch.get_rng_state()
    torch.manual_seed(3)
    network, values = deferred(build)
    assert all(parameter.is_meta for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), expected)
    torch.manual_seed(99)  # the values do not depend on when they are made
    materialise(network, torch.device("cpu"), values)
    assert torch.equal(torch.get_rng_state(), torch.manual_seed(99).get_state())
    made, built = network.state_dict(), whole.state_dict()
    assert list(made) == list(built)
    assert [name for name in built if not torch.equal(made[name], built[name])] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network(kind: str) -> None:
    assert_same_as_whole(KINDS[kind])


@pytest.mark.parametrize(("initialisation", "parametrisation", "bias"), VARIANTS)
def test_every_way_to_initialise_a_transformer(initialisation: str, parametrisation: str, bias: str) -> None:
    config = replace(CONFIG, initialisation=initialisation, parametrisation=parametrisation, block_bias=bias)
    assert_same_as_whole(lambda: MaskedAutoencoder(config))


def test_the_weights_are_those_of_earlier_versions() -> None:
    torch.manual_seed(3)
    _, values = deferred(lambda: MaskedAutoencoder(CONFIG))
    sums = {name: float(values.value(name).double().square().sum()) for name in EARLIER}
    assert sums == pytest.approx(EARLIER, rel=1e-6)


class Copied(nn.Module):
    """A layer that begins with another's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        with torch.no_grad():
            self.second.weight.copy_(self.first.weight)


class Table(nn.Module):
    """A large parameter with values that are neither drawn nor set in place."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.ones(257, 257))


def test_what_cannot_be_made_later_is_refused() -> None:
    with pytest.raises(TypeError, match="writes one parameter's value into another"):
        deferred(Copied)
    with pytest.raises(ValueError, match="table has no initial value that can be made later"):
        deferred(Table)


def test_a_rank_makes_one_parameter_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is allocated for values while a network is built is no more than its largest parameter."""
    network, values = deferred(lambda: MaskedAutoencoder(CONFIG))
    largest = max(parameter.numel() for parameter in network.parameters())
    sizes = [values.value(name).untyped_storage().nbytes() for name in values.origins]
    kept = [recipe.begin.numel() for recipe in values.origins.values() if recipe.begin is not None]
    assert max(sizes) == 4 * largest
    assert sum(kept) < largest
