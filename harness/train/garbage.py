"""Garbage collection at chosen steps, so that no rank stops at a moment of its own and makes the others wait."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

COLLECT_EVERY = 1000  # steps


@contextmanager
def collected_garbage() -> Iterator[Callable[[int], None]]:
    """Yield a function to call with each step's number: it collects young garbage every COLLECT_EVERY steps.

    Without this, Python collects at a different moment on every rank, and each time all ranks wait for one.
    """
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()

    def after(step: int) -> None:
        if step % COLLECT_EVERY == 0:
            gc.collect(1)

    try:
        yield after
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
