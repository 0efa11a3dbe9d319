"""Covers `mae`: parameter counts by hand, masking, outputs, and learning. `test_step_cost.py` counts its kernels."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from harness.distributed.optimiser import build_optimiser
from harness.models.config import MaeConfig, named_config
from harness.models.layers.blocks import patchify
from harness.models.layers.masking import masking_noise
from harness.models.layers.timm_import import import_timm
from harness.models.mae import MaskedAutoencoder

TINY = MaeConfig(
    width=32,
    depth=2,
    heads=2,
    patch=4,
    crop=16,
    channels=3,
    decoder_width=16,
    decoder_depth=1,
    decoder_heads=2,
    drop_path=0.1,
    fourier_weight=0.01,
    fourier_norm="ortho",
)


def build(config: MaeConfig = TINY, seed: int = 0) -> MaskedAutoencoder:
    torch.manual_seed(seed)
    return MaskedAutoencoder(config)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def noise() -> Tensor:
    return masking_noise(0, range(4), TINY.noise_values)


# ---- size

# One parallel scaling block of width D with heads of 64:
#   in_norm 2D + in_proj (4D + 3D)·D + mlp_bias 4D + q_norm, k_norm 4·64 + attn_out D² + D + mlp_out 4D² + D + ls D
#   = 12D² + 9D + 256
# One decoder block of width E = 512: norms 4E + qkv 3E² + 3E + proj E² + E + fc1 4E² + 4E + fc2 4E² + E
#   = 12E² + 13E = 3,152,384; eight of them 25,219,072
BLOCK = {384: 1_773_184, 768: 7_085_056, 1024: 12_592_384}
DECODER_BLOCKS = 25_219_072


@pytest.mark.parametrize("plus", ["", "+"])
@pytest.mark.parametrize(
    ("name", "width", "depth", "encoder", "decoder"),
    [
        # encoder = depth·block + patches 6p²·D + D + class token D + norm 2D
        # decoder = blocks + embed 512D + 512 + mask token 512 + norm 1024 + prediction 513·6p²
        ("S/16", 384, 12, 21_869_568, 26_205_696),
        ("S/8", 384, 12, 21_427_200, 25_614_720),
        ("B/16", 768, 12, 86_203_392, 26_402_304),
        ("B/8", 768, 12, 85_318_656, 25_811_328),
        ("L/16", 1024, 24, 303_794_176, 26_533_376),
        ("L/8", 1024, 24, 302_614_528, 25_942_400),
    ],
)
def test_parameter_counts(name: str, plus: str, width: int, depth: int, encoder: int, decoder: int) -> None:
    """Every model of the paper, encoder and decoder separately; the Fourier loss of "+" has no parameters."""
    with torch.device("meta"):
        model = MaskedAutoencoder(named_config(name + plus))
    values = 6 * model.config.patch**2
    assert 12 * width**2 + 9 * width + 256 == BLOCK[width]
    assert depth * BLOCK[width] + values * width + 4 * width == encoder
    assert DECODER_BLOCKS + 512 * width + 2048 + 513 * values == decoder
    assert sum(parameter.numel() for parameter in model.encoder.parameters()) == encoder
    assert sum(parameter.numel() for parameter in model.decoder.parameters()) == decoder
    assert sum(parameter.numel() for parameter in model.parameters()) == encoder + decoder


# ---- weights


def test_the_encoder_is_a_timm_vision_transformer(images: Tensor) -> None:
    """Its state_dict loads unchanged into timm's model, and both give the same tokens."""
    model = build(replace(TINY, layer_scale=0.5)).eval()  # at 1e-4 an error in a block would hardly show
    vision_transformer = import_timm().models.vision_transformer
    peer = vision_transformer.VisionTransformer(
        img_size=16,
        patch_size=4,
        in_chans=3,
        num_classes=0,
        embed_dim=32,
        depth=2,
        num_heads=2,
        qkv_bias=False,
        qk_norm=True,
        init_values=0.5,
        global_pool="token",
        block_fn=vision_transformer.ParallelScalingBlock,
    ).eval()
    peer.load_state_dict(model.encoder.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model.encoder(patchify(images, 4)), peer.forward_features(images))


def test_state_dict_keys_are_stable() -> None:
    """Old checkpoints must load: the documented keys, one block of each kind in full."""
    norm = ("weight", "bias")
    encoder_block = {f"{part}.{end}" for part in ("in_norm", "q_norm", "k_norm") for end in norm}
    encoder_block |= {f"{part}.{end}" for part in ("attn_out_proj", "mlp_out_proj") for end in norm}
    encoder_block |= {"in_proj.weight", "mlp_bias", "ls.gamma"}
    parts = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    decoder_block = {f"{part}.{end}" for part in parts for end in norm}
    expected = {"encoder.cls_token", "encoder.pos_embed", "decoder.mask_token", "decoder.pos_embed"}
    expected |= {f"encoder.{part}.{end}" for part in ("patch_embed.proj", "norm") for end in norm}
    expected |= {f"decoder.{part}.{end}" for part in ("embed", "norm", "pred") for end in norm}
    expected |= {f"encoder.blocks.{n}.{key}" for n in range(2) for key in encoder_block}
    expected |= {f"decoder.blocks.0.{key}" for key in decoder_block}
    assert set(build().state_dict()) == expected


def test_state_dict_shapes_are_stable() -> None:
    """One block of each kind of S/16, as docs/models.md prints it."""
    with torch.device("meta"):
        shapes = {
            name: tuple(value.shape) for name, value in MaskedAutoencoder(named_config("S/16")).state_dict().items()
        }
    expected = {
        "encoder.patch_embed.proj.weight": (384, 6, 16, 16),
        "encoder.pos_embed": (1, 257, 384),
        "encoder.cls_token": (1, 1, 384),
        "encoder.blocks.11.in_proj.weight": (1536 + 3 * 384, 384),
        "encoder.blocks.11.mlp_bias": (1536,),
        "encoder.blocks.11.q_norm.weight": (64,),
        "encoder.blocks.11.attn_out_proj.weight": (384, 384),
        "encoder.blocks.11.mlp_out_proj.weight": (384, 1536),
        "encoder.blocks.11.ls.gamma": (384,),
        "decoder.embed.weight": (512, 384),
        "decoder.mask_token": (1, 1, 512),
        "decoder.blocks.7.attn.qkv.weight": (1536, 512),
        "decoder.blocks.7.mlp.fc1.weight": (2048, 512),
        "decoder.pred.weight": (1536, 512),
    }
    assert {name: shapes[name] for name in expected} == expected
    assert "encoder.blocks.12.in_norm.weight" not in shapes
    assert "decoder.blocks.8.norm1.weight" not in shapes


def test_initial_weights() -> None:
    model = build()
    in_proj = model.encoder.blocks[0].in_proj.weight
    bound = (6 / (32 + 7 * 32)) ** 0.5  # Xavier uniform of the packed projection
    assert 0.9 * bound < in_proj.abs().max() <= bound
    patch_bound = (6 / (32 + 3 * 16)) ** 0.5
    assert 0.9 * patch_bound < model.encoder.patch_embed.proj.weight.abs().max() <= patch_bound
    assert torch.all(model.encoder.blocks[1].ls.gamma == 1e-4)
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    assert all(torch.all(bias == 0) for bias in biases)
    assert 0.005 < model.encoder.cls_token.std() < 0.04


def test_a_model_built_on_meta_is_initialised_completely() -> None:
    """No memory stays uninitialised: the result equals a model built on the CPU with the same seed."""
    with torch.device("meta"):
        model = MaskedAutoencoder(TINY)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(torch.nan)
    torch.manual_seed(3)
    model.reset_parameters()
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    again = build(seed=7)
    torch.manual_seed(3)
    again.reset_parameters()
    torch.testing.assert_close(model.state_dict(), again.state_dict(), rtol=0, atol=0)


# ---- outputs


def test_shapes_and_mask_ratio(images: Tensor, noise: Tensor) -> None:
    output = build()(images, noise)
    assert output.prediction.shape == (4, 16, 3 * 4 * 4)
    assert output.mask.dtype == torch.bool
    assert output.mask.sum(dim=1).tolist() == [12] * 4  # of 16, exactly 75%
    expected = 0.99 * output.reconstruction_loss.item() + 0.01 * output.fourier_loss.item()
    assert output.loss.item() == pytest.approx(expected, rel=1e-6)


def test_plain_models_have_no_fourier_loss(images: Tensor, noise: Tensor) -> None:
    output = build(replace(TINY, fourier_weight=0.0))(images, noise)
    assert output.fourier_loss is None
    assert output.loss == output.reconstruction_loss


def test_image_mode_differs_only_in_the_fourier_term(images: Tensor, noise: Tensor) -> None:
    by_patch, by_image = (
        build(replace(TINY, drop_path=0.0, fourier_mode=m))(images, noise) for m in ("patch", "image")
    )
    assert by_patch.reconstruction_loss == by_image.reconstruction_loss
    assert by_patch.fourier_loss != by_image.fourier_loss


def test_the_loss_is_the_error_of_masked_patches(images: Tensor, noise: Tensor) -> None:
    output = build()(images, noise)
    error = output.prediction[output.mask] - patchify(images, 4)[output.mask]
    assert output.reconstruction_loss.item() == pytest.approx(error.square().mean().item(), rel=1e-5)


def test_the_prediction_does_not_depend_on_masked_pixels(images: Tensor, noise: Tensor) -> None:
    model = build(replace(TINY, layer_scale=0.5)).eval()
    before = model(images, noise)
    hidden = before.mask.reshape(4, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    masked_changed = torch.where(hidden, torch.full_like(images, 9.0), images)
    assert torch.equal(model(masked_changed, noise).prediction, before.prediction)
    visible_changed = torch.where(hidden, images, images + 1)
    assert not torch.allclose(model(visible_changed, noise).prediction, before.prediction)


def test_visible_tokens_do_not_depend_on_the_order_of_patches(images: Tensor) -> None:
    """Gathering before the patch embedding changes nothing: with all patches visible, each has the same token in any
    order."""
    encoder = build(replace(TINY, layer_scale=0.5)).encoder.eval()
    patches, order = patchify(images, 4), torch.randperm(16, generator=torch.Generator().manual_seed(0))
    index = order.expand(4, -1)
    torch.testing.assert_close(encoder(patches[:, order], index)[:, 1:], encoder(patches)[:, 1:][:, order])


def test_reconstruction_keeps_visible_patches_and_predicts_the_rest(images: Tensor, noise: Tensor) -> None:
    model = build().eval()
    image, mask = model.reconstruct(images, noise)
    assert (image.shape, mask.shape) == ((4, 3, 16, 16), (4, 1, 16, 16))
    assert torch.equal(image.masked_fill(mask, 0), images.masked_fill(mask, 0))
    output = model(images, noise)
    assert torch.equal(patchify(image, 4)[output.mask], output.prediction[output.mask])
    assert torch.equal(patchify(mask, 4).all(dim=-1), output.mask)


def test_embeddings_pool_the_tokens_as_configured(images: Tensor) -> None:
    tokens = build().eval().encoder(patchify(images, 4))
    expected = {
        "class": tokens[:, 0],
        "mean": tokens[:, 1:].mean(dim=1),
        "std": tokens[:, 1:].var(dim=1, correction=0).sqrt(),
        "mean_std": torch.cat([tokens[:, 1:].mean(dim=1), tokens[:, 1:].var(dim=1, correction=0).sqrt()], dim=1),
    }
    for pool, embedding in expected.items():
        model = build(replace(TINY, pool=pool)).eval()
        torch.testing.assert_close(model.embed(images), embedding)
        assert embedding.shape == (4, model.config.embedding_width)


def test_embeddings_are_deterministic_and_independent_of_the_batch(images: Tensor) -> None:
    model = build(replace(TINY, drop_path=0.5)).eval()
    torch.testing.assert_close(model.embed(images), model.embed(images), rtol=0, atol=0)
    torch.testing.assert_close(model.embed(images[2:3]), model.embed(images)[2:3])


def test_other_shapes_are_refused(images: Tensor, noise: Tensor) -> None:
    model = build()
    with pytest.raises(ValueError, match=r"\(4, 2, 16, 16\): this model takes \(4, 3, 16, 16\)"):
        model.embed(images[:, :2])
    with pytest.raises(ValueError, match=r"noise has shape \(4, 9\): these images take \(4, 18\)"):
        model(images, noise[:, :9])


# ---- training


def test_the_gradient_reaches_every_parameter(images: Tensor, noise: Tensor) -> None:
    model = build(replace(TINY, drop_path=0.0))
    model(images, noise).loss.backward()
    no_gradient = {name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-12}
    # a bias shared by all keys adds the same to every logit of a query, which does not change the softmax
    assert {name for name in no_gradient if not name.endswith("k_norm.bias")} == set()


def test_stochastic_depth_is_per_sample_and_keeps_the_mean(images: Tensor) -> None:
    """By hand: a sample whose noise is below a block's rate skips it; else the branch is scaled by 1/(1 - rate)."""
    config = replace(TINY, depth=2, drop_path=0.5, layer_scale=1.0)
    model = build(config).train()
    patches, index = model._patches(images)[:, :4], torch.arange(4).expand(4, 4)
    noise = torch.tensor([[0.0, 0.4], [0.0, 0.6], [0.9, 0.49], [0.9, 0.5]])  # rates are 0 and 0.5
    tokens = model.encoder(patches, index, noise)
    torch.testing.assert_close(tokens[1:2], model.encoder(patches[1:2], index[1:2], noise[1:2]))
    first, last = model.encoder.blocks
    before = first(model.encoder.patch_embed(patches).new_zeros(4, 5, config.width) + 0.3)
    last.drop_path.noise = noise[:, 1]
    after = last(before)
    last.drop_path.noise = None
    added = last(before) - before
    torch.testing.assert_close(after - before, added * torch.tensor([0.0, 2.0, 0.0, 2.0])[:, None, None])


def test_it_overfits_one_batch(images: Tensor, noise: Tensor) -> None:
    """Noise cannot be inferred from its neighbours, only memorised: a falling loss means that training works."""
    model = build(replace(TINY, drop_path=0.0, decoder_width=64))
    optimiser = build_optimiser(model, "lion", peak=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    history = []
    for _ in range(150):
        loss = model(images, noise).reconstruction_loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[0] > 0.9
    assert history[-1] < 0.3
