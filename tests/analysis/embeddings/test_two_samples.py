"""Two samples from counts: the statistics' definitions, and SciPy's on samples that are kept whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.embeddings import two_samples as module
from analysis.embeddings.two_samples import two_samples


def test_statistics_of_two_small_samples_by_their_definition():
    first, second = np.array([0.1, 0.4, 0.7]), np.array([0.2, 0.3, 0.8, 0.9])
    steps = np.sort(np.concatenate([first, second]))
    lower = np.searchsorted(np.sort(first), steps, "right") / 3
    upper = np.searchsorted(np.sort(second), steps, "right") / 4
    found = two_samples([[first[:2]], [first[2:]]], second)
    assert found.ks == pytest.approx(np.abs(lower - upper).max())
    assert found.cramer_von_mises == pytest.approx(3 * 4 / 7**2 * ((lower - upper) ** 2).sum())
    assert found.first == 3


@pytest.mark.parametrize("shift", [0.0, 0.1, 2.0, -9.0])
@pytest.mark.parametrize("together", [1, 100, 1 << 20])
def test_statistics_are_scipy_s_however_values_come_together(shift, together, monkeypatch):
    monkeypatch.setattr(module, "COUNTED", together)
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=700), rng.normal(shift, 1.3, size=400)
    found = two_samples([[part[:20], part[20:]] for part in np.array_split(first, 9)], second)
    assert found.ks == pytest.approx(stats.ks_2samp(first, second, method="asymp").statistic, rel=1e-12)
    expected = stats.cramervonmises_2samp(first, second, method="asymptotic").statistic
    assert found.cramer_von_mises == pytest.approx(expected, rel=1e-10)


@given(first=st.lists(st.integers(0, 5), min_size=2, max_size=30), more=st.lists(st.integers(-2, 8), max_size=30))
def test_values_that_both_samples_hold_count_as_in_scipy(first, more):
    second = np.array([*range(6), *more], dtype=float)  # holds every value of the first
    found = two_samples([[np.array(first, dtype=float)]], second)
    assert found.ks == pytest.approx(stats.ks_2samp(first, second, method="asymp").statistic, abs=1e-12)
    expected = stats.cramervonmises_2samp(first, second, method="asymptotic").statistic
    assert found.cramer_von_mises == pytest.approx(expected, abs=1e-10)


def test_an_empty_sample_is_an_error():
    with pytest.raises(ValueError, match="the first of two samples is empty"):
        two_samples([[np.empty(0)]], [1.0, 2.0])
    with pytest.raises(ValueError, match="the second of two samples is empty"):
        two_samples([[np.ones(1)]], [])
