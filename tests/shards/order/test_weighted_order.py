"""Weighted draws in the stated proportions, and batches of one plate that leave out no more than stated."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shards.order.weighted_order import PlateOrder, WeightedOrder, balancing_weights

seeds = st.integers(-(2**40), 2**70)
weights = st.lists(st.floats(0, 1e6) | st.just(0.0), min_size=1, max_size=40).filter(any)


@given(seed=seeds, weights=weights, first=st.integers(0, 10**12), counts=st.lists(st.integers(0, 50), max_size=4))
def test_weighted_draws_resume_anywhere_and_never_draw_a_weight_of_0(seed, weights, first, counts):
    order = WeightedOrder(seed, weights)
    begins = [first + sum(counts[:i]) for i in range(len(counts))]
    parts = [order.wells(begin, count) for begin, count in zip(begins, counts, strict=True)]
    whole = order.wells(first, sum(counts))
    assert np.array_equal(np.concatenate([np.empty(0, int), *parts]), whole)
    assert (np.asarray(weights)[whole] > 0).all()


def test_weighted_draws_come_in_proportion_to_the_weights():
    """Chi-square against the stated weights, within 5 standard deviations."""
    order = WeightedOrder(1, [1, 0, 2, 3, 10])
    counts = np.bincount(order.wells(0, 160_000), minlength=5)
    expected = np.array([1, 2, 3, 10]) * 10_000
    assert counts[1] == 0
    assert ((counts[[0, 2, 3, 4]] - expected) ** 2 / expected).sum() < 3 + 5 * math.sqrt(6)


def test_the_largest_hash_draws_the_last_well_that_has_weight():
    """A fraction just below 1, times the total, rounds to the total here."""
    order = WeightedOrder(0, [0.1, 0.2, 0.0])
    import shards.order.weighted_order as sampling

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "hashed", lambda *_: np.full(3, 2**64 - 1, np.uint64))
        assert order.wells(0, 3).tolist() == [1, 1, 1]
        patch.setattr(sampling, "hashed", lambda *_: np.zeros(3, np.uint64))
        assert order.wells(0, 3).tolist() == [0, 0, 0]


def test_balancing_makes_labels_equally_likely():
    labels = ["DMSO"] * 900 + ["AMG900"] * 90 + ["FK-866"] * 10
    assert balancing_weights(labels)[[0, 900, 990]] == pytest.approx([1 / 900, 1 / 90, 1 / 10])
    assert set(balancing_weights(labels, power=0)) == {1}
    drawn = np.array(labels)[WeightedOrder(0, balancing_weights(labels)).wells(0, 30_000)]
    assert [abs((drawn == name).sum() - 10_000) < 5 * 82 for name in ("DMSO", "AMG900", "FK-866")] == [True] * 3


@pytest.mark.parametrize("bad", [[], [0, 0], [1, -1], [1, math.nan], [1, math.inf], [[1, 2]]])
def test_invalid_weights_are_refused(bad):
    with pytest.raises(ValueError, match="one number per well"):
        WeightedOrder(0, bad)


@st.composite
def plate_orders(draw) -> PlateOrder:
    group = draw(st.integers(1, 6))
    counts = draw(st.lists(st.integers(group, 30), min_size=1, max_size=8))
    plates = draw(st.permutations([f"P{i}" for i, count in enumerate(counts) for _ in range(count)]))
    return PlateOrder(draw(seeds), plates, group)


@settings(deadline=None)
@given(order=plate_orders(), epoch=st.integers(0, 10**6))
def test_groups_are_of_one_plate_and_an_epoch_leaves_out_only_each_plates_remainder(order, epoch):
    plates = np.asarray(order.plates)
    wells = order.wells(epoch * order.period, order.period)
    groups = plates[wells].reshape(-1, order.group)
    assert (groups == groups[:, :1]).all()
    assert np.bincount(wells).max() == 1
    for plate in set(plates):
        assert (plates[wells] == plate).sum() == (plates == plate).sum() // order.group * order.group


@settings(deadline=None)
@given(order=plate_orders(), first=st.integers(0, 10**9), counts=st.lists(st.integers(0, 40), max_size=4))
def test_plate_batches_resume_anywhere(order, first, counts):
    begins = [first + sum(counts[:i]) for i in range(len(counts))]
    parts = [order.wells(begin, count) for begin, count in zip(begins, counts, strict=True)]
    assert np.array_equal(np.concatenate([np.empty(0, int), *parts]), order.wells(first, sum(counts)))


@pytest.mark.slow
@settings(deadline=None)
@given(order=plate_orders(), world=st.sampled_from([1, 2, 3, 4, 8]), batches=st.integers(1, 4))
def test_each_rank_of_any_world_gets_complete_groups_of_one_global_batch(order, world, batches):
    """A batch of as many groups as ranks: the ranks' parts are of one plate each and together the global batch."""
    batch = world * order.group
    assume(batch * batches <= order.period)
    plates = np.asarray(order.plates)
    for number in range(batches):
        parts = [order.wells(number * batch + rank * order.group, order.group) for rank in range(world)]
        assert all(len(set(plates[part])) == 1 for part in parts)
        assert np.array_equal(np.concatenate(parts), order.wells(number * batch, batch))


def test_remainders_differ_between_epochs_so_that_every_image_is_seen():
    order = PlateOrder(4, ["A"] * 7 + ["B"] * 5, group=4)
    seen = [set(order.wells(epoch * order.period, order.period)) for epoch in range(20)]
    assert {len(wells) for wells in seen} == {8}
    assert set().union(*seen) == set(range(12))


def test_groups_of_all_plates_are_mixed():
    order = PlateOrder(4, ["A"] * 400 + ["B"] * 400, group=4)
    plates = np.asarray(order.plates)[order.wells(0, order.period)][::4]
    changes = (plates[1:] != plates[:-1]).sum()
    assert 70 < changes < 130  # 99.5 on average, standard deviation 7


def test_a_plate_too_small_for_a_group_is_named():
    with pytest.raises(ValueError, match="plate B has 3 images, fewer than a group of 4"):
        PlateOrder(0, ["A"] * 5 + ["B"] * 3, group=4)
