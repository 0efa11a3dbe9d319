"""Memory of one rank, measured by torch's tracker over fake ranks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.models.config import MaeConfig, vit_config
from harness.recipe.models import VitSize

if TYPE_CHECKING:
    from harness.distributed.ranks import Ranks
    from harness.distributed.recompute import Recompute


@dataclass(frozen=True)
class RankMemory:
    """Bytes on one rank.

    Attributes:
        peak: the largest amount allocated at one time in a step.
        at_peak: the same by kind: sharded and gathered weights, gradients, optimiser, activations, buffers, traffic.
    """

    world: int
    shard: int
    crops: int
    peak: int
    at_peak: dict[str, int]


def rank_memory(
    config: MaeConfig,
    *,
    world: int,
    crops: int,
    shard: int | None = None,
    precision: Literal["fp32", "bf16"] = "bf16",
    recompute: Recompute = "none",
    passes: int = 1,
    reduce_at: Literal["step", "pass"] = "step",
) -> RankMemory:
    """The memory of one of `world` ranks that train `config` with Lion on `crops` crops at a time.

    Args:
        shard: ranks that hold one copy (hsdp); None: all of them (fsdp).
        passes: of one step.
        reduce_at: when gradients are reduced, as `launch.reduce_at`.

    Raises:
        ValueError: `shard` does not divide `world`.
        RuntimeError: this process already belongs to a process group.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker

    from harness.distributed.build_engine import build_engine
    from harness.distributed.engine import EngineOptions
    from harness.distributed.optimiser import build_optimiser
    from harness.distributed.recompute import set_up_blocks
    from harness.models.mae import MaskedAutoencoder

    options = EngineOptions(
        "fsdp" if shard in (None, world) else "hsdp", precision, shard or world, gather=precision, reduce_at=reduce_at
    )
    with fake_ranks(world) as ranks, FakeTensorMode():
        model = MaskedAutoencoder(config)  # fake, so without values already
        set_up_blocks(model, recompute)
        engine = build_engine(
            model,
            lambda module: build_optimiser(module, "lion", peak=1e-4, betas=(0.9, 0.95), weight_decay=0.05),
            ranks,
            options,
        )
        images = torch.randn(crops, config.channels, config.crop, config.crop)
        noise = torch.rand(crops, config.noise_values)
        for parameter in engine.model.parameters():  # the optimiser's moments are there from the first step on
            parameter.grad = torch.zeros_like(parameter)
        engine.step(1e-4)
        tracker = FSDPMemTracker(engine.model, engine.optimiser)
        tracker.track_inputs((images, noise))
        with tracker:
            for _ in range(1, passes):
                engine.accumulate(images, noise, 1.0, last=False)
                tracker.reset_mod_stats()
            engine.accumulate(images, noise, 1.0, last=True)
        parts = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    by_kind = {str(getattr(kind, "value", kind)): int(size) for kind, size in parts.items()}
    peak = by_kind.pop("Total")
    return RankMemory(world, options.shard, crops, peak, {kind: size for kind, size in by_kind.items() if size})


@contextmanager
def fake_ranks(world: int) -> Iterator[Ranks]:
    """Act as rank 0 of `world` ranks that have no processes; collectives return shapes only.

    Raises:
        RuntimeError: this process already belongs to a process group.
    """
    import torch
    import torch.distributed as dist
    from torch._subclasses.fake_tensor import unset_fake_temporarily
    from torch.distributed.device_mesh import DeviceMesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from harness.distributed.ranks import Ranks

    class FakeRanks(Ranks):
        def mesh(self, shard: int) -> DeviceMesh:
            with unset_fake_temporarily():  # a mesh reads its rank numbers, so they must be real tensors
                return super().mesh(shard)

    if dist.is_initialized():
        raise RuntimeError("fake ranks need a process that belongs to no process group")
    dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
    try:
        yield FakeRanks(0, world, torch.device("cpu"))
    finally:
        dist.destroy_process_group()


def model_named(name: str) -> MaeConfig:
    """The network of a name such as vit_l8 or vit_l8_plus.

    Raises:
        ValueError: no such name.
    """
    parts = re.fullmatch(r"vit_([sblg])(8|16)(_plus)?", name)
    if not parts:
        raise ValueError(
            f"no model {name!r}: vit_s16, vit_s8, vit_b16, vit_b8, vit_l16, vit_l8, vit_g16, vit_g8, each "
            "with or without _plus"
        )
    size: VitSize = parts[1].upper()  # type: ignore[assignment]
    return vit_config(size, int(parts[2]), plus=bool(parts[3]))
