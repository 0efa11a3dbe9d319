"""Ranks and meshes: who this process is among those that train one cell, and the few collectives the loop needs.

One process is the common case and costs nothing here. Several come from submitit (one task per GPU) or from
torchrun's variables; `engines.py` says how they share a model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class Ranks:
    """This process's place: `rank` of `world`, computing on `device`.

    `control` is a gloo group for words between hosts, which must not wait for the device; None in one process.
    """

    rank: int
    world: int
    device: torch.device
    control: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of `value` over ranks."""
        return self.sum(value) / self.world

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of `value` over ranks."""
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Whether any rank says so; all ranks get the same answer. It waits: `pace.Agreement` is for every step."""
        if self.world == 1:
            return flag
        votes = torch.tensor(int(flag))
        dist.all_reduce(votes, group=self.control)
        return bool(votes)

    def wait(self) -> None:
        """Return once every rank is here."""
        if self.world > 1:
            dist.barrier(group=self.control)

    def mesh(self, shard: int) -> DeviceMesh:
        """`shard` neighbours hold one copy of the model together; with fewer than all ranks, there are several copies.

        Raises:
            ValueError: copies of `shard` ranks do not fill the world.
        """
        from torch.distributed.device_mesh import init_device_mesh

        if self.world % shard:
            raise ValueError(f"launch.shard_gpus is {shard}, which does not divide {self.world} ranks")
        if shard == self.world:
            return init_device_mesh(self.device.type, (shard,), mesh_dim_names=("shard",))
        shape = (self.world // shard, shard)
        return init_device_mesh(self.device.type, shape, mesh_dim_names=("replicate", "shard"))


def choose_device(wanted: str, local_rank: int = 0) -> torch.device:
    """`auto` takes a GPU where there is one.

    Raises:
        RuntimeError: `cuda` is wanted and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("launch.device is cuda, but torch finds no CUDA device here")
    use_cuda = wanted != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")


@contextmanager
def process_group(device: str) -> Iterator[Ranks]:
    """Join the other processes of this job, if any, and leave them in order at the end."""
    _export_submitit_environment()
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world == 1:
        yield Ranks(0, 1, chosen)
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo", rank=rank, world_size=world)
    try:
        yield Ranks(rank, world, chosen, dist.new_group(backend="gloo"))
    finally:
        dist.destroy_process_group()


def _export_submitit_environment() -> None:
    """Inside a SLURM job of several tasks, set torch's variables (MASTER_ADDR, RANK, ...) from submitit's."""
    if "RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) == 1:
        return
    from submitit.helpers import TorchDistributedEnvironment

    TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
