"""Real wells go through importer, builder, loader, training and figure, and are filled in better than by their mean."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness import ledger

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_an_unseen_real_well_is_reconstructed(real_data: Path, tmp_path: Path) -> None:
    """400 steps instead of the recipe's 4,000: the full run's error is stated in the recipe's header."""
    shards = ("prepare.build.0.output", "datasets.two_wells.shards", "embed.shards")
    overrides = [f"output={tmp_path}/out", f"prepare.build.0.root={real_data}/cpjump1/images", "train.epochs=3200"]
    overrides += [f"{field}={tmp_path}/shards" for field in shards]
    command = [sys.executable, "-m", "harness.sweep", str(ROOT / "recipes" / "jump_wells.yaml"), "--profile", "laptop"]
    ended = subprocess.run([*command, *overrides], capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr
    (row,) = ledger.rows(tmp_path / "out", "train")
    assert row.values["experiments"] == ["AMG900", "FK-866"]
    assert row.values["validation_loss"] < 0.9 * row.values["mean_predictor_loss"]
    assert (tmp_path / "out" / "report" / "reconstructions.png").stat().st_size > 100_000
    (path,) = (tmp_path / "out").glob("cells/*/reconstructions.npz")
    with np.load(path) as arrays:
        assert {label.split("_")[0] for label in arrays["wells"]} == {"DMSO"}
        assert len(arrays["channels"]) == 8
