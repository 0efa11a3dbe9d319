"""The networks that a recipe can name, one section for each kind, and what they share.

`kind` says which; without it a model is a MAE-ViT. A kind's fields are its science: all of them are part of a cell's
identity. `networks.py` builds what stands here, `costs.py` says what it costs.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag, model_validator

from harness.recipe.fields import Count, Name, Probability, Section, YamlPath

Misfit = tuple[str, str]  # field of the model, and what is wrong with it
Ratio = Annotated[float, Field(gt=0, lt=1)]
DEFAULT_KIND = "mae_vit"
ARM = "kind-"  # what pydantic's error paths name the arms of the union by; no field begins so


class Mae(Section):
    """What all networks of the study share (crops and channels), and all masked vision transformers (A.2.3)."""

    crop: PositiveInt = 256
    channels: PositiveInt = 6
    value_range: PositiveFloat | None = Field(
        None, description="pixel value that counts as 1 before self-standardisation; null: the type's, 255 or 65535"
    )
    mask_ratio: Ratio = 0.75
    decoder_width: PositiveInt = 512
    decoder_depth: PositiveInt = 8
    decoder_heads: PositiveInt = 16
    layer_scale: PositiveFloat = 1e-4
    qk_norm: bool = True
    position_temperature: Annotated[float, Field(gt=1)] = Field(
        10_000.0, description="longest wavelength of the fixed positions, in 2 pi patches"
    )
    qkv_bias: Literal[False] = False
    parallel_blocks: Literal[True] = True
    fourier_mode: Literal["patch", "image"] = "patch"
    fourier_norm: Literal["backward", "ortho"] = Field(
        "backward", description="scale of the transform: unnormalised as published, or the same for every patch size"
    )


class MaeVit(Section):
    """One MAE-ViT encoder (supplement A.2.3)."""

    kind: Literal["mae_vit"] = Field("mae_vit", exclude=True)  # left out, so that ids are those of before
    size: Literal["S", "B", "L"]
    width: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    patch: PositiveInt
    drop_path: Probability = 0.0
    fourier_weight: Probability = Field(0.0, description="weight of the Fourier loss; .01 for the '+' models")

    @model_validator(mode="after")
    def _divides(self) -> MaeVit:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.width % 4:
            raise ValueError(f"width {self.width} is not a multiple of 4, which 2-D sin-cos positions need")
        return self

    def misfits(self, shared: Mae) -> list[Misfit]:
        """What of this model does not fit the study's crops."""
        return _indivisible("patch", self.patch, shared.crop)


class MuNet(Section):
    """A masked U-net (supplement A.2.2); `docs/models.md` says what of it is known and what is our reading."""

    kind: Literal["mu_net"]
    size: str = Field("MU-net", description="its name in figures")
    widths: Annotated[list[PositiveInt], Field(min_length=2)] = Field(
        [32, 64, 128, 256, 512], description="channels of each scale; each is half as large as the one before"
    )
    blocks: PositiveInt = Field(6, description="residual blocks of two convolutions at each scale, down and up")
    kernel: Literal[3, 5] = 3
    mask_ratio: Ratio = 0.75
    mask_patch: PositiveInt = Field(16, description="side of the squares that are hidden, pixels")

    def misfits(self, shared: Mae) -> list[Misfit]:
        """What of this model does not fit the study's crops."""
        smallest = 2 ** (len(self.widths) - 1)
        found = _indivisible("mask_patch", self.mask_patch, shared.crop)
        if shared.crop % smallest:
            found.append(("widths", f"{len(self.widths)} scales need a crop of a multiple of {smallest} pixels"))
        return found


class ChannelAgnostic(Section):
    """A channel-agnostic MAE; the decoder of each channel, the mask and the positions are the study's `mae`."""

    kind: Literal["channel_agnostic"]
    size: str = Field("CA-MAE", description="its name in figures")
    width: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    patch: PositiveInt
    drop_path: Probability = 0.0
    fourier_weight: Probability = Field(0.0, description="weight of the Fourier loss; .01 for the '+' models")
    train_channels: list[Count] | None = Field(
        None, description="numbers of the channels to train on; null: all. Embedding takes all of its shards' channels"
    )

    def trained(self, shared: Mae) -> list[int]:
        """The channels that it learns from."""
        return list(range(shared.channels)) if self.train_channels is None else self.train_channels

    def misfits(self, shared: Mae) -> list[Misfit]:
        """What of this model does not fit the study's crops."""
        found = _indivisible("patch", self.patch, shared.crop)
        if self.width % self.heads or self.width % 4:
            found.append(("width", f"{self.width} must be a multiple of heads, {self.heads}, and of 4"))
        chosen = self.trained(shared)
        if not chosen or len(set(chosen)) < len(chosen) or max(chosen) >= shared.channels:
            found.append(("train_channels", f"must be different numbers below mae.channels, {shared.channels}"))
        if shared.decoder_width % 8:
            found.append(
                ("kind", f"cross-attention needs mae.decoder_width {shared.decoder_width} to be a multiple of 8")
            )
        return found


class Weights(Section):
    """Weights from a file of yours; nothing is ever downloaded. The name, not the path, is part of an id."""

    name: Name
    path: YamlPath


class DenseNet(Section):
    """A weakly supervised DenseNet-161 (supplement A.2.1), with AdaBN over plates where it is `adaptive`."""

    kind: Literal["densenet"]
    size: str = Field("DenseNet-161", description="its name in figures")
    adaptive: bool = Field(False, description="AdaBN: batches and statistics of one plate; else sampling by label")
    group: Annotated[int, Field(ge=2)] = Field(16, description="crops of a sub-batch of the normalisation (GhostBN)")
    embedding: PositiveInt | None = Field(None, description="width of a linear layer after the 2,208 features")
    growth: PositiveInt = Field(48, description="features that a layer adds; the first convolution has twice as many")
    layers: Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)] = Field(
        (6, 12, 36, 24), description="layers of each dense block"
    )
    label: str = Field("treatment", description="column of the wells that names the classes")
    weights: Weights | None = Field(None, description="to begin with: ImageNet's, from disk; null: random")

    def misfits(self, shared: Mae) -> list[Misfit]:
        """What of this model does not fit the study's crops."""
        return [("kind", f"a DenseNet halves crops five times: {shared.crop} pixels")] if shared.crop % 32 else []


class VitClassifier(Section):
    """A weakly supervised classifier with the architecture of a MAE-ViT's encoder (supplement A.2.1)."""

    kind: Literal["vit_classifier"]
    size: str = Field("ViT-WSL", description="its name in figures")
    width: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    patch: PositiveInt
    drop_path: Probability = 0.0
    label: str = Field("treatment", description="column of the wells that names the classes")

    def misfits(self, shared: Mae) -> list[Misfit]:
        """What of this model does not fit the study's crops."""
        found = _indivisible("patch", self.patch, shared.crop)
        if self.width % self.heads or self.width % 4:
            found.append(("width", f"{self.width} must be a multiple of heads, {self.heads}, and of 4"))
        return found


class Imagenet(Section):
    """A vision transformer that learnt from ImageNet: never trained here, only embedded and evaluated.

    The defaults are timm's vit_large_patch16_224. `docs/models.md` says how it takes crops of any size and channels.
    """

    kind: Literal["imagenet"]
    size: str = Field("ImageNet ViT-L/16", description="its name in figures")
    width: PositiveInt = 1024
    depth: PositiveInt = 24
    heads: PositiveInt = 16
    patch: PositiveInt = 16
    weights: Weights

    def misfits(self, shared: Mae) -> list[Misfit]:
        """What of this model does not fit the study's crops."""
        found = _indivisible("patch", self.patch, shared.crop)
        if self.width % self.heads:
            found.append(("width", f"{self.width} must be a multiple of heads, {self.heads}"))
        return found


class Profiles(Section):
    """Features measured elsewhere, such as CellProfiler's: neither trained nor embedded, only evaluated."""

    kind: Literal["profiles"]
    tables: Annotated[list[YamlPath], Field(min_length=1)] = Field(
        description="wells and their features, one file after another: .csv, .csv.gz, .tsv or .parquet"
    )

    def misfits(self, shared: Mae) -> list[Misfit]:
        """Nothing: no crop is looked at."""
        return []


def _indivisible(field: str, patch: int, crop: int) -> list[Misfit]:
    return [(field, f"{patch} does not divide the crop of {crop} pixels")] if crop % patch else []


def _arm(value: Any) -> str:  # noqa: ANN401  (whatever stands in the YAML)
    kind = value.get("kind", DEFAULT_KIND) if isinstance(value, dict) else getattr(value, "kind", DEFAULT_KIND)
    return f"{ARM}{kind}"


Model = Annotated[
    Annotated[MaeVit, Tag(f"{ARM}mae_vit")]
    | Annotated[MuNet, Tag(f"{ARM}mu_net")]
    | Annotated[ChannelAgnostic, Tag(f"{ARM}channel_agnostic")]
    | Annotated[DenseNet, Tag(f"{ARM}densenet")]
    | Annotated[VitClassifier, Tag(f"{ARM}vit_classifier")]
    | Annotated[Imagenet, Tag(f"{ARM}imagenet")]
    | Annotated[Profiles, Tag(f"{ARM}profiles")],
    Discriminator(_arm),
]
CLASSIFIERS = ("densenet", "vit_classifier")
FIXED = {
    "imagenet": "embed",
    "profiles": "evaluate",
}  # kinds that are never trained, and the section they are there for
LATER = {"growth", "layers"}  # in an id only where they are not as before there were such fields
SHARED: dict[str, set[str]] = {  # fields of `Mae` that decide a kind's result; of a MAE-ViT's, all
    "mu_net": {"crop", "channels", "value_range"},
    "densenet": {"crop", "channels", "value_range"},
    "vit_classifier": {"crop", "channels", "value_range", "layer_scale", "qk_norm", "position_temperature"},
    "channel_agnostic": set(Mae.model_fields) - {"fourier_mode"},
    "imagenet": {"crop", "channels", "value_range"},
}


def architecture(model: Model, shared: Mae) -> dict[str, Any]:
    """All that decides what a model computes, as JSON: its own fields, and those of `shared` that it heeds."""
    own = model.model_dump(mode="json", exclude={"weights": {"path"}})
    for name in LATER.intersection(own):
        if getattr(model, name) == type(model).model_fields[name].default:
            del own[name]
    return {**shared.model_dump(mode="json", include=SHARED.get(model.kind)), **own}
