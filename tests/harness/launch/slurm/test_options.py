"""Covers `options`, and the parsing and the missing installation in `commands`.

Requests follow the recipe: one task per GPU, no option that is not set, and nothing unquoted. What `commands` asks a
running SLURM is in tests/slurm/test_sweep.py and tests/slurm/test_large.py.
"""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import pytest

from harness.grid.cells import cells
from harness.launch.slurm import commands, options
from harness.launch.slurm.commands import SlurmError
from harness.launch.slurm.report_job import report_and_resume
from harness.launch.slurm.submit import submit
from harness.plan.resources import Resources, stage_resources
from harness.recipe.errors import RecipeError
from harness.recipe.load import load
from harness.stages.missing import CellWork

SCALING = Path(__file__).parents[4] / "recipes" / "scaling.yaml"


def test_requests_follow_the_recipe() -> None:
    recipe = load(SCALING, "slurm", ["launch.slurm.partition=gpu", "launch.slurm.hours=1.5"])
    largest = next(cell for cell in cells(recipe) if cell.model == "vit_l8" and cell.kind == "trained")
    resources = stage_resources(recipe.launch, largest, "train")
    assert resources == Resources(nodes=32, tasks_per_node=8, gpus_per_node=8, cpus_per_task=12)
    assert options.options(recipe, resources) == {
        "nodes": 32, "ntasks_per_node": 8, "gpus_per_node": 8, "cpus_per_task": 12, "time": 90, "partition": "gpu",
    }  # fmt: skip
    assert stage_resources(recipe.launch, largest, "embed").nodes == 1
    assert stage_resources(recipe.launch, largest, "evaluate") == Resources(1, 1, 0, 12)


def test_without_slurm_nothing_is_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    recipe = load(SCALING, "slurm", [f"output={tmp_path}/out"])
    work_items = [CellWork(cell, {}, ("train",)) for cell in cells(recipe)]
    with pytest.raises(SlurmError, match="is not installed here"):
        submit(recipe, work_items, report_and_resume)
    assert not (tmp_path / "out" / "jobs" / "book.json").exists()


@pytest.mark.parametrize("field", ["partition", "account", "qos", "constraint"])
@pytest.mark.parametrize("value", ["gpu; rm -rf ~", "gpu\n#SBATCH --uid=0", "$(id)", "a b"])
def test_fields_passed_to_slurm_cannot_hold_shell_code(field: str, value: str) -> None:
    with pytest.raises(RecipeError, match=f"launch.slurm.{field}"):
        load(SCALING, "slurm", [f"launch.slurm.{field}={value!r}"])


def test_environment_and_code_reach_the_shell_quoted(tmp_path: Path) -> None:
    """bash runs the lines and prints what it understood."""
    hostile = 'it\'s $(touch stolen); `touch stolen` "x"'
    recipe = load(SCALING, "slurm", [])
    slurm = recipe.launch.slurm.model_copy(update={"environment": {"GREETING": hostile}})
    lines = options.setup_lines(slurm, tmp_path / "a b'c")
    script = "\n".join([*lines, 'printf "%s\\n" "$GREETING" "${PYTHONPATH%%:*}"'])
    printed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert printed.splitlines() == [hostile, str(tmp_path / "a b'c")]
    assert not (tmp_path / "stolen").exists()


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [
        ("1-02:03:30", 1563.5),
        ("02:00:00", 120),
        ("05:30", 5.5),
        ("30:00", 30),
        ("infinite", math.inf),
        ("n/a", math.inf),
    ],
)
def test_time_limits_are_parsed_as_slurm_prints_them(limit: str, minutes: float) -> None:
    assert commands._minutes(limit) == minutes


def test_short_limits_are_warned_about() -> None:
    recipe = load(SCALING, "slurm", ["launch.slurm.hours=0.1", "launch.slurm.signal_seconds=300"])
    messages = "\n".join(options.warnings(recipe))
    assert "ten minutes or less" in messages
    assert "signal_seconds" in messages
    assert options.warnings(load(SCALING, "slurm", [])) == []
