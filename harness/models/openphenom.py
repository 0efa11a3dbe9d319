"""Read OpenPhenom checkpoints (Recursion), and write a CA-MAE so that their inference code loads it.

`ChannelAgnosticMae` has the same state_dict keys but for the name of the blocks' bias, so this module mostly checks
files. OpenPhenom-S/16 has 765 tensors of 178.0 M numbers in total, with decoders for six channels. Its published
`model.safetensors` is in fact a torch pickle: such a file is refused under that suffix; under a torch suffix it is read
with `torch.load(weights_only=True)`.

OpenPhenom was trained with timm 0.9.7, whose blocks add `mlp_bias` to other values than timm 1.0.25 does
(`ShiftedBiasProjection`). A published file is loaded with the formula that it was trained with. Files written here say
which formula they follow, under `block_bias`.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from harness.models.channel_agnostic import ChannelAgnosticMae
from harness.models.channel_agnostic_config import ChannelAgnosticConfig
from harness.models.encoder_file import EncoderFileError, read_header
from harness.models.layers.blocks import MLP_BIAS, SHIFTED_BIAS
from harness.recipe.models import BlockBias
from harness.storage.atomic import write_atomic
from harness.storage.safetensors_header import HeaderError, refuse_special
from harness.storage.weights import write_safetensors

SAFE = ".safetensors"
TORCH = (".pt", ".pth", ".bin", ".ckpt")
PUBLISHED: BlockBias = "timm-0.8.13"
OPENPHENOM = ChannelAgnosticConfig(  # S/16
    width=384, depth=12, heads=6, patch=16, drop_path=0.1, block_bias=PUBLISHED
)
TIMM: dict[BlockBias, str] = {"mlp": "timm>=1.0.25", "timm-0.8.13": "timm>=0.8.13,<=1.0.24"}
"""The versions of timm whose blocks compute the function of a file, by its `block_bias`."""


@dataclass(frozen=True)
class WeightFile:
    """Tensors of a file, and what it says of itself."""

    weights: dict[str, Tensor]
    notes: Mapping[str, object]


def load_openphenom(
    path: Path | str, config: ChannelAgnosticConfig = OPENPHENOM, block_bias: BlockBias | None = None
) -> ChannelAgnosticMae:
    """Load a checkpoint into a model in eval mode; the file's suffix tells safetensors from torch's format.

    Args:
        config: the network. Its `block_bias` is replaced by the one that the weights were trained with.
        block_bias: of a file that does not state it. None: that of the published models; a safetensors file that an
            earlier version of this project exported is then refused, as it followed the timm that was installed.

    Raises:
        EncoderFileError: a pickle with the suffix of safetensors or one that holds more than tensors, a damaged file,
            an unknown `block_bias` or another one than requested, or tensors that are not those of `config`; the
            message names the first.
    """
    path = Path(path)
    file = _read(path)
    trained_with = _block_bias(path, file.notes, block_bias)
    with torch.device("meta"):
        model = ChannelAgnosticMae(replace(config, block_bias=trained_with))
    expected = model.state_dict()
    _check(path, file.weights, {_published_name(name): value for name, value in expected.items()})
    model.load_state_dict({name: file.weights[_published_name(name)] for name in expected}, assign=True)
    return model.eval()


def save_openphenom(path: Path | str, model: ChannelAgnosticMae, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model atomically: safetensors, or (.pt, .pth, .bin, .ckpt) torch's `{"state_dict": ...}`, the format that
    `MAEModel.from_pretrained(folder, filename=...)` reads.

    Both also hold `block_bias` and `needs`, the versions of timm under which that code computes what the model does.
    """
    path, block_bias = Path(path), model.config.block_bias
    state = model.state_dict()
    weights = {_published_name(name): value.detach().contiguous().cpu() for name, value in state.items()}
    notes = {**(metadata or {}), "block_bias": block_bias, "needs": TIMM[block_bias]}
    if path.suffix == SAFE:
        write_safetensors(path, weights, notes)
    elif path.suffix in TORCH:
        write_atomic(path, partial(torch.save, {"state_dict": weights, **notes}))
    else:
        raise EncoderFileError(f"{path}: use the suffix {SAFE}, or {', '.join(TORCH)} for torch's format")


def _published_name(name: str) -> str:
    """Name of a tensor in OpenPhenom's files: both formulas call their bias `mlp_bias` there."""
    return name.replace(SHIFTED_BIAS, MLP_BIAS)


def _block_bias(path: Path, notes: Mapping[str, object], requested: BlockBias | None) -> BlockBias:
    """The formula that a file's weights were trained with."""
    stated = notes.get("block_bias")
    if stated is None:
        if requested is None and {"cell", "recipe"} <= notes.keys():
            raise EncoderFileError(
                f"{path}: exported before `block_bias` was written: pass block_bias='mlp' if it was trained with timm "
                "1.0.25 or later, block_bias='timm-0.8.13' if with an earlier one"
            )
        return requested or PUBLISHED
    for known in get_args(BlockBias):
        if stated == known:
            if requested not in (None, known):
                raise EncoderFileError(f"{path}: has block_bias {known!r}, not {requested!r}")
            block_bias: BlockBias = known
            return block_bias
    raise EncoderFileError(f"{path}: block_bias {stated!r} is not one of {get_args(BlockBias)}")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file in safetensors' or torch's format, by its suffix, without running any pickle.

    Raises:
        EncoderFileError: as for `load_openphenom`.
    """
    return _read(path).weights


def _read(path: Path) -> WeightFile:
    return _safetensors(path) if path.suffix == SAFE else _torch_file(path)


def _safetensors(path: Path) -> WeightFile:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    notes = read_header(path).metadata  # refuses pickles
    try:
        return WeightFile(load_file(path), notes)
    except (SafetensorError, OSError) as error:
        raise EncoderFileError(f"{path}: damaged: {error}") from error


def _torch_file(path: Path) -> WeightFile:
    if path.suffix not in TORCH:
        raise EncoderFileError(f"{path}: {path.suffix!r} is no known format: {SAFE}, or torch's {', '.join(TORCH)}")
    try:
        refuse_special(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise EncoderFileError(f"{path}: holds more than tensors, which could run any code: not opened") from error
    except HeaderError as error:
        raise EncoderFileError(str(error)) from error
    except Exception as error:  # a damaged file may raise any of torch's, zipfile's and the unpickler's exceptions
        raise EncoderFileError(f"{path}: cannot be read: {type(error).__name__}: {str(error)[:200]}") from error
    weights = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise EncoderFileError(f"{path}: holds no state_dict")
    odd = [
        name for name, value in weights.items() if value.layout != torch.strided or value.is_quantized or value.is_meta
    ]
    if odd:
        raise EncoderFileError(f"{path}: {odd[0]} is sparse, quantised or without values")
    return WeightFile(weights, content if weights is not content else {})


def _check(path: Path, weights: Mapping[str, Tensor], expected: Mapping[str, Any]) -> None:
    missing, foreign = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or foreign:
        problem = f"lacks {missing[0]!r}" if missing else f"has {foreign[0]!r}, which this model does not have"
        raise EncoderFileError(f"{path}: {problem} ({len(missing)} missing, {len(foreign)} foreign)")
    first = next(iter(expected))
    for name, value in expected.items():
        if weights[name].shape != value.shape:
            shapes = f"{tuple(weights[name].shape)}, this model's has {tuple(value.shape)}"
            raise EncoderFileError(f"{path}: {name} has shape {shapes}")
        if not weights[name].is_floating_point():
            raise EncoderFileError(f"{path}: {name} is {weights[name].dtype}: weights must be floating point")
        if weights[name].dtype != weights[first].dtype:
            raise EncoderFileError(f"{path}: {name} is {weights[name].dtype}, {first} is {weights[first].dtype}")
        if not torch.isfinite(weights[name]).all():
            raise EncoderFileError(f"{path}: {name} holds NaN or infinity")
