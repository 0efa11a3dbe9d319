"""Metrics of a run: a JSON-lines log, TensorBoard, and a progress bar with loss, crops/s and ETA.

Nothing here waits for the device during a step: the clock is read on the host, and `advance`, called once per row of
the log, runs when its numbers have arrived on the host. Two times are kept apart. Rates (crops/s, MFU) are
of the time in training steps: validation, saving and the start of the loader are subtracted. The time left is
predicted from all of the time since the first batch, because the rest of the run validates and saves as well.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.distributed.stalls.step_clock import StepClock
from harness.grid.cell_folder import TRAIN_LOG
from harness.recipe.gpus import peak_flops
from harness.storage.appended import AppendedFile
from harness.storage.atomic import write_atomic
from harness.storage.fencing import Fence, Unfenced
from harness.train.event_file import EventFile

if TYPE_CHECKING:
    import torch

GIGA = 1e9
BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} crops [{elapsed}{postfix}]"  # tqdm's own rate counts pauses


@dataclass(frozen=True)
class Throughput:
    """What speed is measured against: this rank's device, the number of devices, and the true cost of a crop."""

    device: torch.device
    world: int
    flops_per_crop: float  # training, `analysis.compute.flops` convention mae_train

    def mfu(self, crops_per_second: float) -> float | None:
        """Share of all devices' dense bf16 peak that goes into the model's own products (recomputed activations do
        not count twice); None where the peak is not known."""
        peak = peak_flops(self.device)
        return crops_per_second * self.flops_per_crop / (self.world * peak) if peak else None


class MetricsLogger(StepClock):
    """The log of a cell, on its first rank. After a resume it continues at the checkpoint's position."""

    def __init__(
        self, folder: Path, title: str, total_steps: int, step: int, batch: int, throughput: Throughput | None = None,
        log_bytes: int = 0, fence: Fence | None = None,
    ) -> None:  # fmt: skip
        from tqdm import tqdm

        _cut(folder / TRAIN_LOG, log_bytes)
        self._log = AppendedFile(folder / TRAIN_LOG)
        self._events = EventFile(folder / "tensorboard", step + 1)
        self._bar = tqdm(
            total=total_steps * batch, initial=step * batch, desc=title, unit=" crops", unit_scale=True,
            mininterval=0.5 if sys.stderr.isatty() else 10, file=sys.stderr, bar_format=BAR,
        )  # fmt: skip
        self._batch, self._throughput, self._fence = batch, throughput, fence or Unfenced()
        self._first_step, self._last_step = step, total_steps
        super().__init__()

    def start_clock(self) -> None:
        super().start_clock()
        self._began = time.perf_counter()

    def advance(self, steps: int, values: dict[str, float], step: int) -> None:
        """Log `values` at `step`, `steps` after the last call, with the speed of the steps in between.

        The row gets `crops_per_second` of all ranks and `step_seconds`, both without the time spent outside steps;
        `data_wait`, the share of the steps' time that the loop waited for data; `seconds_left` to the last step, with
        validations and saves as often as so far; `peak_memory_gb` of this rank; and `mfu` where the device's peak is
        known.
        """
        (seconds, waited), now = self.lap(), time.perf_counter()
        speed = {
            "crops_per_second": steps * self._batch / seconds,
            "step_seconds": seconds / steps,
            "data_wait": waited / seconds,
            "seconds_left": (now - self._began) / max(1, step - self._first_step) * (self._last_step - step),
        }
        shown = {k: f"{v:.4f}" for k, v in values.items() if "loss" in k}
        shown["crops/s"] = f"{speed['crops_per_second']:,.0f}"
        shown["left"] = self._bar.format_interval(speed["seconds_left"])
        if self._throughput:
            speed["peak_memory_gb"] = peak_memory_bytes(self._throughput.device) / GIGA
            mfu = self._throughput.mfu(speed["crops_per_second"])
            if mfu is not None:
                speed["mfu"] = mfu
                shown["mfu"] = f"{mfu:.0%}"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(steps * self._batch)
        self.write({"kind": "train", "step": step, **values, **speed})

    def write(self, row: dict[str, Any]) -> None:
        """Add a row to the log, and its numbers to TensorBoard under `<kind>/<name>`.

        On a full disk the row is kept in memory, and written with the next one.

        Raises:
            Fenced: a newer start of this cell has taken the log over.
        """
        self._fence.check()
        self._log.append(json.dumps(row).encode() + b"\n")
        scalars = {f"{row['kind']}/{name}": value for name, value in row.items() if isinstance(value, float)}
        if scalars:
            self._events.scalars(scalars, row["step"])

    def position(self) -> int:
        """The log's length in bytes, flushed to disk: where a run resumed from a checkpoint of now continues it."""
        return self._log.position()

    def close(self) -> None:
        self._bar.close()
        self._log.close()
        self._events.close()


def continue_log(before: Path, log: Path, length: int) -> None:
    """Begin a log with the first `length` bytes of that of the run's earlier part, in place of what it held.

    Where that one is gone, the log begins empty, and a warning says so: training does not depend on it.
    """
    try:
        start = before.read_bytes()[:length]
    except OSError as error:
        print(f"warning: {before}: {error.strerror}; {log} begins without it", file=sys.stderr, flush=True)
        start = b""
    write_atomic(log, lambda file: file.write(start))


def _cut(path: Path, length: int) -> None:
    """Remove what was logged after a checkpoint, since those steps run again, and a torn last line with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        kept = file.read(min(length, os.fstat(file.fileno()).st_size))
        file.truncate(kept.rfind(b"\n") + 1)


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory so far: of a GPU by this process's tensors, on a CPU by the whole process.

    Reads counters of the allocator and the kernel, so it does not wait for the device.
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
