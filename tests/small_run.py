"""A small model with an optimiser, trained for a few steps, that saves and resumes checkpoints."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from harness.checkpoint.checkpoints import Checkpoints, Progress
from harness.distributed.optimiser import build_optimiser
from harness.distributed.ranks import Ranks

ONE_RANK = Ranks(0, 1, torch.device("cpu"))


class SmallRun:
    """A model trained on random numbers from all three global generators, so that these must be restored."""

    def __init__(self, optimiser: str = "adamw") -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        self.optimiser = build_optimiser(
            self.model, optimiser, peak=0.01, betas=(0.9, 0.95), weight_decay=0.1  # type: ignore[arg-type]
        )  # fmt: skip
        self.progress = Progress()
        self.sum = torch.zeros(1)

    def checkpoints(self, folder: Path, keep: int = 2, fingerprint: str = "print", **options: Any) -> Checkpoints:
        return Checkpoints(folder, fingerprint, ONE_RANK, {"sum": self.sum}, keep=keep, **options)

    def step(self) -> float:
        shift = float(np.random.normal()) + random.gauss(0, 1)
        loss = (self.model(torch.randn(16, 4) + shift) - shift).square().mean()
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.sum += loss.detach()
        self.progress.step += 1
        return loss.item()

    def state(self) -> dict[str, Any]:
        model, optimiser = get_state_dict(self.model, self.optimiser)
        return {"model": model, "optimiser": optimiser}

    def load(self, state: dict[str, Any]) -> None:
        set_state_dict(
            self.model, self.optimiser, model_state_dict=state["model"], optim_state_dict=state["optimiser"]
        )  # fmt: skip

    def resume(self, folder: Path, **options: Any) -> list[str]:
        checkpoints = self.checkpoints(folder, **options)
        self.progress, notes = checkpoints.resume(self)
        checkpoints.close()
        return notes


def train(folder: Path, steps: int) -> None:
    run = SmallRun()
    checkpoints = run.checkpoints(folder, keep=3)
    for _ in range(steps):
        run.step()
        checkpoints.save(run, run.progress)
    checkpoints.close()


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)
