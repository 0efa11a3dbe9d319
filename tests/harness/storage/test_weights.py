"""Weights: equal weights are equal files, whichever process wrote them, and a damaged file is named."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from harness.storage.weights import WeightsError, load_weights, read_metadata, save_weights

METADATA = {"fingerprint": "f" * 64, "cell": "vit_s16-one-s0-00000000", "a": "1", "z": "é"}
SAVE = """
import sys
import torch
from pathlib import Path
from harness.storage.weights import save_weights
save_weights(Path(sys.argv[1]), {"b": torch.arange(3.0), "a": torch.ones(2, 2)}, %r)
"""


@pytest.mark.slow
def test_equal_weights_are_equal_files_in_every_process(tmp_path: Path) -> None:
    """A header's metadata is a hash map in the library; four keys in five processes would hardly agree by chance."""
    paths = [tmp_path / f"{number}.safetensors" for number in range(5)]
    for path in paths:
        subprocess.run([sys.executable, "-c", SAVE % METADATA, str(path)], check=True)
    assert len({hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}) == 1


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    path, model = tmp_path / "model.safetensors", nn.Linear(3, 2)
    save_weights(path, model.state_dict(), METADATA)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == METADATA
    other = nn.Linear(3, 2)
    load_weights(path, other)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("damage", ["missing", "torn", "another model's"])
def test_weights_that_cannot_be_used_are_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.safetensors"
    if damage != "missing":
        save_weights(path, nn.Linear(3, 2 if damage == "torn" else 4).state_dict(), METADATA)
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(WeightsError, match=r"model\.safetensors: cannot be loaded"):
        load_weights(path, nn.Linear(3, 2))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda state: state | {"bias": state["bias"].half()}, "bias is torch.float16, the model's is torch.float32"),
        (lambda state: state | {"bias": state["bias"].long()}, "bias is torch.int64, the model's is torch.float32"),
        (lambda state: state | {"bias": torch.full((2,), torch.nan)}, "bias holds NaN or infinity"),
        (lambda state: state | {"more": torch.zeros(1)}, "more"),
        (lambda state: {"bias": state["bias"]}, "weight"),
    ],
)
def test_weights_of_other_names_types_or_without_numbers_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], why: str
) -> None:
    path, model = tmp_path / "model.safetensors", nn.Linear(3, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_weights(path, change(dict(nn.Linear(3, 2).state_dict())), METADATA)
    with pytest.raises(WeightsError, match=r"model\.safetensors: ") as caught:
        load_weights(path, model)
    assert why in str(caught.value)
    if "NaN" in why or "torch" in why:
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_pipe_in_place_of_weights_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="not a regular file"):
        load_weights(tmp_path / "model.safetensors", nn.Linear(3, 2))
    with pytest.raises(WeightsError, match="not a regular file"):
        read_metadata(tmp_path / "model.safetensors")
