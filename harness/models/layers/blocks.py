"""Layers shared by the masked autoencoders: patches, fixed positions, stacks of timm blocks and initial weights.

Shapes: B batch, L tokens (patches), D width, C channels, H height, W width of an image, P patch side.
"""

import math

import torch
from torch import Tensor, nn

from harness.models.layers.parametrisation import Scheme
from harness.models.layers.timm_import import import_timm
from harness.recipe.models import BlockBias, Initialisation

MLP_RATIO = 4
TOKEN_STD = 0.02
SHIFTED_BIAS, PLAIN_BIAS, MLP_BIAS = "in_proj.shifted_bias", "in_proj.bias", "mlp_bias"  # of a block's state_dict
CLASS_TOKEN_STD = 1e-6  # timm's
ENCODER_SCHEME: dict[Initialisation, Scheme] = {"mae": "mae", "released": "timm"}
DECODER_SCHEME: dict[Initialisation, Scheme] = {"mae": "mae", "released": "torch"}


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cut images (B, C, H, W) into patches (B, L, C·P·P), row by row. Values are ordered by channel first, as in the
    kernel of a patch convolution."""
    B, C, H, W = images.shape
    grid = images.reshape(B, C, H // patch, patch, W // patch, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C * patch * patch)


def unpatchify(patches: Tensor, patch: int) -> Tensor:
    """Invert `patchify` for square images: (B, L, C·P·P) → (B, C, H, W)."""
    B, L, values = patches.shape
    side, C = math.isqrt(L), values // patch**2
    grid = patches.reshape(B, side, side, C, patch, patch)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(B, C, side * patch, side * patch)


def sincos_positions(grid: int, width: int, temperature: float = 10_000.0) -> Tensor:
    """Fixed 2-D sine-cosine positions (1, 1 + L, D) of a square grid; the class token's row comes first and is zero.

    Quarters of D: sine of row, sine of column, cosine of row, cosine of column, each at D/4 wavelengths from 2π to
    temperature·2π patches (timm's table; He et al. 2021 use the same numbers with the features in a different order).
    """
    table = import_timm().layers.build_sincos2d_pos_embed([grid, grid], dim=width, temperature=temperature)
    return torch.cat([torch.zeros(1, width), table]).unsqueeze(0)


class PatchEmbedding(nn.Module):
    """Patches (B, L, C·P·P) → tokens (B, L, D): a patch convolution applied to patches that are already cut out.

    Masked patches can therefore be dropped before they cost compute. Weights have the names and shapes of timm's
    `PatchEmbed`: `proj.weight` (D, C, P, P), `proj.bias` (D).
    """

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, patches: Tensor) -> Tensor:
        return nn.functional.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class StochasticDepth(nn.Module):
    """Skip a block for some samples of a batch (Huang et al. 2016), as timm's `DropPath` does, but based on noise that
    comes with the batch, so that the same samples are skipped for any number of ranks and any split of the batch.

    Set `noise` (B,) in [0, 1) before the block runs; without it, and in eval mode, no sample is skipped.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.noise: Tensor | None = None

    def forward(self, branch: Tensor) -> Tensor:
        """Zero a sample's residual branch (B, L, D) with probability `rate`, else scale it by 1/(1 - rate)."""
        if not self.training or self.noise is None or not self.rate:
            return branch
        keep = (self.noise >= self.rate).to(branch.dtype) * (1 / (1 - self.rate))  # (B,)
        return branch * keep[:, None, None]


class ShiftedBiasProjection(nn.Linear):
    """First projection of a parallel scaling block, (B, L, D) → (B, L, 7·D), with its bias where timm 0.8.13 to 1.0.24
    added it (timm issue 2653).

    The output is split into the MLP's input (4·D), q, k and v (D each). Those versions prepended the zeros of q, k and
    v to the MLP's bias (4·D) instead of appending them. So the first 3·D values of the MLP's input have no bias, the
    bias's first D entries are added to the last D of them, and the others to q, k and v.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, (MLP_RATIO + 3) * width, bias=False)
        self.shifted_bias = nn.Parameter(torch.zeros(MLP_RATIO * width))

    def forward(self, tokens: Tensor) -> Tensor:
        return nn.functional.linear(tokens, self.weight, pad_shifted(self.shifted_bias))


def pad_shifted(bias: Tensor) -> Tensor:
    """Bias (4·D) of a `ShiftedBiasProjection` → the equal bias (7·D) of a plain projection, as with `qkv_bias=True`."""
    return nn.functional.pad(bias, (3 * len(bias) // MLP_RATIO, 0))


def encoder_blocks(
    width: int, depth: int, heads: int, *, drop_path: float, layer_scale: float | None, qk_norm: bool,
    block_bias: BlockBias = "mlp",
) -> nn.ModuleList:  # fmt: skip
    """Build parallel scaling blocks (attention and MLP in parallel, Dehghani et al. 2023) without QKV bias.

    Stochastic depth rises linearly from 0 at the first block to `drop_path` at the last, as in timm and DeiT. With
    `block_bias` "timm-0.8.13" the blocks compute what those of timm 0.8.13 to 1.0.24 did (`ShiftedBiasProjection`).
    """
    vision_transformer = import_timm().models.vision_transformer
    blocks = nn.ModuleList()
    for n in range(depth):
        block = vision_transformer.ParallelScalingBlock(
            width, heads, MLP_RATIO, qkv_bias=False, qk_norm=qk_norm, init_values=layer_scale
        )
        if block_bias == "timm-0.8.13":
            block.in_proj, block.mlp_bias = ShiftedBiasProjection(width), None
        block.drop_path = StochasticDepth(drop_path * n / max(depth - 1, 1))
        blocks.append(block)
    return blocks


def decoder_blocks(width: int, depth: int, heads: int) -> nn.ModuleList:
    """Build standard pre-norm blocks with QKV bias, without LayerScale, QK-norm or stochastic depth."""
    vision_transformer = import_timm().models.vision_transformer
    return nn.ModuleList(vision_transformer.Block(width, heads, MLP_RATIO, qkv_bias=True) for _ in range(depth))


def layer_norm(width: int) -> nn.Module:
    """Build timm's LayerNorm (eps 1e-6)."""
    norm: nn.Module = import_timm().layers.LayerNorm(width)
    return norm


def initialise_weights(module: nn.Module, scheme: Scheme = "mae") -> None:
    """Initialise every weight of `module` and its submodules: matrices by `scheme`, unit norms, LayerScale at its
    `init_values`. Biases are zero, except that torch draws those of its default.

    "mae" is He et al. (2021): Xavier uniform, packed projections and the patch convolution as one matrix each. "timm"
    is timm's VisionTransformer: normal with deviation 0.02; the patch convolution keeps torch's default.
    Tokens and positions are initialised by the modules that define them. Uses torch's global generator.
    """
    timm = import_timm()
    for submodule in module.modules():
        if isinstance(submodule, nn.Linear | nn.Conv2d):
            _initialise_matrix(submodule, scheme)
        elif isinstance(submodule, nn.LayerNorm | timm.layers.LayerScale):
            submodule.reset_parameters()
        elif isinstance(submodule, timm.models.vision_transformer.ParallelScalingBlock):
            submodule.reset_parameters()  # its MLP's bias


def _initialise_matrix(layer: nn.Linear | nn.Conv2d, scheme: Scheme) -> None:
    if scheme == "mae":
        nn.init.xavier_uniform_(layer.weight.view(layer.weight.shape[0], -1))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif scheme == "timm" and isinstance(layer, nn.Linear):
        import_timm().models.vision_transformer.init_weights_vit_timm(layer)
    else:
        layer.reset_parameters()
    if isinstance(layer, ShiftedBiasProjection):
        nn.init.zeros_(layer.shifted_bias)
