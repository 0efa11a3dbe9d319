"""Save and load an encoder as one safetensors file with its configuration in the header, without recipe or pickle.

Keys are those of timm's `VisionTransformer` with `block_fn=ParallelScalingBlock` (docs/models.md lists them). The
header's metadata holds `format`, `config` (JSON of `MaeConfig`), `value_range` (JSON), `timm` (the version installed at
the export) and the caller's notes. An encoder whose `block_bias` is "timm-0.8.13" is written as a block with QKV bias
(`in_proj.bias` in place of `mlp_bias`), which every version of timm computes alike.

Shapes: B batch, C channels, H height, W width, L tokens (patches), D width.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor

from harness.models.config import MOST, MaeConfig, check_types
from harness.models.layers.blocks import MLP_RATIO, PLAIN_BIAS, SHIFTED_BIAS, pad_shifted
from harness.models.layers.self_standardise import SelfStandardise
from harness.models.layers.timm_import import import_timm
from harness.recipe.models import PARAMETRISATION, Pool
from harness.storage.json_files import is_number, parse_json
from harness.storage.safetensors_header import Header, HeaderError
from harness.storage.safetensors_header import read_header as header_of
from harness.storage.weights import write_safetensors

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

FORMAT = "microscopy-scaling-encoder-2"
FORMAT_1 = "microscopy-scaling-encoder-1"  # without `block_bias`
_TIMM_POOL: dict[Pool, Literal["token", "avg"]] = {"class": "token", "mean": "avg"}
_FLOAT_TYPES = ("F64", "F32", "F16", "BF16")


class EncoderFileError(ValueError):
    """A file is not an encoder of this project; the message names the file and the problem."""


def save_encoder(
    path: Path,
    weights: Mapping[str, Tensor],
    config: MaeConfig,
    *,
    value_range: float | Sequence[float] | None = None,
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write an encoder's weights atomically, named as in `MaskedAutoencoder.encoder.state_dict()`.

    Raises:
        EncoderFileError: names or shapes of the weights are not those of the configuration.
    """
    weights = _as_file(weights)
    _check_shapes(path, {name: tuple(value.shape) for name, value in weights.items()}, config)
    metadata = {
        **(notes or {}), "format": FORMAT, "config": json.dumps(_stated(config)),
        "value_range": json.dumps(value_range), "timm": import_timm().__version__,
    }  # fmt: skip
    tensors = {name: value.detach().contiguous().cpu() for name, value in weights.items()}
    write_safetensors(path, tensors, metadata)


def _stated(config: MaeConfig) -> dict[str, Any]:
    """The configuration without what decides only how the encoder was trained: initial values and rates."""
    return {name: value for name, value in asdict(config).items() if name not in PARAMETRISATION}


def _as_file(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Write shifted biases (4·D) as those of a block with QKV bias (7·D)."""
    return {
        name.replace(SHIFTED_BIAS, PLAIN_BIAS): pad_shifted(value) if name.endswith(SHIFTED_BIAS) else value
        for name, value in weights.items()
    }


def cut_encoder(weights: Mapping[str, Tensor], config: MaeConfig, blocks: int) -> tuple[dict[str, Tensor], MaeConfig]:
    """Keep an encoder's first `blocks` blocks and its final norm: weights and configuration for `save_encoder`.

    A linear probe often scores higher on a block before the last (`analysis.embeddings.probes`); this makes an encoder
    of it.

    Raises:
        EncoderFileError: the encoder has no block of that number.
    """
    if not 1 <= blocks <= config.depth:
        raise EncoderFileError(f"an encoder of {config.depth} blocks cannot be cut after block {blocks}")
    dropped = tuple(f"blocks.{number}." for number in range(blocks, config.depth))
    kept = {name: value for name, value in weights.items() if not name.startswith(dropped)}
    drop_path = config.drop_path * (blocks - 1) / max(1, config.depth - 1)  # the rate rises linearly with depth
    return kept, replace(config, depth=blocks, drop_path=drop_path)


def load_encoder(path: Path | str) -> VisionTransformer:
    """Load a timm `VisionTransformer` in eval mode: `forward_features` gives normed tokens (B, 1 + L, D), the class
    token first, and `forward` one vector per image, pooled as in the model's recipe.

    Its input is self-standardised crops, which `load_transform(path)` makes. `model.pretrained_cfg` is the metadata,
    with `block_bias`, the formula of the blocks that the weights were trained with. A file of format 1 does not state
    it; a warning says that it is read as the formula of timm 1.0.25 and later.

    Raises:
        EncoderFileError: the file is a pickle, damaged, not an encoder, or its tensors do not match its header.
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
    nonfinite = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if nonfinite:
        raise EncoderFileError(f"{path}: {nonfinite[0]} holds NaN or infinity: the model's training diverged")
    for name in (name for name in weights if name.endswith(PLAIN_BIAS)):
        if weights[name][: 3 * config.width].any():
            raise EncoderFileError(f"{path}: {name} is not a shifted bias: its first {3 * config.width} must be 0")
    model.load_state_dict(weights, assign=True)
    model.pos_embed.requires_grad_(False)  # fixed in training; a parameter in timm
    model.pretrained_cfg = {**metadata, "block_bias": config.block_bias}
    encoder: VisionTransformer = model.eval()
    return encoder


def load_transform(path: Path | str, channels: Sequence[str] | None = None) -> SelfStandardise:
    """Load the transform of an encoder's training crops.

    Args:
        channels: names of the channels of the images to come, in their order. They are reordered to those that the
            encoder was trained on. None: the images have the encoder's channels, in its order.

    Raises:
        EncoderFileError: as for `load_encoder`, or `channels` are not the encoder's.
    """
    path = Path(path)
    _, metadata = _read_checked(path)
    positions = None if channels is None else _positions(path, metadata, list(channels))
    return SelfStandardise(_value_range(path, metadata), positions)


def _positions(path: Path, metadata: Mapping[str, str], given: list[str]) -> list[int]:
    """Where the images have each of the encoder's channels."""
    try:
        own = parse_json(metadata.get("channels", "null"))
    except ValueError:
        own = None
    if not isinstance(own, list):
        raise EncoderFileError(f"{path}: does not say which channels it was trained on")
    if sorted(map(str, own)) != sorted(given) or len(set(given)) < len(given):
        raise EncoderFileError(f"{path}: was trained on {', '.join(map(str, own))}, the images have {', '.join(given)}")
    return [given.index(name) for name in own]


def load_config(path: Path | str) -> MaeConfig:
    """Load the configuration from an encoder file's header. Raises the errors of `load_encoder`."""
    return _read_checked(Path(path))[0]


def build_encoder(config: MaeConfig) -> VisionTransformer:
    """Build a configuration's timm model on the meta device: fill it with `load_state_dict(..., assign=True)`."""
    vision_transformer = import_timm().models.vision_transformer
    pooled_by_timm = config.pool in _TIMM_POOL
    build = vision_transformer.VisionTransformer if pooled_by_timm else _with_spread_pool(config.pool)
    with torch.device("meta"):
        model: VisionTransformer = build(
            img_size=config.crop, patch_size=config.patch, in_chans=config.channels, num_classes=0,
            global_pool=_TIMM_POOL.get(config.pool, "avg"), fc_norm=False, embed_dim=config.width, depth=config.depth,
            num_heads=config.heads, mlp_ratio=MLP_RATIO, qkv_bias=config.block_bias != "mlp", qk_norm=config.qk_norm,
            init_values=config.layer_scale, drop_path_rate=config.drop_path, weight_init="skip",
            block_fn=vision_transformer.ParallelScalingBlock,
        )  # fmt: skip
    model.num_features = model.head_hidden_size = config.embedding_width
    return model


def _with_spread_pool(pool: Pool) -> type[VisionTransformer]:
    """Subclass timm's model with the two pools that timm does not have."""

    class SpreadPoolTransformer(import_timm().models.vision_transformer.VisionTransformer):  # type: ignore[misc]
        def pool(self, x: Tensor, pool_type: str | None = None) -> Tensor:
            patches = x[:, 1:]
            spread = patches.std(dim=1, correction=0)
            return spread if pool == "std" else torch.cat([patches.mean(dim=1), spread], dim=1)

    return SpreadPoolTransformer


def _read_checked(path: Path) -> tuple[MaeConfig, dict[str, str]]:
    """Read configuration and metadata, and check that the tensors have the configuration's names and shapes."""
    header = read_header(path)
    metadata = header.metadata
    if metadata.get("format") not in (FORMAT, FORMAT_1):
        raise EncoderFileError(
            f"{path}: safetensors, but not an encoder of this project (its metadata has no format {FORMAT!r}); "
            "python -m harness.export writes one"
        )
    config = _config(path, metadata)
    _value_range(path, metadata)
    not_float = [
        f"{name} is {entry.dtype}" for name, entry in header.tensors.items() if entry.dtype not in _FLOAT_TYPES
    ]
    if not_float:
        raise EncoderFileError(f"{path}: {not_float[0]}: weights must be floating point ({', '.join(_FLOAT_TYPES)})")
    kinds = sorted({entry.dtype for entry in header.tensors.values()})
    if len(kinds) > 1:
        raise EncoderFileError(f"{path}: its weights are of several types: {', '.join(kinds)}")
    _check_shapes(path, {name: entry.shape for name, entry in header.tensors.items()}, config)
    if metadata["format"] == FORMAT_1:
        warnings.warn(
            f"{path}: does not say how its blocks add their bias: read as by timm 1.0.25 and later; if it was trained "
            "with an older timm, export it again (docs/models.md)",
            stacklevel=3,
        )
    return config, metadata


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file of unknown origin.

    Raises:
        EncoderFileError: the file is a pickle, or not a regular file in safetensors' format.
    """
    try:
        return header_of(path)
    except HeaderError as error:
        raise EncoderFileError(str(error)) from error


def _value_range(path: Path, metadata: Mapping[str, str]) -> float | list[float] | None:
    """The pixel value that counts as 1, or that of each channel, if the file states one."""
    try:
        value = parse_json(metadata.get("value_range", ""))
    except ValueError as error:
        raise EncoderFileError(f"{path}: its value_range is missing or not a number ({error})") from error
    values = value if isinstance(value, list) and len(value) == _config(path, metadata).channels else [value]
    if value is not None and not all(is_number(one, 0, MOST) and one > 0 for one in values):
        raise EncoderFileError(
            f"{path}: its value_range is {str(value)[:40]}, not a positive number or null, or one for each channel"
        )
    return cast("float | list[float] | None", value)


def _config(path: Path, metadata: Mapping[str, str]) -> MaeConfig:
    try:
        values = parse_json(metadata["config"])
        if not isinstance(values, dict):
            raise TypeError(f"it is a {type(values).__name__}")
        unknown = sorted(values.keys() - MaeConfig.__dataclass_fields__.keys())
        if unknown:
            raise EncoderFileError(f"{path}: its config has {unknown[0][:80]!r}, which this version does not know")
        check_types(values)
        return MaeConfig(**values)
    except EncoderFileError:
        raise
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise EncoderFileError(f"{path}: no encoder can be built from its config: {str(error)[:200]}") from error


def expected_shapes(config: MaeConfig) -> dict[str, tuple[int, ...]]:
    """Compute name and shape of every tensor of an encoder without allocating any, as the config is untrusted."""
    D, hidden, head = config.width, MLP_RATIO * config.width, config.width // config.heads
    block: dict[str, tuple[int, ...]] = {
        "in_norm.weight": (D,), "in_norm.bias": (D,), "in_proj.weight": (hidden + 3 * D, D),
        "attn_out_proj.weight": (D, D), "attn_out_proj.bias": (D,), "mlp_out_proj.weight": (D, hidden),
        "mlp_out_proj.bias": (D,),
    }  # fmt: skip
    block |= {"mlp_bias": (hidden,)} if config.block_bias == "mlp" else {"in_proj.bias": (hidden + 3 * D,)}
    if config.qk_norm:
        block |= {f"{norm}.{end}": (head,) for norm in ("q_norm", "k_norm") for end in ("weight", "bias")}
    if config.layer_scale is not None:
        block["ls.gamma"] = (D,)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, D), "pos_embed": (1, config.tokens, D), "norm.weight": (D,), "norm.bias": (D,),
        "patch_embed.proj.weight": (D, config.channels, config.patch, config.patch), "patch_embed.proj.bias": (D,),
    }  # fmt: skip
    return shapes | {f"blocks.{n}.{name}": shape for n in range(config.depth) for name, shape in block.items()}


def _check_shapes(path: Path, shapes: Mapping[str, tuple[int, ...]], config: MaeConfig) -> None:
    if config.depth > len(shapes):  # checked first, so that no list of that length is built
        raise EncoderFileError(f"{path}: its config has {config.depth} blocks, the file has {len(shapes)} tensors")
    expected = expected_shapes(config)
    missing, foreign = sorted(expected.keys() - shapes.keys()), sorted(shapes.keys() - expected.keys())
    if missing or foreign:
        problem = f"lacks {missing[0]!r}" if missing else f"has {foreign[0]!r}, which an encoder does not have"
        raise EncoderFileError(f"{path}: {problem} ({len(missing)} missing, {len(foreign)} foreign)")
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise EncoderFileError(f"{path}: {name} has shape {shapes[name]}, its config says {shape}")
