"""Compute multipliers: known ones are recovered, coverage is as stated, doubts are said. Covers `gain`."""

import numpy as np
import pytest

from analysis.design.compare import compare
from analysis.design.pairs import Variant
from analysis.laws.metric import Metric
from benchmarks.multipliers import Setting, simulate

LOSS, SHARE = Metric("loss"), Metric("share")
COMPUTE = np.geomspace(1e16, 1e19, 6)
STREAM = 2  # of random numbers: the interval was chosen on another


def runs(name, law, compute=COMPUTE, noise=0.0, seed=0, metric=LOSS):
    distance = law(compute) * np.exp(noise * np.random.default_rng(seed).normal(size=len(compute)))
    return Variant(name, compute, distance if metric.kind == "loss" else 1 - distance)


def plateau(multiplier=1.0, exponent=0.2):
    return lambda compute: 0.3 + 0.5 * (compute * multiplier / 1e16) ** -exponent


@pytest.mark.parametrize(("metric", "multiplier"), [(LOSS, 0.2), (LOSS, 1.0), (SHARE, 1.7), (SHARE, 30.0)])
def test_a_known_multiplier_is_recovered_whatever_the_metric(metric, multiplier):
    first, second = (runs(name, plateau(m), metric=metric) for name, m in (("a", 1), ("b", multiplier)))
    found = compare(first, second, metric)
    assert found.shared.value == pytest.approx(multiplier, rel=1e-4)
    assert found.shared.low <= multiplier * (1 + 1e-6)
    assert multiplier * (1 - 1e-6) <= found.shared.high
    assert all(one.value == pytest.approx(multiplier, rel=1e-3) for one in found.separate)
    assert found.exponents.value == pytest.approx(1, rel=1e-3)
    assert (found.pairs, found.cells) == (6, 12)
    assert any("not the choice of the genes" in note for note in found.notes) == (metric is SHARE)
    if multiplier != 1:
        assert found.worse == ("a" if multiplier > 1 else "b")
        assert not found.shared.holds_one


@pytest.mark.parametrize(
    ("law", "metric", "make"),
    [
        ("power_law", LOSS, lambda u: 0.8 * np.exp(-0.1 * u)),
        ("logit_linear", SHARE, lambda u: 1 / (1 + np.exp(1 - 0.2 * u))),
        ("auto", Metric("score"), lambda u: 12 + 3 * u),
        ("auto", Metric("score", falling=True), lambda u: -3 * u),
        ("saturating", Metric("score"), lambda u: 12 - 3 * np.exp(-0.3 * u)),
    ],
)
def test_other_laws_read_the_same_multiplier(law, metric, make):
    u = np.log(COMPUTE / 1e16)
    found = compare(Variant("a", COMPUTE, make(u)), Variant("b", COMPUTE, make(u + np.log(2.5))), metric, law=law)
    assert found.shared.value == pytest.approx(2.5, rel=1e-3)


def test_units_of_compute_and_loss_do_not_matter():
    first, second = (runs(name, plateau(m), noise=0.01, seed=s) for name, m, s in (("a", 1, 0), ("b", 2, 1)))
    plain = compare(first, second, LOSS).shared
    scaled = (Variant(one.name, one.compute / 1e15, one.y * 1e3) for one in (first, second))
    other = compare(*scaled, LOSS).shared
    np.testing.assert_allclose([plain.value, plain.low, plain.high], [other.value, other.low, other.high], rtol=1e-3)


def test_the_other_direction_is_the_reciprocal():
    first, second = (runs(name, plateau(m), noise=0.01, seed=s) for name, m, s in (("a", 1, 0), ("b", 2, 1)))
    there, back = compare(first, second, LOSS).shared, compare(second, first, LOSS).shared
    np.testing.assert_allclose(
        [there.value, there.low, there.high], [1 / back.value, 1 / back.high, 1 / back.low], rtol=0.01
    )


def test_noise_that_pairs_share_does_not_widen_the_interval():
    """Every cell of both variants is off by the same 5%; matched by cell, that cancels."""
    shared = {seed: runs("a", plateau(), noise=0.05, seed=seed).y / plateau()(COMPUTE) for seed in range(3)}
    compute, seeds = np.tile(COMPUTE, 3), tuple(np.repeat([0, 1, 2], 6).tolist())
    noise, small = np.concatenate(list(shared.values())), 1 + 1e-3 * np.random.default_rng(9).normal(size=18)
    first = Variant("a", compute, plateau()(compute) * noise, (), seeds)
    second = Variant("b", compute, plateau(2)(compute) * noise * small, (), seeds)
    matched = compare(first, second, LOSS).shared
    apart = Variant("b", second.compute, second.y, tuple(f"b{c:.3g}" for c in compute), seeds)
    unmatched = compare(first, apart, LOSS)
    assert unmatched.pairs == 0
    assert "compared without pairs" in unmatched.notes[0]
    assert np.log(matched.high / matched.low) < 0.3 * np.log(unmatched.shared.high / unmatched.shared.low)


def test_exponents_that_differ_are_a_warning_with_the_multiplier_at_both_ends():
    first = runs("a", plateau(1, 0.2), noise=0.002)
    second = runs("b", plateau(1, 0.3), noise=0.002, seed=1)
    found = compare(first, second, LOSS, at=[1e17, 1e18])
    assert found.exponents.value == pytest.approx(1.5, rel=0.1)
    for one in found.separate:  # (C / m)^-0.3 = C^-0.2
        truth = (one.compute / 1e16) ** (1 / 3)
        assert one.low < truth < one.high
    (warning,) = found.warnings
    assert "the two fits disagree: the exponents differ by a factor of" in warning
    assert "at 1e+17" in warning


def test_metrics_that_do_not_overlap_make_the_multiplier_extrapolated():
    found = compare(runs("a", plateau()), runs("b", plateau(1e4)), LOSS)
    assert found.shared.extrapolated
    assert [one.extrapolated for one in found.separate] == [True]
    assert any("do not overlap" in warning and "extrapolated" in warning for warning in found.warnings)


def test_a_place_that_one_variant_does_not_reach_is_extrapolated():
    found = compare(runs("a", plateau()), runs("b", plateau(3)), LOSS, at=[1.5e16, 1e18, 1e21])
    assert [one.extrapolated for one in found.separate] == [True, False, True]
    assert not found.shared.extrapolated


def test_a_metric_that_hardly_changes_with_compute_gives_a_range_and_a_warning():
    flat = [runs(name, lambda c: 0.5 + 0 * c, noise=0.02, seed=seed) for name, seed in (("a", 3), ("b", 4))]
    found = compare(*flat, LOSS)
    assert not found.shared.identified
    assert any("not identified" in warning for warning in found.warnings)


def test_identical_runs_are_one_times_the_compute():
    alike = [runs(name, plateau(), noise=0.02) for name in "ab"]
    found = compare(*alike, LOSS)
    assert found.shared.holds_one
    assert found.exponents.holds_one
    assert found.warnings == ()


def test_of_noise_alone_the_answers_are_ranges_at_computes_that_exist():
    """Values at random over 20 decades; a fit may end anywhere, but numbers stay numbers."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        first, second = (Variant(name, 10 ** rng.uniform(0, 20, 5), rng.uniform(0.01, 0.99, 5)) for name in "ab")
        found = compare(first, second, SHARE)
        for one in (found.shared, found.exponents, *found.separate):
            assert 0 <= one.low <= one.value * (1 + 1e-9)
            assert one.value <= one.high * (1 + 1e-9)
        low, high = min(first.compute.min(), second.compute.min()), max(first.compute.max(), second.compute.max())
        assert all(low * 0.99 <= one.compute <= high * 1.01 for one in found.separate)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compute": COMPUTE[:2], "y": np.array([3.0, 2.0])}, "variant b: 2 runs at 2 distinct computes; a comparison"),
        ({"compute": -COMPUTE}, "variant b: every compute must be positive and finite"),
        ({"y": np.array([3, 2, 1, 0.5, 0, np.nan])}, "variant b: 2 of 6 values of the metric have no logarithm"),
        ({"seeds": (1, 2)}, "variant b: compute, y, cells and seeds differ in length"),
        ({"cells": ("s", "s", "m", "m", "l", "l")}, "variant b: runs of cell s have computes from 1e\\+16 to 3.98"),
    ],
)
def test_runs_that_cannot_be_compared_are_named(change, message):
    good = runs("b", plateau())
    bad = Variant(**{"name": "b", "compute": good.compute, "y": good.y} | change)
    with pytest.raises(ValueError, match=message):
        compare(runs("a", plateau()), bad, LOSS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"law": "bnsl"}, "takes auto or one of power_offset, .* not bnsl"),
        ({"law": "zipf"}, "unknown law 'zipf'"),
        ({"confidence": 1.0}, "confidence 1 is not between 0 and 1"),
        ({"at": [0.0]}, "every compute must be positive"),
    ],
)
def test_options_that_cannot_be_used_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        compare(runs("a", plateau()), runs("b", plateau(2)), LOSS, **options)


def test_a_metric_that_gets_worse_with_compute_cannot_be_compared():
    worse = [Variant(name, COMPUTE, np.linspace(5, 1, 6) + shift) for name, shift in (("a", 0), ("b", 1))]
    with pytest.raises(ValueError, match="does not improve with compute"):
        compare(*worse, Metric("score"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("setting", [Setting(), Setting(multiplier=1.0, same_compute=True)], ids=["drawn", "A/A"])
def test_intervals_cover_as_often_as_stated(setting):
    """250 pairs each: 4 to 8 cells, 1 to 5 seeds, 0.2% to 3% noise. The standard error is 1.9 points."""
    held = []
    for seed in range(250):
        study = simulate(np.random.default_rng((STREAM, seed)), setting)
        found = study.compared()
        middle = found.separate[len(found.separate) // 2]
        held.append([one.low <= study.multiplier <= one.high for one in (found.shared, middle)])
    coverage = np.mean(held, axis=0)
    assert ((coverage >= 0.85) & (coverage <= 0.95)).all(), coverage
