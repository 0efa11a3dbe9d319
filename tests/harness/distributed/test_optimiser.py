"""Weight decay groups, optimiser steps by hand, and the learning rate at each step. Covers `optimiser`."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.distributed.optimiser import OptimiserName, build_optimiser, parameter_groups, set_rates
from harness.models.config import MaeConfig
from harness.models.mae import MaskedAutoencoder
from harness.recipe.schedules import OneCycleCosine
from harness.train.schedule import RunSchedule, cycled_momentum, learning_rate


@pytest.fixture(scope="module")
def model() -> MaskedAutoencoder:
    return MaskedAutoencoder(
        MaeConfig(width=16, depth=1, heads=2, patch=4, crop=8, decoder_width=8, decoder_depth=1, decoder_heads=2)
    )


def test_norms_biases_layer_scale_and_tokens_do_not_decay(model: MaskedAutoencoder) -> None:
    decayed, not_decayed = parameter_groups(model.named_parameters(), 0.05)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(parameter)] for parameter in decayed["params"]} == {
        "encoder.patch_embed.proj.weight",
        "encoder.blocks.0.in_proj.weight",
        "encoder.blocks.0.attn_out_proj.weight",
        "encoder.blocks.0.mlp_out_proj.weight",
        "decoder.embed.weight",
        "decoder.blocks.0.attn.qkv.weight",
        "decoder.blocks.0.attn.proj.weight",
        "decoder.blocks.0.mlp.fc1.weight",
        "decoder.blocks.0.mlp.fc2.weight",
        "decoder.pred.weight",
    }
    assert (decayed["weight_decay"], not_decayed["weight_decay"]) == (0.05, 0.0)
    assert len(decayed["params"]) + len(not_decayed["params"]) == len(names)
    not_decayed_names = {names[id(parameter)] for parameter in not_decayed["params"]}
    assert {"encoder.cls_token", "decoder.mask_token", "encoder.blocks.0.ls.gamma"} <= not_decayed_names


def test_frozen_parameters_are_left_out() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    decayed, not_decayed = parameter_groups(layer.named_parameters(), 0.1)
    assert decayed["params"] == []
    assert not_decayed["params"] == [layer.bias]


def test_lion_steps_by_the_sign_of_its_momentum() -> None:
    """Chen et al. (2023), algorithm 2, by hand for two steps with betas 0.9, 0.95 and decay 0.5 at rate 0.1."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    optimiser = build_optimiser(layer, "lion", peak=0.1, betas=(0.9, 0.95), weight_decay=0.5)
    layer.weight.grad = torch.tensor([[2.0]])
    optimiser.step()  # w = 1 - 0.1·0.5·1 - 0.1·sign(0.1·2) = 0.85; m = 0.05·2 = 0.1
    assert layer.weight.item() == pytest.approx(0.85)
    layer.weight.grad = torch.tensor([[-0.5]])
    optimiser.step()  # sign(0.9·0.1 - 0.1·0.5) = sign(0.04) = +1; w = 0.85 - 0.05·0.85 - 0.1
    assert layer.weight.item() == pytest.approx(0.7075)


def test_adamw_first_step_by_hand() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    optimiser = build_optimiser(layer, "adamw", peak=0.1, betas=(0.9, 0.95), weight_decay=0.5)
    layer.weight.grad = torch.tensor([[2.0]])
    optimiser.step()  # bias-corrected, the first step is the gradient's sign: 1 - 0.1·0.5·1 - 0.1
    assert layer.weight.item() == pytest.approx(0.85)


def test_sgd_with_momentum_by_hand() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    optimiser = build_optimiser(layer, "sgd", peak=0.1, momentum=0.9, weight_decay=0.5)
    for _ in range(2):
        layer.weight.grad = torch.tensor([[2.0]])
        optimiser.step()  # 1 - 0.1·(2 + 0.5) = 0.75; then 0.75 - 0.1·(0.9·2.5 + 2 + 0.375) = 0.2875
    assert layer.weight.item() == pytest.approx(0.2875)


def test_an_unknown_optimiser_is_refused(model: MaskedAutoencoder) -> None:
    with pytest.raises(ValueError, match="unknown optimiser 'sgdw': use lion, adamw, sgd or muon"):
        build_optimiser(model, "sgdw", peak=0.1, betas=(0.9, 0.95), weight_decay=0.0)


def test_rates_reach_every_group(model: MaskedAutoencoder) -> None:
    optimiser = build_optimiser(model, "lion", peak=1.0, betas=(0.9, 0.95), weight_decay=0.05)
    set_rates(optimiser, 0.25)
    assert [group["lr"] for group in optimiser.param_groups] == [0.25, 0.25]


@pytest.mark.parametrize(
    ("total", "warmup", "div", "final_div"), [(100, 0.1, 25.0, 1e4), (37, 0.3, 10.0, 100.0), (1000, 0.1, 25.0, 1.0)]
)
def test_the_schedule_is_torch_one_cycle(total: int, warmup: float, div: float, final_div: float) -> None:
    peak = 1e-4
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        peak,
        total_steps=total,
        pct_start=warmup,
        div_factor=div,
        final_div_factor=final_div,
        cycle_momentum=False,
    )
    for step in range(total):
        rate = learning_rate(
            step,
            total,
            peak,
            warmup_fraction=warmup,
            initial_fraction=1 / div,
            final_fraction=1 / (div * final_div),
        )
        assert rate == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimiser.step()
        if step < total - 1:
            schedule.step()


def test_the_schedule_at_start_peak_middle_and_end_by_hand() -> None:
    """100 steps with 10 warm-up steps: the peak is the tenth step."""
    assert learning_rate(0, 100, 1.0) == pytest.approx(1 / 25)
    assert learning_rate(9, 100, 1.0) == pytest.approx(1.0)
    assert learning_rate(99, 100, 1.0) == pytest.approx(1 / 250_000)
    assert learning_rate(54, 100, 1.0, final_fraction=0.0) == pytest.approx(0.5)  # half-way down


@given(total=st.integers(1, 300), warmup=st.floats(0, 1), data=st.data())
def test_the_rate_stays_between_final_and_peak(total: int, warmup: float, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, total - 1))
    rate = learning_rate(step, total, 2.0, warmup_fraction=warmup, initial_fraction=0.1, final_fraction=0.01)
    assert 0.02 - 1e-12 <= rate <= 2.0


@pytest.mark.parametrize("step", [-1, 10])
def test_a_step_outside_the_run_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match="steps 0 to 9"):
        learning_rate(step, 10, 1.0)


@pytest.mark.parametrize("name", ["lion", "adamw", "sgd"])
@pytest.mark.parametrize(("total", "warmup"), [(100, 0.1), (37, 0.3), (8, 0.25)])
def test_a_cycled_momentum_is_that_of_torch_one_cycle(
    model: MaskedAutoencoder, name: OptimiserName, total: int, warmup: float
) -> None:
    ours, theirs = (build_optimiser(model, name, peak=1.0, weight_decay=0.0) for _ in range(2))
    reference = torch.optim.lr_scheduler.OneCycleLR(theirs, 1.0, total_steps=total, pct_start=warmup)
    key = "momentum" if name == "sgd" else "betas"
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for step in range(total):
        momentum = cycled_momentum(step, total, 0.85, 0.95, warmup_fraction=warmup)
        set_rates(ours, learning_rate(step, total, 1.0, warmup_fraction=warmup), momentum)
        for group, expected in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert group[key] == pytest.approx(expected[key], abs=1e-12)
            assert group["lr"] == pytest.approx(expected["lr"], abs=1e-12)
        theirs.step()
        if step < total - 1:
            reference.step()


def test_a_momentum_that_is_not_cycled_stays(model: MaskedAutoencoder) -> None:
    optimiser = build_optimiser(model, "lion", peak=1.0, weight_decay=0.0, betas=(0.9, 0.95))
    set_rates(optimiser, 0.5, RunSchedule(OneCycleCosine(), 10, 10).momentum(3))
    assert [group["betas"] for group in optimiser.param_groups] == [(0.9, 0.95)] * 2
