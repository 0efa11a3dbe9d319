"""The multipliers by hand and from the published tables, and initial weights of each scheme and shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from harness.models.channel_agnostic import ChannelAgnosticMae
from harness.models.channel_agnostic_config import ChannelAgnosticConfig
from harness.models.classifier import VitClassifier, VitClassifierConfig
from harness.models.config import MaeConfig
from harness.models.interface import Network
from harness.models.layers.parametrisation import UNIT, Multipliers, is_hidden_matrix, role_of, scale, scaling_of
from harness.models.mae import MaskedAutoencoder
from harness.recipe.models import Initialisation

# Four times the base width, three times the base depth, heads a quarter as wide as the usual 64.
SHAPE = {"width": 64, "depth": 6, "heads": 4, "patch": 8, "crop": 16, "channels": 3}
BASE = {"parametrisation": "mup", "base_width": 16, "base_depth": 2}
DECODER = {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2}
CONFIG = MaeConfig(**SHAPE, **BASE, **DECODER)  # type: ignore[arg-type]
M, L = 4.0, 3.0
NETWORKS: dict[str, Callable[[Initialisation, str], Network]] = {
    "mae_vit": lambda init, kind: MaskedAutoencoder(
        replace(CONFIG, initialisation=init, parametrisation=kind)  # type: ignore[arg-type]
    ),
    "channel_agnostic": lambda init, kind: ChannelAgnosticMae(
        ChannelAgnosticConfig(**SHAPE, **DECODER, **{**BASE, "parametrisation": kind}, initialisation=init)  # type: ignore[arg-type]
    ),
    "vit_classifier": lambda init, kind: VitClassifier(
        VitClassifierConfig(**SHAPE, **{**BASE, "parametrisation": kind}, initialisation=init, classes=5)  # type: ignore[arg-type]
    ),
}

# Yang & Hu (2022), table 3, Adam: hidden 1/m, all others 1; Dey et al. (2025), table 1, alpha 1: residual 1/l, which
# LayerScale takes; epsilon 1/m outside and 1/(m l) inside of residual blocks. Queries: sqrt(64 / 16) = 2.
BY_HAND: dict[str, tuple[tuple[int, ...], Multipliers]] = {
    "encoder.patch_embed.proj.weight": ((64, 3, 8, 8), Multipliers(epsilon=1 / M)),
    "encoder.patch_embed.proj.bias": ((64,), Multipliers(epsilon=1 / M)),
    "encoder.cls_token": ((1, 1, 64), Multipliers(epsilon=1 / M)),
    "encoder.norm.weight": ((64,), Multipliers(epsilon=1 / M)),
    "encoder.blocks.5.in_proj.weight": ((448, 64), Multipliers(0.5, 0.25, 4.0, 1 / 12)),
    "encoder.blocks.5.attn_out_proj.weight": ((64, 64), Multipliers(0.5, 0.25, 4.0, 1 / 12)),
    "encoder.blocks.5.mlp_out_proj.weight": ((64, 256), Multipliers(0.5, 0.25, 4.0, 1 / 12)),
    "encoder.blocks.5.mlp_out_proj.bias": ((64,), Multipliers(epsilon=1 / 12)),
    "encoder.blocks.5.in_proj.shifted_bias": ((256,), Multipliers(epsilon=1 / 12)),
    "encoder.blocks.5.in_norm.weight": ((64,), Multipliers(epsilon=1 / 12)),
    "encoder.blocks.5.ls.gamma": ((64,), Multipliers(1 / 3, 1 / 3, 3.0, 1 / 4)),
    "encoder.blocks.5.q_norm.weight": ((16,), Multipliers(2.0, 2.0, 0.5, 1 / 6)),
    "encoder.blocks.5.k_norm.bias": ((16,), Multipliers(epsilon=1 / 3)),
    "encoder.vit_backbone.blocks.0.in_proj.weight": ((448, 64), Multipliers(0.5, 0.25, 4.0, 1 / 12)),
    "decoder.embed.weight": ((32, 64), Multipliers(0.0, 0.25, 4.0)),
    "decoder.embed.bias": ((32,), UNIT),
    "encoder_decoder_proj.weight": ((32, 64), Multipliers(0.0, 0.25, 4.0)),
    "head.weight": ((5, 128), Multipliers(0.0, 0.25, 4.0)),
    "decoder.blocks.0.attn.qkv.weight": ((96, 32), UNIT),
    "decoder.mask_token": ((1, 1, 32), UNIT),
    "decoder.pred.weight": ((192, 32), UNIT),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_multipliers_are_those_of_the_published_tables(name: str) -> None:
    shape, expected = BY_HAND[name]
    found = scale(name, shape, CONFIG)
    for field in ("init", "rate", "decay", "epsilon"):
        assert getattr(found, field) == pytest.approx(getattr(expected, field)), field
    assert found.rate * found.decay == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "shape", "rate", "epsilon"),
    [
        # An update of 0.2 sqrt(max(rows, columns)) in spectral norm should have one of sqrt(rows / columns).
        ("encoder.blocks.0.in_proj.weight", (448, 64), 1 / 2, 1 / 3),
        ("encoder.blocks.0.mlp_out_proj.weight", (64, 256), 1 / 2, 1 / 3),
        ("decoder.embed.weight", (32, 64), math.sqrt(1 / 64 / 64 / (1 / 16 / 32)), 2.0),  # 16 to 32 at the base
        ("encoder.blocks.0.ls.gamma", (64,), 1 / 3, 1 / 4),
        ("encoder.cls_token", (1, 1, 64), 1.0, 1 / 4),
        ("head.weight", (5, 64), 1 / 4, 1.0),  # the last layer is not Muon's
        ("decoder.blocks.0.mlp.fc1.weight", (128, 32), 1.0, 1.0),
    ],
)
def test_muons_hidden_matrices_follow_the_spectral_condition(
    name: str, shape: tuple[int, ...], rate: float, epsilon: float
) -> None:
    found = scale(name, shape, CONFIG, muon=True)
    assert (found.rate, found.decay, found.epsilon) == pytest.approx((rate, 1 / rate, epsilon))


@pytest.mark.parametrize("optimiser", ["lion", "muon"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_at_the_base_shape_all_multipliers_are_one_but_for_the_first_zero(kind: str, optimiser: str) -> None:
    network = NETWORKS[kind]("mae", "mup")
    at_base = replace(CONFIG, heads=1, base_width=64, base_depth=6)
    for name, parameter in network.named_parameters():
        found = scale(name, tuple(parameter.shape), at_base, muon=optimiser == "muon")
        zero = role_of(name) == "output" and parameter.ndim == 2
        assert found == replace(UNIT, init=0.0 if zero else 1.0), name


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_standard_parametrisation_scales_nothing(kind: str) -> None:
    network = NETWORKS[kind]("mae", "standard")
    scaling = scaling_of(network.config, "adamw")
    assert {scaling(name, tuple(p.shape)) for name, p in network.named_parameters()} == {UNIT}


@pytest.mark.parametrize("initialisation", ["mae", "released"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_initial_weights_have_the_deviation_of_the_base_shape(kind: str, initialisation: Initialisation) -> None:
    """Hidden ones half of it at four times the width; at that width itself they are those of the standard, but for the
    layer that reads the encoder."""
    torch.manual_seed(0)
    wide = dict(NETWORKS[kind](initialisation, "mup").named_parameters())
    torch.manual_seed(0)
    standard = dict(NETWORKS[kind](initialisation, "standard").named_parameters())
    for name, parameter in wide.items():
        role, usual = role_of(name), standard[name]
        if role == "output" and parameter.ndim == 2:
            assert not parameter.any()
        elif role == "layer_scale":
            assert torch.equal(parameter, usual / 3)
        elif name.endswith("q_norm.weight"):
            assert torch.equal(parameter, 2 * usual)
        elif role == "hidden":
            # Xavier's deviation falls by 1/2 by itself, as rows and columns grow fourfold; timm's is 0.02 at any width.
            expected = 1.0 if initialisation == "mae" else 0.5
            assert torch.allclose(parameter, expected * usual, rtol=1e-6), name
        elif role == "input" and initialisation == "mae":
            inputs = parameter[0].numel()  # Xavier: sqrt(2 / (inputs + rows)), with the 16 rows of the base
            assert torch.allclose(parameter, usual * math.sqrt((inputs + 64) / (inputs + 16)), rtol=1e-6)
        elif role == "output" and initialisation == "released" and kind != "vit_classifier":
            assert torch.allclose(parameter, 2 * usual)  # torch draws it within 1 / sqrt(width)
        else:
            assert torch.equal(parameter, usual), name


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_parameter_of_an_encoder_block_has_a_role_of_its_own(kind: str) -> None:
    roles = {name.split("blocks.0.")[1]: role_of(name) for name, _ in NETWORKS[kind]("mae", "mup").named_parameters()
             if name.startswith("encoder.") and "blocks.0." in name}  # fmt: skip
    hidden = {name for name, role in roles.items() if role == "hidden"}
    assert hidden == {"in_proj.weight", "attn_out_proj.weight", "mlp_out_proj.weight"}
    assert {name for name, role in roles.items() if role == "block_vector"} == {
        "in_norm.weight", "in_norm.bias", "mlp_bias", "attn_out_proj.bias", "mlp_out_proj.bias"
    }  # fmt: skip


@pytest.mark.parametrize("kind", NETWORKS)
def test_muon_has_no_first_or_last_layer_no_token_and_no_vector(kind: str) -> None:
    shapes = {name: tuple(p.shape) for name, p in NETWORKS[kind]("mae", "standard").named_parameters()}
    matrices = {name for name, shape in shapes.items() if is_hidden_matrix(name, shape)}
    others = {name for name, shape in shapes.items() if len(shape) >= 2} - matrices
    assert others == {
        "mae_vit": {
            "encoder.cls_token", "encoder.patch_embed.proj.weight", "decoder.mask_token", "decoder.pred.weight",
        },
        "channel_agnostic": {
            "encoder.vit_backbone.cls_token", "encoder.vit_backbone.patch_embed.proj.weight", "decoder.mask_token",
            "decoder_pred.weight", *(f"decoder.modality_tokens.{n}" for n in range(3)),
        },
        "vit_classifier": {"encoder.cls_token", "encoder.patch_embed.proj.weight", "head.weight"},
    }[kind]  # fmt: skip
    assert all("block" in name or "decoder" in name for name in matrices)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_scale": None}, "layer_scale is None: it must be positive under mup"),
        ({"qk_norm": False}, "heads is 4: it must be width / 64 under mup without qk_norm"),
        ({"base_width": 0}, "base_width is 0: it must be a positive whole number"),
        ({"parametrisation": "muP"}, "parametrisation is 'muP': it must be one of"),
    ],
    ids=["no LayerScale", "no QK-norm", "base", "name"],
)
def test_what_cannot_be_scaled_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)  # type: ignore[arg-type]
