"""The verb `plan` asks for one thing at a time, and refuses what does not fit a GPU with an exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import sweep

RECIPE = Path(__file__).parents[3] / "recipes" / "scaling.yaml"
SMALL = ["grid.models=[vit_s16]", "grid.datasets=[rxrx3]", "grid.untrained=false", "grid.pixel_statistics=false"]


def plan(folder: Path, *more: str) -> int:
    return sweep.main(["plan", str(RECIPE), "--profile", "slurm", f"output={folder}", *SMALL, *more])


def test_a_plan_is_printed_as_a_table_or_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(tmp_path) == 0
    assert "\nvit_s16\n  rxrx3-s0-" in capsys.readouterr().out
    assert plan(tmp_path, "--json") == 0
    assert json.loads(capsys.readouterr().out)


def test_what_does_not_fit_is_named_and_is_exit_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["grid.models=[vit_l8]", "launch.crops_per_gpu_step={vit_l8: 2048}", "launch.nodes={vit_l8: 1}"]
    assert plan(tmp_path, *more) == 1
    assert "does not fit: " in capsys.readouterr().err


def test_power_needs_shards_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(tmp_path, "--power") == 2
    assert "error: " in capsys.readouterr().err
