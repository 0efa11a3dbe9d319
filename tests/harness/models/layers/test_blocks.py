"""Covers `blocks`: patches, positions, stochastic depth, the two formulas of the blocks' bias, and initial weights."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from published_inference import published_block

from harness.models.layers.blocks import (
    PatchEmbedding,
    encoder_blocks,
    initialise_weights,
    pad_shifted,
    patchify,
    sincos_positions,
    unpatchify,
)
from harness.models.layers.timm_import import import_timm


def test_patches_are_cut_row_by_row_and_hold_channel_after_channel() -> None:
    image = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6)  # pixel (c, y, x) is 24c + 6y + x
    patches = patchify(image, 2)
    assert patches.shape == (1, 6, 8)
    assert patches[0, 0].tolist() == [0, 1, 6, 7, 24, 25, 30, 31]
    assert patches[0, 4].tolist() == [14, 15, 20, 21, 38, 39, 44, 45]  # second row of patches, second column


@given(C=st.integers(1, 4), patch=st.integers(1, 5), grid=st.integers(1, 4))
@settings(max_examples=25)
def test_unpatchify_undoes_patchify(C: int, patch: int, grid: int) -> None:
    images = torch.randn(2, C, grid * patch, grid * patch)
    assert torch.equal(unpatchify(patchify(images, patch), patch), images)


def test_patch_embedding_is_the_patch_convolution() -> None:
    torch.manual_seed(0)
    embedding, images = PatchEmbedding(3, 4, 5), torch.randn(2, 3, 8, 8)
    convolved = embedding.proj(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embedding(patchify(images, 4)), convolved)


def test_positions_by_hand() -> None:
    """Width 8 has two wavelengths, 1 and 1/100 radians per patch; grid position (row 1, column 2) is token 1·3 + 2."""
    positions = sincos_positions(3, 8)
    assert positions.shape == (1, 10, 8)
    assert torch.equal(positions[0, 0], torch.zeros(8))
    angles = [1.0, 0.01, 2.0, 0.02]  # row then column, each at both wavelengths
    expected = [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    torch.testing.assert_close(positions[0, 1 + 5], torch.tensor(expected))


def test_stochastic_depth_rises_linearly_to_the_last_block() -> None:
    blocks = encoder_blocks(8, 4, 2, drop_path=0.3, layer_scale=None, qk_norm=True)
    assert [block.drop_path.rate for block in blocks] == pytest.approx([0, 0.1, 0.2, 0.3])


def random_block(bias: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A block with every weight random, and its weights under timm's names."""
    torch.manual_seed(0)
    (block,) = encoder_blocks(16, 1, 2, drop_path=0, layer_scale=0.5, qk_norm=True, block_bias=bias).double().eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.3)
    weights = {name.replace("in_proj.shifted_bias", "mlp_bias"): value for name, value in block.state_dict().items()}
    return block, weights


@torch.no_grad()
def test_a_shifted_block_computes_what_the_published_models_were_trained_with() -> None:
    """timm issue 2653. The current formula differs on the same weights, or the test could not fail."""
    tokens = torch.randn(2, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    shifted, weights = random_block("timm-0.8.13")
    expected = published_block(tokens, weights, heads=2)
    torch.testing.assert_close(shifted(tokens), expected, atol=1e-10, rtol=0)
    current, _ = random_block("mlp")
    current.load_state_dict(weights)
    assert (current(tokens) - expected).abs().max() > 0.01


@torch.no_grad()
def test_a_shifted_bias_is_the_bias_of_a_plain_block_with_qkv_bias() -> None:
    tokens = torch.randn(2, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    shifted, weights = random_block("timm-0.8.13")
    vision_transformer = import_timm().models.vision_transformer
    plain = vision_transformer.ParallelScalingBlock(16, 2, qkv_bias=True, qk_norm=True, init_values=0.5).double().eval()
    bias = weights.pop("mlp_bias")
    assert pad_shifted(bias).tolist() == [0.0] * 48 + bias.tolist()
    plain.load_state_dict({**weights, "in_proj.bias": pad_shifted(bias)})
    torch.testing.assert_close(shifted(tokens), plain(tokens), atol=1e-12, rtol=0)


def test_weights_of_one_formula_never_load_as_the_other() -> None:
    current, shifted = (random_block(bias)[0] for bias in ("mlp", "timm-0.8.13"))
    for into, state in ((current, shifted.state_dict()), (shifted, current.state_dict())):
        with pytest.raises(RuntimeError, match="shifted_bias"):
            into.load_state_dict(state)


def test_a_shifted_bias_learns_except_where_nothing_depends_on_it() -> None:
    """Before QK-norm's centring the bias of q and k matters, so all 4 · 16 entries have a gradient."""
    block, _ = random_block("timm-0.8.13")
    block(torch.randn(2, 5, 16, dtype=torch.float64)).square().sum().backward()
    gradient = block.get_parameter("in_proj.shifted_bias").grad
    assert gradient is not None
    assert gradient.shape == (64,)
    assert (gradient != 0).all()


def test_timms_initial_weights_are_those_of_its_vision_transformer() -> None:
    """Against timm's own function, drawn with the same seed."""
    vision_transformer = import_timm().models.vision_transformer
    blocks = encoder_blocks(16, 2, 2, drop_path=0, layer_scale=1e-4, qk_norm=True)
    torch.manual_seed(3)
    initialise_weights(blocks, "timm")
    ours = {name: value.clone() for name, value in blocks.state_dict().items()}
    torch.manual_seed(3)
    blocks.apply(vision_transformer.init_weights_vit_timm)
    assert all(torch.equal(value, ours[name]) for name, value in blocks.state_dict().items())
    assert ours["0.in_proj.weight"].std() == pytest.approx(0.02, rel=0.1)


def test_torchs_initial_weights_are_its_layers_defaults() -> None:
    torch.manual_seed(3)
    layer = torch.nn.Linear(8, 4)
    torch.manual_seed(3)
    again = torch.nn.utils.skip_init(torch.nn.Linear, 8, 4)
    initialise_weights(again, "torch")
    assert torch.equal(again.weight, layer.weight)
    assert torch.equal(again.bias, layer.bias)
