"""Read batches ahead: threads fill them before they are requested, and they are yielded in order.

Threads rather than processes: the kernel holds no interpreter lock, so they scale, and pixels are written only once.

Shapes: B batch (of this rank), C channels, s crop size.
"""

from __future__ import annotations

import math
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MIN_AHEAD = 2
"""Work batches queued or being read, at least; and tasks for each thread."""


@dataclass(frozen=True)
class Batch:
    """Crops of this rank, already flipped, in the shards' pixel type, and the well each comes from."""

    images: Tensor  # (B, C, s, s) uint8 or uint16
    wells: Tensor  # (B,) int64, indices into ShardSet.wells
    sums: Tensor | None = None  # (B, C, 2) int64, of pixels and of their squares, if requested

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every crop and channel, (B, C) each in float64, from the exact sums."""
        if self.sums is None:
            raise ValueError("these batches were read without sums")
        mean, square = (self.sums.double() / self.images[0, 0].numel()).unbind(-1)
        return mean, (square - mean**2).clamp(min=0).sqrt()


class Buffers:
    """Memory for batches, reused as soon as nothing refers to it any more, and never before.

    Fresh memory costs a page fault for every 4 KiB. Pinned memory is left to torch's allocator, which does the same and
    also waits for unfinished copies to the GPU.
    """

    def __init__(self, pixel_type: str, pin: bool = False) -> None:
        self._dtype, self._pin = np.dtype(pixel_type), pin
        self._free: defaultdict[int, list[NDArray[np.uint8]]] = defaultdict(list)

    def take(self, *shape: int) -> Tensor:
        """An uninitialised tensor of the pixel type and this shape."""
        if self._pin:
            return torch.empty(shape, dtype=torch.from_numpy(np.empty(0, self._dtype)).dtype, pin_memory=True)
        size = math.prod(shape) * self._dtype.itemsize
        free = self._free[size]
        memory = free.pop() if free else np.empty(size, np.uint8)
        array = memory.view(self._dtype).reshape(shape)  # lives as long as any tensor or array made from it
        weakref.finalize(array, free.append, memory).atexit = False
        return torch.from_numpy(array)


@dataclass(frozen=True)
class WorkBatch:
    """Batches, and the tasks that fill them, in any order."""

    batches: Sequence[Batch]
    tasks: Sequence[Callable[[], None]]
    retry_singly: Sequence[Callable[[], WorkBatch]] = ()  # a work batch for each batch, if a task fails


def read_ahead(work_batches: Iterable[WorkBatch], workers: int, ahead: int | None = None) -> Generator[Batch]:
    """Yield batches in order, read ahead by threads; with no workers, each is read when it is requested.

    `ahead` batches are queued or being read, in complete work batches; by default MIN_AHEAD work batches.
    An error is raised at the batch that it belongs to. Closing, or an error, ends the threads.
    """
    if not workers:
        for work_batch in work_batches:
            yield from _finish(work_batch, [])
        return
    remaining, pending = iter(work_batches), deque[tuple[WorkBatch, list[Future[None]]]]()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="shard-reader")
    try:
        while True:
            while _wants_more(pending, workers, ahead):
                if not (more := list(islice(remaining, 1))):
                    break
                pending.append((more[0], [pool.submit(task) for task in more[0].tasks]))
            if not pending:
                return
            yield from _finish(*pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _wants_more(pending: Sequence[tuple[WorkBatch, list[Future[None]]]], workers: int, ahead: int | None) -> bool:
    if ahead is not None:
        return sum(len(work_batch.batches) for work_batch, _ in pending) < ahead
    return len(pending) < MIN_AHEAD or sum(len(futures) for _, futures in pending) < MIN_AHEAD * workers


def _finish(work_batch: WorkBatch, futures: list[Future[None]]) -> Generator[Batch]:
    """The batches of a work batch, once all its tasks are done; one by one if a task fails."""
    try:
        for future in futures:
            future.result()
        if not futures:
            for task in work_batch.tasks:
                task()
    except Exception:
        if not work_batch.retry_singly:
            raise
        for single in work_batch.retry_singly:
            yield from _finish(single(), [])
    else:
        yield from work_batch.batches
