"""Steps arrive in order, one ahead, with the noise of their place; and nothing is left behind when they end."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest
import torch

from harness.data.to_device import StepInput, prefetch_to_device
from harness.train.garbage import collected_garbage
from shards.loader.read_ahead import Batch

CPU = torch.device("cpu")


def batches(count: int, closed: list[bool]) -> Generator[Batch]:
    try:
        for number in range(count):
            yield Batch(torch.full((2, 1, 4, 4), number, dtype=torch.uint8), torch.tensor([number, number]))
    finally:
        closed.append(True)


def noise(step: int, wells: torch.Tensor) -> torch.Tensor:
    return torch.full((len(wells), 3), float(step))


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")}


def test_steps_come_in_order_with_their_noise() -> None:
    closed: list[bool] = []
    found = list(prefetch_to_device(batches(5, closed), noise, 10, CPU))
    assert [int(step.batch.images[0, 0, 0, 0]) for step in found] == [0, 1, 2, 3, 4]
    assert [float(step.noise[0, 0]) for step in found] == [10, 11, 12, 13, 14]
    assert closed == [True]
    assert not threads()


def test_closing_early_closes_the_loader_and_ends_the_thread() -> None:
    closed: list[bool] = []
    steps = prefetch_to_device(batches(5, closed), noise, 0, CPU)
    next(steps)
    steps.close()
    assert closed == [True]
    assert not threads()


def test_an_error_of_the_loader_surfaces_at_its_step() -> None:
    def broken() -> Generator[Batch]:
        yield from batches(1, [])
        raise OSError("shard is gone")

    steps = prefetch_to_device(broken(), noise, 0, CPU)
    assert len(next(steps)) == 2
    with pytest.raises(OSError, match="shard is gone"):
        next(steps)
    assert not threads()


def test_labels_come_with_the_crops_of_their_wells() -> None:
    steps = list(prefetch_to_device(batches(3, []), noise, 0, CPU, lambda wells: wells * 7))
    assert [step.labels.tolist() for step in steps if step.labels is not None] == [[0, 0], [7, 7], [14, 14]]
    assert all(step.labels is None for step in prefetch_to_device(batches(2, []), noise, 0, CPU))


def test_a_part_of_a_step_is_its_crops_with_their_noise_and_labels() -> None:
    images, wells = torch.arange(4).reshape(4, 1, 1, 1).to(torch.uint8), torch.arange(4)
    part = StepInput(Batch(images, wells), torch.arange(4.0)[:, None], torch.arange(4)).part(1, 3)
    assert part.batch.images.flatten().tolist() == part.batch.wells.tolist() == part.noise.flatten().tolist() == [1, 2]
    assert part.labels is not None
    assert part.labels.tolist() == [1, 2]


def test_garbage_is_collected_between_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import gc

    with collected_garbage() as collect:
        assert not gc.isenabled()
        calls: list[int] = []
        monkeypatch.setattr(gc, "collect", lambda generation=2: calls.append(generation) or 0)
        for step in range(1, 2001):
            collect(step)
        assert calls == [1, 1]
    assert gc.isenabled()
