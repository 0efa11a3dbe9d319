"""Replicate consistency and magnitude: planted truth, known statistics, and perturbations in a single well."""

import numpy as np
import pytest
from scipy import stats

from analysis.embeddings import blocks, consistency
from analysis.embeddings.consistency import energy_distance, perturbation_magnitude, replicate_consistency


def screen(effect, seed=0, perturbations=30, replicates=4, width=16):
    rng = np.random.default_rng(seed)
    centre = effect * rng.normal(size=(perturbations, width))
    name = np.repeat([f"P{i:02}" for i in range(perturbations)], replicates)
    return np.repeat(centre, replicates, axis=0) + rng.normal(size=(len(name), width)), name.tolist()


def test_replicates_of_a_strong_effect_agree_and_of_none_do_not():
    strong, none = (replicate_consistency(*screen(effect)) for effect in (3, 0))
    assert (strong.p < 0.05).all()
    assert strong.ks > 0.9
    assert (none.p < 0.05).mean() < 0.2
    assert none.ks < 0.15
    assert strong.cramer_von_mises > 20 * none.cramer_von_mises
    assert strong.replicate_pairs == 30 * 6


def test_mean_cosines_are_those_of_all_pairs():
    embeddings, name = screen(1)
    found = replicate_consistency(embeddings, name)
    rows = embeddings[:4] / np.linalg.norm(embeddings[:4], axis=1, keepdims=True)
    assert found.mean_cosine[0] == pytest.approx((rows @ rows.T)[np.triu_indices(4, 1)].mean())


def test_a_perturbation_in_one_well_is_counted_and_makes_nothing_nan():
    embeddings, name = screen(1)
    found = replicate_consistency(np.vstack([embeddings, np.ones((2, 16))]), [*name, "alone", "alone too"])
    assert found.single == 2
    assert len(found.perturbations) == 30
    assert np.isfinite([found.ks, found.cramer_von_mises, *found.mean_cosine, *found.p]).all()


def test_nothing_replicated_is_an_error():
    with pytest.raises(ValueError, match="two are needed, one of them with replicates"):
        replicate_consistency(np.eye(3), ["a", "b", "c"])
    with pytest.raises(ValueError, match="3 embeddings, but 2 perturbations"):
        replicate_consistency(np.eye(3), ["a", "b"])


def in_memory(embeddings, name, draws, seed=0):
    """All wells and all pairs in memory, with the same draws: p values and SciPy's statistics."""
    rows = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    unique, code = np.unique(name, return_inverse=True)
    rng, count = np.random.default_rng(seed), np.bincount(code)
    order, starts = np.argsort(code, kind="stable"), np.cumsum(count) - count
    cosines = rows @ rows.T
    same = [cosines[np.ix_(code == k, code == k)][np.triu_indices(count[k], 1)] for k in range(len(unique))]
    mean = np.array([one.mean() if len(one) else 0 for one in same])
    p = {}
    for size in np.unique(count[count >= 2]):
        null = []
        for _ in range(draws):
            which = rng.choice(len(count), size, replace=size > len(count))
            wells = order[starts[which] + rng.integers(count[which])]
            null.append(cosines[np.ix_(wells, wells)][np.triu_indices(size, 1)].mean())
        for k in np.flatnonzero(count == size):
            p[unique[k]] = (1 + (np.array(null) >= mean[k]).sum()) / (1 + draws)
    first, second = rng.integers(len(rows), size=(2, consistency.NULL_PAIRS))
    apart = code[first] != code[second]
    samples = np.concatenate(same), cosines[first[apart], second[apart]]
    cvm = stats.cramervonmises_2samp(*samples, method="asymptotic").statistic
    return p, stats.ks_2samp(*samples, method="asymp").statistic, cvm


@pytest.mark.parametrize("block", [5, 4096])
def test_blocks_of_wells_give_what_all_wells_together_give(block, monkeypatch):
    for module, constant in ((blocks, "BLOCK"), (consistency, "BLOCK"), (consistency, "PAIRED")):
        monkeypatch.setattr(module, constant, block)
    embeddings, name = screen(0.3, perturbations=12, replicates=5)
    embeddings, name = embeddings[:-3], name[:-3]  # sizes of 5 and 2
    p, ks, cvm = in_memory(embeddings, name, 50)
    with_controls = np.vstack([np.full((4, 16), 9.0), embeddings, np.zeros((2, 16))])
    found = replicate_consistency(with_controls, ["", "", "", "", *name, "", ""], draws=50)
    assert dict(zip(found.perturbations, found.p, strict=True)) == pytest.approx(p)
    assert (found.ks, found.cramer_von_mises) == pytest.approx((ks, cvm), rel=1e-9)


def test_float32_embeddings_are_compared_in_float64():
    embeddings, name = screen(1)
    single = embeddings.astype(np.float32)
    assert replicate_consistency(single, name).summary() == replicate_consistency(single.astype(float), name).summary()


def test_energy_distance_is_scipy_s_in_one_dimension():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=50), 1 + 2 * rng.normal(size=70)
    expected = stats.energy_distance(x, y) ** 2  # scipy takes the root
    assert energy_distance(x[:, None], y[:, None]) == pytest.approx(expected)
    assert energy_distance(x[:, None], x[:, None]) == pytest.approx(0, abs=1e-12)


def test_strong_perturbations_are_far_from_the_controls():
    embeddings, name = screen(0, perturbations=20)
    embeddings[:40] += 4
    rng = np.random.default_rng(1)
    values = np.vstack([embeddings, rng.normal(size=(200, 16)), np.zeros((1, 16))])
    control = np.array([False] * 80 + [True] * 200 + [False])
    found = perturbation_magnitude(values, [*name, *["DMSO"] * 200, "alone"], control)
    assert found.too_few == 1
    assert (found.p[:10] < 0.01).all()
    assert (found.p[10:] < 0.05).mean() <= 0.3
    controls = values[control]
    assert found.distance[3] == pytest.approx(energy_distance(values[12:16], controls))


def test_magnitude_needs_controls():
    embeddings, name = screen(1)
    with pytest.raises(ValueError, match="too few to compare"):
        perturbation_magnitude(embeddings, name, np.zeros(len(name), dtype=bool))
