"""Convert a resource request to submitit's parameters and to sbatch's options."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

from harness.plan.resources import Resources
from harness.recipe.launch import Slurm
from harness.recipe.schema import Recipe
from harness.storage.health.slow_nodes import read_slow_nodes

FIELDS = {
    "partition": "launch.slurm.partition",
    "account": "launch.slurm.account",
    "qos": "launch.slurm.qos",
    "constraint": "launch.slurm.constraint",
    "feature": "launch.slurm.constraint",
    "time limit": "launch.slurm.hours",
    "memory": "launch.slurm.memory_gb",
    "gres": "launch.gpus_per_node",
    "node list": "launch.slurm.exclude_slow",
    "node count": "launch.nodes",
    "cpu": "launch.cpus_per_task",
    "node configuration": "launch.nodes, launch.gpus_per_node, launch.cpus_per_task or launch.slurm.memory_gb",
}
"""Words in SLURM's refusals, and the recipe field that each refers to; the first that occurs is used."""


def options(recipe: Recipe, resources: Resources) -> dict[str, Any]:
    """sbatch's options by their long names; those that the recipe does not set are left to the cluster."""
    slurm = recipe.launch.slurm
    values = {
        "nodes": resources.nodes,
        "ntasks_per_node": resources.tasks_per_node,
        "gpus_per_node": None if slurm.gres(gpus=True) else resources.gpus_per_node or None,
        "cpus_per_task": resources.cpus_per_task,
        "time": max(1, round(60 * slurm.hours)),
        "mem": f"{slurm.memory_gb}GB" if slurm.memory_gb else None,
        **slurm.model_dump(include={"partition", "account", "qos", "constraint"}),
    }
    return {name: value for name, value in values.items() if value is not None}


def further(recipe: Recipe, resources: Resources) -> dict[str, str | int | bool]:
    """`launch.slurm.options` by name, without flags that are false; `requeue` too, which is on by default.

    A stage without GPUs does not ask for those of `gres`. Nodes that were slow are excluded if the recipe says so.
    """
    slurm = recipe.launch.slurm
    slow = [node.node for node in read_slow_nodes(recipe.output)] if slurm.exclude_slow else []
    exclude = ",".join([*filter(None, [str(slurm.options.get("exclude", ""))]), *slow])
    gpus = slurm.gres(gpus=True) if resources.gpus_per_node else None
    gres = ",".join(filter(None, [gpus, slurm.gres(gpus=False)]))
    values: dict[str, str | int | bool] = {**slurm.options, "gres": gres or False, "exclude": exclude or False}
    values |= {"requeue": slurm.requeues, "no-requeue": not slurm.requeues}
    return {name: value for name, value in values.items() if value is not False}


def arguments(recipe: Recipe, resources: Resources) -> list[str]:
    """The same options, and the recipe's further ones, as sbatch's arguments."""
    values = {**options(recipe, resources), **further(recipe, resources)}
    return [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in values.items()]


def parameters(recipe: Recipe, resources: Resources, name: str, code: Path, dependency: str | None) -> dict[str, Any]:
    """submitit's parameters: the options, the setup lines, the stop signal and the dependency."""
    slurm = recipe.launch.slurm
    container = [f"--container-image={slurm.container}"] if slurm.container else []
    depends = {"dependency": dependency} if dependency else {}
    depends |= {"kill-on-invalid-dep": "yes"} if dependency and not dependency.startswith("afterany") else {}
    return {
        "job_name": name,
        **options(recipe, resources),
        "array_parallelism": recipe.launch.parallel,
        "signal_delay_s": slurm.signal_seconds,
        "setup": setup_lines(slurm, code),
        "srun_args": ["--kill-on-bad-exit=1", *container],
        "additional_parameters": {**further(recipe, resources), **depends},
    }


def setup_lines(slurm: Slurm, code: Path) -> list[str]:
    """Shell lines that run before the job's command; all are quoted but `setup`, which is the user's own shell code."""
    return [
        *(f"module load {shlex.quote(module)}" for module in slurm.modules),
        *slurm.setup,
        *(f"export {name}={shlex.quote(value)}" for name, value in slurm.environment.items()),
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}",
        "export PYTHONSAFEPATH=1",  # do not import from the folder in which the job starts
    ]


def field_of(refusal: str, further: Collection[str] = ()) -> str:
    """The recipe field that SLURM's refusal refers to.

    Args:
        further: names of the recipe's further options.
    """
    lowered = refusal.lower()
    own = {name: f"launch.slurm.options.{name}" for name in further if name != "requeue"}
    fields = own | FIELDS | {name: own[name] for name in ("gres",) if name in own}
    field = next((field for word, field in fields.items() if word in lowered), "launch")
    return ", ".join([field, *own.values()]) if "launch.nodes, " in field else field


def warnings(recipe: Recipe) -> list[str]:
    """Warnings about settings that are allowed but probably not intended."""
    slurm = recipe.launch.slurm
    messages = []
    if slurm.hours * 60 <= 10:
        messages.append(
            f"launch.slurm.hours is {slurm.hours:g}: with ten minutes or less, most of a job is starting up and saving"
        )
    if slurm.signal_seconds >= slurm.hours * 3600 / 2:
        messages.append(
            f"launch.slurm.signal_seconds is {slurm.signal_seconds}: the signal to save comes in the first half of the "
            f"{slurm.hours * 60:g} minutes"
        )
    return messages
