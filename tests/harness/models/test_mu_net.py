"""Covers `mu_net`: shapes, counts and masking of the masked U-net, and a complete tiny study."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from analysis.compute.systems import MuNetCost
from harness.grid.cells import cells
from harness.models.layers.masking import masking_noise, random_masking
from harness.models.mu_net import MuNet, MuNetConfig
from harness.recipe.errors import RecipeError
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.stages.run import run_cell
from harness.storage import ledger

TINY = MuNetConfig(widths=(8, 16, 24), blocks=1, crop=32, channels=3, mask_patch=8)
NET = "{kind: mu_net, widths: [8, 16], blocks: 1, mask_ratio: 0.5, mask_patch: 8}"


def inputs(config: MuNetConfig = TINY, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    images = torch.randn(count, config.channels, config.crop, config.crop)
    return images, masking_noise(0, range(count), config.mask_values)


def build(config: MuNetConfig = TINY) -> MuNet:
    torch.manual_seed(1)
    return MuNet(config)


@pytest.mark.parametrize(("widths", "blocks"), [((32, 64, 128, 256, 512), 6), ((32, 64, 128, 256, 512, 1024), 4)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_counts_match_the_closed_form(widths: tuple[int, ...], blocks: int, kernel: int) -> None:
    """Parameters and torch's FLOP count match exactly, for M and L with both of the paper's kernels."""
    with torch.device("meta"):
        net = MuNet(MuNetConfig(widths, blocks, kernel))
        images, noise = torch.empty(1, 6, 256, 256), torch.empty(1, 256)
    cost = MuNetCost(widths, blocks, kernel)
    assert sum(p.numel() for p in net.parameters()) == cost.parameters()
    with FlopCounterMode(display=False) as counter:
        net(images, noise)
    assert counter.get_total_flops() == 2 * cost.training_forward_macs()
    with FlopCounterMode(display=False) as counter:
        net.embed(images)
    assert counter.get_total_flops() == 2 * cost.dense_forward_macs()


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_the_loss_uses_masked_squares_and_the_network_visible_ones(ratio: float) -> None:
    config = MuNetConfig(widths=(8, 16, 24), blocks=1, crop=32, channels=3, mask_patch=8, mask_ratio=ratio)
    images, noise = inputs(config)
    net, output = build(config), build(config)(images, noise)
    assert output.mask.sum(1).tolist() == [16 * ratio] * 2
    assert torch.equal(output.mask, random_masking(noise, config.visible_squares).mask)
    changed = images.clone()
    pixels = net._pixels(output.mask).expand_as(images)
    changed[pixels] = 5.0  # masked pixels
    again = net(changed, noise)
    assert torch.equal(again.prediction, output.prediction)
    assert again.loss > output.loss
    mask = net._pixels(output.mask)  # by hand: the mean over masked pixels
    filled = net.reconstruct(images, noise).image
    expected = ((filled - images) ** 2)[mask.expand_as(images)].mean()
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(filled[~pixels], images[~pixels])


@pytest.mark.parametrize(("pool", "width"), [("mean", 24), ("class", 24), ("std", 24), ("mean_std", 48)])
def test_an_embedding_is_the_pooled_bottleneck(pool: str, width: int) -> None:
    config = MuNetConfig(widths=(8, 16, 24), blocks=1, crop=32, channels=3, mask_patch=8, pool=pool)  # type: ignore[arg-type]
    images, _ = inputs(config)
    net = build(config).eval()
    bottleneck = net._descend(images)[-1]
    assert bottleneck.shape == (2, 24, 8, 8)
    embedding = net.embed(images)
    assert embedding.shape == (2, width) == (2, config.embedding_width)
    mean, std = bottleneck.mean((2, 3)), bottleneck.std((2, 3), correction=0)
    expected = {"mean": mean, "class": mean, "std": std, "mean_std": torch.cat([mean, std], 1)}[pool]
    torch.testing.assert_close(embedding, expected)


def test_shapes_that_do_not_fit_are_refused(tiny_recipe_file: Path) -> None:
    with pytest.raises(ValueError, match="5 scales, of 16"):
        MuNetConfig(crop=24, mask_patch=8)
    with pytest.raises(ValueError, match="hides none or all"):
        MuNetConfig(crop=32, mask_patch=32)
    with pytest.raises(RecipeError, match=r"models\.net\.mask_patch: 5 does not divide the crop of 32 pixels"):
        load(tiny_recipe_file, "laptop", ["models.net={kind: mu_net, mask_patch: 5}"])
    with pytest.raises(RecipeError, match=r"models\.net\.kernel: input should be 3 or 5"):
        load(tiny_recipe_file, "laptop", ["models.net={kind: mu_net, kernel: 4}"])
    with pytest.raises(RecipeError, match=r"models\.net\.kernal: unknown field; did you mean 'kernel'"):
        load(tiny_recipe_file, "laptop", ["models.net={kind: mu_net, kernal: 3}"])
    with pytest.raises(RecipeError, match=r"models\.net: unknown kind 'unet'; known: 'mae_vit', 'mu_net'"):
        load(tiny_recipe_file, "laptop", ["models.net={kind: unet}"])


@pytest.mark.slow
def test_a_tiny_study_of_a_mu_net_runs_from_training_to_recall(tiny_recipe: Recipe, tiny_recipe_file: Path) -> None:
    recipe = load(
        tiny_recipe_file, "laptop",
        [f"models.net={NET}", "grid.models=[net]", "grid.datasets=[two]", "train.optimisers.net={name: adamw}"],
    )  # fmt: skip
    for cell in cells(recipe):
        run_cell(recipe.model_dump_json(), cell.id)
    trained = next(cell for cell in cells(recipe) if cell.kind == "trained")
    row = ledger.read(recipe.output, trained.id, "train")
    assert row is not None
    assert row.values["validation_loss"] < row.values["mean_predictor_loss"] == pytest.approx(1, abs=0.1)
    evaluated = ledger.read(recipe.output, trained.id, "evaluate")
    assert evaluated is not None
    assert 0 <= evaluated.values["recall"]["complexes"]["recall"] <= 1
