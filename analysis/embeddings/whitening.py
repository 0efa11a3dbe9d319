"""Whitening matrices of control wells, computed block by block.

Legend: N control wells, n control wells of one batch, w wells of a block, D embedding width, R rank of the controls (at
most min(N - 1, D)).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from analysis.arrays import Floats

TVN_RIDGE = 0.5  # added to each batch's covariance, as in EFAAR_benchmarking
ILL_CONDITIONED = 1e-7  # below this ratio of QR's pivots the rank is determined by an SVD


@dataclass(frozen=True)
class BatchWhitening:
    """(covariance + ridge I)^(-1/2) of one batch's controls: the symmetric matrix `rest` I + axes diag(gain) axes^T."""

    axes: Floats  # (R, K); K is n where a batch has fewer controls than R dimensions, else R
    gain: Floats  # (K,)
    rest: float

    def apply(self, whitened: Floats) -> Floats:
        """Multiply rows (w, R) by the matrix."""
        inner: Floats = whitened @ self.axes
        inner *= self.gain
        result: Floats = inner @ self.axes.T
        result += self.rest * whitened
        return result


def whitening_matrix(standardised: Iterable[Floats]) -> Floats:
    """(D, R) that takes the centred controls, given in blocks (w, D), to unit (population) covariance.

    The triangular factor of all controls is that of the blocks' factors (Demmel et al. 2012, TSQR), and it has their
    singular values and axes.

    Raises:
        ValueError: all features are constant.
    """
    triangle, count = _triangular_factor(standardised)
    width = triangle.shape[1]
    if count > width:
        pivots = np.abs(np.diag(triangle))
        if pivots.min() > ILL_CONDITIONED * pivots.max():
            inverse: Floats = linalg.solve_triangular(triangle, np.sqrt(count) * np.eye(width), check_finite=False)
            return inverse
    _, singular, axes = np.linalg.svd(triangle, full_matrices=False)
    rank = int((singular > singular[0] * max(count, width) * np.finfo(np.float64).eps).sum())
    if rank == 0:
        raise ValueError(f"all {width} features are constant over the controls; nothing to correct by")
    result: Floats = axes[:rank].T * (np.sqrt(count) / singular[:rank])
    return result


def _triangular_factor(blocks: Iterable[Floats]) -> tuple[Floats, int]:
    """R of the QR decomposition of all rows, (min(N, D), D), and their number N."""
    triangle, count = None, 0
    for block in blocks:
        rows = block if triangle is None else np.concatenate([triangle, block])
        (factor,) = linalg.qr(rows, mode="r", overwrite_a=True, check_finite=False)
        triangle, count = factor[: rows.shape[1]], count + len(block)
    assert triangle is not None
    return triangle, count


def batch_whitening(whitened: Iterable[Floats], mean: Floats, count: int) -> BatchWhitening:
    """From one batch's whitened controls, (n, R) in blocks.

    With the centred controls X, f(X^T X) - f(0) I = X^T g(X X^T) X for f(s) = (s / (n - 1) + ridge)^(-1/2) and
    g(s) = (f(s) - f(0)) / s, so the smaller of the two products is decomposed.

    Args:
        whitened: the controls.
        mean: of them, (R,).
        count: n.
    """
    rest, rank = TVN_RIDGE**-0.5, len(mean)
    centred = ((block - mean) / np.sqrt(count - 1) for block in whitened)
    if count >= rank:
        covariance = np.zeros((rank, rank))
        for block in centred:
            covariance += block.T @ block
        spread, axes = np.linalg.eigh(covariance)
        return BatchWhitening(axes, (np.maximum(spread, 0) + TVN_RIDGE) ** -0.5 - rest, rest)
    rows = np.concatenate(list(centred))  # (n, R), with n < R
    spread, axes = np.linalg.eigh(rows @ rows.T)
    return BatchWhitening(rows.T @ axes, _gain_per_spread(spread), rest)


def _gain_per_spread(spread: Floats) -> Floats:
    """((s + r)^(-1/2) - r^(-1/2)) / s, written so that small s lose no digits."""
    root, rest = np.sqrt(np.maximum(spread, 0) + TVN_RIDGE), np.sqrt(TVN_RIDGE)
    result: Floats = -1 / (root * rest * (root + rest))
    return result
