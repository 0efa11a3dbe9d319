"""Configurations of the vision transformers. Does not import torch, so that planning starts fast.

A configuration extends the class that counts its cost (`analysis.compute`), so it is itself a `System`. Every default
is that of the recipe's schema or of the cost class.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args, get_type_hints

from analysis.compute.flops import Vit, VitMae
from harness.recipe.fields import default_of
from harness.recipe.models import (
    BASE_HEAD_WIDTH,
    BlockBias,
    FourierMode,
    FourierNorm,
    Initialisation,
    Mae,
    MaeVitSection,
    Parametrisation,
    Pool,
    VitSection,
    VitSize,
)
from harness.storage.json_files import is_number

DEFAULT_POOL: Pool = "mean"
MOST, MOST_DECODER = 1e9, 1_000_000  # as in a recipe

# size: (width, depth, heads, drop path); S, B and L of supplement A.2.3. G has width, depth and heads of ViT-G (Zhai et
# al. 2022), whose MLPs are wider than the four times of all models here, and the drop path of L.
_VIT: dict[VitSize, tuple[int, int, int, float]] = {
    "S": (384, 12, 6, 0.1),
    "B": (768, 12, 12, 0.1),
    "L": (1024, 24, 16, 0.3),
    "G": (1664, 48, 16, 0.3),
}


@dataclass(frozen=True)
class EncoderConfig(Vit):
    """Configuration of the encoder that the vision transformers share.

    Attributes:
        width, depth, heads: size of the encoder.
        patch: side of a square patch, pixels.
        crop: side of a square crop, pixels.
        channels: channels of an image; a patch has all of them.
        drop_path: stochastic depth of the last encoder block; it rises linearly from 0 at the first block.
        layer_scale: initial LayerScale of the encoder blocks; None for no LayerScale.
        qk_norm: LayerNorm on each encoder head's queries and keys.
        block_bias: what the bias of a block's first projection is added to (`layers.blocks.encoder_blocks`).
        initialisation: of the weights (`layers.blocks.initialise_weights`).
        position_temperature: longest wavelength of the fixed positions, in units of 2π patches.
        parametrisation: how initial values and rates follow width and depth (`layers.parametrisation`).
        base_width, base_depth: under "mup", the encoder at which it equals "standard".
        pool: how tokens become one embedding: class token, mean of the patch tokens, their standard deviation, or mean
            and standard deviation concatenated. Always after the final norm.

    Raises:
        ValueError: no network can be built from a field or a pair of fields; the message names them and the rule.
    """

    drop_path: float = default_of(VitSection, "drop_path")
    layer_scale: float | None = default_of(Mae, "layer_scale")
    qk_norm: bool = default_of(Mae, "qk_norm")
    position_temperature: float = default_of(Mae, "position_temperature")
    block_bias: BlockBias = default_of(Mae, "block_bias")
    initialisation: Initialisation = default_of(Mae, "initialisation")
    parametrisation: Parametrisation = default_of(Mae, "parametrisation")
    base_width: int = default_of(Mae, "base_width")
    base_depth: int = default_of(Mae, "base_depth")
    pool: Pool = DEFAULT_POOL

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "patch", "crop", "channels", "base_width", "base_depth"):
            require(getattr(self, name) > 0, name, getattr(self, name), "a positive whole number")
        require(0 <= self.drop_path < 1, "drop_path", self.drop_path, "at least 0 and below 1")
        scale, temperature = self.layer_scale, self.position_temperature
        require(temperature > 1, "position_temperature", temperature, "above 1")
        require(scale is None or scale > 0, "layer_scale", scale, "positive, or None for no LayerScale")
        for name, known in (
            ("pool", Pool), ("block_bias", BlockBias), ("initialisation", Initialisation),
            ("parametrisation", Parametrisation),
        ):  # fmt: skip
            value = getattr(self, name)
            require(value in get_args(known), name, value, f"one of {get_args(known)}")
        if self.parametrisation == "mup":
            require(scale is not None, "layer_scale", scale, "positive under mup, which scales residuals by it")
            same = self.qk_norm or self.width == BASE_HEAD_WIDTH * self.heads
            require(same, "heads", self.heads, f"width / {BASE_HEAD_WIDTH} under mup without qk_norm")
        require_width("width", self.width, "heads", self.heads)
        if self.crop % self.patch:
            raise ValueError(f"crop {self.crop} is not a multiple of patch {self.patch}")

    @property
    def grid(self) -> int:
        """Patches along one side of a crop."""
        return self.crop // self.patch

    @property
    def mask_values(self) -> int:
        """Random numbers that rank a crop's patches for masking: 0, as nothing is masked."""
        return 0

    @property
    def noise_values(self) -> int:
        """Random numbers that a crop needs in training: the mask's, and one per block with stochastic depth."""
        return self.mask_values + (self.depth if self.drop_path else 0)

    @property
    def embedding_width(self) -> int:
        """Length of the vector that `embed` gives for one crop."""
        return self.width * (2 if self.pool == "mean_std" else 1)


@dataclass(frozen=True)
class MaeConfig(EncoderConfig, VitMae):
    """Configuration of a MAE-ViT and its loss.

    Attributes:
        decoder_width, decoder_depth, decoder_heads: size of the decoder.
        mask_ratio: fraction of the patches that are masked.
        fourier_weight: alpha of (1 - alpha) L_MAE + alpha L_FT; 0 for plain models, 0.01 for "+".
        fourier_mode: transform each patch, or the complete image with the visible patches pasted in.
        fourier_norm: `torch.fft` normalisation mode. "ortho" keeps magnitudes on the scale of pixels for every patch
            side; "backward" does not scale, which makes the term `patch` (mode "image": `crop`) times as large. The
            paper does not say which of them its alpha refers to.

    Raises:
        ValueError: as `EncoderConfig`.
    """

    fourier_weight: float = default_of(MaeVitSection, "fourier_weight")
    fourier_mode: FourierMode = default_of(Mae, "fourier_mode")
    fourier_norm: FourierNorm = default_of(Mae, "fourier_norm")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("decoder_width", "decoder_depth", "decoder_heads"):
            require(getattr(self, name) > 0, name, getattr(self, name), "a positive whole number")
        require_width("decoder_width", self.decoder_width, "decoder_heads", self.decoder_heads)
        require(0 <= self.mask_ratio <= 1, "mask_ratio", self.mask_ratio, "between 0 and 1")
        require(0 <= self.fourier_weight <= 1, "fourier_weight", self.fourier_weight, "between 0 and 1")
        for name, known in (("fourier_mode", get_args(FourierMode)), ("fourier_norm", get_args(FourierNorm))):
            require(getattr(self, name) in known, name, getattr(self, name), f"one of {known}")
        if not 0 < self.visible_patches < self.patches:
            raise ValueError(
                f"mask_ratio {self.mask_ratio} leaves {self.visible_patches} of {self.patches} patches visible: "
                "at least one must be visible and one masked"
            )

    @property
    def mask_values(self) -> int:
        """Random numbers that rank a crop's patches for masking: one per patch, without the class token."""
        return self.patches


# Every MAE-ViT of the supplement, by the paper's names: "S/16", "L/8+" ...
PAPER_MODELS: tuple[str, ...] = tuple(
    f"{size}/{patch}{plus}" for size in ("S", "B", "L") for patch in (16, 8) for plus in ("", "+")
)


def named_config(name: str) -> MaeConfig:
    """Return the MAE-ViT with a name as in the paper's tables, or G: size, patch, and "+" for the Fourier loss.

    Raises:
        ValueError: no such model; the message lists the known ones.
    """
    parts = re.fullmatch(r"([SBLG])/(16|8)(\+?)", name)
    if parts is None:
        raise ValueError(
            f"no model {name!r}: the paper has {', '.join(PAPER_MODELS)}; G/16, G/8 and their + are known too"
        )
    size, patch, plus = parts.groups()
    return vit_config(size, int(patch), plus=bool(plus))  # type: ignore[arg-type]


def vit_config(size: VitSize, patch: int, *, plus: bool = False) -> MaeConfig:
    """Return a MAE-ViT of the paper (supplement A.2.3), or G; "+" adds the Fourier loss at alpha = 0.01.

    Raises:
        ValueError: no such size.
    """
    if size not in _VIT:
        raise ValueError(f"no ViT of size {size!r}: known are {', '.join(_VIT)}")
    width, depth, heads, drop_path = _VIT[size]
    fourier_weight = 0.01 if plus else 0.0
    return MaeConfig(
        width=width, depth=depth, heads=heads, patch=patch, drop_path=drop_path, fourier_weight=fourier_weight
    )


def require(holds: bool, field: str, value: object, rule: str) -> None:
    """Raise ValueError unless `holds`: "field is value: it must be rule"."""
    if not holds:
        raise ValueError(f"{field} is {value!r}: it must be {rule}")


def require_width(field: str, width: int, heads_field: str, heads: int) -> None:
    """Raise ValueError unless a width can be split over heads and fits 2-D sine-cosine positions."""
    require(width % heads == 0, field, width, f"a multiple of {heads_field} ({heads})")
    require(width % 4 == 0, field, width, "a multiple of 4 (sine and cosine of two axes)")


def check_types(values: Mapping[str, object]) -> None:
    """Check values of unknown origin for fields of `MaeConfig`, before its rules compute with them.

    Sizes of the encoder need no limit: they must fit its tensors. A decoder's have none in an encoder's file.

    Raises:
        TypeError: a value does not have its field's type, or is too large to compute with.
    """
    types = get_type_hints(MaeConfig)
    for name, value in values.items():
        kind: object = types[name]
        if kind is int:
            is_decoder = name.startswith("decoder_")
            fits = type(value) is int and (not is_decoder or value <= MOST_DECODER)
            rule = "a whole number" + (f" of at most {MOST_DECODER:,}" if is_decoder else "")
        elif kind is bool:
            fits, rule = isinstance(value, bool), "true or false"
        elif kind is float:
            fits, rule = is_number(value, -MOST, MOST), "a finite number"
        elif kind == float | None:
            fits, rule = value is None or is_number(value, -MOST, MOST), "a finite number or null"
        else:
            fits, rule = value is None or isinstance(value, str), "a text"
        if not fits:
            shown = "huge" if is_number(value) and abs(value) > MOST else repr(value)[:60]
            raise TypeError(f"{name} is {shown}, not {rule}")
