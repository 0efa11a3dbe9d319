"""Recomputing or compiling blocks changes neither gradients nor weight names. Covers `recompute`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from distributed.kind_work import KINDS, random_batch
from torch import Tensor, nn

from harness.distributed.engine_choice import Compile, EngineName, check_compile
from harness.distributed.recompute import Recompute, blocks_of, set_up_blocks
from harness.models.config import MaeConfig
from harness.models.interface import Network
from harness.models.layers.masking import masking_noise
from harness.models.mae import MaskedAutoencoder

CONFIG = MaeConfig(
    width=16, depth=3, heads=2, patch=8, crop=32, decoder_width=16, decoder_depth=2, decoder_heads=2, drop_path=0.3
)


def step(recompute: str, compiled: Compile = "none") -> tuple[float, dict[str, torch.Tensor], int]:
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
    compiled_loss, compiled, _ = step("none", "blocks")
    assert compiled_loss == pytest.approx(loss, abs=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(compiled[name], gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.slow
def test_weight_names_do_not_change() -> None:
    plain, changed = MaskedAutoencoder(CONFIG), MaskedAutoencoder(CONFIG)
    set_up_blocks(changed, "full", "blocks")
    assert list(changed.state_dict()) == list(plain.state_dict())


class Nested(Network):
    def __init__(self) -> None:
        super().__init__()
        inner = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 2)])
        self.layers = nn.ModuleList([inner, nn.ModuleList([nn.Linear(1, 3)])])
        self.head = nn.Linear(1, 9)


def test_blocks_are_the_modules_in_module_lists() -> None:
    assert [block.out_features for block in blocks_of(Nested())] == [1, 2, 3]
    assert len(blocks_of(MaskedAutoencoder(CONFIG))) == 3 + 2


def test_a_network_without_blocks_is_refused_where_they_are_asked_for() -> None:
    bare = Network()
    set_up_blocks(bare, "none", "none")
    for recompute, compiled in (("full", "none"), ("none", "blocks")):
        with pytest.raises(ValueError, match="Network declares no blocks to recompute, compile or shard"):
            set_up_blocks(bare, recompute, compiled)


@pytest.mark.parametrize(
    ("kind", "count"), [("densenet", 3 + 2), ("mu_net", 3 + 2), ("channel_agnostic", 2 + 2), ("vit_classifier", 2)]
)
def test_every_kind_declares_its_blocks(kind: str, count: int) -> None:
    """Three dense blocks and two transitions; three scales down and two up. Of a DenseNet, they hold most weights."""
    network = KINDS[kind]()
    blocks = blocks_of(network)
    assert len(blocks) == count
    inside = sum(parameter.numel() for block in blocks for parameter in block.parameters())
    assert inside > 0.4 * sum(parameter.numel() for parameter in network.parameters())


def results(kind: str, *, recompute: Recompute = "none", channels_last: bool = False) -> dict[str, Tensor]:
    """Loss, gradients and statistics of a step of two passes, in float64."""
    torch.manual_seed(0)
    network = KINDS[kind]().double().train()
    network.channels_last = channels_last
    set_up_blocks(network, recompute)
    losses = []
    for number in range(2):
        loss = network(*random_batch(number, network)).loss
        loss.backward()
        losses.append(loss.detach())
    network.commit_statistics(None)
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"loss": torch.stack(losses), **gradients, **dict(network.named_buffers())}


@pytest.mark.parametrize("kind", ["densenet", "mu_net"])
@pytest.mark.parametrize(
    "change", [{"recompute": "full"}, {"recompute": "selective"}, {"channels_last": True}], ids=str
)
def test_convolutional_networks_give_the_same_numbers(kind: str, change: dict[str, Any]) -> None:
    expected, found = results(kind), results(kind, **change)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "mae_vit"])
def test_every_kind_traces_to_one_graph(kind: str) -> None:
    torch._dynamo.reset()
    network = (KINDS[kind]().double() if kind in KINDS else MaskedAutoencoder(CONFIG)).train()
    batch = random_batch(0, network) if kind in KINDS else (torch.randn(4, 6, 32, 32), masking_noise(0, range(4), 19))
    traced = torch._dynamo.explain(network)(*batch)
    assert (traced.graph_break_count, traced.graph_count) == (0, 1), traced.break_reasons


@pytest.mark.slow
def test_a_whole_compiled_network_gives_the_same_loss_and_gradients() -> None:
    loss, gradients, _ = step("none")
    compiled_loss, compiled, _ = step("none", "whole")
    assert compiled_loss == pytest.approx(loss, abs=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(compiled[name], gradient, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("compiled", "engine", "stage", "refusal"),
    [
        ("whole", "fsdp", 2, "launch.compile is whole, but fsdp gathers weights block by block"),
        ("reduce-overhead", "hsdp", 2, "hsdp gathers weights"),
        ("whole", "deepspeed", 3, "deepspeed with zero_stage 3 gathers weights"),
        ("reduce-overhead", "ddp", 2, "has no communication, but ddp does: use whole"),
        ("whole", "deepspeed", 2, None),
        ("whole", "ddp", 2, None),
        ("blocks", "fsdp", 2, None),
        ("reduce-overhead", "single", 2, None),
    ],
)
def test_a_graph_does_not_cross_what_an_engine_does(
    compiled: Compile, engine: EngineName, stage: int, refusal: str | None
) -> None:
    with nullcontext() if refusal is None else pytest.raises(ValueError, match=refusal):
        check_compile(compiled, engine, stage)


def test_cuda_graphs_do_not_keep_statistics_between_passes() -> None:
    with pytest.raises(ValueError, match="DenseNetClassifier keeps statistics between passes"):
        set_up_blocks(KINDS["densenet"](), "none", "reduce-overhead")
