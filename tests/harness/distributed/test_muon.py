"""Muon beside AdamW or Lion: torch's own steps, its groups and rates, and a state that resumes bit for bit."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from harness.distributed.muon import MuonAndRest
from harness.distributed.optimiser import build_optimiser, set_rates
from harness.models.config import MaeConfig
from harness.models.layers.masking import masking_noise
from harness.models.layers.parametrisation import is_hidden_matrix, scaling_of
from harness.models.mae import MaskedAutoencoder

CONFIG = MaeConfig(
    width=16, depth=2, heads=2, patch=8, crop=16, channels=3, decoder_width=8, decoder_depth=1, decoder_heads=2,
)  # fmt: skip
CROPS = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
NOISE = masking_noise(0, range(4), CONFIG.noise_values)
Rest = Literal["adamw", "lion"]


def model_of(config: MaeConfig = CONFIG) -> MaskedAutoencoder:
    torch.manual_seed(1)
    return MaskedAutoencoder(config)


def built(model: nn.Module, rest: Rest = "adamw", config: MaeConfig = CONFIG) -> MuonAndRest:
    optimiser = build_optimiser(
        model, "muon", peak=0.01, betas=(0.9, 0.95), momentum=0.95, weight_decay=0.1, rest=rest,
        scaling=scaling_of(config, "muon"),
    )  # fmt: skip
    assert isinstance(optimiser, MuonAndRest)
    return optimiser


def train(model: MaskedAutoencoder, optimiser: torch.optim.Optimizer, rates: list[float]) -> None:
    for rate in rates:
        set_rates(optimiser, rate)
        model(CROPS, NOISE).loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def test_both_parts_take_the_steps_of_torchs_own_optimisers() -> None:
    """Bit for bit, over steps of three rates, with one list of groups in place of two optimisers."""
    ours, theirs = model_of(), model_of()
    optimiser = built(ours)
    named = dict(theirs.named_parameters())
    inner = {name for name, p in named.items() if is_hidden_matrix(name, tuple(p.shape))}
    decayed = [named[name] for name in ("encoder.patch_embed.proj.weight", "decoder.pred.weight")]
    rest = [p for name, p in named.items() if name not in inner and all(p is not other for other in decayed)]
    muon = torch.optim.Muon(
        [named[name] for name in inner], weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW([{"params": decayed}, {"params": rest, "weight_decay": 0.0}], betas=(0.9, 0.95),
                              weight_decay=0.1)  # fmt: skip
    for rate in (0.01, 0.003, 0.02):
        train(ours, optimiser, [rate])
        theirs(CROPS, NOISE).loss.backward()
        for part in (muon, adamw):
            set_rates(part, rate)
            part.step()
            part.zero_grad()
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, named[name]), name


@pytest.mark.parametrize("rest", ["adamw", "lion"])
def test_one_rate_gives_both_parts_updates_of_one_size(rest: Rest) -> None:
    """0.2 of the rate for Muon's full-rank updates and beside it Lion's; AdamW's first step is the rate itself."""
    model = model_of()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = built(model, rest)
    for group in optimiser.param_groups:
        group["weight_decay"] = 0.0
    train(model, optimiser, [0.01])
    changes = {name: _rms(p.detach() - before[name]) for name, p in model.named_parameters()}
    for name in ("decoder.blocks.0.mlp.fc1.weight", "decoder.blocks.0.attn.proj.weight"):
        assert changes[name] == pytest.approx(0.002, rel=0.5)  # torch: singular values of 0.5 to 1.5
    expected = 0.01 if rest == "adamw" else 0.002
    assert changes["decoder.pred.weight"] == pytest.approx(expected, rel=0.02)


def test_lion_beside_muon_decays_weights_as_muon_does() -> None:
    """A fifth of the rate, five times the decay: the share that decays in a step is the same."""
    optimiser = built(model_of(), "lion")
    shares = [group["lr"] * group["weight_decay"] for group in optimiser.param_groups if group["weight_decay"]]
    assert len(shares) == 2
    assert shares == pytest.approx([0.001, 0.001])


def test_every_parameter_is_in_one_group_and_rates_reach_all() -> None:
    config = MaeConfig(**{**vars(CONFIG), "parametrisation": "mup", "base_width": 8, "base_depth": 1})
    model = model_of(config)
    optimiser = built(model, config=config)
    members = [p for group in optimiser.param_groups for p in group["params"]]
    assert {id(p) for p in members} == {id(p) for p in model.parameters()}
    assert len(members) == len(list(model.parameters()))
    set_rates(optimiser, 0.5, 0.9)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimiser.param_groups for p in group["params"]}
    assert rates["encoder.blocks.0.in_proj.weight"] == pytest.approx(0.5 / 2**0.5)
    assert rates["encoder.blocks.1.ls.gamma"] == pytest.approx(0.5 / 2)
    assert rates["decoder.pred.weight"] == 0.5
    assert {group["momentum"] for group in optimiser.param_groups if "momentum" in group} == {0.9}
    assert {group["betas"] for group in optimiser.param_groups if "betas" in group} == {(0.9, 0.95)}


@pytest.mark.parametrize("rest", ["adamw", "lion"])
def test_a_loaded_state_goes_on_bit_for_bit(rest: Rest) -> None:
    straight, stopped = model_of(), model_of()
    one, two = built(straight, rest), built(stopped, rest)
    train(straight, one, [0.01, 0.02, 0.01, 0.005])
    train(stopped, two, [0.01, 0.02])
    resumed = model_of()
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    three = built(resumed, rest)
    three.load_state_dict(copy.deepcopy(two.state_dict()))
    train(resumed, three, [0.01, 0.005])
    for expected, found in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, found)


def test_state_is_one_moment_of_a_matrix_and_two_of_the_rest() -> None:
    model = model_of()
    optimiser = built(model)
    train(model, optimiser, [0.01])
    for name, parameter in model.named_parameters():
        is_matrix = is_hidden_matrix(name, tuple(parameter.shape))
        expected = {"momentum_buffer"} if is_matrix else {"step", "exp_avg", "exp_avg_sq"}
        assert set(optimiser.state[parameter]) == expected, name


def test_a_model_without_matrices_is_refused() -> None:
    with pytest.raises(ValueError, match="muon needs hidden matrices, and this model has none: use adamw, lion or sgd"):
        build_optimiser(nn.Conv2d(1, 1, 3), "muon", peak=0.1, weight_decay=0.0)


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
