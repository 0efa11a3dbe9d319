"""What a stage of a cell asks of the cluster, as submitit's parameters and as sbatch's options. Pure functions."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from harness.plan.resources import Resources
from harness.recipe.launch import Slurm
from harness.recipe.schema import Recipe

FIELDS = {
    "partition": "launch.slurm.partition",
    "account": "launch.slurm.account",
    "qos": "launch.slurm.qos",
    "constraint": "launch.slurm.constraint",
    "feature": "launch.slurm.constraint",
    "time limit": "launch.slurm.hours",
    "memory": "launch.slurm.memory_gb",
    "gres": "launch.gpus_per_node",
    "node count": "launch.nodes",
    "cpu": "launch.cpus_per_task",
    "node configuration": "launch.nodes, launch.gpus_per_node, launch.cpus_per_task or launch.slurm.memory_gb",
}
"""Words of SLURM's refusals, and the recipe's field that each speaks of; the first that occurs counts."""


def options(recipe: Recipe, wanted: Resources) -> dict[str, Any]:
    """sbatch's options for a shape, by their long names; those the recipe does not set are left to the cluster."""
    slurm = recipe.launch.slurm
    found = {
        "nodes": wanted.nodes,
        "ntasks_per_node": wanted.tasks_per_node,
        "gpus_per_node": wanted.gpus_per_node or None,
        "cpus_per_task": wanted.cpus_per_task,
        "time": max(1, round(60 * slurm.hours)),
        "mem": f"{slurm.memory_gb}GB" if slurm.memory_gb else None,
        **slurm.model_dump(include={"partition", "account", "qos", "constraint"}),
    }
    return {name: value for name, value in found.items() if value is not None}


def arguments(recipe: Recipe, wanted: Resources) -> list[str]:
    """The same as sbatch's arguments."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in options(recipe, wanted).items()]


def parameters(recipe: Recipe, wanted: Resources, name: str, code: Path, dependency: str | None) -> dict[str, Any]:
    """submitit's parameters: the options, and how the job begins, is told to stop, and depends on others."""
    slurm = recipe.launch.slurm
    container = [f"--container-image={slurm.container}"] if slurm.container else []
    depends = {"dependency": dependency, "kill-on-invalid-dep": "yes"} if dependency else {}
    return {
        "job_name": name,
        **options(recipe, wanted),
        "array_parallelism": recipe.launch.parallel,
        "signal_delay_s": slurm.signal_seconds,
        "setup": setup_lines(slurm, code),
        "srun_args": ["--kill-on-bad-exit=1", *container],
        "additional_parameters": {"requeue": True, **depends},
    }


def setup_lines(slurm: Slurm, code: Path) -> list[str]:
    """Shell lines before the job's own; all but `setup`, which is the user's shell, are quoted."""
    return [
        *(f"module load {shlex.quote(module)}" for module in slurm.modules),
        *slurm.setup,
        *(f"export {name}={shlex.quote(value)}" for name, value in slurm.environment.items()),
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}",
        "export PYTHONSAFEPATH=1",  # the folder that a job starts in is no place for its code
    ]


def field_of(refused: str) -> str:
    """The recipe's field that a refusal of SLURM speaks of."""
    lowered = refused.lower()
    return next((field for word, field in FIELDS.items() if word in lowered), "launch")


def warnings(recipe: Recipe) -> list[str]:
    """What is allowed and will probably disappoint."""
    slurm = recipe.launch.slurm
    found = []
    if slurm.hours * 60 <= 10:
        found.append(
            f"launch.slurm.hours is {slurm.hours:g}: with ten minutes or less, starting up and saving are most of a job"
        )
    if slurm.signal_seconds >= slurm.hours * 3600 / 2:
        found.append(
            f"launch.slurm.signal_seconds is {slurm.signal_seconds}: the signal to save comes in the first half of the "
            f"{slurm.hours * 60:g} minutes"
        )
    return found
