"""What the choice of genes adds to a comparison of two variants by recall, from the sketches of their recalls.

Both variants are measured on the same genes, so much of that noise cancels in the multiplier; how much, the sketches
tell, as their signs belong to genes and not to runs. Part of the noise also shows in the residuals of the fit; that
part is taken out of their variance, so that it does not count twice.

Legend: n rows, p parameters, K signs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.design.gain import GainFit
from analysis.design.pairs import ALONE, DIFFERENCE, Rows
from analysis.recall.gene_sketch import sketched_variance


@dataclass(frozen=True)
class GeneNoise:
    """Noise of a column of theta that the choice of genes makes."""

    variance: float
    share: float  # of the residuals' variance that is the genes'

    def widened(self, value: float, ends: tuple[float, float], confidence: float) -> tuple[float, float]:
        """The interval of a column with the noise of the genes in it: distances of its ends add as squares."""
        from scipy.stats import norm

        added = float(norm.ppf((1 + confidence) / 2)) ** 2 * self.variance
        low, high = (float(np.sqrt((end - value) ** 2 * (1 - self.share) + added)) for end in ends)
        return value - low, value + high


def gene_noise(fit: GainFit, rows: Rows, column: int) -> GeneNoise | None:
    """The genes' noise in a column of theta, linearised at the fit; None without sketches of all runs.

    Args:
        fit: of these rows.
        rows: with the sketches of their metrics.
        column: of theta.
    """
    if rows.genes is None:
        return None
    sketch = np.einsum("mn,nsk->msk", rows.rotation, rows.genes * fit.unit)  # (n, 2, K)
    problem = fit.problem
    values, jacobian = problem.model(fit.theta[None], problem.inputs)
    weighted = jacobian[0] * problem.weights[0][:, None]
    curvature = weighted.T @ jacobian[0]
    if problem.prior is not None:
        curvature = curvature + np.diag(problem.prior.precision[0])
    influence = np.linalg.pinv(curvature) @ weighted.T  # (p, n)
    moved = np.einsum("pn,nsk->psk", influence, sketch)
    read = rows.kinds == (DIFFERENCE if rows.pairs else ALONE)
    left = sketch - np.einsum("np,psk->nsk", jacobian[0], moved)  # what a refit leaves
    observed = float(np.sum((problem.targets - values)[0, read] ** 2))
    by_genes = float(np.sum(np.mean(left[read, 0] ** 2 - left[read, 1] ** 2, axis=-1)))
    share = float(np.clip(by_genes / observed, 0.0, 1.0)) if observed > 0 else 0.0
    return GeneNoise(float(sketched_variance(moved[column])), share)
