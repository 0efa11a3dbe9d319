"""Batch corrections of embeddings, fitted on control wells and applied to all wells.

All arithmetic is float64: float32 moves cosines by up to 7.5e-4 through the whitening. `apply_named` picks a correction
by its name; chromosome arms, which are corrected gene by gene, are in `chromosome_arms.py`.

Legend: W wells, N control wells, n control wells of one batch, D embedding width, R rank of the controls
(at most min(N - 1, D)).
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import linalg

from analysis.arrays import Floats, Mask
from analysis.embeddings.checks import checked_controls, checked_embeddings, checked_screen, rows_by_batch

Correction = Literal["none", "centre_scale", "pca_centre_scale", "tvn"]
CORRECTIONS: tuple[Correction, ...] = get_args(Correction)

TVN_RIDGE = 0.5  # added to each batch's covariance, as in EFAAR_benchmarking
ROUNDING = 1e-12  # a spread below this fraction of a feature's size is rounding, not signal
ILL_CONDITIONED = 1e-7  # below this ratio of QR's pivots the rank is determined by an SVD


@dataclass(frozen=True)
class CentreScale:
    """Mean and standard deviation per feature over controls. Constant features are counted and come out as 0."""

    mean: Floats  # (D,)
    scale: Floats  # (D,) infinite for a feature that is constant over the controls
    constant_features: int

    def apply(self, embeddings: npt.ArrayLike) -> Floats:
        """Standardise (W, D) embeddings: subtract the controls' mean, divide by their standard deviation."""
        return self.standardised(checked_embeddings(embeddings))

    def standardised(self, values: Floats) -> Floats:
        """`apply` for values that are already checked."""
        result: Floats = values - self.mean
        result /= self.scale
        return result


@dataclass(frozen=True)
class BatchCentreScale:
    """A centre-scale for each batch, from that batch's controls."""

    batches: Mapping[Hashable, CentreScale]

    def apply(self, embeddings: npt.ArrayLike, batch: npt.ArrayLike) -> Floats:
        """Standardise the wells of each batch. Raises ValueError for a batch that was not fitted."""
        values = checked_embeddings(embeddings)
        result = np.empty_like(values)
        for name, rows in rows_by_batch(np.asarray(batch), self.batches):
            result[rows] = self.batches[name].standardised(values[rows])
        return result


@dataclass(frozen=True)
class PcaCentreScale:
    """Standardise each batch by all of its wells, project to principal axes, centre-scale on the controls.

    It is fitted on the screen's own wells and applied only to them: `corrected` (W, K).
    """

    corrected: Floats
    explained: float  # fraction of the variance that the K axes keep


@dataclass(frozen=True)
class BatchWhitening:
    """(covariance + ridge I)^(-1/2) of one batch's controls: the symmetric matrix `rest` I + left right.

    `left` (R, K), `right` (K, R); K is n where a batch has fewer controls than R dimensions, else R.
    """

    left: Floats
    right: Floats
    rest: float

    def apply(self, whitened: Floats) -> Floats:
        """Multiply rows (W, R) by the matrix."""
        result: Floats = (whitened @ self.left) @ self.right
        result += self.rest * whitened
        return result


@dataclass(frozen=True)
class Tvn:
    """A fitted typical variation normalisation."""

    standardise: CentreScale
    whiten: Floats  # (D, R) standardised controls times this have the identity as their covariance
    whitenings: Mapping[Hashable, BatchWhitening]

    @property
    def constant_features(self) -> int:
        """Features that did not vary over the controls; they drop out."""
        return self.standardise.constant_features

    def apply(self, embeddings: npt.ArrayLike, batch: npt.ArrayLike) -> Floats:
        """Correct (W, D) embeddings of the wells of `batch` (W,); returns (W, R).

        Raises:
            ValueError: for a batch that was not among those fitted, or embeddings that are not finite.
        """
        values = checked_embeddings(embeddings)
        corrected = np.empty((len(values), self.whiten.shape[1]))
        for name, rows in rows_by_batch(np.asarray(batch), self.whitenings):
            whitened = self.standardise.standardised(values[rows]) @ self.whiten
            corrected[rows] = self.whitenings[name].apply(whitened)
        return corrected


def fit_centre_scale(embeddings: npt.ArrayLike, control: npt.ArrayLike) -> CentreScale:
    """Fit mean and (population) standard deviation on the rows of (W, D) embeddings where `control` (W,) is true.

    Raises:
        ValueError: if there is no control, shapes differ, or a value is not finite.
    """
    values = checked_embeddings(embeddings)
    return _centre_scale(values[checked_controls(control, len(values))])


def fit_batch_centre_scale(embeddings: npt.ArrayLike, control: npt.ArrayLike, batch: npt.ArrayLike) -> BatchCentreScale:
    """`fit_centre_scale` batch by batch. Raises as it does, and for a batch with fewer than two controls."""
    values, controls, batches = checked_screen(embeddings, control, batch)
    named = {name: _centre_scale(values[controls & (batches == name)]) for name in np.unique(batches)}
    return BatchCentreScale(named)


def pca_centre_scale(
    embeddings: npt.ArrayLike, control: npt.ArrayLike, batch: npt.ArrayLike, components: int = 128
) -> PcaCentreScale:
    """EFAAR_benchmarking's PCA baseline: (W, D) → (W, min(components, D, W - 1)).

    Each batch is standardised by all of its wells, the result is projected to its first principal axes, and those are
    standardised on each batch's controls.

    Raises:
        ValueError: as `fit_batch_centre_scale` does, or if fewer than one component is requested.
    """
    if components < 1:
        raise ValueError(f"components must be at least 1, not {components}")
    values, controls, batches = checked_screen(embeddings, control, batch)
    scaled = np.empty_like(values)
    for name in np.unique(batches):
        in_batch = batches == name
        scaled[in_batch] = _centre_scale(values[in_batch]).standardised(values[in_batch])
    scaled -= scaled.mean(axis=0)
    spread, axes = np.linalg.eigh(scaled.T @ scaled)  # ascending
    kept = min(components, int((spread > spread[-1] * len(scaled) * np.finfo(float).eps).sum()))
    if kept == 0:
        raise ValueError(f"all {values.shape[1]} features are constant in every batch; there is nothing to project")
    projected = scaled @ axes[:, : -kept - 1 : -1]
    corrected = fit_batch_centre_scale(projected, controls, batches).apply(projected, batches)
    return PcaCentreScale(corrected, float(spread[-kept:].sum() / spread.sum()))


def fit_tvn(embeddings: npt.ArrayLike, control: npt.ArrayLike, batch: npt.ArrayLike) -> Tvn:
    """Fit TVN as EFAAR_benchmarking defines it, on the controls among (W, D) embeddings.

    Standardise on all controls; rotate to all principal axes of the controls; standardise on controls again; multiply
    each batch by (covariance of that batch's controls + 0.5 I)^(-1/2). No centring per batch, no re-colouring.

    Rotating and standardising again gives the controls unit covariance; any other whitening differs from it by one
    rotation of all wells, which commutes with the later steps and changes no cosine or distance. A triangular factor
    therefore replaces the principal axes at a fraction of their cost. Directions along which the controls do not vary
    are left out: standardising would only amplify rounding errors.

    Args:
        embeddings: (W, D), one row per well.
        control: (W,) true where the well is a negative control.
        batch: (W,) the batch (experiment) of each well.

    Raises:
        ValueError: if there is no control, a batch has fewer than two (named), all features are constant over the
            controls, shapes differ, or a value is not finite.
    """
    values, controls, batches = checked_screen(embeddings, control, batch)
    control_values = values[controls]
    standardise = _centre_scale(control_values)
    standardised = standardise.standardised(control_values)  # (N, D)
    whiten = _whitening_matrix(standardised)
    whitened = standardised @ whiten  # (N, R)
    control_batches = batches[controls]
    whitenings = {name: _batch_whitening(whitened[control_batches == name]) for name in np.unique(batches)}
    return Tvn(standardise, whiten, whitenings)


def apply_named(correction: Correction, embeddings: npt.ArrayLike, control: Mask, batch: npt.ArrayLike) -> Floats:
    """Fit the correction of that name on the controls and apply it to all wells; (W, D) → (W, any width).

    Raises:
        ValueError: as the corrections do, or for an unknown name.
    """
    if correction == "tvn":
        return fit_tvn(embeddings, control, batch).apply(embeddings, batch)
    if correction == "centre_scale":
        return fit_centre_scale(embeddings, control).apply(embeddings)
    if correction == "pca_centre_scale":
        return pca_centre_scale(embeddings, control, batch).corrected
    if correction == "none":
        return checked_embeddings(embeddings)
    raise ValueError(f"no correction {correction!r}; known: {', '.join(CORRECTIONS)}")


def _centre_scale(controls: Floats) -> CentreScale:
    mean, scale = controls.mean(axis=0), controls.std(axis=0)
    constant = scale <= ROUNDING * np.abs(controls).max(axis=0)
    return CentreScale(mean, np.where(constant, np.inf, scale), int(constant.sum()))


def _whitening_matrix(standardised: Floats) -> Floats:
    """(D, R) that takes the centred controls (N, D) to unit (population) covariance."""
    count, width = standardised.shape
    if count > width:
        (triangle,) = linalg.qr(standardised, mode="r", check_finite=False)
        triangle = triangle[:width]
        pivots = np.abs(np.diag(triangle))
        if pivots.min() > ILL_CONDITIONED * pivots.max():
            inverse: Floats = linalg.solve_triangular(triangle, np.sqrt(count) * np.eye(width), check_finite=False)
            return inverse
    _, singular, axes = np.linalg.svd(standardised, full_matrices=False)
    rank = int((singular > singular[0] * max(standardised.shape) * np.finfo(np.float64).eps).sum())
    if rank == 0:
        raise ValueError(f"all {width} features are constant over the controls; nothing to correct by")
    result: Floats = axes[:rank].T * (np.sqrt(count) / singular[:rank])
    return result


def _batch_whitening(controls: Floats) -> BatchWhitening:
    """From one batch's whitened controls (n, R).

    With the centred controls X, f(X^T X) - f(0) I = X^T g(X X^T) X for f(s) = (s / (n - 1) + ridge)^(-1/2) and
    g(s) = (f(s) - f(0)) / s, so the smaller of the two products is decomposed.
    """
    count, rank = controls.shape
    centred = (controls - controls.mean(axis=0)) / np.sqrt(count - 1)
    rest = TVN_RIDGE**-0.5
    if count >= rank:
        spread, axes = np.linalg.eigh(centred.T @ centred)
        return BatchWhitening(axes * ((np.maximum(spread, 0) + TVN_RIDGE) ** -0.5 - rest), axes.T, rest)
    spread, axes = np.linalg.eigh(centred @ centred.T)
    return BatchWhitening(((centred.T @ axes) * _gain_per_spread(spread)) @ axes.T, centred, rest)


def _gain_per_spread(spread: Floats) -> Floats:
    """((s + r)^(-1/2) - r^(-1/2)) / s, written so that small s lose no digits."""
    root, rest = np.sqrt(np.maximum(spread, 0) + TVN_RIDGE), np.sqrt(TVN_RIDGE)
    result: Floats = -1 / (root * rest * (root + rest))
    return result
