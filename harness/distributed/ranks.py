"""This process's rank, its device, the process group, and the collectives that training and embedding need.

With one process no process group is created. Several processes are started by submitit (one task per GPU) or by
torchrun; `engine.py` says how they share a model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from harness.storage.health.open_files import raise_limit

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

FIRST_STEP = timedelta(hours=1)  # for a collective before the first step is done, and of saves
Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """This process's rank in a world of `world` processes, and its `device`.

    `control` is the group for messages between hosts that must not wait for the device; None with one process. It is
    the default one, in which gloo carries the tensors of CPUs: another group would open a connection between every two
    ranks once more.
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

    def of_first(self, value: Value) -> Value:
        """Return the first rank's value on all ranks."""
        values = [value]
        if self.world > 1:
            dist.broadcast_object_list(values, src=0, group=self.control)
        return values[0]

    def wait(self) -> None:
        """Wait until every rank has made this call: a barrier, of hosts and not of devices."""
        self.any_of(False)

    def limit_waiting(self, seconds: float) -> None:
        """Let a collective fail after so long. Before the first step, while ranks compile, they have `FIRST_STEP`.

        Groups of gloo beside the default one keep that: a save waits in them for the slowest disk.
        """
        if self.world > 1:
            for group in distributed_c10d._world.pg_map:
                if group is dist.group.WORLD or dist.get_backend(group) != "gloo":
                    distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), group)

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
    raise_limit()
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    torch_device = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if torch_device.type == "cuda":
        torch.cuda.set_device(torch_device)
    if world == 1:
        yield Ranks(0, 1, torch_device)
        return
    on_gpu = torch_device.type == "cuda"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo", rank=rank, world_size=world, timeout=FIRST_STEP,
        device_id=torch_device if on_gpu else None,
    )  # fmt: skip
    try:
        yield Ranks(rank, world, torch_device, dist.group.WORLD)
    finally:
        dist.destroy_process_group()


def _export_submitit_environment() -> None:
    """In a SLURM job with several tasks, set torch's variables (MASTER_ADDR, RANK, ...) from submitit's."""
    if "RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) == 1:
        return
    from submitit.helpers import TorchDistributedEnvironment

    TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
