"""The networks that a recipe can name, one section for each kind, and what they share.

`kind` selects the section; without it a model is a MAE-ViT. A section's fields are part of a grid cell's identity, and
so are the fields of `mae` that the kind uses. `harness/models/architecture.py` builds what is stated here, and
`analysis/compute/systems.py` counts what it costs. Defaults are stated once: here, or where the FLOPs are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, JsonValue, Tag, model_validator

from analysis.compute.flops import VitMae
from analysis.compute.systems import DenseNet161, MuNetCost
from harness.recipe.fields import (
    Count,
    Name,
    PositiveFloat,
    PositiveInt,
    Probability,
    Section,
    Text,
    YamlPath,
    at_default,
    canonical_json,
)

Misfit = tuple[str, str]  # field of the model, and what is wrong with it
Ratio = Annotated[float, Field(gt=0, lt=1)]
Pool = Literal["mean", "class", "std", "mean_std"]
FourierMode = Literal["patch", "image"]
FourierNorm = Literal["backward", "ortho"]
VitSize = Literal["S", "B", "L", "G"]
BlockBias = Literal["mlp", "timm-0.8.13"]
Initialisation = Literal["mae", "released"]
Parametrisation = Literal["standard", "mup"]
BASE = frozenset({"base_width", "base_depth"})  # fields of `Mae` that only mup uses
BASE_HEAD_WIDTH = 64  # of a head whose attention mup scales as usual; that of every published ViT
DEFAULT_KIND = "mae_vit"
ARM = "kind-"  # prefix of unions' tags in pydantic's error paths; no field begins with it


class Mae(Section):
    """What all networks of the study share (crops and channels), and all masked vision transformers (A.2.3).

    Attributes:
        newer: as in `NetworkSection`.
    """

    newer: ClassVar[frozenset[str]] = frozenset(
        {"base_depth", "base_width", "block_bias", "channel_names", "initialisation", "parametrisation"}
    )  # as in `NetworkSection`

    crop: PositiveInt = Field(VitMae.crop, description="side of a crop, pixels")
    channels: PositiveInt = Field(VitMae.channels, description="number of channels of a crop")
    channel_names: Annotated[list[Text], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="names of a model's channels, in order; null: those of its training shards"
    )
    value_range: PositiveFloat | dict[Text, PositiveFloat] | None = Field(
        None,
        description="pixel value that counts as 1 before self-standardisation, or one for each channel by name; null: "
        "the type's, 255 or 65535, which leaves dim 16-bit channels below unit variance (docs/datasets.md)",
    )
    mask_ratio: Ratio = Field(VitMae.mask_ratio, description="share of the patches that is hidden")
    decoder_width: PositiveInt = Field(VitMae.decoder_width, description="length of a token in the decoder")
    decoder_depth: PositiveInt = Field(VitMae.decoder_depth, description="blocks of the decoder")
    decoder_heads: PositiveInt = Field(VitMae.decoder_heads, description="attention heads of the decoder")
    layer_scale: PositiveFloat = Field(1e-4, description="first value of the scale of each residual branch")
    qk_norm: bool = Field(True, description="normalise queries and keys")
    position_temperature: Annotated[float, Field(gt=1, le=1e9)] = Field(
        10_000.0, description="longest wavelength of the fixed positions, in 2 pi patches"
    )
    qkv_bias: Literal[False] = Field(False, description="no other value is supported")
    parallel_blocks: Literal[True] = Field(True, description="no other value is supported")
    block_bias: BlockBias = Field(
        "mlp",
        description="bias of an encoder block's first projection: of its MLP; or shifted onto q, k and v, as timm "
        "0.8.13 to 1.0.24 computed it and the published models were trained (docs/models.md)",
    )
    initialisation: Initialisation = Field(
        "mae",
        description="initial weights: Xavier uniform, as He et al.; or as the released configuration leaves them: "
        "timm's in the encoder, torch's own in the decoder",
    )
    parametrisation: Parametrisation = Field(
        "standard",
        description="how initial values and learning rates follow an encoder's width and depth: not at all; or by muP "
        "and CompleteP, so that one learning rate is meant for every size (docs/parametrisation.md)",
    )
    base_width: PositiveInt = Field(384, description="under mup, the width at which it changes nothing: ViT-S's")
    base_depth: PositiveInt = Field(12, description="under mup, the depth at which it changes nothing: ViT-S's")
    fourier_mode: FourierMode = Field(
        "patch", description="spectra that the Fourier loss compares: of each patch, or of the image"
    )
    fourier_norm: FourierNorm = Field(
        "backward", description="scale of the transform: unnormalised as published, or the same for every patch size"
    )


CROPS = frozenset({"crop", "channels", "channel_names", "value_range"})
PARAMETRISATION = frozenset({"parametrisation"}) | BASE
ENCODER = PARAMETRISATION | {"layer_scale", "qk_norm", "position_temperature", "block_bias", "initialisation"}


class NetworkSection(Section):
    """What the sections of all networks have in common.

    Attributes:
        mae_fields: fields of `Mae` that decide a result of this kind.
        is_classifier: trained on labels, so its loss compares with no masked loss.
        baseline_for: the recipe's section that a model which is never trained is used by; None for one that is trained.
        newer: fields that are part of an identity only where they differ from their default, because the kind existed
            before them.
    """

    mae_fields: ClassVar[frozenset[str]] = CROPS
    is_classifier: ClassVar[bool] = False
    baseline_for: ClassVar[str | None] = None
    newer: ClassVar[frozenset[str]] = frozenset()

    @property
    def patch_size(self) -> int | None:
        """Side of a patch, pixels; None for a network without patches."""
        return getattr(self, "patch", None)

    def own_identity(self) -> dict[str, JsonValue]:
        """The section's part of an identity: its fields, without the path of weights, which have a name for that."""
        left_out: dict[str, Any] = {"weights": {"path"}, **dict.fromkeys(at_default(self, self.newer), True)}
        return self.model_dump(mode="json", exclude=left_out)


class VitSection(NetworkSection):
    """The encoder of a vision transformer, of the kinds that the study trains."""

    width: PositiveInt = Field(description="length of a token")
    depth: PositiveInt = Field(description="number of blocks")
    heads: PositiveInt = Field(description="attention heads; must divide the width")
    patch: PositiveInt = Field(description="side of a patch, pixels; must divide the crop")
    drop_path: Probability = Field(0.0, description="stochastic depth of the last block; rises linearly to it")

    def unscalable(self, shared: Mae) -> list[Misfit]:
        """Heads whose attention mup cannot scale: without QK-norm it has no parameter to do that with."""
        if shared.parametrisation == "standard" or shared.qk_norm or self.width == BASE_HEAD_WIDTH * self.heads:
            return []
        rule = f"must be width / {BASE_HEAD_WIDTH} where mae.parametrisation is mup and mae.qk_norm is false"
        return [("heads", f"{self.heads} {rule}")]


class MaeVitSection(VitSection):
    """One MAE-ViT encoder (supplement A.2.3)."""

    mae_fields: ClassVar[frozenset[str]] = frozenset(Mae.model_fields)
    kind: Literal["mae_vit"] = Field(
        "mae_vit", exclude=True
    )  # left out, so that ids stay as they were before there were kinds
    size: Text = Field(
        description="the model's name in figures: S, B, L, G, or any other for a width and depth of your own"
    )
    fourier_weight: Probability = Field(0.0, description="weight of the Fourier loss; 0.01 for the '+' models")

    @model_validator(mode="after")
    def _divides(self) -> MaeVitSection:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.width % 4:
            raise ValueError(f"width {self.width} is not a multiple of 4, which 2-D sin-cos positions need")
        return self

    def misfits(self, shared: Mae) -> list[Misfit]:
        """Fields of this model that do not fit the study's crops."""
        return _indivisible("patch", self.patch, shared.crop) + self.unscalable(shared)


class MuNetSection(NetworkSection):
    """A masked U-net (supplement A.2.2); `docs/models.md` says which of it is published and which is our reading."""

    kind: Literal["mu_net"]
    size: Text = Field("MU-net", description="the model's name in figures")
    widths: Annotated[list[PositiveInt], Field(min_length=2, max_length=16)] = Field(
        list(MuNetCost.widths), description="channels of each scale; each is half as large as the one before"
    )
    blocks: PositiveInt = Field(
        MuNetCost.blocks, description="residual blocks of two convolutions at each scale, down and up"
    )
    kernel: Literal[3, 5] = Field(MuNetCost.kernel, description="side of a convolution, pixels")  # type: ignore[arg-type]
    mask_ratio: Ratio = Field(VitMae.mask_ratio, description="share of the squares that is hidden")
    mask_patch: PositiveInt = Field(16, description="side of the masked squares, pixels")

    def misfits(self, shared: Mae) -> list[Misfit]:
        """Fields of this model that do not fit the study's crops."""
        smallest = 2 ** (len(self.widths) - 1)
        misfits = _indivisible("mask_patch", self.mask_patch, shared.crop) + _without_mup(self.kind, shared)
        if shared.crop % smallest:
            misfits.append(("widths", f"{len(self.widths)} scales need a crop of a multiple of {smallest} pixels"))
        return misfits


class ChannelAgnosticSection(VitSection):
    """A channel-agnostic MAE; the decoder of each channel, the mask and the positions are the study's `mae`."""

    mae_fields: ClassVar[frozenset[str]] = frozenset(Mae.model_fields) - {"fourier_mode"}
    kind: Literal["channel_agnostic"]
    size: Text = Field("CA-MAE", description="the model's name in figures")
    fourier_weight: Probability = Field(0.0, description="weight of the Fourier loss; 0.01 for the '+' models")
    train_channels: Annotated[list[Count], Field(max_length=1000)] | None = Field(
        None, description="numbers of the channels to train on; null: all. Embedding takes all of its shards' channels"
    )

    def learned_channels(self, shared: Mae) -> list[int]:
        """The channels that it learns from."""
        return list(range(shared.channels)) if self.train_channels is None else self.train_channels

    def misfits(self, shared: Mae) -> list[Misfit]:
        """Fields of this model that do not fit the study's crops."""
        misfits = _indivisible("patch", self.patch, shared.crop) + self.unscalable(shared)
        if self.width % self.heads or self.width % 4:
            misfits.append(("width", f"{self.width} must be a multiple of heads, {self.heads}, and of 4"))
        channels = self.learned_channels(shared)
        if not channels or len(set(channels)) < len(channels) or max(channels) >= shared.channels:
            misfits.append(("train_channels", f"must be different numbers below mae.channels, {shared.channels}"))
        if shared.decoder_width % 8:
            misfits.append(
                ("kind", f"cross-attention needs mae.decoder_width {shared.decoder_width} to be a multiple of 8")
            )
        return misfits


class Weights(Section):
    """Weights from a local file; nothing is ever downloaded. The name, not the path, is part of an id."""

    name: Name = Field(description="what the weights are called; part of a cell's id")
    path: YamlPath = Field(description="of the file; no part of the id")


class DenseNetSection(NetworkSection):
    """A weakly supervised DenseNet-161 (supplement A.2.1), with AdaBN over plates where it is `adaptive`."""

    is_classifier: ClassVar[bool] = True
    newer: ClassVar[frozenset[str]] = frozenset({"growth", "layers"})
    kind: Literal["densenet"]
    size: Text = Field("DenseNet-161", description="the model's name in figures")
    adaptive: bool = Field(False, description="AdaBN: batches and statistics of one plate; else sampling by label")
    group: Annotated[int, Field(ge=2, le=65_536)] = Field(
        16, description="crops of a sub-batch of the normalisation (GhostBN)"
    )
    embedding: PositiveInt | None = Field(None, description="width of a linear layer after the 2,208 features")
    growth: PositiveInt = Field(
        DenseNet161.growth, description="features that a layer adds; the first convolution has twice as many"
    )
    layers: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1, max_length=16)] = Field(
        DenseNet161.layers, description="layers of each dense block"
    )
    label: Text = Field("treatment", description="column of the wells that names the classes")
    weights: Weights | None = Field(None, description="to begin with: ImageNet's, from disk; null: random")

    def misfits(self, shared: Mae) -> list[Misfit]:
        """Fields of this model that do not fit the study's crops."""
        uneven = [("kind", f"a DenseNet halves crops five times: {shared.crop} pixels")] if shared.crop % 32 else []
        return uneven + _without_mup(self.kind, shared)


class VitClassifierSection(VitSection):
    """A weakly supervised classifier with the architecture of a MAE-ViT's encoder (supplement A.2.1)."""

    mae_fields: ClassVar[frozenset[str]] = CROPS | ENCODER
    is_classifier: ClassVar[bool] = True
    kind: Literal["vit_classifier"]
    size: Text = Field("ViT-WSL", description="the model's name in figures")
    label: Text = Field("treatment", description="column of the wells that names the classes")

    def misfits(self, shared: Mae) -> list[Misfit]:
        """Fields of this model that do not fit the study's crops."""
        misfits = _indivisible("patch", self.patch, shared.crop) + self.unscalable(shared)
        if self.width % self.heads or self.width % 4:
            misfits.append(("width", f"{self.width} must be a multiple of heads, {self.heads}, and of 4"))
        return misfits


class ImagenetSection(NetworkSection):
    """A vision transformer trained on ImageNet: never trained here, only embedded and evaluated.

    The defaults are timm's vit_large_patch16_224. `docs/models.md` says how it takes crops of any size and channels.
    """

    baseline_for: ClassVar[str | None] = "embed"
    kind: Literal["imagenet"]
    size: Text = Field("ImageNet ViT-L/16", description="the model's name in figures")
    width: PositiveInt = Field(1024, description="length of a token")
    depth: PositiveInt = Field(24, description="number of blocks")
    heads: PositiveInt = Field(16, description="attention heads; must divide the width")
    patch: PositiveInt = Field(16, description="side of a patch, pixels")
    weights: Weights = Field(description="ImageNet's, from disk")

    def misfits(self, shared: Mae) -> list[Misfit]:
        """Fields of this model that do not fit the study's crops."""
        misfits = _indivisible("patch", self.patch, shared.crop)
        if self.width % self.heads:
            misfits.append(("width", f"{self.width} must be a multiple of heads, {self.heads}"))
        return misfits


class ProfilesSection(Section):
    """Features measured with other software, such as CellProfiler's: neither trained nor embedded, only evaluated."""

    is_classifier: ClassVar[bool] = False
    baseline_for: ClassVar[str | None] = "evaluate"
    kind: Literal["profiles"]
    tables: Annotated[list[YamlPath], Field(min_length=1, max_length=1000)] = Field(
        description="wells and their features, one file after another: .csv, .csv.gz, .tsv or .parquet"
    )

    def misfits(self, shared: Mae) -> list[Misfit]:
        """None: profiles use no crops."""
        return []


def _indivisible(field: str, patch: int, crop: int) -> list[Misfit]:
    return [(field, f"{patch} does not divide the crop of {crop} pixels")] if crop % patch else []


def _without_mup(kind: str, shared: Mae) -> list[Misfit]:
    text = f"mae.parametrisation is mup, which {kind} does not have: only mae_vit, channel_agnostic and vit_classifier"
    return [("kind", text)] if shared.parametrisation == "mup" else []


def _arm(value: Any) -> str:  # noqa: ANN401  (any YAML value)
    kind = value.get("kind", DEFAULT_KIND) if isinstance(value, dict) else getattr(value, "kind", DEFAULT_KIND)
    return f"{ARM}{kind}"


Model = Annotated[
    Annotated[MaeVitSection, Tag(f"{ARM}mae_vit")]
    | Annotated[MuNetSection, Tag(f"{ARM}mu_net")]
    | Annotated[ChannelAgnosticSection, Tag(f"{ARM}channel_agnostic")]
    | Annotated[DenseNetSection, Tag(f"{ARM}densenet")]
    | Annotated[VitClassifierSection, Tag(f"{ARM}vit_classifier")]
    | Annotated[ImagenetSection, Tag(f"{ARM}imagenet")]
    | Annotated[ProfilesSection, Tag(f"{ARM}profiles")],
    Discriminator(_arm),
]
Network = (
    MaeVitSection | MuNetSection | ChannelAgnosticSection | DenseNetSection | VitClassifierSection | ImagenetSection
)


@dataclass(frozen=True)
class Architecture:
    """The network of a grid cell: its section of `models`, and the study's `mae`, of which its kind uses a part."""

    model: Network
    mae: Mae

    def identity(self) -> dict[str, JsonValue]:
        """All that decides what the network computes, as JSON."""
        unused = BASE if self.mae.parametrisation == "standard" else frozenset[str]()
        fields = set(self.model.mae_fields) - at_default(self.mae, Mae.newer) - unused
        return {**self.mae.model_dump(mode="json", include=fields), **self.model.own_identity()}

    @cached_property
    def identity_json(self) -> str:
        """The identity as canonical JSON, made once for all cells of the architecture."""
        return canonical_json(self.identity())

    @cached_property
    def fields_json(self) -> str:
        """Every field, also of no part in the identity: equal for architectures that are the same in all."""
        return f"{self.model.model_dump_json()} {self.mae.model_dump_json()}"
