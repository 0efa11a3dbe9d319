"""Covers `architecture` and `interface`: every kind of network from a recipe, its cost model and its configuration.

`tests/harness/test_baselines.py` covers the kind `imagenet`, its weights (`imagenet`, `pretrained`), and
`tests/harness/test_probe.py` covers `block_features`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.grid.cells import cells
from harness.models.architecture import KINDS, build, configure, cost_of
from harness.models.config import MaeConfig
from harness.models.interface import Network
from harness.models.layers.masking import masking_noise
from harness.recipe.load import load
from harness.recipe.models import Architecture

MODELS = {
    "mae_vit": "{kind: mae_vit, size: S, width: 16, depth: 1, heads: 2, patch: 8, drop_path: 0.1}",
    "mu_net": "{kind: mu_net, widths: [8, 16], blocks: 1, mask_ratio: 0.5, mask_patch: 8}",
    "channel_agnostic": "{kind: channel_agnostic, width: 16, depth: 1, heads: 2, patch: 8, drop_path: 0.1}",
    "densenet": "{kind: densenet, group: 4, embedding: 8, growth: 4, layers: [2, 2, 2]}",
    "vit_classifier": "{kind: vit_classifier, width: 16, depth: 1, heads: 2, patch: 8, drop_path: 0.1}",
}


def architecture_of(path: Path, kind: str) -> Architecture:
    recipe = load(path, "laptop", [f"models.net={MODELS[kind]}", "grid.models=[net]", "grid.datasets=[two]"])
    architecture = next(cell.architecture for cell in cells(recipe) if cell.kind == "trained")
    assert architecture is not None
    return architecture


def test_the_recipes_of_these_tests_name_every_trainable_kind() -> None:
    assert set(MODELS) | {"imagenet"} == set(KINDS)


@pytest.mark.parametrize("kind", MODELS)
def test_a_network_has_the_parameters_of_its_cost_model(tiny_recipe_file: Path, kind: str) -> None:
    architecture = architecture_of(tiny_recipe_file, kind)
    network = build(architecture)
    assert sum(p.numel() for p in network.parameters()) == cost_of(architecture).parameters()


@pytest.mark.parametrize("kind", MODELS)
def test_every_network_implements_the_interface(tiny_recipe_file: Path, kind: str) -> None:
    network = build(architecture_of(tiny_recipe_file, kind), pool="mean_std", classes=3)
    config, batch = network.config, 4
    images = torch.randn(batch, 6, config.crop, config.crop)
    assert config.noise_values >= config.mask_values
    output = network(images, masking_noise(0, range(batch), config.noise_values), torch.tensor([0, 1, 2, 0]))
    assert output.loss.shape == output.validation_loss.shape == network.trivial_loss(images, output).shape == ()
    assert network.eval().embed(images).shape == (batch, config.embedding_width)


def test_options_come_before_the_recipes_sections_and_unknown_ones_are_ignored(tiny_recipe_file: Path) -> None:
    architecture = architecture_of(tiny_recipe_file, "mae_vit")
    config = configure(MaeConfig, architecture, depth=3, classes=5)
    assert (config.width, config.depth, config.crop) == (16, 3, architecture.mae.crop)


def test_a_network_without_embeddings_or_trivial_loss_says_so() -> None:
    with pytest.raises(TypeError, match="Network has no embedding"):
        Network().embed(torch.zeros(1))
