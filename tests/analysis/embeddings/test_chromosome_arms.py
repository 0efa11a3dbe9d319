"""Chromosome-arm correction: unexpressed genes give the bias of their arm."""

import numpy as np
import pytest

from analysis.embeddings.chromosome_arms import fit_arms


def test_the_mean_of_an_arm_s_unexpressed_genes_is_subtracted_from_all_its_genes():
    rng = np.random.default_rng(0)
    arm = np.repeat(["1p", "1q", ""], [60, 20, 5])
    bias = {"1p": np.array([3.0, 0.0]), "1q": np.array([0.0, 5.0]), "": np.zeros(2)}
    own = rng.normal(size=(85, 2))
    expression = np.where(np.arange(85) % 2, -4.0, 1.0)  # 30 unexpressed on 1p, 10 on 1q
    expression[0] = np.nan
    values = own + np.array([bias[name] for name in arm])
    fitted = fit_arms(values, arm.tolist(), expression)
    assert fitted.too_few == {"1q": 10}
    corrected = fitted.apply(values, arm.tolist())
    unexpressed = (arm == "1p") & (expression < -3)
    np.testing.assert_allclose(corrected[arm == "1p"], (own - own[unexpressed].mean(axis=0))[arm == "1p"])
    np.testing.assert_array_equal(corrected[arm != "1p"], values[arm != "1p"])


@pytest.mark.parametrize(("unexpressed", "corrected"), [(20, False), (21, True)])
def test_an_arm_needs_more_than_twenty_unexpressed_genes(unexpressed, corrected):
    values, arm = np.ones((50, 3)), ["1p"] * 25 + ["2p"] * 25
    expression = np.array([-4.0] * unexpressed + [0.0] * (25 - unexpressed) + [-4.0] * 25)
    assert ("1p" in fit_arms(values, arm, expression).means) is corrected


def test_expression_that_leaves_no_arm_to_correct_is_an_error():
    with pytest.raises(ValueError, match="no chromosome arm has more than 20 unexpressed genes"):
        fit_arms(np.ones((3, 2)), ["1p", "1p", "1p"], [0.0, 0.0, -4.0])
