"""Covers `random_order` and `keyed_random`: a permutation per epoch, for any number of machines, resumable anywhere."""

import itertools
import math

import numpy as np
import pytest
from drawing import draws
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.order.random_order import RandomOrder, nested_experiments, shuffled

seeds = st.integers(-(2**40), 2**70)


def fields(drawn) -> np.ndarray:
    return np.stack([drawn.well, drawn.top, drawn.left, drawn.flip_vertical, drawn.flip_horizontal])


@given(seed=seeds, wells=st.integers(1, 5000), epoch=st.integers(0, 10**9))
def test_an_epoch_visits_every_well_exactly_once(seed, wells, epoch):
    drawn = draws(seed, epoch * wells, wells, wells, (300, 300), 256)
    assert np.array_equal(np.sort(drawn.well), np.arange(wells))


@given(
    seed=seeds, wells=st.integers(1, 300), start=st.integers(0, 10**12), counts=st.lists(st.integers(0, 60), max_size=5)
)
def test_any_position_can_be_resumed(seed, wells, start, counts):
    whole = fields(draws(seed, start, sum(counts), wells, (64, 48), 32))
    begins = [start + sum(counts[:i]) for i in range(len(counts))]
    parts = [
        fields(draws(seed, first, count, wells, (64, 48), 32)) for first, count in zip(begins, counts, strict=True)
    ]
    assert np.array_equal(np.concatenate([np.empty((5, 0), int), *parts], axis=1), whole)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
def test_a_global_batch_is_the_same_crops_on_any_number_of_ranks(world):
    part = 24 // world
    parts = [fields(draws(5, 7 * 24 + rank * part, part, 100, (64, 64), 16)) for rank in range(world)]
    assert np.array_equal(np.concatenate(parts, axis=1), fields(draws(5, 7 * 24, 24, 100, (64, 64), 16)))


def test_crops_are_inside_images_of_different_sizes_and_reach_their_edges():
    shapes = np.array([[32, 32], [40, 64], [33, 32]])
    drawn = draws(1, 0, 6000, 3, shapes, 32)
    for well, (height, width) in enumerate(shapes):
        mine = drawn.well == well
        assert set(drawn.top[mine]) == set(range(height - 32 + 1))
        assert set(drawn.left[mine]) == set(range(width - 32 + 1))


def test_an_image_smaller_than_the_crop_is_refused():
    with pytest.raises(ValueError, match="well 1 is smaller than the crop of 32 pixels"):
        draws(0, 0, 2, 2, [[32, 32], [31, 40]], 32)


def test_wells_corners_and_flips_are_uniform_and_independent():
    """Chi-square of 5 standard deviations: a biased or coupled generator fails by far more."""
    drawn = draws(3, 0, 120_000, 6, (16, 16), 9)
    first_of_epoch = drawn.well[::6]
    joint = (drawn.top * 8 + drawn.left) * 4 + drawn.flip_vertical * 2 + drawn.flip_horizontal
    for values, cells in ((first_of_epoch, 6), (joint, 256), (drawn.well * 4 + joint % 4, 24)):
        counts = np.bincount(values, minlength=cells)
        expected = len(values) / cells
        assert ((counts - expected) ** 2 / expected).sum() < cells - 1 + 5 * math.sqrt(2 * (cells - 1))


def test_epochs_and_seeds_differ():
    first, second = draws(0, 0, 1000, 1000, (64, 64), 8), draws(0, 1000, 1000, 1000, (64, 64), 8)
    other = draws(1, 0, 1000, 1000, (64, 64), 8)
    # Two independent permutations agree in one place on average.
    assert (first.well == second.well).sum() < 10
    assert (first.well == other.well).sum() < 10


def test_a_hundred_million_wells_need_no_memory():
    drawn = draws(0, 93_000_000 * 3 - 8, 16, 93_000_000, (2048, 2048), 256)
    assert drawn.well.max() < 93_000_000
    assert len(set(drawn.well)) == 16


@given(count=st.integers(0, 2000), seed=seeds)
def test_shuffled_is_a_permutation(count, seed):
    assert np.array_equal(np.sort(shuffled(count, seed)), np.arange(count))


@settings(max_examples=200)
@given(
    experiments=st.sets(st.text(min_size=1, max_size=6), min_size=1, max_size=30),
    fractions=st.lists(st.floats(0.001, 1), min_size=2, max_size=4),
    seed=seeds,
)
def test_smaller_fractions_are_subsets_of_larger_ones(experiments, fractions, seed):
    sets = [set(nested_experiments(experiments, fraction, seed)) for fraction in sorted(fractions)]
    assert all(small <= large for small, large in itertools.pairwise(sets))
    assert sets[0]
    assert set(nested_experiments(experiments, 1, seed)) == experiments


def test_nested_experiments_counts():
    names = [f"gene-{i:03d}" for i in range(1, 11)]
    assert [len(nested_experiments(names, f, 0)) for f in (0.01, 0.1, 0.3, 0.5, 1)] == [1, 1, 3, 5, 10]
    assert nested_experiments(reversed(names), 0.3, 0) == nested_experiments(names, 0.3, 0)
    with pytest.raises(ValueError, match="fraction must be above 0"):
        nested_experiments(names, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [7, 24])
@settings(deadline=None)
@given(seed=seeds, wells=st.integers(1, 60), number=st.integers(0, 10**6), worlds=st.permutations([1, 2, 3, 4, 8]))
def test_no_rank_ever_has_a_batch_more(batch, seed, wells, number, worlds):
    """Ranks divide every global batch equally, also if an epoch ends inside it, or it is refused."""
    order = RandomOrder(seed, wells)
    whole = order.wells(number * batch, batch)
    for world in worlds:
        if batch % world:
            continue
        part = batch // world
        parts = [order.wells(number * batch + rank * part, part) for rank in range(world)]
        assert {len(part) for part in parts} == {batch // world}
        assert np.array_equal(np.concatenate(parts), whole)


def test_the_order_is_the_same_in_every_version():
    """Recorded when the order was first released: a run resumed with a later version must continue exactly."""
    drawn = draws(5, 77, 5, 1000, (300, 290), 256)
    assert drawn.well.tolist() == [943, 115, 825, 340, 211]
    assert drawn.top.tolist() == [9, 42, 13, 33, 7]
    assert drawn.left.tolist() == [7, 1, 27, 10, 23]
    assert (drawn.flip_vertical * 2 + drawn.flip_horizontal).tolist() == [2, 2, 2, 1, 2]
    assert draws(3, 10**6, 3, 93_000_000, (300, 290), 256).well.tolist() == [32390293, 17119557, 73895730]
