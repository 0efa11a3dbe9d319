"""The compute conventions against the published table, hand arithmetic and two independent counters."""

import math

import pytest

from analysis.compute import flops
from analysis.compute.flops import VitMae

SHAPES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16)}
MINIATURE = VitMae(
    width=64, depth=3, heads=4, patch=8, crop=32, channels=5, decoder_width=32, decoder_depth=2, decoder_heads=2
)


def paper_model(size: str, patch: int) -> VitMae:
    width, depth, heads = SHAPES[size]
    return VitMae(width=width, depth=depth, heads=heads, patch=patch)


# size, patch: paper convention (G), dense forward, encoder on 25%, decoder (GMAC), true training FLOPs (G)
PUBLISHED = [
    ("S", 16, 7.8, 6.2, 1.6, 7.2, 52.8),
    ("B", 16, 29.6, 23.3, 5.9, 7.2, 78.8),
    ("L", 16, 104.1, 81.3, 20.2, 7.2, 164.9),
    ("S", 8, 124, 31.6, 6.2, 34.7, 245),  # a quarter of patch 8 is all of patch 16: the encoder columns agree
    ("B", 8, 473, 106.7, 23.3, 34.7, 348),
    ("L", 8, 1666, 361.6, 81.3, 34.7, 696),
]


@pytest.mark.parametrize(("size", "patch", "paper", "dense", "encoder", "decoder", "training"), PUBLISHED)
def test_the_paper_s_models_cost_what_is_in_the_table(size, patch, paper, dense, encoder, decoder, training):
    model = paper_model(size, patch)
    counted = (
        flops.touvron(model),
        flops.dense_forward(model),
        flops.encoder_forward_macs(model, model.visible_tokens),
        flops.decoder_forward_macs(model),
        flops.mae_train(model),
    )
    for count, expected in zip(counted, (paper, dense, encoder, decoder, training), strict=True):
        decimals = 1 if expected < 370 and expected != int(expected) else 0
        assert round(count / 1e9, decimals) == expected


def test_touvron_is_deit3_table_1_times_the_paper_s_factors():
    # S/16: 4.6 x 1.69; L/8: 61.6 x 1.69 x 16
    assert flops.touvron(paper_model("S", 16)) == pytest.approx(7.774e9)
    assert flops.touvron(paper_model("L", 8)) == pytest.approx(1665.664e9)


def test_dense_forward_of_s16_by_hand():
    # 256 patches of 16*16*6 = 1,536 values: embedding 256 * 1,536 * 384                  =   150,994,944
    # 257 tokens, per block: QKV 257*384*1,152 + output 257*384*384                        =   151,584,768
    #   MLP 2 * 257*384*1,536                                                              =   303,169,536
    #   attention 2 * 257*257*384                                                          =    50,725,632
    # 12 blocks of 505,479,936                                                             = 6,065,759,232
    assert flops.dense_forward(paper_model("S", 16)) == 150_994_944 + 6_065_759_232


def test_training_of_the_miniature_by_hand():
    # 16 patches of 8*8*5 = 320 values; 4 visible + class token = 5 tokens, 17 with the masked ones
    # encoder: 16*320*64 + 3 blocks of (12 * 5 * 64^2 + 2 * 5^2 * 64)    = 327,680 + 3 * 248,960 = 1,074,560
    # decoder: 5*64*32 + 2 blocks of (12 * 17 * 32^2 + 2 * 17^2 * 32) + 16*32*320
    #        = 10,240 + 2 * 227,392 + 163,840                                                      = 628,864
    # 2 FLOPs per MAC, forward + 2 x backward
    assert MINIATURE.visible_tokens == 5
    assert flops.mae_train(MINIATURE) == 6 * (1_074_560 + 628_864)


def test_touvron_of_unlisted_dimensions_is_the_dense_cost_at_patch_16_times_the_patch_factor():
    # crop 32 at patch 16: 4 patches of 16*16*5 = 1,280 values and a class token
    # 4*1,280*64 + 3 blocks of (12 * 5 * 64^2 + 2 * 5^2 * 64) = 327,680 + 746,880; (16/8)^4 = 16
    assert flops.touvron(MINIATURE) == 16 * (327_680 + 746_880)


@pytest.mark.parametrize("crop", [48, 256])
def test_patch_8_costs_16_times_patch_16_for_every_crop(crop):
    fine, coarse = (VitMae(width=96, depth=4, heads=3, patch=patch, crop=crop) for patch in (8, 16))
    assert flops.touvron(fine) == pytest.approx(16 * flops.touvron(coarse))


def test_the_mask_reduces_the_cost_of_training_only():
    masked, whole = (VitMae(width=384, depth=12, heads=6, patch=16, mask_ratio=ratio) for ratio in (0.75, 0.0))
    assert flops.mae_train(masked) < flops.mae_train(whole)
    assert flops.dense_forward(masked) == flops.dense_forward(whole)
    assert flops.encoder_forward_macs(whole, whole.visible_tokens) == flops.dense_forward(whole)


def test_compute_is_cost_per_crop_times_crops():
    assert flops.compute("touvron", paper_model("L", 8), 3.5e9) == pytest.approx(5.829824e21)


def test_an_unknown_convention_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'chinchilla'.*touvron, dense_forward, mae_train"):
        flops.compute("chinchilla", MINIATURE, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "width 384 is not a multiple of heads 5"),
        ({"decoder_heads": 7}, "decoder_width 512 is not a multiple of decoder_heads 7"),
        ({"patch": 24}, "crop 256 is not a multiple of patch 24"),
        ({"mask_ratio": 1.0}, "mask_ratio 1.0"),
    ],
)
def test_impossible_dimensions_are_rejected(change, message):
    with pytest.raises(ValueError, match=message):
        VitMae(**({"width": 384, "depth": 12, "heads": 6, "patch": 16} | change))


# --- the closed forms against the built models ------------------------------------------------------------------------


def timm_encoder(model: VitMae, device: str = "cpu"):
    """A timm VisionTransformer of those dimensions, as the paper's encoder: parallel blocks, QK-norm, no QKV bias."""
    from harness.models.layers.timm_import import import_timm

    vision_transformer = import_timm().models.vision_transformer
    return vision_transformer.VisionTransformer(
        img_size=model.crop,
        patch_size=model.patch,
        in_chans=model.channels,
        num_classes=0,
        global_pool="token",
        embed_dim=model.width,
        depth=model.depth,
        num_heads=model.heads,
        qkv_bias=False,
        qk_norm=True,
        init_values=1e-4,
        pos_embed="none",
        block_fn=vision_transformer.ParallelScalingBlock,
        device=device,
    )


def built_decoder(model: VitMae, device: str = "cpu"):
    """The decoder's parts from torch and timm: projection, blocks, norm, prediction."""
    import torch
    from torch import nn

    from harness.models.layers.timm_import import import_timm

    block = import_timm().models.vision_transformer.Block
    width = model.decoder_width
    with torch.device(device):
        blocks = [block(width, model.decoder_heads, qkv_bias=True) for _ in range(model.decoder_depth)]
        return nn.ModuleDict(
            {
                "projection": nn.Linear(model.width, width),
                "blocks": nn.Sequential(*blocks),
                "norm": nn.LayerNorm(width),
                "prediction": nn.Linear(width, model.pixels_per_patch),
            }
        )


def parameter_count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("model", [MINIATURE, paper_model("S", 8)], ids=["miniature", "S/8"])
def test_parameter_counts_equal_those_of_the_built_modules(model):
    assert flops.encoder_parameters(model) == parameter_count(timm_encoder(model, "meta"))
    mask_token = model.decoder_width
    assert flops.decoder_parameters(model) == parameter_count(built_decoder(model, "meta")) + mask_token


@pytest.mark.parametrize("model", [MINIATURE, paper_model("S", 16)], ids=["miniature", "S/16"])
def test_dense_forward_equals_fvcore_s_count(model):
    import torch
    from fvcore.nn import FlopCountAnalysis

    def attention_macs(inputs, outputs):
        batch, heads, tokens, head_width = inputs[0].type().sizes()
        return 2 * batch * heads * tokens**2 * head_width

    crop = torch.zeros(1, model.channels, model.crop, model.crop)
    analysis = FlopCountAnalysis(timm_encoder(model).eval(), crop)
    analysis.set_op_handle("aten::scaled_dot_product_attention", attention_macs)
    analysis.unsupported_ops_warnings(False)
    analysis.uncalled_modules_warnings(False)
    by_operator = analysis.by_operator()
    assert analysis.total() - by_operator["layer_norm"] == flops.dense_forward(model)
    assert by_operator["layer_norm"] < 0.02 * analysis.total()


def counted_training_flops(model: VitMae, *, backward: bool) -> int:
    """torch's own count of a training pass of one crop, on the meta device, where nothing is computed."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    encoder, decoder = timm_encoder(model, "meta"), built_decoder(model, "meta")
    crop = torch.zeros(1, model.channels, model.crop, model.crop, device="meta")
    with FlopCounterMode(display=False) as counter:
        tokens = encoder.patch_embed(crop)[:, : model.visible_tokens - 1]
        visible = torch.cat([encoder.cls_token, tokens], dim=1)
        projected = decoder["projection"](encoder.norm(encoder.blocks(visible)))
        hidden = torch.zeros(1, model.tokens - model.visible_tokens, model.decoder_width, device="meta")
        decoded = decoder["norm"](decoder["blocks"](torch.cat([projected, hidden], dim=1)))
        loss = decoder["prediction"](decoded[:, 1:]).sum()
        if backward:
            loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("model", [MINIATURE, paper_model("B", 8)], ids=["miniature", "B/8"])
def test_forward_of_training_equals_torch_s_count(model):
    forward = flops.mae_train(model) / flops.PASSES_PER_TRAINING_STEP
    assert counted_training_flops(model, backward=False) == forward


def test_a_complete_training_step_is_within_five_percent_of_torch_s_count():
    # torch also counts the recomputation inside fused attention's backward pass, and no gradient of the input pixels
    model = paper_model("B", 16)
    assert math.isclose(counted_training_flops(model, backward=True), flops.mae_train(model), rel_tol=0.05)
