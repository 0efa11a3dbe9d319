"""Covers the host cost of a training step of `mae`: few kernel launches, no graph breaks, and unchanged numbers."""

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


@pytest.mark.slow
def test_a_step_launches_at_most_209_kernels() -> None:
    """207 when this was written (torch 2.13): one more operation per block or per parameter exceeds the limit."""
    launches = count(StepSetting(TINY, torch.device("cpu"), False, 2))
    assert launches.total() <= 209
    assert launches["argsort"] + launches["sort"] == 1
    assert launches["_scaled_dot_product_flash_attention_for_cpu"] == 3


@pytest.mark.slow
def test_the_optimiser_launches_do_not_grow_with_depth() -> None:
    """Multi-tensor Lion: apart from one copy per tensor, twelve blocks launch as many kernels as two."""
    shallow, deep = (count(StepSetting(replace(TINY, depth=n), torch.device("cpu"), False, 2)) for n in (2, 12))
    foreach = [sum(n for name, n in launches.items() if name.startswith("_foreach")) for launches in (shallow, deep)]
    assert 0 < foreach[1] <= 2 * foreach[0]  # a plain loop would launch five times as many
    assert shallow["sgn_"] == deep["sgn_"] == 0


def test_launches_of_the_peer_are_counted_too() -> None:
    assert count(StepSetting(TINY, torch.device("cpu"), False, 2), EAGER.build)["argsort"] >= 0
    assert count(StepSetting(TINY, torch.device("cpu"), False, 2), EAGER.build).total() > 100


def test_multi_tensor_lion_is_lion() -> None:
    """Against lion-pytorch's plain loop: the sign of an update may differ only for rounding noise."""
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
        # softmax ignores what is shared by all keys: its gradient is rounding noise, and Lion uses its sign
        return [p for name, p in model.named_parameters() if not name.endswith(("k_norm.bias", "qkv.bias"))]

    torch.testing.assert_close(train(False), train(True), rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("fourier_weight", [0.0, 0.01])
def test_nothing_breaks_the_graph(fourier_weight: float) -> None:
    """A complete step compiles to one graph, and so does a single block, without a host synchronisation in between."""
    model = MaskedAutoencoder(replace(TINY, fourier_weight=fourier_weight)).train()
    parts = [(model, (torch.randn(4, 3, 16, 16), torch.rand(4, TINY.noise_values)))]
    parts += [(block, (torch.randn(4, 5, 32),)) for block in model.encoder.blocks]
    parts += [(model.decoder.blocks[0], (torch.randn(4, 17, 16),))]
    for part, inputs in parts:
        torch._dynamo.reset()
        explanation = torch._dynamo.explain(part)(*inputs)
        assert (explanation.graph_count, explanation.graph_break_count) == (1, 0), explanation.break_reasons


@pytest.mark.slow
def test_traced_blocks_give_the_same_loss_and_gradients() -> None:
    """Forward and backward of every block as traced by the compiler, without code generation, which takes minutes."""

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
