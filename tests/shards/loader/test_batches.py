"""Covers `batches` and `read_ahead`: the order on any number of ranks and threads, errors, early ends."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from drawing import draws

from shards.builder.build_set import build
from shards.errors import ShardError
from shards.loader.batches import (
    tile_batches,
    tile_counts,
    tiles_of_parts,
    training_batches,
    validation_batches,
    well_tiles,
)
from shards.loader.read_ahead import Batch
from shards.order.random_order import placed
from shards.order.stream_order import StreamOrder
from shards.reader.crop_reader import Reader
from shards.reader.shard_set import ShardSet


@pytest.fixture(scope="module", params=["uint8", "uint16"])
def folder(write_screen, tmp_path_factory, request) -> Path:
    """A set that all tests of this file read and none changes."""
    root = tmp_path_factory.mktemp(request.param)
    screen = write_screen(root / "screen", experiments=3, wells=8, size=20, dtype=request.param)
    build("rxrx3", screen, root / "out", wells_per_shard=5, validation_fraction=0.3, progress=False)
    return root / "out"


@pytest.fixture
def shards(folder) -> ShardSet:
    return ShardSet.open(folder)


def joined(batches: list[Batch]) -> tuple[np.ndarray, np.ndarray]:
    return torch.cat([b.images for b in batches]).numpy(), torch.cat([b.wells for b in batches]).numpy()


def in_global_order(per_rank: list[list[Batch]]) -> list[Batch]:
    """The batches of all ranks, step by step: all ranks must have the same number."""
    return [batch for step in zip(*per_rank, strict=True) for batch in step]


def test_training_crops_are_those_of_the_order(shards):
    wells = shards.indices("train")
    images, drawn_wells = joined(
        list(training_batches(shards, wells, crop=8, batch=6, seed=4, first_batch=2, last_batch=7))
    )
    drawn = draws(4, 12, 30, len(wells), (20, 20), 8)
    assert np.array_equal(drawn_wells, wells[drawn.well])
    for i, image in enumerate(images):
        whole = shards.read_well(drawn_wells[i])
        crop = whole[:, drawn.top[i] : drawn.top[i] + 8, drawn.left[i] : drawn.left[i] + 8]
        crop = crop[:, ::-1] if drawn.flip_vertical[i] else crop
        crop = crop[:, :, ::-1] if drawn.flip_horizontal[i] else crop
        assert image.dtype == crop.dtype
        assert np.array_equal(image, crop)


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("workers", [0, 3])
def test_global_batches_are_the_same_for_every_world_and_worker_count(shards, world, workers):
    wells = shards.indices("train")
    options = {"crop": 8, "batch": 12, "seed": 1, "first_batch": 0, "last_batch": 8}
    single = joined(list(training_batches(shards, wells, **options, workers=0)))
    ranks = [
        list(training_batches(shards, wells, **options, rank=rank, world=world, workers=workers))
        for rank in range(world)
    ]
    for expected, actual in zip(single, joined(in_global_order(ranks)), strict=True):
        assert np.array_equal(expected, actual)


def test_resuming_mid_epoch_on_another_world_size_continues_exactly(shards):
    wells = shards.indices("train")
    options = {"crop": 8, "batch": 4, "seed": 1}
    whole = joined(list(training_batches(shards, wells, **options, first_batch=0, last_batch=9)))
    before = list(training_batches(shards, wells, **options, first_batch=0, last_batch=5))
    ranks = [
        list(training_batches(shards, wells, **options, first_batch=5, last_batch=9, rank=rank, world=2))
        for rank in range(2)
    ]
    for expected, actual in zip(whole, joined(before + in_global_order(ranks)), strict=True):
        assert np.array_equal(expected, actual)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_an_epoch_reads_each_training_well_exactly_once(shards, world):
    wells = shards.indices("train")
    assert len(wells) == 16
    for epoch in range(3):
        span = {"first_batch": 4 * epoch, "last_batch": 4 * epoch + 4}
        ranks = [
            list(training_batches(shards, wells, crop=8, batch=4, seed=9, **span, rank=rank, world=world))
            for rank in range(world)
        ]
        assert sorted(joined(in_global_order(ranks))[1]) == sorted(wells)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_validation_reads_each_centre_once_in_as_many_steps_on_every_rank(shards, world):
    wells = shards.indices("validation")
    assert len(wells) == 8
    ranks = [list(validation_batches(shards, wells, crop=7, batch=3, rank=rank, world=world)) for rank in range(world)]
    assert {len(batches) for batches in ranks} == {3}
    images, seen = joined(in_global_order(ranks))
    assert sorted(seen) == sorted(wells)
    for image, well in zip(images, seen, strict=True):
        assert np.array_equal(image, shards.read_well(well)[:, 6:13, 6:13])


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 7, 12, 1000])
def test_tiles_cover_each_well_once_and_fill_batches_across_wells(shards, world, batch):
    wells = shards.indices("train")
    images, seen = [], []
    for rank in range(world):
        batches = list(well_tiles(shards, wells, crop=6, batch=batch, rank=rank, world=world))
        assert all(len(b.wells) == batch for b in batches[:-1])
        assert 0 < len(batches[-1].wells) <= batch
        rank_images, rank_wells = joined(batches)
        images.append(rank_images)
        seen.append(rank_wells)
    images, seen = np.concatenate(images), np.concatenate(seen)
    assert sorted(seen) == sorted(np.repeat(wells, 9))  # a 20-pixel image holds 3 x 3 tiles of 6
    for well in wells:
        whole = shards.read_well(well)
        expected = [whole[:, y : y + 6, x : x + 6] for y in (0, 6, 12) for x in (0, 6, 12)]
        assert np.array_equal(images[seen == well], expected)


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 2)])
def test_tiles_of_parts_are_those_of_each_part_and_counted(shards, rank, world):
    wells = shards.indices("train")
    parts, options = [wells[:3], wells[5:6], wells[3:5]], {"crop": 6, "batch": 4, "rank": rank, "world": world}
    alone = [list(well_tiles(shards, part, **options)) for part in parts]
    assert [len(batches) for batches in alone] == [tile_batches(shards, part, **options) for part in parts]
    together = list(tiles_of_parts(shards, parts, **options))
    for found, expected in zip(together, [batch for batches in alone for batch in batches], strict=True):
        assert torch.equal(found.images, expected.images)
        assert torch.equal(found.wells, expected.wells)
    assert [tile_counts(shards, part, 6).tolist() for part in parts] == [[9, 9, 9], [9], [9, 9]]


def test_more_ranks_than_wells_leave_some_ranks_without_tiles(shards):
    wells = shards.indices("validation")[:1]
    assert [len(list(well_tiles(shards, wells, crop=6, batch=4, rank=r, world=2))) for r in range(2)] == [3, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_is_raised_at_its_batch_with_file_and_chunk_and_ends_the_threads(folder, tmp_path, workers):
    shards = ShardSet.open(shutil.copytree(folder, tmp_path / "damaged"))
    wells = shards.indices("train")
    bad = shards.wells.iloc[wells[draws(0, 8, 1, len(wells), (20, 20), 8).well[0]]]
    with (shards.folder / bad["shard"]).open("r+b") as file:
        file.seek(bad["offset"] + 1500)  # behind the header: in the only chunk
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    batches = training_batches(shards, wells, crop=8, batch=4, seed=0, first_batch=0, last_batch=4, workers=workers)
    next(batches), next(batches)
    with pytest.raises(ShardError, match=rf"{bad['shard']}: image \d+, chunk 0 .*its checksum does not match"):
        next(batches)
    assert not reader_threads()


def test_memory_is_reused_but_not_while_a_batch_or_a_part_of_one_is_referenced(shards):
    """The oracle reads everything twice: once releasing each batch at once, once keeping a crop of each."""
    wells = shards.indices("train")
    options = {"crop": 8, "batch": 64, "seed": 5, "first_batch": 0, "last_batch": 40}
    copies, addresses = [], set()
    for batch in training_batches(shards, wells, **options, workers=2):
        copies.append(batch.images.clone())
        addresses.add(batch.images.data_ptr())
        del batch
    assert len(addresses) < 12
    kept = [(b.images[3], b.images.numpy()[60:]) for b in training_batches(shards, wells, **options, workers=2)]
    for copy, (crop, last) in zip(copies, kept, strict=True):
        assert torch.equal(copy[3], crop)
        assert np.array_equal(copy[60:], last)


def test_sums_are_those_of_the_pixels(shards):
    wells = shards.indices("train")
    options = {"crop": 12, "batch": 8, "seed": 5, "first_batch": 0, "last_batch": 3}
    for batch in training_batches(shards, wells, **options, sums=True):
        pixels = batch.images.numpy().astype(np.int64)
        assert np.array_equal(batch.sums[..., 0], pixels.sum((2, 3)))
        assert np.array_equal(batch.sums[..., 1], (pixels**2).sum((2, 3)))
        mean, deviation = batch.moments()
        np.testing.assert_allclose(mean, pixels.mean((2, 3)), rtol=1e-12)
        np.testing.assert_allclose(deviation, pixels.std((2, 3)), rtol=1e-9)


def test_another_order_is_followed(shards):
    wells = shards.indices("train")
    order = StreamOrder(3, [5, 5, 5, 1], batch=8, lanes=2, crops=2, block=4)
    images, seen = joined(
        list(training_batches(shards, wells, crop=8, batch=8, seed=3, first_batch=0, last_batch=4, order=order))
    )
    assert np.array_equal(seen, wells[order.wells(0, 32)])
    where = placed(3, 0, seen, (20, 20), 8)
    whole = shards.read_well(int(seen[9]))[:, where.top[9] : where.top[9] + 8, where.left[9] : where.left[9] + 8]
    whole = whole[:, ::-1] if where.flip_vertical[9] else whole
    assert np.array_equal(images[9], whole[:, :, ::-1] if where.flip_horizontal[9] else whole)


@pytest.mark.parametrize("reader", ["training", "tiles"])
def test_closing_early_ends_the_threads_and_reads_little_ahead(shards, monkeypatch, reader):
    read, crops = Reader.read, []
    monkeypatch.setattr(
        Reader, "read", lambda self, windows, *a: (crops.append(len(windows)), read(self, windows, *a))[1]
    )
    wells = shards.indices("train")
    if reader == "training":
        batches = training_batches(shards, wells, crop=8, batch=4, seed=0, first_batch=0, last_batch=10**6, workers=2)
    else:
        batches = well_tiles(shards, np.tile(wells, 10**4), crop=6, batch=9, workers=2)
    next(batches)
    assert reader_threads()
    batches.close()
    assert not reader_threads()
    assert sum(crops) <= 5 * 64  # four tasks ahead, and the requested one


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_batches_are_read_ahead_than_requested(shards, monkeypatch, ahead):
    read, crops = Reader.read, []
    monkeypatch.setattr(
        Reader, "read", lambda self, windows, *a: (crops.append(len(windows)), read(self, windows, *a))[1]
    )
    options = {"crop": 8, "batch": 4, "seed": 0, "first_batch": 0, "last_batch": 9, "workers": 2}
    batches = training_batches(shards, shards.indices("train"), ahead=ahead, **options)
    for taken in range(1, 4):
        next(batches)
        assert 4 * taken <= sum(crops) <= 4 * (taken - 1 + ahead)
    rest = [batch.wells for batch in batches]
    plain = [batch.wells for batch in training_batches(shards, shards.indices("train"), **options)]
    assert torch.equal(torch.cat(rest), torch.cat(plain[3:]))


def reader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("shard-reader")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 5, "world": 2}, "global batch of 5 does not divide by 2 ranks"),
        ({"rank": 2, "world": 2}, "rank 2 is not one of 2 ranks"),
        ({"crop": 21}, "smaller than the crop of 21 pixels"),
    ],
)
def test_impossible_requests_are_refused(shards, options, message):
    options = {"crop": 8, "batch": 4, "seed": 0, "first_batch": 0, "last_batch": 1, **options}
    with pytest.raises(ValueError, match=message):
        next(training_batches(shards, shards.indices("train"), **options))


RANK = """
import sys
import numpy as np
from pathlib import Path
from shards.reader.shard_set import ShardSet
from shards.loader.batches import training_batches

folder, out, rank, world, first, last = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
shards = ShardSet.open(folder)
options = dict(crop=8, batch=8, seed=3, first_batch=first, last_batch=last, rank=rank, world=world)
batches = list(training_batches(shards, shards.indices("train"), **options))
np.savez(out, images=np.stack([b.images.numpy() for b in batches]), wells=np.stack([b.wells.numpy() for b in batches]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["uint16"], indirect=True)
def test_processes_on_changing_world_sizes_see_one_run(shards, tmp_path):
    """Real processes: two epochs, in parts read by 4, then 2, then 1 of them, equal one process reading all."""

    def run(world: int, first: int, last: int) -> dict[str, np.ndarray]:
        outs = [tmp_path / f"{world}-{first}-{rank}.npz" for rank in range(world)]
        ranks = [
            subprocess.Popen([sys.executable, "-c", RANK, shards.folder, out, *map(str, (rank, world, first, last))])
            for rank, out in enumerate(outs)
        ]
        assert [process.wait(120) for process in ranks] == [0] * world
        loaded = [np.load(out) for out in outs]
        return {name: np.concatenate([part[name] for part in loaded], axis=1) for name in ("images", "wells")}

    whole = run(1, 0, 4)
    parts = [run(4, 0, 1), run(2, 1, 3), run(1, 3, 4)]
    for name in ("images", "wells"):
        assert np.array_equal(np.concatenate([part[name] for part in parts]), whole[name])
    for epoch in np.split(whole["wells"].ravel(), 2):
        assert sorted(epoch) == sorted(shards.indices("train"))
