"""Weights: equal weights are equal files, whichever process wrote them, and a damaged file is named."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from harness.storage.weights import WeightsError, load_weights, save_weights

METADATA = {"fingerprint": "f" * 64, "cell": "vit_s16-one-s0-00000000", "a": "1", "z": "é"}
SAVE = """
import sys
import torch
from pathlib import Path
from harness.storage.weights import save_weights
save_weights(Path(sys.argv[1]), {"b": torch.arange(3.0), "a": torch.ones(2, 2)}, %r)
"""


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
