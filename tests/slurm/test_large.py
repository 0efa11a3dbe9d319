"""The paper's largest request, 32 nodes of 8 GPUs, on a cluster of that size: it is accepted, and 256 tasks start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm.slurm_cluster import Cluster, start

from harness.grid.cells import cells
from harness.launch.slurm import commands, options
from harness.plan.resources import Resources, stage_resources
from harness.recipe.load import load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SCALING = Path(__file__).parents[2] / "recipes" / "scaling.yaml"


@pytest.fixture
def large() -> Iterator[Cluster]:
    cluster = start(accounting=False, nodes=32, cpus=8, gpus=8, port=30_000)
    yield cluster
    cluster.down()


def test_256_gpus_for_one_cell(large: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_CONF", "PATH", "LC_ALL"):
        monkeypatch.setenv(name, large.environment[name])
    recipe = load(SCALING, "slurm", ["launch.cpus_per_task=1"])
    largest = next(cell for cell in cells(recipe) if cell.model == "vit_l8_plus" and cell.kind == "trained")
    resources = stage_resources(recipe.launch, largest, "train")
    assert commands.refusal(options.arguments(recipe, resources)) is None
    printed = large.run(
        "srun", "--nodes=32", "--ntasks-per-node=8", "--gpus-per-node=8", "printenv", "SLURMD_NODENAME", seconds=200
    )
    assert len(printed.split()) == 256
    assert len(set(printed.split())) == 32
    too_many = options.arguments(recipe, Resources(33, 8, 8, 1))
    assert "not available" in str(commands.refusal(too_many))
