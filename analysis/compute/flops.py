"""Compute per crop of every system, under three named conventions.

"FLOPs" on a published axis may mean multiply-accumulates (MACs) or floating-point operations (2 per MAC), forward or
training, of all tokens or of the visible ones. A number is therefore meaningless without its convention, and every
function that returns compute takes the convention's name. Closed forms count the matrix products (linear layers,
attention, the patch convolution); norms, softmax, GELU and biases are below 1% and left out, as is usual.

`Vit`, `VitMae` and their formulas are here; the paper's other systems are in `systems.py` and implement `System`.

Legend: L tokens, D width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

FLOPS_PER_MAC = 2
PASSES_PER_TRAINING_STEP = 3  # the backward pass costs two forward passes: one per operand of each product

# DeiT III (Touvron et al. 2022), Table 1: "GFLOPs" (actually MACs) at 224x224x3, patch 16, by (width, depth).
DEIT3_TABLE1 = MappingProxyType({(384, 12): 4.6e9, (768, 12): 17.5e9, (1024, 24): 61.6e9})
PAPER_CROP = 256
PAPER_CROP_FACTOR = 1.69  # as printed in supplement A.5 for (16*16 / 14*14)^2, which is 1.706
PAPER_PATCH = 16
MLP_RATIO = 4  # hidden units of a block's MLP, as a multiple of its width


@dataclass(frozen=True)
class Vit:
    """The dimensions of a vision transformer that determine its cost. Sizes are in pixels or units."""

    width: int
    depth: int
    heads: int
    patch: int
    crop: int = 256
    channels: int = 6

    def __post_init__(self) -> None:
        """Reject impossible dimensions.

        Raises:
            ValueError: naming the field and what it must satisfy.
        """
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.crop % self.patch:
            raise ValueError(f"crop {self.crop} is not a multiple of patch {self.patch}")

    @property
    def patches(self) -> int:
        """Patches per crop, all channels of a location share one patch."""
        return (self.crop // self.patch) ** 2

    @property
    def pixels_per_patch(self) -> int:
        """Values in one patch over all channels: what a patch is embedded from and reconstructed to."""
        return self.patch**2 * self.channels

    @property
    def tokens(self) -> int:
        """Tokens of an unmasked crop, the class token included."""
        return self.patches + 1

    def dense_forward_macs(self) -> float:
        """Forward MACs per crop of the encoder on all tokens."""
        return encoder_forward_macs(self, self.tokens)


@dataclass(frozen=True)
class VitMae(Vit):
    """The dimensions of a ViT masked autoencoder: a `Vit` as encoder, a decoder, and the share of masked patches."""

    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mask_ratio: float = 0.75

    def __post_init__(self) -> None:
        """As `Vit`, and for the decoder and the mask."""
        super().__post_init__()
        if self.decoder_width % self.decoder_heads:
            raise ValueError(
                f"decoder_width {self.decoder_width} is not a multiple of decoder_heads {self.decoder_heads}"
            )
        if not 0 <= self.mask_ratio < 1:
            raise ValueError(f"mask_ratio {self.mask_ratio} must be in [0, 1)")

    @property
    def visible_patches(self) -> int:
        """Patches that the encoder sees in training."""
        return round(self.patches * (1 - self.mask_ratio))

    @property
    def visible_tokens(self) -> int:
        """Tokens the encoder sees in training: the visible patches and the class token, which is never masked."""
        return self.visible_patches + 1

    def training_forward_macs(self) -> float:
        """Forward MACs per crop in training: the encoder on visible tokens, the decoder on all."""
        return encoder_forward_macs(self, self.visible_tokens) + decoder_forward_macs(self)

    def parameters(self) -> int:
        """All trained parameters."""
        return encoder_parameters(self) + decoder_parameters(self)


class System(Protocol):
    """A system with a cost per crop: `VitMae`, and the classes of `systems.py`."""

    def dense_forward_macs(self) -> float:
        """Forward MACs per crop of the embedding network, on the complete crop."""
        ...

    def training_forward_macs(self) -> float:
        """Forward MACs per crop of all that a training step runs."""
        ...

    def parameters(self) -> int:
        """All trained parameters."""
        ...


def block_macs(width: int, tokens: float) -> float:
    """Forward MACs of one transformer block, parallel or sequential: 4LD² + 2L²D (attention) + 2LDH (MLP, H hidden)."""
    hidden = MLP_RATIO * width
    attention = 4 * tokens * width**2 + 2 * tokens**2 * width
    return attention + 2 * tokens * width * hidden


def patch_embedding_macs(model: Vit) -> int:
    """Forward MACs of the patch convolution on all patches, masked or not.

    He et al. (2021) embed first and mask after, and the convention follows them. Code that drops masked patches first
    saves 1% of training at the paper's sizes.
    """
    return model.patches * model.pixels_per_patch * model.width


def encoder_forward_macs(model: Vit, tokens: int) -> float:
    """Forward MACs of the encoder per crop when `tokens` of its tokens pass through the blocks."""
    return patch_embedding_macs(model) + model.depth * block_macs(model.width, tokens)


def decoder_forward_macs(model: VitMae) -> float:
    """Forward MACs of the decoder per crop: projection of the visible tokens, blocks on all, pixels of each patch."""
    projection = model.visible_tokens * model.width * model.decoder_width
    blocks = model.decoder_depth * block_macs(model.decoder_width, model.tokens)
    return projection + blocks + model.patches * model.decoder_width * model.pixels_per_patch


def dense_forward(model: System) -> float:
    """Forward MACs per crop of the encoder on all tokens: what papers around 2022 print as GFLOPs."""
    return model.dense_forward_macs()


def mae_train(model: System) -> float:
    """True training FLOPs per crop: 2 per MAC, forward and backward, encoder on visible tokens, decoder on all."""
    return FLOPS_PER_MAC * PASSES_PER_TRAINING_STEP * model.training_forward_macs()


def touvron(model: System) -> float:
    """The paper's count per crop (supplement A.5): DeiT III Table 1 x 1.69 for the crop, x 16 for patch 8.

    The paper's count ignores channels, mask and decoder. For dimensions or crops that the table does not list, such as
    a miniature's, its entry is replaced by the dense forward MACs of the same dimensions at patch 16 on the model's own
    crop. Either way the patch factor is (16 / patch)^4, so that patch 8 costs 16 times patch 16 as in the paper. For
    systems other than a MAE-ViT the paper gives no count; `dense_forward`, the same kind of number, is used instead.
    """
    if not isinstance(model, VitMae):
        return model.dense_forward_macs()
    listed = DEIT3_TABLE1.get((model.width, model.depth))
    if listed is not None and model.crop == PAPER_CROP:
        at_patch_16 = listed * PAPER_CROP_FACTOR
    else:
        at_patch_16 = _dense_forward_at_patch_16(model)
    return at_patch_16 * (PAPER_PATCH / model.patch) ** 4


def _dense_forward_at_patch_16(model: VitMae) -> float:
    """Dense forward MACs at patch 16; a crop that 16 does not divide counts as the fraction of patches it holds."""
    patches = (model.crop / PAPER_PATCH) ** 2
    embedding = patches * PAPER_PATCH**2 * model.channels * model.width
    return embedding + model.depth * block_macs(model.width, patches + 1)


@dataclass(frozen=True)
class Convention:
    """A named way of counting. The version increases whenever a number it gives would change."""

    name: str
    version: int
    unit: str
    meaning: str
    per_crop: Callable[[System], float]


CONVENTIONS: Mapping[str, Convention] = MappingProxyType(
    {
        convention.name: convention
        for convention in (
            Convention("touvron", 1, "FLOPs", "the paper's: DeiT III Table 1 × 1.69 × 16 for patch 8", touvron),
            Convention("dense_forward", 1, "MACs", "forward pass of the encoder on all tokens", dense_forward),
            Convention("mae_train", 1, "FLOPs", "training: encoder on visible tokens, decoder on all", mae_train),
        )
    }
)


def named_convention(name: str) -> Convention:
    """The convention of that name.

    Raises:
        ValueError: if it is unknown; the message lists the known names.
    """
    if name not in CONVENTIONS:
        raise ValueError(f"unknown compute convention {name!r}; known are {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


def flops_per_crop(convention: str, model: System) -> float:
    """Cost of one training crop in the convention's unit."""
    return named_convention(convention).per_crop(model)


def compute(convention: str, model: System, crops: float) -> float:
    """Cost of training on `crops` crops (supplement A.5: cost per crop times crops seen), in the convention's unit."""
    return flops_per_crop(convention, model) * crops


def encoder_parameters(model: Vit) -> int:
    """Trained parameters of the encoder: patch embedding, class token, parallel blocks, final norm.

    Positions are fixed sine-cosine tables and train nothing. A parallel block (timm's ParallelScalingBlock) holds a
    norm, one input projection to MLP hidden + query, key and value without bias, the MLP's own bias, two norms over a
    head's width, two output projections with bias and one layer scale.
    """
    width, hidden = model.width, MLP_RATIO * model.width
    block = (
        _layer_norm(width)
        + _linear(width, hidden + 3 * width, bias=False)
        + hidden
        + 2 * _layer_norm(width // model.heads)
        + _linear(width, width)
        + _linear(hidden, width)
        + width
    )
    embedding = _linear(model.pixels_per_patch, width) + width
    return embedding + model.depth * block + _layer_norm(width)


def decoder_parameters(model: VitMae) -> int:
    """Trained parameters of the decoder: projection, mask token, standard blocks, final norm, pixel prediction."""
    width, hidden = model.decoder_width, MLP_RATIO * model.decoder_width
    attention = _linear(width, 3 * width) + _linear(width, width)
    block = 2 * _layer_norm(width) + attention + _linear(width, hidden) + _linear(hidden, width)
    projections = _linear(model.width, width) + _linear(width, model.pixels_per_patch)
    return projections + width + model.decoder_depth * block + _layer_norm(width)


def _linear(inputs: int, outputs: int, *, bias: bool = True) -> int:
    return inputs * outputs + bias * outputs


def _layer_norm(width: int) -> int:
    return 2 * width
