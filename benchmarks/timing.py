"""Timing of training steps: speed at the best batch size, found by doubling, in a process of its own."""

from __future__ import annotations

import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from benchmarks.peers import Peer, StepSetting
from harness.train.metrics import peak_memory_bytes

WARM_UP, BLOCKS = 2, 3
WORTH = 1.02  # a doubled batch must gain this much for the search to continue


@dataclass(frozen=True)
class StepSpeed:
    """The speed at the best batch size."""

    batch: int
    crops_per_second: float
    peak_memory_gb: float

    @property
    def step_ms(self) -> float:
        return 1000 * self.batch / self.crops_per_second


@dataclass(frozen=True)
class Search:
    """From the first batch size up, doubling while it gains; each is timed for at least `seconds`."""

    first: int
    largest: int
    seconds: float


def best_speed(peer: Peer, setting: StepSetting, search: Search) -> StepSpeed:
    """The peer's speed at its best batch, measured in a fresh process, so that the memory, caches and
    compiled code of others do not interfere.

    Raises:
        RuntimeError: not even the first batch fits.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(search_here, (peer, setting, search, torch.get_num_threads()))


def search_here(peer: Peer, setting: StepSetting, search: Search, threads: int) -> StepSpeed:
    """As `best_speed`, in this process.

    Raises:
        RuntimeError: not even the first batch fits.
    """
    torch.set_num_threads(threads)
    best: StepSpeed | None = None
    batch = search.first
    while batch <= search.largest:
        speed = _speed(peer, replace(setting, batch=batch), search.seconds)
        if speed is None or (best and speed.crops_per_second < WORTH * best.crops_per_second):
            break
        best = speed
        batch *= 2
    if best is None:
        raise RuntimeError(f"{peer.name}: a batch of {search.first} does not fit on {setting.device}")
    return best


def _speed(peer: Peer, setting: StepSetting, seconds: float) -> StepSpeed | None:
    """None where the batch does not fit."""
    torch.compiler.reset()  # code compiled for another batch would be compiled again for any, which is slower
    gc.collect()
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(setting.device)
    torch.manual_seed(0)
    try:
        step = peer.build(setting)
        times = timed(step, setting.device, seconds)
    except torch.OutOfMemoryError:
        return None
    return StepSpeed(setting.batch, setting.batch / times, peak_memory_bytes(setting.device) / 1e9)


def timed(
    step: Callable[[], object],
    device: torch.device,
    seconds: float,
    pick: Callable[[list[float]], float] = statistics.median,
) -> float:
    """Seconds per step: the median (or `pick`) of blocks of steps. The device is synchronised only between blocks."""
    for _ in range(WARM_UP):
        step()
    wait(device)
    start = time.perf_counter()
    step()
    wait(device)
    steps = max(1, round(seconds / BLOCKS / max(time.perf_counter() - start, 1e-6)))
    blocks = []
    for _ in range(BLOCKS):
        start = time.perf_counter()
        for _ in range(steps):
            step()
        wait(device)
        blocks.append((time.perf_counter() - start) / steps)
    return pick(blocks)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rate(device: torch.device, bf16: bool, seconds: float = 2.0) -> float:
    """FLOP/s of one large square product: what this machine reaches in its best block of some seconds."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    return 2 * side**3 / timed(lambda: torch.mm(a, b), device, seconds, min)
