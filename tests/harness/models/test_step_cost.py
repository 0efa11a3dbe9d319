"""What a training step costs the host: few launches, no graph breaks, and the numbers of the plain forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.kernel_launches import count
from benchmarks.peers import EAGER, StepSetting
from harness.distributed.optimiser import build_optimiser
from harness.models.config import MaeConfig
from harness.models.layers.masking import masking_noise
from harness.models.mae import MaskedAutoencoder

TINY = MaeConfig(
    width=32, depth=2, heads=2, patch=4, crop=16, channels=3, decoder_width=16, decoder_depth=1, decoder_heads=2,
    drop_path=0.1,
)  # fmt: skip


def test_a_step_launches_no_more_than_it_must() -> None:
    """207 when this was written (torch 2.13): one operation more in every block, or for each parameter, breaks it."""
    found = count(StepSetting(TINY, torch.device("cpu"), False, 2))
    assert found.total() <= 209
    assert found["argsort"] + found["sort"] == 1
    assert found["_scaled_dot_product_flash_attention_for_cpu"] == 3


def test_the_optimiser_launches_do_not_grow_with_depth() -> None:
    """Multi-tensor Lion: apart from one copy for each tensor, twelve blocks cost what two do."""
    shallow, deep = (count(StepSetting(replace(TINY, depth=n), torch.device("cpu"), False, 2)) for n in (2, 12))
    foreach = [sum(n for name, n in found.items() if name.startswith("_foreach")) for found in (shallow, deep)]
    assert 0 < foreach[1] <= 2 * foreach[0]  # the plain loop's would be five times as many
    assert shallow["sgn_"] == deep["sgn_"] == 0


def test_the_counting_sees_the_peer_too() -> None:
    assert count(StepSetting(TINY, torch.device("cpu"), False, 2), EAGER.build)["argsort"] >= 0
    assert count(StepSetting(TINY, torch.device("cpu"), False, 2), EAGER.build).total() > 100


def test_multi_tensor_lion_is_lion() -> None:
    """Against lion-pytorch's plain loop: an update's sign may differ only where it is rounding noise."""
    from lion_pytorch import Lion

    def train(plain: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = MaskedAutoencoder(replace(TINY, drop_path=0.0)).double()
        optimiser = build_optimiser(model, "lion", peak=1e-3, betas=(0.9, 0.95), weight_decay=0.05)
        if plain:
            optimiser = Lion(optimiser.param_groups, lr=1e-3, betas=(0.9, 0.95))
        images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        for step in range(5):
            model(images, masking_noise(step, range(4), TINY.noise_values)).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        # softmax does not see what is shared by all keys: its gradient is rounding noise, and Lion takes its sign
        return [p for name, p in model.named_parameters() if not name.endswith(("k_norm.bias", "qkv.bias"))]

    torch.testing.assert_close(train(False), train(True), rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("fourier_weight", [0.0, 0.01])
def test_nothing_breaks_the_graph(fourier_weight: float) -> None:
    """The whole step compiles to one graph, and so does a block alone: nothing asks the host in between."""
    model = MaskedAutoencoder(replace(TINY, fourier_weight=fourier_weight)).train()
    parts = [(model, (torch.randn(4, 3, 16, 16), torch.rand(4, TINY.noise_values)))]
    parts += [(block, (torch.randn(4, 5, 32),)) for block in model.encoder.blocks]
    parts += [(model.decoder.blocks[0], (torch.randn(4, 17, 16),))]
    for part, inputs in parts:
        torch._dynamo.reset()
        found = torch._dynamo.explain(part)(*inputs)
        assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


@pytest.mark.slow
def test_traced_blocks_give_the_same_loss_and_gradients() -> None:
    """Forward and backward of every block as the compiler sees them, without the minutes of its code generation."""

    def gradients(compiled: bool) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        torch.manual_seed(0)
        model = MaskedAutoencoder(replace(TINY, drop_path=0.0, layer_scale=0.5))
        if compiled:
            torch._dynamo.reset()
            for block in (*model.encoder.blocks, *model.decoder.blocks):
                block.compile(backend="aot_eager")
        images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        loss = model(images, masking_noise(0, range(4), TINY.noise_values)).loss
        loss.backward()
        return loss.detach(), [p.grad for p in model.parameters()]

    torch.testing.assert_close(gradients(True), gradients(False), rtol=1e-4, atol=1e-6)
