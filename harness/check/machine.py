"""Whether this machine can run the study: its output, the space there, and its devices. No torch at import."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from harness.check.problem import Problem, at
from harness.check.study import Study
from harness.distributed.engine_choice import check_compile
from harness.plan.cost import plan_cells
from harness.plan.fit import unfit
from harness.stages.missing import missing_of_all
from harness.storage import ledger

MOST_SHOWN = 5


def output(study: Study) -> Iterator[Problem]:
    """Folders that cannot be written into."""
    recipe = study.recipe
    written = {"output": recipe.output}
    written |= {f"prepare.build.{n}.output": build.output for n, build in enumerate(recipe.prepare.build)}
    written |= {"remote.cache": recipe.remote.cache} if recipe.remote.cache is not None else {}
    for field, folder in written.items():
        if field.startswith("prepare") and study.manifest(folder):
            continue  # it is complete, and only read
        existing = next(part for part in (folder.absolute(), *folder.absolute().parents) if os.path.exists(part))  # noqa: PTH110  (False in a closed folder)
        if not existing.is_dir():
            yield Problem(field, f"{existing} is a file: name a folder")
        elif study.needs_data and not may(existing, os.W_OK | os.X_OK):
            yield Problem(field, f"nothing may be written into {existing} by you: choose a folder of your own")


def may(path: Path, how: int) -> bool:
    """Whether this process may do something (`os.R_OK`, ...), as the user that it acts as."""
    return os.access(path, how, effective_ids=os.access in os.supports_effective_ids)


def edited(study: Study) -> Iterator[Problem]:
    """Finished cells that the grid no longer has."""
    folder = study.recipe.output
    outside = ledger.cells_outside(folder, {cell.id for cell in study.grid})
    if not outside:
        return
    shown = ", ".join(outside[:MOST_SHOWN]) + (f" and {len(outside) - MOST_SHOWN:,} others" if outside[5:] else "")
    text = f"{len(outside):,} cells in {folder} are not of this grid, because the recipe or an override was edited"
    cure = f"the report leaves them out; undo the edit to use them, or delete them from {folder / 'ledger'}"
    yield Problem("grid", f"{text}: {shown}; {cure}", is_warning=True)


def fit(study: Study) -> Iterator[Problem]:
    """What the study lacks of the disk and, on a cluster, of its GPUs. It reads every row of the ledger."""
    try:
        lacking = [(work.cell, work.missing) for work in missing_of_all(study.recipe, study.grid) if work.missing]
        lines = unfit(study.recipe, lacking)
    except (ValueError, RuntimeError, OSError):  # sets are not there, or not those of the rows, as others say
        return
    yield from (Problem("launch", line) for line in lines)


def devices(study: Study) -> Iterator[Problem]:
    """A study on this machine that counts on GPUs which it does not have."""
    launch = study.recipe.launch
    if launch.executor != "local" or not study.needs_data:
        return
    wants = launch.device == "cuda" or (launch.device == "auto" and launch.gpus_per_node > 0)
    found = gpus() if wants else 0
    if launch.device == "cuda" and not found:
        yield Problem("launch.device", "is cuda, but this machine has no GPU: set launch.device=cpu or auto")
    elif 0 < found < min(launch.gpus_per_node, launch.parallel):
        yield Problem("launch.gpus_per_node", f"is {launch.gpus_per_node}, but this machine has {found}: set {found}")
    elif not found:
        yield from _on_cpu(study, cores())


def _on_cpu(study: Study, available: int) -> Iterator[Problem]:
    """What a study that trains on processors would do badly."""
    launch, train = study.recipe.launch, study.recipe.train
    at_once = min(launch.parallel, len(study.grid))
    if launch.gpus_per_node and launch.device != "cpu":
        at_once = min(at_once, launch.gpus_per_node)
    if at_once > max(1, available):
        text = (
            f"is {launch.parallel}: {at_once} cells would train at a time on {available} processor cores, without a GPU"
        )
        yield Problem("launch.parallel", f"{text}: set launch.parallel={max(1, available // 2)}", is_warning=True)
    if train.precision == "bf16":
        text = "is bf16, which is slower than fp32 on most processors: set train.precision=fp32"
        yield Problem("train.precision", text, is_warning=True)


def compilation(study: Study) -> Iterator[Problem]:
    """What `launch.compile` asks of an engine that cannot do it, as far as the plan says which engine a cell has."""
    launch = study.recipe.launch
    if launch.compile not in ("whole", "reduce-overhead"):
        return
    with suppress(ValueError):  # a dataset of unknown size
        for plan in plan_cells(study.recipe, [cell for cell in study.distinct if cell.kind == "trained"]):
            if plan.run is not None:
                try:
                    check_compile(launch.compile, plan.run.setting.engine, launch.zero_stage)
                except ValueError as error:
                    yield at("launch.compile", error)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> int:
    """GPUs that torch can use here. The driver's own files say in a moment that there is none."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return 0
    if not any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")):
        return 0
    import torch

    return torch.cuda.device_count()
