"""What single ranks do in the tests of `ranks`: count descriptors and requests, and wait for a rank that is missing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def count_descriptors(folder: Path) -> None:
    """Open all that a job's ranks hold towards each other, and write how many descriptors that takes."""
    import torch
    import torch.distributed as dist

    from harness.distributed.ranks import process_group
    from harness.distributed.stalls.board import Board

    before = len([*Path("/proc/self/fd").iterdir()])
    with process_group("cpu") as ranks:
        board = Board.of(ranks)
        saves = dist.new_group(backend="gloo")  # as `Checkpoints` does
        for group in (None, ranks.control, saves):
            dist.all_reduce(torch.ones(1), group=group)
        ranks.wait()
        (folder / f"{ranks.rank}").write_text(str(len([*Path("/proc/self/fd").iterdir()]) - before))
        ranks.wait()
        assert board is not None


def count_requests(recipe_json: str, cell_id: str, folder: Path) -> None:
    """Train a cell, and write how often this rank asked for the status of a shard before it read the first crop."""
    from distributed.processes import train

    from harness.train.run import Run

    seen, real, real_next = list[str](), os.stat, Run.next_inputs

    def stat(path: object, *arguments: object, **options: object) -> os.stat_result:
        if str(path).endswith(".tar"):
            seen.append(str(path))
        return real(path, *arguments, **options)  # type: ignore[arg-type]

    def next_inputs(run: Run, inputs: Iterator[Any]) -> Any:
        if run.progress.step == 0:
            (folder / f"{os.environ['RANK']}").write_text(str(len(seen)))
        return real_next(run, inputs)

    os.stat = stat  # type: ignore[assignment]
    Run.next_inputs = next_inputs  # type: ignore[method-assign]
    train(recipe_json, cell_id, folder / "cell")


def open_incomplete(recipe_json: str, cell_id: str, folder: Path) -> None:
    """Train a cell from a set with a missing shard, and write what this rank raises."""
    from distributed.processes import train

    try:
        train(recipe_json, cell_id, folder / "cell")
    except Exception as error:
        (folder / f"{os.environ['RANK']}").write_text(f"{type(error).__name__}: {error}")


def wait_for_missing(folder: Path) -> None:
    """Rank 1 does not come to the second of two collectives; write how long the others waited for it."""
    import torch
    import torch.distributed as dist

    from harness.distributed.ranks import process_group

    with process_group("cpu") as ranks:
        time.sleep(2.0 * ranks.rank)  # longer than the time-out after the first step
        dist.all_reduce(torch.ones(1))
        ranks.limit_waiting(1.0)
        if ranks.rank == 1:
            time.sleep(6)
            return
        start = time.monotonic()
        try:
            dist.all_reduce(torch.ones(1))
        except RuntimeError as error:
            (folder / "0").write_text(f"{time.monotonic() - start} {error}")
