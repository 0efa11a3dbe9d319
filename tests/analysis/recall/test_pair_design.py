"""Complexes are found from their pairs alone, and their structure is counted right."""

from __future__ import annotations

import random

import numpy as np

from analysis.recall import pair_design
from analysis.recall.pair_design import PairDesign
from tests.analysis.recall.simulated_maps import Complexes, unequal


def test_complexes_without_common_genes_are_the_groups() -> None:
    of = unequal(np.random.default_rng(0))
    first, _ = of.pairs()
    design = of.design()
    assert len(design.sizes) == len(of.sizes)
    assert len({*zip(design.group.tolist(), of.member_of[first].tolist(), strict=True)}) == len(of.sizes)
    assert sorted(design.sizes) == sorted(of.sizes * (of.sizes - 1) // 2)


def test_pairs_between_two_complexes_are_a_group_of_their_own() -> None:
    first, second = Complexes(np.array([6, 6])).pairs()
    design = PairDesign.of(12, np.append(first, [0, 1]), np.append(second, [6, 7]))
    assert sorted(design.sizes) == [2, 15, 15]
    assert len(set(design.group[-2:])) == 1


def test_degrees_and_sums_of_a_triangle_with_a_tail() -> None:
    design = PairDesign.of(4, np.array([0, 0, 1, 2]), np.array([1, 2, 2, 3]))
    assert design.degrees.tolist() == [2, 2, 3, 1]
    assert design.gene_sums(np.array([1.0, 10.0, 100.0, 1000.0])).tolist() == [11.0, 101.0, 1110.0, 1000.0]
    assert design.memberships.degree.sum() == 2 * len(design)


def test_the_groups_do_not_depend_on_random_numbers_and_leave_them_alone() -> None:
    rng = np.random.default_rng(1)
    chosen = rng.permutation([(a, b) for a in range(50) for b in range(a)])[:300]
    random.seed(7)
    one = PairDesign.of(50, chosen[:, 0], chosen[:, 1])
    drawn = random.random()
    random.seed(7)
    assert drawn == random.random()
    random.seed(8)
    pair_design._design.cache_clear()
    np.testing.assert_array_equal(one.group, PairDesign.of(50, chosen[:, 0], chosen[:, 1]).group)


def test_the_maps_of_a_study_share_the_design_of_their_pairs() -> None:
    """Finding complexes of 58,000 pairs takes 1 s, and a study compares hundreds of maps."""
    first, second = np.array([0, 0, 1]), np.array([1, 2, 2])
    assert PairDesign.of(3, first, second) is PairDesign.of(3, first.copy(), second.astype(np.int32))
    assert PairDesign.of(4, first, second).genes == 4
