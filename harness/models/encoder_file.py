"""An encoder in one file: safetensors whose header says how to build it. Reading it needs no recipe and no pickle.

Keys are those of timm's `VisionTransformer` with `block_fn=ParallelScalingBlock` (docs/models.md lists them). The
header's metadata holds `format`, `config` (JSON of `MaeConfig`), `value_range` (JSON) and whatever the writer adds.

Shapes: B batch, C channels, H height, W width, L tokens (patches), D width.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from harness.models.config import MaeConfig
from harness.models.layers.blocks import MLP_RATIO
from harness.models.layers.timm_import import import_timm
from harness.recipe.models import Pool
from harness.storage.atomic import write_atomic
from shards.loader.transform import self_standardise

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

FORMAT = "microscopy-scaling-encoder-1"
MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
_TIMM_POOL: dict[Pool, Literal["token", "avg"]] = {"class": "token", "mean": "avg"}
_FLOAT_TYPES = ("F64", "F32", "F16", "BF16")


class EncoderFileError(ValueError):
    """A file that is no encoder of ours; the text names it and says what it is instead."""


class SelfStandardise(nn.Module):
    """Pixels (B, C, H, W) or (C, H, W) → what the encoder was trained on: every image and channel at mean 0 and
    variance 1 (`loader.transform.self_standardise`). Give it pixels as they were imaged, neither scaled nor clipped."""

    def __init__(self, value_range: float | None = None) -> None:
        super().__init__()
        self.value_range = value_range

    def forward(self, images: Tensor) -> Tensor:
        """Raises ValueError for floating point images where no value range is known."""
        batch = images if images.ndim == 4 else images.unsqueeze(0)
        standardised = self_standardise(batch, self.value_range)
        return standardised if images.ndim == 4 else standardised[0]


def save_encoder(
    path: Path,
    weights: Mapping[str, Tensor],
    config: MaeConfig,
    *,
    value_range: float | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write an encoder's weights, named as in `MaskedAutoencoder.encoder.state_dict()`, whole or not at all.

    Raises:
        EncoderFileError: weights that the configuration does not have, or not all that it has.
    """
    from safetensors.torch import save

    _check_shapes(path, {name: tuple(value.shape) for name, value in weights.items()}, config)
    metadata = {
        **(notes or {}), "format": FORMAT, "config": json.dumps(asdict(config)), "value_range": json.dumps(value_range)
    }  # fmt: skip
    tensors = {name: value.detach().contiguous().cpu() for name, value in weights.items()}
    write_atomic(path, lambda file: file.write(save(tensors, metadata)))


def cut_encoder(weights: Mapping[str, Tensor], config: MaeConfig, blocks: int) -> tuple[dict[str, Tensor], MaeConfig]:
    """An encoder's first `blocks` blocks, followed by its final norm: weights and configuration for `save_encoder`.

    A linear probe often reads more from a block before the last (`analysis.probes`); this is how to keep that encoder.

    Raises:
        EncoderFileError: it has no block of that number.
    """
    if not 1 <= blocks <= config.depth:
        raise EncoderFileError(f"an encoder of {config.depth} blocks cannot be cut after block {blocks}")
    dropped = tuple(f"blocks.{number}." for number in range(blocks, config.depth))
    kept = {name: value for name, value in weights.items() if not name.startswith(dropped)}
    drop_path = config.drop_path * (blocks - 1) / max(1, config.depth - 1)  # it rises with depth
    return kept, replace(config, depth=blocks, drop_path=drop_path)


def load_encoder(path: Path | str) -> VisionTransformer:
    """A plain timm `VisionTransformer` in eval mode: `forward_features` gives normed tokens (B, 1 + L, D), the class
    token first, and `forward` one vector per image, pooled as the model's recipe pooled.

    It takes self-standardised crops: `load_transform(path)` makes them. `model.pretrained_cfg` holds the metadata.

    Raises:
        EncoderFileError: a pickle, a file that is damaged or foreign, or one whose tensors do not fit its header.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    config, metadata = _read_checked(path)
    model: Any = build_encoder(config)
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise EncoderFileError(f"{path}: damaged: {error}") from error
    broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise EncoderFileError(f"{path}: {broken[0]} holds NaN or infinity: this model's training broke")
    model.load_state_dict(weights, assign=True)
    model.pos_embed.requires_grad_(False)  # fixed in training; timm would train it
    model.pretrained_cfg = metadata
    encoder: VisionTransformer = model.eval()
    return encoder


def load_transform(path: Path | str) -> SelfStandardise:
    """The transform that an encoder file's crops went through in training. Raises what `load_encoder` raises."""
    _, metadata = _read_checked(Path(path))
    return SelfStandardise(json.loads(metadata["value_range"]))


def load_config(path: Path | str) -> MaeConfig:
    """The configuration in an encoder file's header. Raises what `load_encoder` raises."""
    return _read_checked(Path(path))[0]


def build_encoder(config: MaeConfig) -> VisionTransformer:
    """The timm model of a configuration, its weights on meta: fill it with `load_state_dict(..., assign=True)`."""
    vision_transformer = import_timm().models.vision_transformer
    pooled_by_timm = config.pool in _TIMM_POOL
    build = vision_transformer.VisionTransformer if pooled_by_timm else _with_spread_pool(config.pool)
    with torch.device("meta"):
        model: VisionTransformer = build(
            img_size=config.crop, patch_size=config.patch, in_chans=config.channels, num_classes=0,
            global_pool=_TIMM_POOL.get(config.pool, "avg"), fc_norm=False, embed_dim=config.width, depth=config.depth,
            num_heads=config.heads, mlp_ratio=MLP_RATIO, qkv_bias=False, qk_norm=config.qk_norm,
            init_values=config.layer_scale, drop_path_rate=config.drop_path, weight_init="skip",
            block_fn=vision_transformer.ParallelScalingBlock,
        )  # fmt: skip
    model.num_features = model.head_hidden_size = config.embedding_width
    return model


def _with_spread_pool(pool: Pool) -> type[VisionTransformer]:
    """timm's model with the two pools that timm has not."""

    class SpreadPoolTransformer(import_timm().models.vision_transformer.VisionTransformer):  # type: ignore[misc]
        def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
            patches = x[:, 1:]
            spread = patches.std(dim=1, correction=0)
            return spread if pool == "std" else torch.cat([patches.mean(dim=1), spread], dim=1)

    return SpreadPoolTransformer


def _read_checked(path: Path) -> tuple[MaeConfig, dict[str, str]]:
    """Configuration and metadata of a file whose tensors are those the configuration has, by name and shape."""
    header = read_header(path)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise EncoderFileError(
            f"{path}: safetensors, but no encoder of this project (its metadata has no format {FORMAT!r}); "
            "python -m harness.export writes one"
        )
    config = _config(path, metadata)
    try:
        shapes = {name: tuple(int(n) for n in entry["shape"]) for name, entry in header.items()}
        other = [f"{name} is {entry['dtype']}" for name, entry in header.items() if entry["dtype"] not in _FLOAT_TYPES]
        float(json.loads(metadata["value_range"]) or 1)
    except (KeyError, TypeError, ValueError) as error:
        raise EncoderFileError(f"{path}: its header is not one that safetensors writes ({error!r})") from error
    if other:
        raise EncoderFileError(f"{path}: {other[0]}: weights are floating point ({', '.join(_FLOAT_TYPES)})")
    _check_shapes(path, shapes, config)
    return config, metadata


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file, read without trusting it: its first bytes say what it is.

    Raises:
        EncoderFileError: a pickle, or anything else that is no safetensors file.
    """
    try:
        with path.open("rb") as file:
            start, brace = file.read(8), file.read(1)
            if brace != b"{":  # as every safetensors header begins
                _refuse_pickle(path, start)
            size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= size <= min(MAX_HEADER_BYTES, path.stat().st_size - 8):
                raise EncoderFileError(f"{path}: not a safetensors file, or cut off in its header")
            header = json.loads(brace + file.read(size - 1))
    except OSError as error:
        raise EncoderFileError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, EncoderFileError):
            raise
        raise EncoderFileError(f"{path}: not a safetensors file: its header is not JSON") from error
    if not isinstance(header, dict):
        raise EncoderFileError(f"{path}: not a safetensors file: its header is no mapping")
    return header


def _refuse_pickle(path: Path, start: bytes) -> None:
    """A torch checkpoint is a ZIP of pickles, an old one a pickle; renaming it makes it no safer."""
    if start.startswith(b"PK\x03\x04") or start[:1] == b"\x80":
        raise EncoderFileError(
            f"{path}: a pickle under another name (torch.save): it could run any code, so it is not opened; "
            "have its owner export safetensors"
        )


def _config(path: Path, metadata: Mapping[str, Any]) -> MaeConfig:
    try:
        values = json.loads(metadata["config"])
        types = {field.name: field.type for field in fields(MaeConfig)}
        unknown = sorted(set(values) - types.keys())
        if unknown:
            raise EncoderFileError(f"{path}: its config has {unknown[0]!r}, which this version does not know")
        fractional = [name for name, value in values.items() if types[name] is int and type(value) is not int]
        if fractional:
            raise TypeError(f"{fractional[0]} is {values[fractional[0]]!r}, not a whole number")
        return MaeConfig(**values)
    except EncoderFileError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise EncoderFileError(f"{path}: its config makes no encoder: {error}") from error


def expected_shapes(config: MaeConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an encoder; plain arithmetic, so that a hostile config allocates nothing."""
    D, hidden, head = config.width, MLP_RATIO * config.width, config.width // config.heads
    block: dict[str, tuple[int, ...]] = {
        "in_norm.weight": (D,), "in_norm.bias": (D,), "in_proj.weight": (hidden + 3 * D, D), "mlp_bias": (hidden,),
        "attn_out_proj.weight": (D, D), "attn_out_proj.bias": (D,), "mlp_out_proj.weight": (D, hidden),
        "mlp_out_proj.bias": (D,),
    }  # fmt: skip
    if config.qk_norm:
        block |= {f"{norm}.{end}": (head,) for norm in ("q_norm", "k_norm") for end in ("weight", "bias")}
    if config.layer_scale is not None:
        block["ls.gamma"] = (D,)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, D), "pos_embed": (1, config.tokens, D), "norm.weight": (D,), "norm.bias": (D,),
        "patch_embed.proj.weight": (D, config.channels, config.patch, config.patch), "patch_embed.proj.bias": (D,),
    }  # fmt: skip
    return shapes | {f"blocks.{n}.{name}": shape for n in range(config.depth) for name, shape in block.items()}


def _check_shapes(path: Path, found: Mapping[str, tuple[int, ...]], config: MaeConfig) -> None:
    if config.depth > len(found):  # before anything of that length is made
        raise EncoderFileError(f"{path}: its config has {config.depth} blocks, the file has {len(found)} tensors")
    wanted = expected_shapes(config)
    missing, foreign = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or foreign:
        lacks = f"lacks {missing[0]!r}" if missing else f"has {foreign[0]!r}, which an encoder has not"
        raise EncoderFileError(f"{path}: {lacks} ({len(missing)} missing, {len(foreign)} foreign)")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise EncoderFileError(f"{path}: {name} has shape {found[name]}, its config says {shape}")
