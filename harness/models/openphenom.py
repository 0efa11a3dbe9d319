"""Checkpoints under OpenPhenom's names: read Recursion's, and write a CA-MAE so that their inference code loads it.

`ChannelAgnosticMae` has those names itself, so nothing is renamed; what happens here is caution. OpenPhenom-S/16 holds
765 tensors of 178.0 M numbers, its decoders for six channels. Its own `model.safetensors` is in truth a pickle of
torch: such a file is refused under that name, and read under another by torch's loader that unpickles tensors alone.
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

SAFE = ".safetensors"
TORCH = (".pt", ".pth", ".bin", ".ckpt")
OPENPHENOM = ChannelAgnosticConfig(width=384, depth=12, heads=6, patch=16, drop_path=0.1)  # S/16


def load_openphenom(path: Path | str, config: ChannelAgnosticConfig = OPENPHENOM) -> ChannelAgnosticMae:
    """The model of a checkpoint, in eval mode: safetensors, or torch's format, by the file's suffix.

    Raises:
        EncoderFileError: a pickle under the name of safetensors or one that holds more than tensors, a damaged file, or
            tensors that are not those of `config`; the text names the first.
    """
    path = Path(path)
    weights = read_weights(path)
    with torch.device("meta"):
        model = ChannelAgnosticMae(config)
    _check(path, weights, model.state_dict())
    model.load_state_dict(weights, assign=True)
    return model.eval()


def save_openphenom(path: Path | str, model: ChannelAgnosticMae, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model whole or not at all: safetensors, or (.pt, .pth, .bin, .ckpt) torch's `{"state_dict": ...}`, which
    is what `MAEModel.from_pretrained(folder, filename=...)` reads."""
    from safetensors.torch import save

    path = Path(path)
    weights = {name: value.detach().contiguous().cpu() for name, value in model.state_dict().items()}
    if path.suffix == SAFE:
        write_atomic(path, lambda file: file.write(save(weights, dict(metadata or {}))))
    elif path.suffix in TORCH:
        write_atomic(path, partial(torch.save, {"state_dict": weights}))
    else:
        raise EncoderFileError(f"{path}: name it {SAFE}, or {', '.join(TORCH)} for torch's format")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of safetensors or torch's format, by its suffix; no pickle is run.

    Raises:
        EncoderFileError: as `load_openphenom`.
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
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise EncoderFileError(f"{path}: holds more than tensors, which could run any code: not opened") from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise EncoderFileError(f"{path}: cannot be read: {error}") from error
    weights = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise EncoderFileError(f"{path}: holds no state_dict")
    return weights


def _check(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Any]) -> None:
    missing, foreign = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or foreign:
        what = f"lacks {missing[0]!r}" if missing else f"has {foreign[0]!r}, which this model has not"
        raise EncoderFileError(f"{path}: {what} ({len(missing)} missing, {len(foreign)} foreign)")
    for name, value in wanted.items():
        if found[name].shape != value.shape:
            shapes = f"{tuple(found[name].shape)}, this model's has {tuple(value.shape)}"
            raise EncoderFileError(f"{path}: {name} has shape {shapes}")
        if not torch.isfinite(found[name]).all():
            raise EncoderFileError(f"{path}: {name} holds NaN or infinity")
