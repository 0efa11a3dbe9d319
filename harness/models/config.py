"""The shape of a masked autoencoder, in plain numbers: no torch here, so that planning starts fast."""

import re
from dataclasses import dataclass
from typing import Literal

Pool = Literal["class", "mean", "std", "mean_std"]
FourierMode = Literal["patch", "image"]
FourierNorm = Literal["ortho", "backward"]
VitSize = Literal["S", "B", "L"]

_POOLS = ("class", "mean", "std", "mean_std")
_FOURIER_MODES = ("patch", "image")
_FOURIER_NORMS = ("ortho", "backward")

# size: (width, depth, heads, drop path); supplement A.2.3
_VIT: dict[VitSize, tuple[int, int, int, float]] = {
    "S": (384, 12, 6, 0.1),
    "B": (768, 12, 12, 0.1),
    "L": (1024, 24, 16, 0.3),
}


@dataclass(frozen=True)
class MaeConfig:
    """Everything that shapes a MAE-ViT and its loss.

    Attributes:
        width, depth, heads: of the encoder.
        patch: side of a square patch, pixels.
        crop: side of a square crop, pixels.
        channels: of an image; one patch holds all of them.
        decoder_width, decoder_depth, decoder_heads: of the decoder.
        mask_ratio: share of patches hidden from the encoder.
        drop_path: stochastic depth of the last encoder block; earlier blocks rise linearly from 0.
        layer_scale: initial LayerScale of the encoder blocks; None leaves it out.
        qk_norm: LayerNorm on each encoder head's queries and keys.
        position_temperature: longest wavelength of the fixed positions, in units of 2π patches.
        fourier_weight: alpha of (1 - alpha) L_MAE + alpha L_FT; 0 for plain models, .01 for "+".
        fourier_mode: transform each patch, or the whole image with visible patches pasted in.
        fourier_norm: torch's name of the transform's scale. "ortho" keeps magnitudes at the size of pixels whatever
            the patch; "backward" does not scale, which makes the term `patch` (mode "image": `crop`) times as heavy.
            The paper does not say which its alpha belongs to.
        pool: how tokens become one embedding: class token, mean of patch tokens, their standard deviation, or both
            side by side. Always after the final norm.

    Raises:
        ValueError: a field, or two fields together, make no network; the message says which and what would do.
    """

    width: int = 384
    depth: int = 12
    heads: int = 6
    patch: int = 16
    crop: int = 256
    channels: int = 6
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    mask_ratio: float = 0.75
    drop_path: float = 0.1
    layer_scale: float | None = 1e-4
    qk_norm: bool = True
    position_temperature: float = 10_000.0
    fourier_weight: float = 0.0
    fourier_mode: FourierMode = "patch"
    fourier_norm: FourierNorm = "ortho"
    pool: Pool = "mean"

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_widths()
        _require(self.fourier_mode in _FOURIER_MODES, "fourier_mode", self.fourier_mode, f"one of {_FOURIER_MODES}")
        _require(self.fourier_norm in _FOURIER_NORMS, "fourier_norm", self.fourier_norm, f"one of {_FOURIER_NORMS}")
        _require(self.pool in _POOLS, "pool", self.pool, f"one of {_POOLS}")
        if self.crop % self.patch:
            raise ValueError(f"crop {self.crop} is not a multiple of patch {self.patch}")
        if not 0 < self.visible_tokens < self.tokens:
            raise ValueError(
                f"mask_ratio {self.mask_ratio} leaves {self.visible_tokens} of {self.tokens} patches visible: "
                "at least one must be visible and one masked"
            )

    def _check_numbers(self) -> None:
        for name in ("width", "depth", "heads", "patch", "crop", "channels"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "a positive whole number")
        for name in ("decoder_width", "decoder_depth", "decoder_heads"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "a positive whole number")
        _require(0 <= self.mask_ratio <= 1, "mask_ratio", self.mask_ratio, "between 0 and 1")
        _require(0 <= self.drop_path < 1, "drop_path", self.drop_path, "at least 0 and below 1")
        _require(0 <= self.fourier_weight <= 1, "fourier_weight", self.fourier_weight, "between 0 and 1")
        scale = self.layer_scale
        waves = self.position_temperature
        _require(waves > 1, "position_temperature", waves, "above 1")
        _require(scale is None or scale > 0, "layer_scale", scale, "positive, or None for no LayerScale")

    def _check_widths(self) -> None:
        for prefix in ("", "decoder_"):
            width, heads = getattr(self, f"{prefix}width"), getattr(self, f"{prefix}heads")
            _require(width % heads == 0, f"{prefix}width", width, f"a multiple of {prefix}heads ({heads})")
            _require(width % 4 == 0, f"{prefix}width", width, "a multiple of 4 (sine and cosine of two axes)")

    @property
    def grid(self) -> int:
        """Patches along one side of a crop."""
        return self.crop // self.patch

    @property
    def tokens(self) -> int:
        """Patches in a crop, the class token not counted."""
        return self.grid**2

    @property
    def visible_tokens(self) -> int:
        """Patches that the encoder sees in training."""
        return round(self.tokens * (1 - self.mask_ratio))

    @property
    def noise_values(self) -> int:
        """Random numbers that a crop takes in training: one per patch, and one per block under stochastic depth."""
        return self.tokens + (self.depth if self.drop_path else 0)

    @property
    def patch_values(self) -> int:
        """Numbers in one patch: channels × patch × patch."""
        return self.channels * self.patch**2

    @property
    def embedding_width(self) -> int:
        """Length of the vector that `embed` gives for one crop."""
        return self.width * (2 if self.pool == "mean_std" else 1)


# Every MAE-ViT of the supplement, by the paper's names: "S/16", "L/8+" ...
PAPER_MODELS: tuple[str, ...] = tuple(
    f"{size}/{patch}{plus}" for size in _VIT for patch in (16, 8) for plus in ("", "+")
)


def named_config(name: str) -> MaeConfig:
    """The MAE-ViT of a name as in the paper's tables: size, patch, and "+" for the Fourier loss.

    Raises:
        ValueError: no such model; the message lists those there are.
    """
    parts = re.fullmatch(r"([SBL])/(16|8)(\+?)", name)
    if parts is None:
        raise ValueError(f"no model {name!r}: the paper has {', '.join(PAPER_MODELS)}")
    size, patch, plus = parts.groups()
    return vit_config(size, int(patch), plus=bool(plus))  # type: ignore[arg-type]


def vit_config(size: VitSize, patch: int, *, plus: bool = False) -> MaeConfig:
    """One of the paper's MAE-ViTs (supplement A.2.3); "+" adds the Fourier loss at alpha = .01.

    Raises:
        ValueError: no such size.
    """
    if size not in _VIT:
        raise ValueError(f"no ViT of size {size!r}: the paper has {', '.join(_VIT)}")
    width, depth, heads, drop_path = _VIT[size]
    fourier_weight = 0.01 if plus else 0.0
    return MaeConfig(
        width=width, depth=depth, heads=heads, patch=patch, drop_path=drop_path, fourier_weight=fourier_weight
    )


def _require(holds: bool, field: str, value: object, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{field} is {value!r}: it must be {wanted}")
