"""Ranks as real processes, killed at any moment and resumed on other numbers of ranks.

Nothing is read twice or left out of a run, in any order.
"""

import hashlib
import json
import multiprocessing
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from shards.loader.batches import training_batches
from shards.order.random_order import Order, RandomOrder
from shards.order.stream_order import StreamOrder
from shards.order.weighted_order import PlateOrder, WeightedOrder, balancing_weights
from shards.reader.shard_set import ShardSet

BATCH, CROP, BATCHES, SEED = 24, 8, 40, 11


def order_named(name: str, shards: ShardSet, wells: np.ndarray) -> Order:
    table = shards.wells.iloc[wells]
    if name == "stream":
        sizes = table.groupby("shard", sort=False).size().to_numpy()
        return StreamOrder(SEED, sizes, BATCH, lanes=12, crops=3, block=4)
    if name == "weighted":
        return WeightedOrder(SEED, balancing_weights(table["gene"].astype(str).to_numpy()))
    if name == "plate":
        return PlateOrder(SEED, (table["experiment"] + table["plate"]).to_numpy(), group=3)
    return RandomOrder(SEED, len(wells))


def read(folder: Path, name: str, first: int, last: int, rank: int, world: int, log: Path | None) -> list[dict]:
    """Read a rank's batches, and log each once it has been read, as a training step would."""
    shards = ShardSet.open(folder)
    wells = shards.indices("train")
    options = {"crop": CROP, "batch": BATCH, "seed": SEED, "order": order_named(name, shards, wells)}
    seen = []
    batches = training_batches(
        shards, wells, **options, first_batch=first, last_batch=last, rank=rank, world=world, workers=2
    )
    for number, batch in enumerate(batches, start=first):
        crops = [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in batch.images.numpy()]
        seen.append({"batch": number, "rank": rank, "wells": batch.wells.tolist(), "crops": crops})
        if log is not None:
            with log.open("a") as lines:
                lines.write(json.dumps(seen[-1]) + "\n")
            time.sleep(0.002)
    return seen


def finished(logs: list[Path]) -> list[dict]:
    """Complete lines of all ranks: a kill may cut the last one short."""
    lines = [line for log in logs if log.exists() for line in log.read_text().splitlines(keepends=True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def run_and_kill(folder: Path, name: str, first: int, world: int, logs: list[Path], after: int | None) -> None:
    """Run all ranks from batch `first`; kill them once each has made a step and one has made `after` (None: never)."""
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=read, args=(folder, name, first, BATCHES, rank, world, logs[rank]))
        for rank in range(world)
    ]
    for rank in ranks:
        rank.start()
    deadline = time.monotonic() + 60
    while after is not None and time.monotonic() < deadline:
        steps = [len(finished([log])) for log in logs]
        if min(steps) >= 1 and max(steps) >= after:
            for rank in ranks:
                rank.kill()
            break
        time.sleep(0.001)
    for rank in ranks:
        rank.join(60)
    expected = {0} if after is None else {0, -signal.SIGKILL}  # a rank may have ended before the kill
    assert {rank.exitcode for rank in ranks} <= expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "stream", "weighted", "plate"])
def test_kills_and_other_world_sizes_change_nothing(set_of_62, tmp_path, name):
    single = {seen["batch"]: seen for seen in read(set_of_62, name, 0, BATCHES, 0, 1, None)}
    chance, first, done = random.Random(name), 0, {}
    for attempt, world in enumerate([2, 3, 8, 4, 6, 1]):
        logs = [tmp_path / f"{attempt}-{rank}" for rank in range(world)]
        run_and_kill(set_of_62, name, first, world, logs, chance.randint(3, 7) if attempt < 5 else None)
        parts: dict[int, dict[int, dict]] = {}
        for seen in finished(logs):
            parts.setdefault(seen["batch"], {})[seen["rank"]] = seen
        # A step counts once every rank has made it: as for a checkpoint.
        while len(parts.get(first, {})) == world:
            done[first] = [parts[first][rank] for rank in range(world)]
            first += 1
    assert sorted(done) == list(range(BATCHES))
    for number, ranks in done.items():
        for what in ("wells", "crops"):
            assert [crop for rank in ranks for crop in rank[what]] == single[number][what]
    wells = np.concatenate([np.concatenate([rank["wells"] for rank in done[number]]) for number in range(BATCHES)])
    check_counts(name, wells.astype(int), ShardSet.open(set_of_62))


def check_counts(name: str, wells: np.ndarray, shards: ShardSet) -> None:
    training = shards.indices("train")
    assert len(training) == 62
    if name == "weighted":
        assert set(wells) <= set(training)
        return
    # 62 an epoch; 62 x 3 a pass; 31 wells a plate in groups of 3 leave one of each out.
    period, times, left_out = {"random": (62, 1, 0), "stream": (186, 3, 0), "plate": (60, 1, 2)}[name]
    for start in range(0, len(wells) - period + 1, period):
        counts = np.bincount(wells[start : start + period], minlength=len(shards.wells))[training]
        assert counts.max() == times
        assert (counts == 0).sum() == left_out
        assert counts.sum() == period
