"""Recomputing or compiling blocks changes what a step costs, not what it gives, nor the names of weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from harness.distributed.recompute import blocks_of, set_up_blocks
from harness.models.config import MaeConfig
from harness.models.layers.masking import masking_noise
from harness.models.mae import MaskedAutoencoder

CONFIG = MaeConfig(
    width=16, depth=3, heads=2, patch=8, crop=32, decoder_width=16, decoder_depth=2, decoder_heads=2, drop_path=0.3
)


def step(recompute: str, compiled: bool = False) -> tuple[float, dict[str, torch.Tensor], int]:
    """The loss, the gradients, and how many values the forward pass kept for the backward pass."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(CONFIG)
    set_up_blocks(model, recompute, compiled)
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    images = torch.randn(4, 6, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(images, masking_noise(0, range(4), CONFIG.noise_values)).loss
    loss.backward()
    return float(loss.detach()), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, kept


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputing_gives_the_same_gradients_bit_for_bit_and_keeps_less(recompute: str) -> None:
    loss, gradients, kept = step("none")
    again, repeated, kept_again = step(recompute)
    assert again == loss
    assert repeated.keys() == gradients.keys()
    assert all(torch.equal(repeated[name], gradients[name]) for name in gradients)
    assert kept_again < kept / 2  # of what autograd saves itself; selective keeps the products beside it


@pytest.mark.slow
def test_compiled_blocks_give_the_same_loss_and_gradients() -> None:
    loss, gradients, _ = step("none")
    again, compiled, _ = step("none", compiled=True)
    assert again == pytest.approx(loss, abs=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(compiled[name], gradient, atol=1e-5, rtol=1e-3)


def test_names_of_weights_stay() -> None:
    plain, changed = MaskedAutoencoder(CONFIG), MaskedAutoencoder(CONFIG)
    set_up_blocks(changed, "full", compiled=True)
    assert list(changed.state_dict()) == list(plain.state_dict())


def test_blocks_are_what_lists_of_modules_hold() -> None:
    nested = nn.ModuleList([nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 2)]), nn.ModuleList([nn.Linear(1, 3)])])
    assert [block.out_features for block in blocks_of(nn.Sequential(nested, nn.Linear(1, 9)))] == [1, 2, 3]
    assert len(blocks_of(MaskedAutoencoder(CONFIG))) == 3 + 2
