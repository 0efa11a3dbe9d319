"""Registry of networks: turn a grid cell's architecture into its cost model, its configuration and its network.

`cost_of` does not need torch; `build` imports it when called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from analysis.compute import systems
from analysis.compute.flops import System, VitMae
from harness.models.config import DEFAULT_POOL, MaeConfig
from harness.recipe.models import Architecture, Pool

if TYPE_CHECKING:
    from harness.models.interface import Network

C = TypeVar("C")


@dataclass(frozen=True)
class Kind:
    """One kind of network: its cost class, and a function that imports its configuration and network classes.

    The fields of the cost class and the configuration are taken by name from the sections of the recipe.
    """

    cost: type[System]
    load: Callable[[], tuple[type[Any], type[Network]]]


def _mae_vit() -> tuple[type[Any], type[Network]]:
    from harness.models.mae import MaskedAutoencoder

    return MaeConfig, MaskedAutoencoder


def _mu_net() -> tuple[type[Any], type[Network]]:
    from harness.models.mu_net import MuNet, MuNetConfig

    return MuNetConfig, MuNet


def _channel_agnostic() -> tuple[type[Any], type[Network]]:
    from harness.models.channel_agnostic import ChannelAgnosticMae
    from harness.models.channel_agnostic_config import ChannelAgnosticConfig

    return ChannelAgnosticConfig, ChannelAgnosticMae


def _densenet() -> tuple[type[Any], type[Network]]:
    from harness.models.classifier import DenseNetClassifier, DenseNetConfig

    return DenseNetConfig, DenseNetClassifier


def _vit_classifier() -> tuple[type[Any], type[Network]]:
    from harness.models.classifier import VitClassifier, VitClassifierConfig

    return VitClassifierConfig, VitClassifier


def _imagenet() -> tuple[type[Any], type[Network]]:
    from harness.models.imagenet import ImagenetConfig, ImagenetVit

    return ImagenetConfig, ImagenetVit


KINDS = {
    "mae_vit": Kind(VitMae, _mae_vit),
    "mu_net": Kind(systems.MuNetCost, _mu_net),
    "channel_agnostic": Kind(systems.ChannelAgnosticCost, _channel_agnostic),
    "densenet": Kind(systems.DenseNet161, _densenet),
    "vit_classifier": Kind(systems.VitClassifierCost, _vit_classifier),
    "imagenet": Kind(systems.PlainVit, _imagenet),
}
_COSTS: dict[str, System] = {}  # a study has thousands of cells, and few architectures


def cost_of(architecture: Architecture) -> System:
    """Return the cost model of an architecture, which counts its parameters and compute. Does not import torch."""
    key = architecture.fields_json
    if key not in _COSTS:
        _COSTS[key] = configure(KINDS[architecture.model.kind].cost, architecture)
    return _COSTS[key]


def build(architecture: Architecture, pool: Pool = DEFAULT_POOL, classes: int = 0) -> Network:
    """Build the network, initialised from torch's global generator; a classifier's head has `classes` outputs."""
    config, network = KINDS[architecture.model.kind].load()
    return network(configure(config, architecture, pool=pool, classes=classes))


def configure(config: type[C], architecture: Architecture, **options: Any) -> C:  # noqa: ANN401  (fields of any type)
    """Make a configuration; its fields are taken by name from `options`, the model's section and `mae`, in this order.

    Fields that none of them has keep their default; options without a field of that name are ignored.
    """
    values: dict[str, Any] = {}
    for field in fields(config):  # type: ignore[arg-type]  # C is a dataclass
        if field.name in options:
            values[field.name] = options[field.name]
            continue
        section = architecture.model if hasattr(architecture.model, field.name) else architecture.mae
        if hasattr(section, field.name):
            value = getattr(section, field.name)
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return config(**values)


def initialise(network: Network, weights: Path | None) -> None:
    """Load pretrained weights into a network, if a file is given.

    Raises:
        harness.models.encoder_file.EncoderFileError: the file cannot be read safely, or does not match the network.
    """
    if weights is not None:
        from harness.models.classifier import DenseNetClassifier
        from harness.models.imagenet import ImagenetVit
        from harness.models.pretrained import load_pretrained

        assert isinstance(network, DenseNetClassifier | ImagenetVit)
        load_pretrained(network.trunk, weights, network.config.channels)
