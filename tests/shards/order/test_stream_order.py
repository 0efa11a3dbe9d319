"""The stream order: exact passes, mixed batches with a bound, ranks that read only their own shards."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.order.stream_order import StreamOrder

seeds = st.integers(-(2**40), 2**70)


@st.composite
def orders(draw) -> StreamOrder:
    lanes = draw(st.integers(1, 9))
    sizes = draw(st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(any))
    return StreamOrder(
        seed=draw(seeds),
        sizes=sizes,
        batch=lanes * draw(st.integers(1, 7)),
        lanes=lanes,
        crops=draw(st.integers(1, 6)),
        block=draw(st.integers(1, 40)),
    )


@settings(deadline=None)
@given(order=orders(), number=st.integers(0, 10**6))
def test_a_pass_draws_every_image_exactly_k_times(order, number):
    wells = order.wells(number * order.period, order.period)
    assert np.array_equal(np.bincount(wells, minlength=order.count), np.full(order.count, order.crops))


@settings(deadline=None)
@given(order=orders(), first=st.integers(0, 10**12), counts=st.lists(st.integers(0, 90), max_size=5))
def test_any_position_can_be_resumed(order, first, counts):
    begins = [first + sum(counts[:i]) for i in range(len(counts))]
    parts = [order.wells(begin, count) for begin, count in zip(begins, counts, strict=True)]
    assert np.array_equal(np.concatenate([np.empty(0, int), *parts]), order.wells(first, sum(counts)))


@settings(deadline=None, max_examples=200)
@given(order=orders(), number=st.integers(0, 100), offset=st.integers(0, 10**6))
def test_no_batch_within_a_pass_holds_more_of_one_image_than_stated(order, number, offset):
    """Batches may begin anywhere in a pass, as the passes before rarely end with a batch."""
    wells = order.wells(number * order.period, order.period)
    starts = range(offset % order.batch, max(1, len(wells) - order.batch + 1), order.batch)
    starts = [*starts, max(0, len(wells) - order.batch)]
    most = max(np.bincount(wells[start : start + order.batch]).max() for start in starts)
    assert most <= order.most_of_one_image() <= order.crops


@pytest.mark.slow
def test_the_bound_is_one_for_the_sizes_of_the_paper():
    """4,096 crops over 256 lanes: 16 of each, up to 16 more at this pass's end, and 33 or more between an image's."""
    order = StreamOrder(0, [1000] * 250 + [777], batch=4096, lanes=256, crops=8, block=64)
    assert order.most_of_one_image() == 1
    wells = order.wells(0, order.period)
    for start in [*range(0, order.period - 4096, 4096 * 37), order.period - 4096]:
        assert len(np.unique(wells[start : start + 4096])) == 4096


def test_the_bound_is_reached_where_lanes_are_short():
    """Two lanes of 2 images, 4 crops each: all of a lane's 8 crops are in one batch of 16, so 4 of each image."""
    order = StreamOrder(1, [4], batch=16, lanes=2, crops=4, block=64)
    assert order.most_of_one_image() == 4
    assert set(np.bincount(order.wells(0, 16))) == {4}


@settings(deadline=None)
@given(order=orders())
def test_two_crops_of_an_image_in_a_lane_are_half_a_block_apart(order):
    if order.count < order.lanes:
        return
    one_lane = StreamOrder(order.seed, order.sizes, batch=1, lanes=1, crops=order.crops, block=order.block)
    wells = one_lane.wells(0, one_lane.period)
    least = min(one_lane.block, one_lane.count) // 2 + 1
    for well in range(one_lane.count):
        assert (np.diff(np.flatnonzero(wells == well)) >= least).all()


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 8])
def test_a_rank_reads_its_lanes_shards_only_and_knows_them_ahead(world):
    sizes = np.random.default_rng(0).integers(20, 140, 96)
    order = StreamOrder(3, sizes, batch=96, lanes=24, crops=4, block=16)
    last = order.period // order.batch
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    batches = order.wells(0, last * order.batch).reshape(last, order.batch)
    read = []
    for rank in range(world):
        part = order.batch // world
        drawn = batches[:, rank * part : (rank + 1) * part].ravel()
        shards = order.shards(0, last, rank, world)
        assert list(dict.fromkeys(shard_of[drawn])) == list(shards)
        read.append(len(shards))
    # Lanes cut inside shards, so neighbours share at most the shard at the cut.
    assert sum(read) <= len(sizes) + world
    # A few batches ahead are a few shards: one in use per lane, perhaps the next.
    assert len(order.shards(10, 12, 0, world)) <= 2 * math.ceil(24 / world)


def test_a_shard_is_read_from_front_to_back_in_blocks():
    """Of one lane, images come block by block in the order in which the shard holds them."""
    order = StreamOrder(5, [64, 64], batch=4, lanes=1, crops=3, block=16)
    wells = order.wells(0, order.period)
    blocks = wells.reshape(8, 48)
    assert all(set(block) == set(range(block.min(), block.min() + 16)) for block in blocks)
    firsts = [block.min() for block in blocks]
    assert sorted(firsts[:4]) == firsts[:4]
    assert sorted(firsts[4:]) == firsts[4:]


def test_every_lane_gives_as_much_to_each_batch_and_shards_come_in_another_order_each_pass():
    order = StreamOrder(2, [50] * 8, batch=40, lanes=8, crops=2, block=10)
    # As many lanes as shards, all equal: each lane is one shard, and gives 5 of each batch of 40.
    shards = order.wells(0, 800).reshape(20, 40) // 50
    assert all(np.array_equal(np.bincount(batch), [5] * 8) for batch in shards)
    assert not np.array_equal(order.shards(0, 20), order.shards(20, 40))


@pytest.mark.slow
def test_blocks_are_mixed_uniformly():
    """Each image of a half block is equally likely at each position in it: chi-square within 5 standard deviations."""
    order = StreamOrder(9, [16], batch=1, lanes=1, crops=1, block=16)
    wells = order.wells(0, 16 * 4000).reshape(4000, 16)
    counts = np.stack([np.bincount(wells[:, position], minlength=16)[:8] for position in range(8)])
    assert counts.sum() == 8 * 4000
    assert ((counts - 500) ** 2 / 500).sum() < 49 + 5 * math.sqrt(98)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lanes": 5}, "5 lanes do not divide the global batch of 12 crops"),
        ({"crops": 0}, "at least 1"),
        ({"sizes": [0, 0]}, "at least one well"),
        ({"sizes": [3, -1]}, "no shard with a negative number of wells"),
    ],
)
def test_inconsistent_sizes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        StreamOrder(**{"seed": 0, "sizes": [4, 5], "batch": 12, "lanes": 3, **change})


def test_a_batch_that_does_not_divide_by_the_ranks_has_no_shards():
    with pytest.raises(ValueError, match="12 does not divide by 5 ranks"):
        StreamOrder(0, [30], batch=12, lanes=3).shards(0, 1, 0, 5)
