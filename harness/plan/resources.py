"""The resources that a stage of a grid cell requests: nodes, tasks, GPUs and CPUs."""

from __future__ import annotations

from dataclasses import dataclass

from harness.grid.cell import Cell
from harness.recipe.fields import per_name
from harness.recipe.launch import Launch
from harness.storage.ledger import Stage


@dataclass(frozen=True, order=True)
class Resources:
    """Nodes, and tasks, GPUs and CPUs on each: one task per GPU where there are GPUs."""

    nodes: int
    tasks_per_node: int
    gpus_per_node: int
    cpus_per_task: int

    def __str__(self) -> str:
        of_node = f"{self.tasks_per_node} tasks of {self.cpus_per_task} CPUs, {self.gpus_per_node} GPUs"
        return f"{self.nodes} nodes with {of_node} each"


def stage_resources(launch: Launch, cell: Cell, stage: Stage) -> Resources:
    """The resources of a stage: training takes its nodes, embedding the GPUs of one node, the rest a single process."""
    gpus = launch.gpus_per_node
    if stage == "train" and cell.training is not None:
        return Resources(per_name(launch.nodes, cell.model), max(1, gpus), gpus, launch.cpus_per_task)
    if stage == "embed" and cell.architecture is not None:
        return Resources(1, max(1, gpus), gpus, launch.cpus_per_task)
    return Resources(1, 1, 0, launch.cpus_per_task)
