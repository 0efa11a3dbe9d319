"""The tiny study through a real SLURM: arrays, dependencies, storms, and a ledger equal to the local run's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_cluster import Cluster, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
CELLS = 7  # two models on two datasets, two untrained, pixel statistics


def sweep(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.sweep", *map(str, arguments), "--profile", "laptop"]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=ROOT)


def statuses(recipe: Path) -> list[dict[str, object]]:
    ended = sweep("status", recipe, "--json")
    assert ended.returncode == 0, ended.stderr
    found: list[dict[str, object]] = json.loads(ended.stdout)
    return found


def rows(output: Path, drop: tuple[str, ...] = ()) -> dict[str, object]:
    """Every ledger row without the times that it took."""
    found = {}
    for path in sorted(output.glob("ledger/*/*.json")):
        row = json.loads(path.read_text())
        row["values"] = {name: value for name, value in row["values"].items() if "seconds" not in name}
        found[f"{path.parent.name}/{path.name}"] = row
    return {name: row for name, row in found.items() if not name.startswith(drop or ("-",))}


def approximately(value: object) -> object:
    """Numbers to five decimals: two ranks add up in another order than one."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {name: approximately(inner) for name, inner in value.items()}
    return [approximately(inner) for inner in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def local_rows(
    write_tiny_recipe: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, object]:
    """The ledger of the same study run on this machine."""
    folder = tmp_path_factory.mktemp("local")
    ended = sweep(write_tiny_recipe(folder), "launch.cells_per_job=4")
    assert ended.returncode == 0, ended.stderr
    return rows(folder / "out")


def training_starts(output: Path) -> dict[str, int]:
    """How often each cell's log says that it began at its first step."""
    found = {}
    for path in output.glob("cells/*/train.jsonl"):
        first = [row for row in map(json.loads, path.read_text().splitlines()) if row["kind"] == "train"]
        found[path.parent.name] = sum(1 for row in first if row["step"] == first[0]["step"])
    return found


def test_a_study_ends_by_itself_and_equals_the_local_one(
    cluster: Cluster, slurm_recipe: Path, local_rows: dict[str, object]
) -> None:
    ended = sweep(slurm_recipe)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("submitted job") == 2 + 3 * 3 + 1 + 0, ended.stdout
    again = sweep(slurm_recipe)
    assert "submitted job" not in again.stdout
    assert "already queued or running" in again.stdout
    output = slurm_recipe.parent / "out"
    until(lambda: (output / "report" / "recall_versus_compute.png").exists(), 280, "the report")
    assert approximately(rows(output)) == approximately(local_rows)
    states = set(cluster.run("sacct", "-X", "-n", "-a", "-o", "state").split())
    assert states <= {"COMPLETED", "RUNNING"}, "no job failed on the way"
    assert {one["state"] for one in statuses(slurm_recipe)} == {"done"}
    beats = [json.loads(path.read_text()) for path in output.glob("cells/*/heartbeat.json")]
    assert {Path(beat["code"]).parent for beat in beats} == {output.resolve() / "code"}, (
        "jobs run the code at submission"
    )
    nodes = cluster.run("sacct", "-X", "-n", "-a", "-P", "-o", "jobname,nnodes").splitlines()
    assert any("train" in line and line.endswith("|2") for line in nodes)
