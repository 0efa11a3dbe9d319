"""A global batch in pieces has the loss and the gradient of the whole, however unevenly patches are masked."""

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
    """Two ranks, two micro-batches each, with 1, 3, 2 and 2 masked patches: eight in all.

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
def test_the_gradient_of_the_pieces_is_that_of_the_whole(counts: list[list[int]], seed: int) -> None:
    """Ranks average their gradients, as DistributedDataParallel does; ranks may even have unlike numbers of pieces."""
    generator = torch.Generator().manual_seed(seed % 2**31)
    patches = [[torch.randn(n, generator=generator, dtype=torch.float64) for n in of_rank] for of_rank in counts]
    total = sum(map(sum, counts))
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    whole = torch.cat([piece for of_rank in patches for piece in of_rank])
    (expected,) = torch.autograd.grad((weight * whole - 1).square().mean(), weight)
    gradients = []
    for of_rank, masked in zip(patches, counts, strict=True):
        shares = loss_weights(masked, total, len(counts))
        losses = [(weight * piece - 1).square().mean() * share for piece, share in zip(of_rank, shares, strict=True)]
        gradients.append(torch.autograd.grad(sum(losses), weight)[0])
    assert float(sum(gradients) / len(counts)) == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


@given(part=st.integers(1, 600), most=st.none() | st.integers(1, 700))
def test_micro_batches_are_of_one_size_and_fill_the_part(part: int, most: int | None) -> None:
    size = micro_batch(part, most)
    assert part % size == 0
    assert size <= (most or part)
    assert size == part or most is not None
    assert all(part % larger for larger in range(size + 1, min(most or 0, part) + 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides", [["launch.crops_per_gpu_step=4"], ["launch.crops_per_gpu_step={vit_s16: 3, vit_b8: 1}"]]
)
def test_a_cell_has_the_same_losses_in_any_number_of_pieces(
    tiny_recipe_file: Path, tmp_path: Path, overrides: list[str]
) -> None:
    """Batches of 8 in pieces of 8, of 4, and of 2: three do not divide 8."""
    found = []
    for name, chosen in (("whole", []), ("pieces", overrides)):
        recipe = load(tiny_recipe_file, "laptop", ["models.vit_s16.drop_path=0", "train.epochs=4", *chosen])
        prepare(recipe)
        cell = next(c for c in cells(recipe) if (c.model, c.dataset) == ("vit_s16", "one"))
        train_cell(StageRun(recipe, cell, tmp_path / name, "print"))
        found.append([row["loss"] for row in read_log(tmp_path / name / "train.jsonl") if row["kind"] == "train"])
    assert found[1] == pytest.approx(found[0], abs=5e-6)
