"""Ranks: who this process is among those that train one cell, and the few collectives the loop needs.

One process is the common case and costs nothing here. Several come from submitit (one task per GPU) or from
torchrun's variables; they train with DistributedDataParallel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class Ranks:
    """This process's place: `rank` of `world`, computing on `device`."""

    rank: int
    world: int
    device: torch.device

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
        """Whether any rank says so; all ranks get the same answer."""
        return bool(self.sum(torch.tensor(float(flag), device=self.device))) if self.world > 1 else flag

    def wait(self) -> None:
        """Return once every rank is here."""
        if self.world > 1:
            dist.barrier()

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose backward pass averages gradients over ranks."""
        if self.world == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids)


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
def ranks(device: str) -> Iterator[Ranks]:
    """Join the other processes of this job, if any, and leave them in order at the end."""
    _export_submitit_environment()
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world == 1:
        yield Ranks(0, 1, chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", rank=rank, world_size=world)
    try:
        yield Ranks(rank, world, chosen)
    finally:
        dist.destroy_process_group()


def _export_submitit_environment() -> None:
    """Inside a SLURM job of several tasks, set torch's variables (MASTER_ADDR, RANK, ...) from submitit's."""
    if "RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) == 1:
        return
    from submitit.helpers import TorchDistributedEnvironment

    TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
