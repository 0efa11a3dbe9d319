"""Memory of training on one GPU, in closed form: weights, gradients and moments, and activations.

The bytes of activations were derived from what autograd keeps of timm's blocks. They agree within 2% with torch's
tracker under fsdp over 256 fake ranks (`python -m harness.memory`; ViT-S/16, B/8, L/8 and G/8;
tests/harness/plan/test_cost.py).

Legend: P parameters, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from analysis.compute.flops import MLP_RATIO, VitMae, decoder_parameters
from harness.distributed.engine_choice import EngineName, ReduceAt

Recompute = Literal["none", "selective", "full"]
RECOMPUTES: tuple[Recompute, ...] = ("none", "selective", "full")
USABLE = 0.92  # of a GPU's memory: the rest goes to the allocator's gaps, libraries and the driver
LIBRARIES_GB = 1.0  # CUDA's context, NCCL's buffers, cuBLAS's workspace
FLOAT, HALF = 4, 2
ZERO_GRADIENTS, ZERO_WEIGHTS = 2, 3  # the stages of ZeRO from which these are shared
GRADIENTS_THERE = 2 / 3  # of an encoder block's gradients, while those of the block after it are reduced


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
    passes: int = 1  # of one step
    reduce_at: ReduceAt = "step"
    ddp_gradients: str = "fp32"  # as they are sent


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
    in_encoder = below + (kept.again - kept.encoder) * encoder
    passing = Passing.of(model, setting)
    state, (before, after) = state_bytes(model, setting), gradient_bytes(model, setting)
    moments = (
        Memory(state + before, setting.crops * at_loss + passing.at_loss),
        Memory(state + after, setting.crops * in_encoder + passing.in_encoder),
    )
    return max(moments, key=lambda moment: moment.total)


@dataclass(frozen=True)
class Passing:
    """Bytes of what hsdp and fsdp gather and reduce, and free again, at the two moments that `memory` compares."""

    at_loss: float
    in_encoder: float

    @classmethod
    def of(cls, model: VitMae, setting: Setting) -> Passing:
        """Of the blocks, two are gathered at once. In the backward pass the gradients of one are being reduced in
        float32, while two thirds of the next one's are there. What is outside of the blocks stays gathered.

        Whole gradients of earlier passes are reduced where they are.
        """
        if setting.engine not in ("hsdp", "fsdp"):
            return cls(0.0, 0.0)
        gathered = HALF if setting.precision == "bf16" else FLOAT
        encoder_block = encoder_block_numbers(model, shards_of(setting))
        decoder_block = decoder_parameters(model) / model.decoder_depth
        outside = gathered * (model.width + model.decoder_width) * (model.pixels_per_patch + model.decoder_width)
        reduced = 0 if keeps_whole_gradients(setting) else FLOAT
        in_encoder = ((2 + GRADIENTS_THERE) * gathered + reduced) * encoder_block
        return cls(2 * gathered * decoder_block, in_encoder + outside)


def encoder_block_numbers(model: VitMae, shards: int) -> int:
    """Numbers of an encoder block over all shards: FSDP pads each tensor's rows to a multiple of the shards."""
    D, hidden, head = model.width, MLP_RATIO * model.width, model.width // model.heads
    matrices = ((hidden + 3 * D, D), (D, D), (D, hidden))
    vectors = (D, D, hidden, head, head, head, head, D, D, D)  # norms, biases and LayerScale
    return sum(-(-rows // shards) * shards * columns for rows, columns in (*matrices, *((size, 1) for size in vectors)))


def state_bytes(model: VitMae, setting: Setting) -> float:
    """Bytes of float32 weights and moments, over the ranks that share them, of autocast's copy and of positions."""
    weights, moments = FLOAT * model.parameters(), moments_per_parameter(model, setting)
    positions = FLOAT * model.tokens * (model.width + model.decoder_width)
    if setting.engine in ("hsdp", "fsdp"):
        return weights * (1 + moments) / shards_of(setting) + positions
    cast = HALF * model.parameters() if setting.precision == "bf16" else 0
    if setting.engine == "deepspeed":
        shared = setting.world if setting.zero_stage >= ZERO_WEIGHTS else 1
        return weights * (1 / shared + moments / setting.world) + cast + positions
    return weights * (1 + moments) + cast + positions


def gradient_bytes(model: VitMae, setting: Setting) -> tuple[float, float]:
    """Bytes of float32 gradients at the loss, and where the encoder's backward pass begins.

    Under hsdp and fsdp shards of them come block by block, but between passes that are not reduced they are whole.
    Elsewhere they have their memory throughout, or may have.
    """
    whole = FLOAT * model.parameters()
    if setting.engine == "deepspeed":
        part = whole / setting.world if setting.zero_stage >= ZERO_GRADIENTS else whole
        return part, part
    if setting.engine in ("single", "ddp"):
        return whole, whole
    if setting.passes > 1:
        kept = whole if keeps_whole_gradients(setting) else whole / shards_of(setting)
        return kept, kept
    return 0.0, FLOAT * decoder_parameters(model) / shards_of(setting)


def keeps_whole_gradients(setting: Setting) -> bool:
    """Whether hsdp and fsdp keep gradients of every parameter on every rank between the passes of a step."""
    return setting.passes > 1 and setting.reduce_at == "step"


def shards_of(setting: Setting) -> int:
    """Ranks that hold one copy of what hsdp and fsdp share."""
    return setting.world if setting.engine == "fsdp" else setting.shard


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
    is_sharded = setting.engine in ("hsdp", "fsdp")
    if is_sharded and keeps_whole_gradients(setting):
        yield "launch.reduce_at=pass", replace(setting, reduce_at="pass")
    for recompute in RECOMPUTES[RECOMPUTES.index(setting.recompute) :]:
        changed = "" if recompute == setting.recompute else f" and launch.recompute={recompute}"
        for size in divisors:
            smaller = replace(setting, crops=size, passes=part // size, recompute=recompute)
            yield f"launch.crops_per_gpu_step={size}{changed}", smaller
            if is_sharded and keeps_whole_gradients(smaller):
                text = f"launch.reduce_at=pass, launch.crops_per_gpu_step={size}{changed}"
                yield text, replace(smaller, reduce_at="pass")
    if setting.engine in ("single", "ddp", "hsdp") and setting.world > 1:
        for size in divisors:
            changes = (
                f"launch.engine=fsdp, launch.reduce_at=pass, launch.crops_per_gpu_step={size} and launch.recompute=full"
            )
            yield (
                changes,
                replace(setting, engine="fsdp", crops=size, passes=part // size, recompute="full", reduce_at="pass"),
            )
