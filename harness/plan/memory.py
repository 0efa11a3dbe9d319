"""Memory of training on one GPU, in closed form: weights, gradients and moments, and activations.

The bytes of activations were derived from what autograd keeps of timm's blocks. They agree within 5% with torch's
tracker over 256 fake ranks (`python -m harness.memory`; ViT-S/16, B/8 and L/8; tests/harness/plan/test_cost.py).

Legend: P parameters, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from analysis.compute.flops import MLP_RATIO, VitMae, decoder_parameters, encoder_parameters
from harness.distributed.engine_choice import EngineName

Recompute = Literal["none", "selective", "full"]
RECOMPUTES: tuple[Recompute, ...] = ("none", "selective", "full")
USABLE = 0.92  # of a GPU's memory: the rest goes to the allocator's gaps, libraries and the driver
LIBRARIES_GB = 1.0  # CUDA's context, NCCL's buffers, cuBLAS's workspace
FLOAT, HALF = 4, 2


@dataclass(frozen=True)
class Kept:
    """Bytes per token and unit of width that a block keeps for the backward pass, and while it is recomputed."""

    encoder: float
    decoder: float
    again: float


KEPT = MappingProxyType(
    {
        ("bf16", "none"): Kept(44.5, 37.0, 0.0),
        ("bf16", "selective"): Kept(24.2, 24.0, 30.0),
        ("bf16", "full"): Kept(4.0, 4.0, 46.0),
        ("fp32", "none"): Kept(72.0, 64.0, 0.0),
        ("fp32", "selective"): Kept(44.0, 44.0, 54.0),
        ("fp32", "full"): Kept(4.0, 4.0, 80.0),
    }
)
MOMENTS = MappingProxyType({"lion": 1, "sgd": 1, "adamw": 2})
BLOCK_MATRICES = 3 + 1 + 2 * MLP_RATIO  # of a block, in units of its width squared: q, k and v, output, and the MLP's
IMAGES_KEPT = 2.17  # crops in float32, and what the loss keeps of them
IMAGES_AT_LOSS = 4.0  # prediction, difference and their gradients, for a moment


@dataclass(frozen=True)
class Setting:
    """The settings of training that its memory depends on. `shard`: ranks that hold one copy under hsdp."""

    engine: EngineName
    world: int
    shard: int
    crops: int  # in one forward pass
    precision: str
    recompute: Recompute
    optimiser: str
    zero_stage: int = 2
    rest: str = "adamw"  # beside Muon


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the worst moment of a step."""

    weights: float  # weights, gradients and moments
    activations: float  # and copies of weights that pass through

    @property
    def total(self) -> float:
        return self.weights + self.activations


def memory(model: VitMae, setting: Setting) -> Memory:
    """What one GPU holds at the worst moment of a step: at the loss, or in the encoder's backward pass."""
    kept = KEPT[setting.precision, setting.recompute]
    image = FLOAT * model.channels * model.crop**2
    encoder, decoder = model.visible_tokens * model.width, model.tokens * model.decoder_width
    below = kept.encoder * model.depth * encoder + IMAGES_KEPT * image
    again = max(IMAGES_AT_LOSS * image, kept.again * max(encoder, decoder))
    at_loss = below + kept.decoder * model.decoder_depth * decoder + again
    gathered = HALF if setting.precision == "bf16" else FLOAT
    passing = setting.engine in ("hsdp", "fsdp")
    of_decoder = passing * 2 * gathered * decoder_parameters(model) / model.decoder_depth
    of_encoder = passing * (3 * gathered + 2 * FLOAT) * encoder_parameters(model) / model.depth
    in_encoder = setting.crops * (below + kept.again * encoder) + of_encoder
    return Memory(weight_bytes(model, setting), max(setting.crops * at_loss + of_decoder, in_encoder))


def weight_bytes(model: VitMae, setting: Setting) -> float:
    """Bytes of float32 weights, gradients and moments, each over the ranks that share it, and autocast's copy."""
    parameters = encoder_parameters(model) + decoder_parameters(model)
    weights_bytes, moments = FLOAT * parameters, moments_per_parameter(model, setting)
    cast = HALF * parameters if setting.precision == "bf16" else 0
    if setting.engine in ("single", "ddp"):
        return weights_bytes * (2 + moments) + cast
    if setting.engine == "deepspeed":
        weights, gradients = (setting.world if setting.zero_stage >= stage else 1 for stage in (3, 2))
        return weights_bytes * (1 / weights + 1 / gradients + moments / setting.world) + cast
    return weights_bytes * (2 + moments) / (setting.world if setting.engine == "fsdp" else setting.shard)


def moments_per_parameter(model: VitMae, setting: Setting) -> float:
    """Numbers that the optimiser keeps for a parameter, on average: Muon one for each of a hidden matrix."""
    if setting.optimiser != "muon":
        return MOMENTS[setting.optimiser]
    matrices = BLOCK_MATRICES * (model.depth * model.width**2 + model.decoder_depth * model.decoder_width**2)
    share = (matrices + model.width * model.decoder_width) / model.parameters()
    return share + (1 - share) * MOMENTS[setting.rest]


def alternatives(setting: Setting, part: int) -> Iterator[tuple[str, Setting]]:
    """Settings that need less memory, the nearest first, each as changes of the recipe's fields.

    Args:
        part: a GPU's crops in one step; a pass takes a divisor of it.
    """
    from dataclasses import replace

    divisors = [size for size in range(min(setting.crops, part), 0, -1) if part % size == 0]
    for recompute in RECOMPUTES[RECOMPUTES.index(setting.recompute) :]:
        changed = "" if recompute == setting.recompute else f" and launch.recompute={recompute}"
        for size in divisors:
            yield f"launch.crops_per_gpu_step={size}{changed}", replace(setting, crops=size, recompute=recompute)
    if setting.engine in ("single", "ddp", "hsdp") and setting.world > 1:
        for size in divisors:
            changes = f"launch.engine=fsdp, launch.crops_per_gpu_step={size} and launch.recompute=full"
            yield changes, replace(setting, engine="fsdp", crops=size, recompute="full")
