"""Move batches of pixels from the host to the device, one step ahead of the model.

Shapes: B crops of this rank's part of the global batch, C channels, S crop side, L values of noise.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import torch
from torch import Tensor

from harness.data.channels import ChannelOrder, value_ranges
from harness.distributed.ranks import Ranks
from harness.grid.cell import Cell
from shards.loader.read_ahead import Batch
from shards.loader.transform import self_standardise


@dataclass(frozen=True)
class StepInput:
    """One step's crops, the noise that masks them, and a classifier's labels, on the device; the wells on the host."""

    batch: Batch  # (B, C, S, S), pixels as stored in the shards
    noise: Tensor  # (B, L)
    labels: Tensor | None = None  # (B,), class numbers

    def __len__(self) -> int:
        return len(self.noise)

    def part(self, first: int, last: int) -> StepInput:
        """Crops `first` to `last` (exclusive)."""
        labels = None if self.labels is None else self.labels[first:last]
        return StepInput(_each(self.batch, lambda tensor: tensor[first:last]), self.noise[first:last], labels)


def to_model_input(images: Tensor, cell: Cell, ranks: Ranks, channels: ChannelOrder) -> Tensor:
    """Pixels as stored in the shards → (B, C, S, S) on the device, the network's channels in its order, and
    self-standardised."""
    assert cell.architecture is not None
    pixels = images.to(ranks.device, non_blocking=True)
    if channels.positions is not None:
        pixels = pixels.index_select(1, _on(ranks.device, tuple(channels.positions)))
    return self_standardise(pixels, value_ranges(cell.architecture.mae, channels.names))


@lru_cache(maxsize=16)  # making it anew would have the host wait for the device at each batch
def _on(device: torch.device, positions: tuple[int, ...]) -> Tensor:
    return torch.tensor(positions, device=device)


def prefetch_to_device(
    batches: Generator[Batch], noise: Callable[[int, Tensor], Tensor], first_step: int, device: torch.device,
    labels: Callable[[Tensor], Tensor | None] = lambda wells: None,
) -> Generator[StepInput]:  # fmt: skip
    """Yield each batch with its noise on `device`, read, drawn and copied while the step before it computes.

    A thread waits for the loader and draws the noise; on a GPU it copies from pinned memory on a stream of its own,
    and the compute stream waits for that copy alone. Closing this closes `batches`.

    Args:
        noise: (step, the wells of its crops (B,)) → (B, L) on the host.
        first_step: the step of the first batch.
        labels: the wells of the crops (B,) → their class numbers (B,) on the host; None for a model without classes.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def load(step: int) -> tuple[StepInput, torch.cuda.Event | None] | None:
        batch = next(batches, None)
        if batch is None:
            return None
        with torch.cuda.stream(stream) if stream else nullcontext():
            classes = labels(batch.wells)
            inputs = StepInput(
                _pixels_on(batch, device), on_device(noise(step, batch.wells), device),
                None if classes is None else on_device(classes, device),
            )  # fmt: skip
            return inputs, stream.record_event() if stream else None

    with closing(batches), ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        step = first_step
        pending = pool.submit(load, step)
        while (loaded := pending.result()) is not None:
            step += 1
            pending = pool.submit(load, step)
            yield _arrived(*loaded)


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device, without waiting for the copy."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def _arrived(inputs: StepInput, copied: torch.cuda.Event | None) -> StepInput:
    """Make the compute stream wait for the copy, and the allocator for the compute stream."""
    if copied is not None:
        compute = torch.cuda.current_stream()
        compute.wait_event(copied)
        labels = [] if inputs.labels is None else [inputs.labels]
        sums = [] if inputs.batch.sums is None else [inputs.batch.sums]
        for tensor in (inputs.noise, *labels, inputs.batch.images, *sums):
            tensor.record_stream(compute)
    return inputs


def _pixels_on(batch: Batch, device: torch.device) -> Batch:
    """The batch with its pixels on the device. The wells stay on the host, which alone asks for them."""
    sums = None if batch.sums is None else on_device(batch.sums, device)
    return replace(batch, images=on_device(batch.images, device), sums=sums)


def _each(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with each of its tensors changed; all have B first."""
    return replace(batch, **{name: change(value) for name, value in _tensors(batch).items()})


def _tensors(batch: Batch) -> dict[str, Tensor]:
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}
