"""Read OpenPhenom checkpoints (Recursion), and write a CA-MAE so that their inference code loads it.

`ChannelAgnosticMae` has the same state_dict keys, so this module only checks files. OpenPhenom-S/16 has 765 tensors of
178.0 M numbers in total, with decoders for six channels. Its published `model.safetensors` is in fact a torch pickle:
such a file is refused under that suffix; under a torch suffix it is read with `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.models.channel_agnostic import ChannelAgnosticMae
from harness.models.channel_agnostic_config import ChannelAgnosticConfig
from harness.models.encoder_file import EncoderFileError, read_header
from harness.storage.atomic import write_atomic
from harness.storage.weights import write_safetensors

SAFE = ".safetensors"
TORCH = (".pt", ".pth", ".bin", ".ckpt")
OPENPHENOM = ChannelAgnosticConfig(width=384, depth=12, heads=6, patch=16, drop_path=0.1)  # S/16


def load_openphenom(path: Path | str, config: ChannelAgnosticConfig = OPENPHENOM) -> ChannelAgnosticMae:
    """Load a checkpoint into a model in eval mode; the file's suffix tells safetensors from torch's format.

    Raises:
        EncoderFileError: a pickle with the suffix of safetensors or one that holds more than tensors, a damaged file,
            or tensors that are not those of `config`; the message names the first.
    """
    path = Path(path)
    weights = read_weights(path)
    with torch.device("meta"):
        model = ChannelAgnosticMae(config)
    _check(path, weights, model.state_dict())
    model.load_state_dict(weights, assign=True)
    return model.eval()


def save_openphenom(path: Path | str, model: ChannelAgnosticMae, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model atomically: safetensors, or (.pt, .pth, .bin, .ckpt) torch's `{"state_dict": ...}`, the format that
    `MAEModel.from_pretrained(folder, filename=...)` reads."""
    path = Path(path)
    weights = {name: value.detach().contiguous().cpu() for name, value in model.state_dict().items()}
    if path.suffix == SAFE:
        write_safetensors(path, weights, metadata or {})
    elif path.suffix in TORCH:
        write_atomic(path, partial(torch.save, {"state_dict": weights}))
    else:
        raise EncoderFileError(f"{path}: use the suffix {SAFE}, or {', '.join(TORCH)} for torch's format")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file in safetensors' or torch's format, by its suffix, without running any pickle.

    Raises:
        EncoderFileError: as for `load_openphenom`.
    """
    return _safetensors(path) if path.suffix == SAFE else _torch_file(path)


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    read_header(path)  # refuses pickles
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise EncoderFileError(f"{path}: damaged: {error}") from error


def _torch_file(path: Path) -> dict[str, Tensor]:
    if path.suffix not in TORCH:
        raise EncoderFileError(f"{path}: {path.suffix!r} is no known format: {SAFE}, or torch's {', '.join(TORCH)}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise EncoderFileError(f"{path}: holds more than tensors, which could run any code: not opened") from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise EncoderFileError(f"{path}: cannot be read: {error}") from error
    weights = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise EncoderFileError(f"{path}: holds no state_dict")
    return weights


def _check(path: Path, weights: Mapping[str, Tensor], expected: Mapping[str, Any]) -> None:
    missing, foreign = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or foreign:
        problem = f"lacks {missing[0]!r}" if missing else f"has {foreign[0]!r}, which this model does not have"
        raise EncoderFileError(f"{path}: {problem} ({len(missing)} missing, {len(foreign)} foreign)")
    for name, value in expected.items():
        if weights[name].shape != value.shape:
            shapes = f"{tuple(weights[name].shape)}, this model's has {tuple(value.shape)}"
            raise EncoderFileError(f"{path}: {name} has shape {shapes}")
        if not torch.isfinite(weights[name]).all():
            raise EncoderFileError(f"{path}: {name} holds NaN or infinity")
