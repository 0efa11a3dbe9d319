"""How the GPUs of a grid cell share its model and batch, whether that fits, and what limits the time of a step.

Legend: P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.compute.flops import System, VitMae, mae_train
from harness.distributed.engine_choice import EngineName, choose_engine
from harness.distributed.micro_batches import micro_batch
from harness.grid.cell import Cell
from harness.plan.memory import FLOAT, HALF, LIBRARIES_GB, USABLE, Memory, Setting, alternatives, memory
from harness.recipe.fields import per_name
from harness.recipe.gpus import Gpu
from harness.recipe.schema import Recipe

GIGA, TERA = 1e9, 1e12


@dataclass(frozen=True)
class StepEstimate:
    """How a trained cell uses its GPUs, and how long a step takes.

    Attributes:
        part: a GPU's crops in one step, in `part / setting.crops` passes.
        memory: None for a network that has no closed form.
        fits: whether the memory suffices; True where there is no GPU, or the memory is not known.
        instead: the nearest change of the recipe that would fit.
        compute_seconds: of a step, at the stated share of the peak.
        traffic_seconds: of a step's communication, if none of it overlaps with compute.
        node_crops: crops per second that a node needs; `loader_crops` is what its cores can read.
    """

    setting: Setting
    part: int
    memory: Memory | None
    fits: bool
    instead: str | None
    compute_seconds: float
    traffic_seconds: float
    node_crops: float
    loader_crops: float

    @property
    def step_seconds(self) -> float:
        """Communication and reading overlap with compute; the slowest of them sets the time."""
        slower = max(1.0, self.node_crops / self.loader_crops) if self.loader_crops else 1.0
        return max(self.compute_seconds * slower, self.traffic_seconds)

    @property
    def limit(self) -> str:
        """What limits a step: compute, network or loader."""
        if self.step_seconds <= self.compute_seconds:
            return "compute"
        return "network" if self.step_seconds == self.traffic_seconds else "loader"


def estimate_step(recipe: Recipe, cell: Cell, system: System) -> StepEstimate:
    """How a cell's GPUs share its model and batch, and how long a step takes."""
    assert cell.training is not None
    launch, gpu = recipe.launch, recipe.hardware.gpu_type
    nodes, per_node = per_name(launch.nodes, cell.model), max(1, launch.gpus_per_node)
    world = nodes * per_node
    part = max(1, cell.training.batch // world)
    max_crops = per_name(launch.crops_per_gpu_step, cell.model) if launch.crops_per_gpu_step else None
    has_gpu = launch.gpus_per_node > 0 and launch.device != "cpu"
    shard = launch.shard_gpus or min(world, per_node)
    engine = choose_engine(launch.engine, world, system.parameters(), has_gpu * GIGA * gpu.memory_gb or None, shard)
    training = cell.training
    crops = micro_batch(part, max_crops)
    setting = Setting(
        engine, world, shard, crops, training.settings.precision, launch.recompute, training.optimiser.name,
        launch.zero_stage, training.optimiser.rest, part // crops, launch.reduce_at, launch.ddp_gradients,
    )  # fmt: skip
    available = GIGA * (USABLE * gpu.memory_gb - LIBRARIES_GB) if has_gpu else float("inf")
    needed, instead = None, None
    if isinstance(system, VitMae):
        needed = memory(system, setting)
        instead = next((w for w, s in alternatives(setting, part) if memory(system, s).total <= available), None)
    fits = needed is None or needed.total <= available
    seconds = part * mae_train(system) / (gpu.peak_tflops * TERA * per_name(recipe.hardware.mfu, cell.model))
    loader = launch.cpus_per_task * per_node * recipe.hardware.loader_crops_per_core if has_gpu else 0.0
    traffic = traffic_seconds(system, setting, nodes, gpu) if has_gpu else 0.0
    return StepEstimate(
        setting, part, needed, fits, None if fits else instead, seconds, traffic, part * per_node / seconds, loader
    )


def traffic_bytes(
    parameters: int,
    engine: EngineName,
    passes: int,
    gather: int = HALF,
    stage: int = 2,
    reductions: int = 1,
    ddp_gradients: int = FLOAT,
) -> float:
    """Bytes that each GPU sends in a step in a large ring: gradients in float32, and gathered weights where they are
    sharded, twice per pass. `reductions` of gradients, under hsdp and fsdp; `ddp_gradients`: bytes of one under ddp."""
    if engine == "single":
        return 0.0
    if engine == "deepspeed":
        gathered = 2 * FLOAT * passes if stage == 3 else FLOAT
        return parameters * (FLOAT + gathered)
    if engine == "ddp":
        return 2 * ddp_gradients * parameters
    return parameters * (2 * gather * passes + FLOAT * reductions)


def traffic_seconds(system: System, setting: Setting, nodes: int, gpu: Gpu) -> float:
    """Of a step: within one node over its links; across nodes all GPUs of a node send at once over its ports.

    Under hsdp the gathering stays among a copy's ranks, and the gradients of each rank's part go to the other copies.
    """
    P = system.parameters()
    across = min(gpu.link_gb_s, gpu.network_gb_s * setting.world / nodes) * GIGA
    rate = across if nodes > 1 else gpu.link_gb_s * GIGA
    gather = HALF if setting.precision == "bf16" else FLOAT
    passes, reductions = setting.passes, setting.passes if setting.reduce_at == "pass" else 1
    if setting.engine == "hsdp":
        inside = traffic_bytes(P, "hsdp", passes, gather, reductions=reductions) / (gpu.link_gb_s * GIGA)
        return inside + 2 * FLOAT * P / setting.shard / (gpu.network_gb_s * GIGA)
    sent = HALF if setting.ddp_gradients == "bf16" else FLOAT
    return traffic_bytes(P, setting.engine, passes, gather, setting.zero_stage, reductions, sent) / rate
