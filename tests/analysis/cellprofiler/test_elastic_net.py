"""Elastic-net regression: penalties and coefficients of scikit-learn. Covers `elastic_net` and `coordinate_descent`."""

import warnings

import numpy as np
import pytest

from analysis.cellprofiler.elastic_net import RATIOS, ElasticNetFolds


def regression_problem(samples, width, seed, noise):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(width, width)) * np.exp(-np.arange(width) / (width / 4))[:, None]
    features = rng.normal(size=(samples, width)) @ mixing + 3
    target = features @ (rng.normal(size=width) * (rng.random(width) < 0.3))
    return features, target / target.std() + noise * rng.normal(size=samples)


@pytest.mark.slow
@pytest.mark.parametrize(("samples", "width", "noise"), [(203, 12, 1.0), (150, 40, 0.3), (400, 5, 3.0)])
def test_penalties_and_coefficients_are_scikit_learn_s(samples, width, noise):
    models = pytest.importorskip("sklearn.linear_model")
    features, target = regression_problem(samples, width, samples, noise)
    ours = ElasticNetFolds(features).fit(target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where neither converges, both must stop at the same place
        theirs = models.ElasticNetCV(l1_ratio=list(RATIOS), cv=5).fit(features, target)
    assert ours.ratio == theirs.l1_ratio_
    assert ours.alpha == pytest.approx(theirs.alpha_)
    np.testing.assert_allclose(ours.coefficients, theirs.coef_, atol=1e-9)
    np.testing.assert_allclose(ours.predict(features), theirs.predict(features), atol=1e-8)
    assert ours.error == pytest.approx(theirs.mse_path_.mean(axis=-1).min())


@pytest.mark.parametrize(
    ("features", "target", "message"),
    [
        (np.ones((8, 2)), np.ones(8), "8 samples do not make 5 folds"),
        (np.full((20, 2), np.nan), np.ones(20), "features must be a finite matrix"),
        (np.eye(20), np.ones(20), "the target is constant"),
        (np.eye(20), np.arange(19.0), "20 finite numbers"),
    ],
)
def test_what_cannot_be_regressed_is_an_error(features, target, message):
    with pytest.raises(ValueError, match=message):
        ElasticNetFolds(features).fit(target)
