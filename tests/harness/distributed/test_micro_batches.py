"""Gradient accumulation gives the loss and gradient of the full batch, also with uneven numbers of masked patches.

Covers `micro_batches`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.data.prepare import prepare
from harness.distributed.micro_batches import loss_weights, micro_batch
from harness.grid.cells import cells
from harness.grid.stage_run import StageRun
from harness.recipe.load import load
from harness.storage.train_log import read_log
from harness.train.loop import train_cell


def test_uneven_masks_by_hand() -> None:
    """Two ranks, two micro-batches each, with 1, 3, 2 and 2 masked patches: 8 in total.

    Their errors are 8 | 1 2 3 | 4 6 | 0 8, so the mean over patches is 32 / 8 = 4, but that of the micro-batches' means
    (8, 2, 5, 4) is 4.75.
    """
    means = [[8.0, 2.0], [5.0, 4.0]]
    weights = [loss_weights(masked, 8, 2) for masked in ([1, 3], [2, 2])]
    assert weights == [[0.25, 0.75], [0.5, 0.5]]
    ranks = [sum(w * m for w, m in zip(*pair, strict=True)) for pair in zip(weights, means, strict=True)]
    assert sum(ranks) / 2 == 4.0


@given(
    counts=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=4), seed=st.integers(0)
)
def test_accumulated_gradient_equals_full_batch_gradient(counts: list[list[int]], seed: int) -> None:
    """Ranks average gradients as DistributedDataParallel does, and may have different numbers of micro-batches."""
    generator = torch.Generator().manual_seed(seed % 2**31)
    patches = [[torch.randn(n, generator=generator, dtype=torch.float64) for n in masked] for masked in counts]
    total = sum(map(sum, counts))
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    batch = torch.cat([micro for rank_patches in patches for micro in rank_patches])
    (expected,) = torch.autograd.grad((weight * batch - 1).square().mean(), weight)
    gradients = []
    for rank_patches, masked in zip(patches, counts, strict=True):
        shares = loss_weights(masked, total, len(counts))
        pairs = zip(rank_patches, shares, strict=True)
        losses = [(weight * micro - 1).square().mean() * share for micro, share in pairs]
        gradients.append(torch.autograd.grad(sum(losses), weight)[0])
    assert float(sum(gradients) / len(counts)) == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


@given(part=st.integers(1, 600), max_crops=st.none() | st.integers(1, 700))
def test_micro_batches_have_equal_size_and_cover_the_part(part: int, max_crops: int | None) -> None:
    size = micro_batch(part, max_crops)
    assert part % size == 0
    assert size <= (max_crops or part)
    assert size == part or max_crops is not None
    assert all(part % larger for larger in range(size + 1, min(max_crops or 0, part) + 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides", [["launch.crops_per_gpu_step=4"], ["launch.crops_per_gpu_step={vit_s16: 3, vit_b8: 1}"]]
)
def test_losses_do_not_depend_on_the_number_of_micro_batches(
    tiny_recipe_file: Path, tmp_path: Path, overrides: list[str]
) -> None:
    """Batches of 8 in micro-batches of 8, of 4, and of 2 (3 does not divide 8)."""
    losses = []
    for name, changes in (("full", []), ("accumulated", overrides)):
        recipe = load(tiny_recipe_file, "laptop", ["models.vit_s16.drop_path=0", "train.epochs=4", *changes])
        prepare(recipe)
        cell = next(c for c in cells(recipe) if (c.model, c.dataset) == ("vit_s16", "one"))
        train_cell(StageRun(recipe, cell, tmp_path / name, "print"))
        log = read_log(tmp_path / name / "train.jsonl")
        losses.append([row["loss"] for row in log if row["kind"] == "train"])
    assert losses[1] == pytest.approx(losses[0], abs=5e-6)
