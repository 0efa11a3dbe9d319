"""A plan as text and as JSON, compared with the paper's own study and with other GPUs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from pydantic import JsonValue

from analysis.compute.flops import CONVENTIONS
from analysis.figures.text_table import text_table
from harness.grid.cells import cells
from harness.models.architecture import configure
from harness.models.config import MaeConfig
from harness.plan.cost import CellPlan
from harness.plan.disk import on_disk
from harness.plan.memory import memory
from harness.plan.narrow_table import folded, narrow_table
from harness.plan.shared import shared_work
from harness.plan.step_time import StepEstimate
from harness.recipe.axes import axis_names, short_names
from harness.recipe.fields import per_name
from harness.recipe.gpus import GPUS, Gpu
from harness.recipe.models import MaeVitSection
from harness.recipe.schedules import ends
from harness.recipe.schema import Recipe

PAPER_CELL = ("vit_l8_plus", "rpi_93m")
PAPER_CROPS, PAPER_HOURS, PAPER_MFU = 3.5e9, 20_000, 0.11  # supplement A.3; the share of the peak is derived from both
GIGA = 1e9
CURRENCY = " (in the currency of hardware.price_per_hour)"
LEFT = ("cell", "engine")  # columns aligned to the left
RUN_COLUMNS = ("GPUs", "engine", "crops/GPU", "GB", "net%", "crops/s·node")  # of a cell that trains on GPUs


def table(recipe: Recipe, plans: Sequence[CellPlan], *, wide: bool = False) -> str:
    """The plan as text: a line per cell, the sum, and the assumptions.

    Args:
        wide: every column, on lines of any length; else 100 columns, with the compute in the recipe's convention.
    """
    shared = any(plan.cell.start is not None for plan in plans)
    rows = [_row(plan, axis_names(recipe.grid), shared=shared) for plan in plans]
    lines = [*_count(recipe), *_sums(recipe, plans), *_saved(recipe, plans)]
    lines += [*_on_other_gpus(recipe, plans), f"disk: {on_disk(recipe, plans)}"]
    lines += _compared_with_the_paper(recipe, plans)
    if wide:
        return "\n".join([text_table(rows, LEFT), *lines])
    others = {name for name in CONVENTIONS if name != recipe.fit.convention}
    hidden = others | (set() if recipe.launch.gpus_per_node else {*RUN_COLUMNS, "hours", "GPU h", "embed"})
    kept = [{head: text for head, text in row.items() if head not in hidden} for row in rows]
    note = [f"{recipe.fit.convention}: FLOPs in the convention of fit.convention; --wide shows every column"]
    return "\n".join([narrow_table(kept, [plan.cell.model for plan in plans]), *folded([*note, *lines])])


def _row(plan: CellPlan, axes: Sequence[str], *, shared: bool) -> dict[str, str]:
    """A cell's text by column; `before` where cells start from others."""
    return {
        "cell": plan.cell.id,
        **{short: _value(plan.cell.labels().get(axis)) for axis, short in short_names(axes).items()},
        "params": short(plan.parameters),
        "crops": short(plan.crops),
        **({"before": short(plan.crops_before) if plan.crops_before else ""} if shared else {}),
        "steps": str(plan.steps),
        **{name: f"{plan.flops[name]:.2e}" for name in CONVENTIONS},
        **(_run(plan.run, plan.gpus) if plan.run is not None and plan.gpus else dict.fromkeys(RUN_COLUMNS, "")),
        "hours": f"{plan.wall_hours:.2f}",
        "GPU h": f"{plan.gpu_hours:.1f}",
        "embed": "?" if plan.embed_hours is None else f"{plan.embed_hours:.1f}",
    }


def _value(value: JsonValue) -> str:
    return "" if value is None else str(value)


def _count(recipe: Recipe) -> list[str]:
    """How the axes multiply the grid; nothing without axes."""
    grid = recipe.grid
    if not (grid.axes or grid.variants or len(ends(recipe.train.schedule)) > 1):
        return []
    factors = [(len(recipe.trained_models), "trained models"), (len(grid.datasets), "datasets")]
    factors += [(len(grid.seeds), "seeds"), *([(len(grid.variants), "variants")] if grid.variants else [])]
    factors += [(len(values), f"values of {axis}") for axis, values in grid.axes.items()]
    ends_of_each = len(ends(recipe.train.schedule))
    factors += [(ends_of_each, "ends")] if ends_of_each > 1 else []
    trained = sum(cell.kind == "trained" for cell in cells(recipe))
    product = " × ".join(f"{count} {name}" for count, name in factors)
    less = math.prod(count for count, _ in factors) - trained
    if less < 0:  # the schedules at some points of the axes have more ends than the recipe's own
        return [f"{trained} trained cells"]
    left_out = f", of which {less} are excluded or the same" if less else ""
    return [f"{trained} trained cells: {product}{left_out}"]


def _run(run: StepEstimate, gpus: int) -> dict[str, str]:
    """The text of `RUN_COLUMNS`."""
    passes = f"{run.part // run.setting.crops}×{run.setting.crops}"
    share = 100 * run.traffic_seconds / run.compute_seconds
    memory = f"{run.memory.total / GIGA:.1f}" + ("" if run.fits else "!") if run.memory else "?"
    values = (str(gpus), run.setting.engine, passes, memory, f"{share:.0f}", f"{run.node_crops:,.0f}")
    return dict(zip(RUN_COLUMNS, values, strict=True))


def _sums(recipe: Recipe, plans: Sequence[CellPlan]) -> list[str]:
    if not recipe.launch.gpus_per_node:
        work = sum(plan.work for plan in plans)
        return [f"{len(plans)} cells with a model: {work:.2e} FLOPs (mae_train); no GPUs, so no GPU hours are planned"]
    gpu, mfu = recipe.hardware.gpu_type, recipe.hardware.mfu
    train, embed = (sum(values) for values in zip(*((p.gpu_hours, p.embed_hours or 0.0) for p in plans), strict=True))
    crops = short(sum(plan.crops for plan in plans))
    shares = f"{mfu:.0%}" if isinstance(mfu, float) else ", ".join(f"{name} {share:.0%}" for name, share in mfu.items())
    return [
        f"{len(plans)} cells with a model: {crops} crops; {train:,.0f} GPU hours to train, {embed:,.0f} to embed; "
        f"{_cost_and_energy(train + embed, gpu, CURRENCY)} on {gpu.name}",
        f"assumed, not measured: {shares} of {gpu.peak_tflops:g} TFLOP/s (mae_train; hardware.mfu), "
        f"{gpu.price_per_hour:g} an hour, {gpu.watts:g} W, "
        f"{recipe.hardware.loader_crops_per_core:,.0f} crops/s per core of the loader",
        "net%: time of a step's communication as a share of its compute, if none of it overlaps; GB: of "
        f"{gpu.memory_gb:.0f} per GPU; hours: of training",
        *(
            f"{plan.cell.id}: limited by the {plan.run.limit}, not by the GPUs"
            for plan in plans
            if plan.run is not None and plan.run.limit != "compute"
        ),
    ]


def _saved(recipe: Recipe, plans: Sequence[CellPlan]) -> list[str]:
    """The same points as runs of their own, and what is saved because runs share their beginning; empty if none do."""
    saving = shared_work(plans)
    if saving is None or saving.crops == saving.crops_apart:
        return []
    crops, shared = short(saving.crops_apart), saving.crops
    gpu = recipe.hardware.gpu_type
    cost, apart = saving.gpu_hours * gpu.price_per_hour, saving.gpu_hours_apart * gpu.price_per_hour
    hours = f", {saving.gpu_hours_apart:,.0f} GPU hours, cost {apart:,.0f}" if recipe.launch.gpus_per_node else ""
    less = f", {saving.gpu_hours_apart - saving.gpu_hours:,.0f} GPU hours, cost {apart - cost:,.0f}"
    return [
        f"runs share their beginnings: the same {saving.points} trained points as runs of their own would take {crops} "
        f"crops{hours} to train; saved: {short(saving.crops_apart - shared)} crops ({saving.share:.0%})"
        + (less if recipe.launch.gpus_per_node else "")
    ]


def _on_other_gpus(recipe: Recipe, plans: Sequence[CellPlan]) -> list[str]:
    """The same study on the other GPU types of the table, at the same share of their peaks."""
    planned, work = recipe.hardware.gpu_type, sum(plan.all_hours for plan in plans)
    if not recipe.launch.gpus_per_node:
        return []
    lines = []
    for gpu in GPUS:
        hours = work * planned.peak_tflops / gpu.peak_tflops
        if gpu.name != planned.name:
            lines.append(f"  {gpu.name:<11}{hours:>10,.0f} GPU hours, {_cost_and_energy(hours, gpu)}")
    return ["at the same share of the peak, where memory and network allow:", *lines]


def _cost_and_energy(hours: float, gpu: Gpu, currency: str = "") -> str:
    return f"cost {hours * gpu.price_per_hour:,.0f}{currency}, {hours * gpu.watts / 1e6:,.1f} MWh"


def _compared_with_the_paper(recipe: Recipe, plans: Sequence[CellPlan]) -> list[str]:
    """ViT-L/8+ on RPI-93M, the one cell whose cost the paper states."""
    alike = [plan for plan in plans if (plan.cell.model, plan.cell.dataset) == PAPER_CELL and plan.crops]
    if not alike:
        return []
    plan = max(alike, key=lambda plan: plan.crops + plan.crops_before)
    crops = plan.crops + plan.crops_before
    hours = plan.gpu_hours * crops / plan.crops
    mfu = per_name(recipe.hardware.mfu, plan.cell.model)
    early = hours * PAPER_CROPS / crops
    at_their_share = early * mfu * recipe.hardware.gpu_type.peak_tflops / (PAPER_MFU * 312)
    return [
        f"the paper's {plan.cell.model} on {plan.cell.dataset}: {short(PAPER_CROPS)} crops in more than "
        f"{PAPER_HOURS:,} A100 hours; here {short(crops)} in {hours:,.0f}.",
        f"  The paper's ended early, after {PAPER_CROPS / plan.images:.1f} of {crops / plan.images:.0f} "
        f"epochs: {early:,.0f} hours here. It reached {PAPER_MFU:.0%} of an A100's peak, and this plan assumes "
        f"{mfu:.0%}: {at_their_share:,.0f} A100 hours at the paper's share.",
    ]


def as_json(recipe: Recipe, plans: Sequence[CellPlan]) -> str:
    """The plan for scripts: one object per cell, and the GPU assumed."""
    saving = shared_work(plans)
    shared = {} if saving is None else {"shared": {**asdict(saving), "share": saving.share}}
    machine = asdict(recipe.hardware.gpu_type)
    return json.dumps({"machine": machine, "cells": [_object(plan) for plan in plans], **shared}, indent=1)


def _object(plan: CellPlan) -> dict[str, Any]:
    values: dict[str, Any] = {
        "cell": plan.cell.id, "parameters": plan.parameters, "images": plan.images, "crops": plan.crops,
        "steps": plan.steps, "flops": plan.flops, "gpus": plan.gpus, "wall_hours": plan.wall_hours,
        "gpu_hours": plan.gpu_hours, "embed_gpu_hours": plan.embed_hours,
    }  # fmt: skip
    if place := plan.cell.point.coordinates():
        values["axes"] = place
    if plan.cell.start is not None:
        values |= {"start": plan.cell.start.id, "crops_before": plan.crops_before}
    if plan.run is not None:
        run = {**asdict(plan.run), "step_seconds": plan.run.step_seconds, "limit": plan.run.limit}
        values["run"] = {**run, "memory_bytes": plan.run.memory.total if plan.run.memory else None}
    return values


def measured_memory(plans: Sequence[CellPlan]) -> str:
    """One rank's memory for every trained model, by torch's tracker over fake ranks, compared with the closed form.

    The tracker follows FSDP; a cell of another engine is measured as if it were sharded over all its ranks.
    """
    from harness.plan.memory_tracker import rank_memory

    lines, seen = ["one rank's memory by torch's tracker, and the closed form, GB:"], set()
    for plan in plans:
        architecture = plan.cell.architecture
        if (
            plan.run is None
            or architecture is None
            or not isinstance(architecture.model, MaeVitSection)
            or plan.gpus < 2
        ):
            continue
        if (plan.cell.model, plan.run.setting) in seen:
            continue
        seen.add((plan.cell.model, plan.run.setting))
        hybrid = plan.run.setting.engine == "hsdp"
        setting = plan.run.setting if hybrid else replace(plan.run.setting, engine="fsdp", optimiser="lion")
        config = configure(MaeConfig, architecture)
        measured = rank_memory(
            config, world=setting.world, crops=setting.crops, shard=setting.shard if hybrid else None,
            precision="bf16" if setting.precision == "bf16" else "fp32", recompute=setting.recompute,
            passes=min(2, setting.passes), reduce_at=setting.reduce_at,
        )  # fmt: skip
        closed = memory(config, setting).total
        how = f"{setting.engine} over {setting.world}, {setting.crops} crops, recompute {setting.recompute}"
        lines.append(f"  {plan.cell.model or '':<14}{how:<50}{measured.peak / GIGA:>8.2f}{closed / GIGA:>8.2f}")
    return "\n".join(lines)


def short(value: float) -> str:
    """A count in three digits: 2.6G, 93M, 512."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"
