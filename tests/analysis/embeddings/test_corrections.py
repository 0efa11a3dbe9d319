"""Corrections: TVN against its published formula, and the problems of real control wells.

Covers `corrections` and its `checks`.
"""

import numpy as np
import pytest
from scipy import linalg

from analysis.embeddings.corrections import (
    CORRECTIONS,
    apply_named,
    fit_batch_centre_scale,
    fit_centre_scale,
    fit_tvn,
    pca_centre_scale,
)


def screen(wells=400, features=12, batches=3, control_share=0.4, seed=0):
    """Correlated embeddings with a different shift and scale per batch; controls spread over all batches."""
    rng = np.random.default_rng(seed)
    batch = np.arange(wells) % batches
    mixing = rng.normal(size=(features, features))
    embeddings = rng.normal(size=(wells, features)) @ mixing * (1 + batch[:, None]) + 3 * batch[:, None] + 100
    control = rng.random(wells) < control_share
    return embeddings, control, np.array([f"HUVEC-{number}" for number in batch])


def published_tvn(embeddings, control, batch):
    """The definition, step by step: standardise, rotate to principal axes, standardise, whiten per batch."""

    def standardised(values):
        return (values - values[control].mean(axis=0)) / values[control].std(axis=0)

    values = standardised(embeddings)
    _, axes = np.linalg.eigh(np.cov(values[control], rowvar=False))
    values = standardised(values @ axes)
    result = np.empty_like(values)
    for name in np.unique(batch):
        here = batch == name
        covariance = np.cov(values[here & control], rowvar=False) + 0.5 * np.eye(values.shape[1])
        result[here] = values[here] @ linalg.fractional_matrix_power(covariance, -0.5).real
    return result


def cosines(values):
    directions = values / np.linalg.norm(values, axis=1, keepdims=True)
    return directions @ directions.T


def test_tvn_gives_the_cosines_of_the_published_formula():
    # principal axes are fixed up to sign and order only, which do not change cosines
    embeddings, control, batch = screen()
    corrected = fit_tvn(embeddings, control, batch).apply(embeddings, batch)
    np.testing.assert_allclose(cosines(corrected), cosines(published_tvn(embeddings, control, batch)), atol=1e-9)


def test_tvn_whitens_every_batch_of_controls_up_to_the_ridge():
    embeddings, control, batch = screen(wells=3000)
    corrected = fit_tvn(embeddings, control, batch).apply(embeddings, batch)
    for name in np.unique(batch):
        eigenvalues = np.linalg.eigvalsh(np.cov(corrected[control & (batch == name)], rowvar=False))
        assert (eigenvalues < 1).all()  # c / (c + 0.5) for every eigenvalue c of the batch's controls


def test_tvn_does_not_centre_per_batch():
    embeddings, control, batch = screen()
    corrected = fit_tvn(embeddings, control, batch).apply(embeddings, batch)
    means = [corrected[control & (batch == name)].mean(axis=0) for name in np.unique(batch)]
    assert np.linalg.norm(means[0] - means[2]) > 0.5


def test_tvn_ignores_units_and_offsets_of_features():
    embeddings, control, batch = screen()
    units = np.geomspace(1e-3, 1e4, embeddings.shape[1])
    plain, rescaled = (fit_tvn(x, control, batch).apply(x, batch) for x in (embeddings, embeddings * units - 7))
    np.testing.assert_allclose(cosines(plain), cosines(rescaled), atol=1e-8)


def test_tvn_of_fewer_controls_than_features_keeps_their_rank():
    embeddings, _, batch = screen(wells=60, features=200)
    control = np.arange(60) < 12
    corrected = fit_tvn(embeddings, control, batch).apply(embeddings, batch)
    assert corrected.shape == (60, 11)  # 12 centred controls span 11 dimensions
    assert np.abs(corrected).max() < 1e3  # nothing was divided by rounding


def test_tvn_of_float32_is_computed_in_float64():
    embeddings, control, batch = screen()
    single = embeddings.astype(np.float32)
    result = fit_tvn(single, control, batch).apply(single, batch)
    assert result.dtype == np.float64
    np.testing.assert_array_equal(result, fit_tvn(single.astype(float), control, batch).apply(single, batch))


def test_features_constant_over_controls_are_counted_and_change_nothing():
    embeddings, control, batch = screen()
    constant = np.where(control, 0.1, np.arange(len(control)))  # 0.1 has no exact mean in binary
    widened = np.column_stack([embeddings, constant, np.full(len(control), 1e6)])
    tvn = fit_tvn(widened, control, batch)
    assert tvn.constant_features == 2
    expected = fit_tvn(embeddings, control, batch).apply(embeddings, batch)
    np.testing.assert_allclose(cosines(tvn.apply(widened, batch)), cosines(expected), atol=1e-9)
    assert (fit_centre_scale(widened, control).apply(widened)[:, -2:] == 0).all()


def test_centre_scale_standardises_the_controls_and_moves_the_rest_along():
    embeddings = np.array([[1.0, 10.0], [3.0, 30.0], [5.0, 0.0]])
    scaled = fit_centre_scale(embeddings, np.array([True, True, False])).apply(embeddings)
    np.testing.assert_allclose(scaled, [[-1, -1], [1, 1], [3, -2]])  # means 2 and 20, deviations 1 and 10


def test_no_controls_is_an_error():
    embeddings, control, batch = screen()
    with pytest.raises(ValueError, match="none of the 400 wells is a control"):
        fit_tvn(embeddings, np.zeros_like(control), batch)


@pytest.mark.parametrize("left", [0, 1])
def test_a_batch_with_too_few_controls_is_named(left):
    embeddings, control, batch = screen()
    in_batch = np.flatnonzero(control & (batch == "HUVEC-1"))
    control[in_batch[left:]] = False
    with pytest.raises(ValueError, match=rf"at least 2 control wells.*too few in HUVEC-1 \({left}\)$"):
        fit_tvn(embeddings, control, batch)


def test_a_batch_that_was_not_fitted_is_an_error():
    embeddings, control, batch = screen()
    with pytest.raises(ValueError, match="batch HUVEC-9 was not fitted; fitted are HUVEC-0"):
        fit_tvn(embeddings, control, batch).apply(embeddings[:1], ["HUVEC-9"])


def test_rows_that_are_not_finite_are_named():
    embeddings, control, batch = screen()
    embeddings[[7, 9], 0] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"2 of 400 embeddings hold NaN or infinity \(rows 7, 9\)"):
        fit_tvn(embeddings, control, batch)


def test_a_collapsed_encoder_is_an_error_not_a_division_by_zero():
    _, control, batch = screen()
    with pytest.raises(ValueError, match="all 4 features are constant over the controls"):
        fit_tvn(np.ones((400, 4)), control, batch)


@pytest.mark.parametrize("control", [np.zeros(400), np.zeros(3, dtype=bool)], ids=["numbers", "wrong length"])
def test_controls_must_be_one_boolean_per_well(control):
    embeddings, _, batch = screen()
    with pytest.raises(ValueError, match="control must be 400 booleans"):
        fit_tvn(embeddings, control, batch)


def test_one_batch_name_per_well_is_needed():
    embeddings, control, batch = screen()
    with pytest.raises(ValueError, match="batch has shape"):
        fit_tvn(embeddings, control, batch[:-1])


# --- few and many controls, other corrections ------------------------------------------------------------------------


@pytest.mark.parametrize("control_share", [0.06, 0.2, 0.95], ids=["fewer than features", "few per batch", "many"])
def test_tvn_agrees_with_the_formula_however_many_controls_there_are(control_share):
    """Each number of controls takes another path; the formula's axes without variance are left out in both."""
    embeddings, control, batch = screen(wells=600, features=40, control_share=control_share, seed=3)
    corrected = fit_tvn(embeddings, control, batch).apply(embeddings, batch)
    rank = min(40, control.sum() - 1)
    assert corrected.shape == (600, rank)
    values = fit_centre_scale(embeddings, control).apply(embeddings)
    _, _, axes = np.linalg.svd(values[control], full_matrices=False)
    projected = values @ axes[:rank].T
    expected = published_tvn(projected, control, batch)
    np.testing.assert_allclose(cosines(corrected), cosines(expected), atol=1e-9)


def test_nearly_collinear_features_are_not_taken_for_constant_ones():
    embeddings, control, batch = screen()
    widened = np.column_stack([embeddings, embeddings[:, 0] * (1 + 1e-9) + 1e-5 * embeddings[:, 1]])
    assert fit_tvn(widened, control, batch).apply(widened, batch).shape[1] in (12, 13)
    twice = np.column_stack([embeddings, embeddings])  # exactly collinear: half of the axes hold only rounding
    corrected = fit_tvn(twice, control, batch).apply(twice, batch)
    assert corrected.shape[1] == 12
    plain = fit_tvn(embeddings, control, batch).apply(embeddings, batch)
    np.testing.assert_allclose(cosines(corrected), cosines(plain), atol=1e-8)


def test_centre_scale_per_batch_makes_each_batch_s_controls_standard():
    embeddings, control, batch = screen()
    scaled = fit_batch_centre_scale(embeddings, control, batch).apply(embeddings, batch)
    for name in np.unique(batch):
        controls = scaled[control & (batch == name)]
        np.testing.assert_allclose(controls.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(controls.std(axis=0), 1)


def test_pca_centre_scale_is_scikit_learn_s_pca_between_two_standardisations():
    decomposition = pytest.importorskip("sklearn.decomposition")
    embeddings, control, batch = screen()
    found = pca_centre_scale(embeddings, control, batch, components=5)
    scaled = embeddings.copy()
    for name in np.unique(batch):
        here = batch == name
        scaled[here] = (scaled[here] - scaled[here].mean(axis=0)) / scaled[here].std(axis=0)
    pca = decomposition.PCA(5).fit(scaled)
    projected = pca.transform(scaled)
    for name in np.unique(batch):
        here = batch == name
        projected[here] -= projected[here & control].mean(axis=0)
        projected[here] /= projected[here & control].std(axis=0)
    np.testing.assert_allclose(cosines(found.corrected), cosines(projected), atol=1e-9)
    assert found.explained == pytest.approx(pca.explained_variance_ratio_.sum())


@pytest.mark.parametrize("name", CORRECTIONS)
def test_every_correction_is_reached_by_name(name):
    embeddings, control, batch = screen()
    assert len(apply_named(name, embeddings, control, batch)) == 400


def test_an_unknown_correction_lists_the_known_ones():
    embeddings, control, batch = screen()
    with pytest.raises(ValueError, match="no correction 'combat'; known: none, centre_scale"):
        apply_named("combat", embeddings, control, batch)
