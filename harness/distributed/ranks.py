"""This process's rank, its device, the process group, and the collectives that training and embedding need.

With one process no process group is created. Several processes are started by submitit (one task per GPU) or by
torchrun; `engine.py` says how they share a model.
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
    """This process's rank in a world of `world` processes, and its `device`.

    `control` is a gloo group for messages between hosts that must not wait for the device; None with one process.
    """

    rank: int
    world: int
    device: torch.device
    control: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean of `value` over ranks."""
        return self.sum(value) / self.world

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of `value` over ranks."""
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Return, on all ranks, whether any rank's flag is set. It blocks: use `agreement.Agreement` at every step."""
        return self.any_of(flag)[0]

    def any_of(self, *flags: bool) -> tuple[bool, ...]:
        """Return, on all ranks, for each flag whether any rank has it set, in one blocking message."""
        if self.world == 1:
            return flags
        votes = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(votes, dist.ReduceOp.MAX, group=self.control)
        return tuple(bool(vote) for vote in votes.tolist())

    def wait(self) -> None:
        """Wait until every rank has made this call (a barrier)."""
        if self.world > 1:
            dist.barrier(group=self.control)

    def mesh(self, shard: int) -> DeviceMesh:
        """Build a mesh on which `shard` neighbouring ranks share one copy of the model.

        With more ranks than that there are several copies, and the mesh has a second dimension.

        Raises:
            ValueError: `shard` does not divide the number of ranks.
        """
        from torch.distributed.device_mesh import init_device_mesh

        if self.world % shard:
            raise ValueError(f"launch.shard_gpus is {shard}, which does not divide {self.world} ranks")
        if shard == self.world:
            return init_device_mesh(self.device.type, (shard,), mesh_dim_names=("shard",))
        shape = (self.world // shard, shard)
        return init_device_mesh(self.device.type, shape, mesh_dim_names=("replicate", "shard"))


def choose_device(device: str, local_rank: int = 0) -> torch.device:
    """Return the torch device for `auto`, `cuda` or `cpu`; `auto` uses a GPU if there is one.

    Raises:
        RuntimeError: `cuda` is requested but not available.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("launch.device is cuda, but torch finds no CUDA device")
    use_cuda = device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")


@contextmanager
def process_group(device: str) -> Iterator[Ranks]:
    """Join the process group of this job, if there are several processes, and destroy it at the end."""
    _export_submitit_environment()
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    torch_device = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if torch_device.type == "cuda":
        torch.cuda.set_device(torch_device)
    if world == 1:
        yield Ranks(0, 1, torch_device)
        return
    backend = "cpu:gloo,cuda:nccl" if torch_device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=world)
    try:
        yield Ranks(rank, world, torch_device, dist.new_group(backend="gloo"))
    finally:
        dist.destroy_process_group()


def _export_submitit_environment() -> None:
    """In a SLURM job with several tasks, set torch's variables (MASTER_ADDR, RANK, ...) from submitit's."""
    if "RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) == 1:
        return
    from submitit.helpers import TorchDistributedEnvironment

    TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
