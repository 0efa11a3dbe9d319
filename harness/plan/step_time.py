"""How a cell's GPUs share its model and its batch, whether that fits, and what sets the pace of a step.

Legend: P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

from analysis.compute.flops import System, VitMae, mae_train
from harness.distributed.engine_choice import EngineName, choose_engine
from harness.distributed.micro_batches import micro_batch
from harness.grid.cells import Cell
from harness.plan.memory import FLOAT, HALF, LIBRARIES_GB, USABLE, Memory, Setting, alternatives, memory
from harness.recipe.fields import per_name
from harness.recipe.gpus import Gpu
from harness.recipe.schema import Recipe

GIGA, TERA = 1e9, 1e12


@dataclass(frozen=True)
class StepEstimate:
    """How a trained cell uses its GPUs, and what a step of it takes.

    Attributes:
        part: a GPU's crops in one step, taken in `part / setting.crops` passes.
        memory: None for a network that has no closed form.
        fits: whether the memory is there; True where the machine has no GPU, or the memory is not known.
        instead: in the recipe's words, the nearest change that would fit.
        compute_seconds: of a step, at the stated share of the peak.
        traffic_seconds: of a step, if nothing of it were hidden behind the computing.
        node_crops: a second, that a node needs; `loader_crops` is what its cores give.
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
        """Traffic and reading hide behind computing, or are what a step waits for."""
        slower = max(1.0, self.node_crops / self.loader_crops) if self.loader_crops else 1.0
        return max(self.compute_seconds * slower, self.traffic_seconds)

    @property
    def limit(self) -> str:
        """What sets the pace: compute, network or loader."""
        if self.step_seconds <= self.compute_seconds:
            return "compute"
        return "network" if self.step_seconds == self.traffic_seconds else "loader"


def run_of(recipe: Recipe, cell: Cell, system: System) -> StepEstimate:
    """How a cell's GPUs share its model and its batch, and what a step takes."""
    assert cell.training is not None
    launch, gpu = recipe.launch, recipe.hardware.gpu_type
    nodes, per_node = per_name(launch.nodes, cell.model), max(1, launch.gpus_per_node)
    world = nodes * per_node
    part = max(1, cell.training.batch // world)
    most = per_name(launch.crops_per_gpu_step, cell.model) if launch.crops_per_gpu_step else None
    has_gpu = launch.gpus_per_node > 0 and launch.device != "cpu"
    shard = launch.shard_gpus or min(world, per_node)
    engine = choose_engine(launch.engine, world, system.parameters(), has_gpu * GIGA * gpu.memory_gb or None, shard)
    training = cell.training
    setting = Setting(
        engine, world, shard, micro_batch(part, most), training.settings.precision, launch.recompute,
        training.optimiser.name, launch.zero_stage,
    )  # fmt: skip
    room = GIGA * (USABLE * gpu.memory_gb - LIBRARIES_GB) if has_gpu else float("inf")
    needed, instead = None, None
    if isinstance(system, VitMae):
        needed = memory(system, setting)
        instead = next((w for w, s in alternatives(setting, part) if memory(system, s).total <= room), None)
    fits = needed is None or needed.total <= room
    seconds = part * mae_train(system) / (gpu.peak_tflops * TERA * per_name(recipe.hardware.mfu, cell.model))
    loader = launch.cpus_per_task * per_node * recipe.hardware.loader_crops_per_core if has_gpu else 0.0
    traffic = traffic_seconds(system, setting, part // setting.crops, nodes, gpu) if has_gpu else 0.0
    return StepEstimate(
        setting, part, needed, fits, None if fits else instead, seconds, traffic, part * per_node / seconds, loader
    )


def traffic_bytes(parameters: int, engine: EngineName, passes: int, gather: int = HALF, stage: int = 2) -> float:
    """Bytes that each GPU sends in a step in a large ring: gradients in float32, and gathered weights where they are
    sharded, twice for every pass."""
    if engine == "single":
        return 0.0
    if engine == "deepspeed":
        gathered = 2 * FLOAT * passes if stage == 3 else FLOAT
        return parameters * (FLOAT + gathered)
    if engine == "ddp":
        return 2 * FLOAT * parameters
    return parameters * (2 * gather * passes + FLOAT)


def traffic_seconds(system: System, setting: Setting, passes: int, nodes: int, gpu: Gpu) -> float:
    """Of a step: within one node over its links; across nodes all GPUs of a node send at once over its ports.

    Under hsdp the gathering stays among a copy's ranks, and the gradients of each rank's part go to the other copies.
    """
    P = system.parameters()
    across = min(gpu.link_gb_s, gpu.network_gb_s * setting.world / nodes) * GIGA
    rate = across if nodes > 1 else gpu.link_gb_s * GIGA
    gather = HALF if setting.precision == "bf16" else FLOAT
    if setting.engine == "hsdp":
        inside = traffic_bytes(P, "hsdp", passes, gather) / (gpu.link_gb_s * GIGA)
        return inside + 2 * FLOAT * P / setting.shard / (gpu.network_gb_s * GIGA)
    return traffic_bytes(P, setting.engine, passes, gather, setting.zero_stage) / rate
