"""Recomputing or compiling blocks changes neither gradients nor weight names. Covers `recompute`."""

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
    """Return the loss, the gradients, and the number of values that autograd saved for the backward pass."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(CONFIG)
    set_up_blocks(model, recompute, compiled)
    saved = 0

    def save(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved
        saved += tensor.numel()
        return tensor

    images = torch.randn(4, 6, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        loss = model(images, masking_noise(0, range(4), CONFIG.noise_values)).loss
    loss.backward()
    return float(loss.detach()), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, saved


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputing_gives_identical_gradients_and_saves_fewer_values(recompute: str) -> None:
    loss, gradients, saved = step("none")
    recomputed_loss, recomputed, saved_recomputed = step(recompute)
    assert recomputed_loss == loss
    assert recomputed.keys() == gradients.keys()
    assert all(torch.equal(recomputed[name], gradients[name]) for name in gradients)
    assert saved_recomputed < saved / 2  # saved by autograd; selective stores matrix products separately


@pytest.mark.slow
def test_compiled_blocks_give_the_same_loss_and_gradients() -> None:
    loss, gradients, _ = step("none")
    compiled_loss, compiled, _ = step("none", compiled=True)
    assert compiled_loss == pytest.approx(loss, abs=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(compiled[name], gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.slow
def test_weight_names_do_not_change() -> None:
    plain, changed = MaskedAutoencoder(CONFIG), MaskedAutoencoder(CONFIG)
    set_up_blocks(changed, "full", compiled=True)
    assert list(changed.state_dict()) == list(plain.state_dict())


def test_blocks_are_the_modules_in_module_lists() -> None:
    nested = nn.ModuleList([nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 2)]), nn.ModuleList([nn.Linear(1, 3)])])
    assert [block.out_features for block in blocks_of(nn.Sequential(nested, nn.Linear(1, 9)))] == [1, 2, 3]
    assert len(blocks_of(MaskedAutoencoder(CONFIG))) == 3 + 2
