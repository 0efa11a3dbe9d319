"""The corrections room: remove what a batch, not a gene, does to embeddings. Fitted on control wells, applied to all.

All arithmetic is float64: float32 moves cosines by up to 7.5e-4 through the whitening.

Legend: W wells, N control wells, D embedding width, R rank of the controls (at most min(N - 1, D)).
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

TVN_RIDGE = 0.5  # added to each batch's covariance, as in EFAAR_benchmarking
ROUNDING = 1e-12  # a spread below this part of a feature's size is rounding, not signal


@dataclass(frozen=True)
class CentreScale:
    """Mean and standard deviation per feature over controls. Constant features are counted and come out as 0."""

    mean: Floats  # (D,)
    scale: Floats  # (D,) infinite for a feature that is constant over the controls
    constant_features: int

    def apply(self, embeddings: npt.ArrayLike) -> Floats:
        """Standardise (W, D) embeddings: subtract the controls' mean, divide by their standard deviation."""
        result: Floats = (checked_embeddings(embeddings) - self.mean) / self.scale
        return result


@dataclass(frozen=True)
class BatchWhitening:
    """(covariance + ridge I)^(-1/2) of one batch's controls, kept as its few directions that differ from ridge^(-1/2).

    `directions` (R, K) are orthonormal, `gains` (K,) their factors; all other directions are multiplied by `rest`.
    """

    directions: Floats
    gains: Floats
    rest: float

    def apply(self, rotated: Floats) -> Floats:
        """Multiply rows (W, R) by the symmetric matrix."""
        within = (rotated @ self.directions) * (self.gains - self.rest)
        result: Floats = self.rest * rotated + within @ self.directions.T
        return result


@dataclass(frozen=True)
class Tvn:
    """A fitted typical variation normalisation."""

    standardise: CentreScale
    components: Floats  # (R, D) principal axes of the standardised controls
    standardise_components: CentreScale
    whitenings: Mapping[Hashable, BatchWhitening]

    @property
    def constant_features(self) -> int:
        """Features that did not vary over the controls; they drop out with the principal axes."""
        return self.standardise.constant_features

    def apply(self, embeddings: npt.ArrayLike, batch: npt.ArrayLike) -> Floats:
        """Correct (W, D) embeddings of the wells of `batch` (W,); returns (W, R).

        Raises:
            ValueError: for a batch that was not among those fitted, or embeddings that are not finite.
        """
        batches = np.asarray(batch)
        rotated = self.standardise_components.apply(self.standardise.apply(embeddings) @ self.components.T)
        corrected = np.empty_like(rotated)
        for name in np.unique(batches):
            if name not in self.whitenings:
                raise ValueError(f"batch {name} was not fitted; fitted are {', '.join(map(str, self.whitenings))}")
            here = batches == name
            corrected[here] = self.whitenings[name].apply(rotated[here])
        return corrected


def fit_centre_scale(embeddings: npt.ArrayLike, control: npt.ArrayLike) -> CentreScale:
    """Fit mean and (population) standard deviation on the rows of (W, D) embeddings where `control` (W,) is true.

    Raises:
        ValueError: if there is no control, shapes differ, or a value is not finite.
    """
    values = checked_embeddings(embeddings)
    return _centre_scale(values[_checked_controls(control, len(values))])


def fit_tvn(embeddings: npt.ArrayLike, control: npt.ArrayLike, batch: npt.ArrayLike) -> Tvn:
    """Fit TVN as EFAAR_benchmarking defines it, on the controls among (W, D) embeddings.

    Standardise on all controls; rotate to all principal axes of the controls; standardise on controls again; multiply
    each batch by (covariance of that batch's controls + 0.5 I)^(-1/2). No centring per batch, no re-colouring. Axes
    along which the controls do not vary are left out: the second standardisation could only blow up their rounding.

    Args:
        embeddings: (W, D), one row per well.
        control: (W,) true where the well is a negative control.
        batch: (W,) the batch (experiment) of each well.

    Raises:
        ValueError: if there is no control, a batch has fewer than two (named), all features are constant over the
            controls, shapes differ, or a value is not finite.
    """
    values = checked_embeddings(embeddings)
    controls = _checked_controls(control, len(values))
    batches = np.asarray(batch)
    if batches.shape != controls.shape:
        raise ValueError(f"batch has shape {batches.shape}, but there are {len(values)} embeddings")
    _check_controls_per_batch(controls, batches)
    standardise = _centre_scale(values[controls])
    standardised = standardise.apply(values[controls])  # (N, D)
    components = _principal_axes(standardised)
    standardise_components = _centre_scale(standardised @ components.T)
    rotated = standardise_components.apply(standardised @ components.T)  # (N, R)
    whitenings = {name: _whitening(rotated[batches[controls] == name]) for name in np.unique(batches)}
    return Tvn(standardise, components, standardise_components, whitenings)


def checked_embeddings(embeddings: npt.ArrayLike) -> Floats:
    """The embeddings as a float64 matrix.

    Raises:
        ValueError: if they are not a matrix, or rows hold NaN or infinity; the first such rows are named.
    """
    values = np.asarray(embeddings, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"embeddings must be a matrix (wells, features), not of shape {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        rows = ", ".join(map(str, bad[:5])) + (", ..." if bad.size > 5 else "")
        raise ValueError(f"{bad.size} of {len(values)} embeddings hold NaN or infinity (rows {rows})")
    return values


def _checked_controls(control: npt.ArrayLike, wells: int) -> Mask:
    mask = np.asarray(control)
    if mask.dtype != np.bool_ or mask.shape != (wells,):
        raise ValueError(f"control must be {wells} booleans, one per embedding, not {mask.dtype} {mask.shape}")
    if not mask.any():
        raise ValueError(f"none of the {wells} wells is a control; a correction is fitted on controls")
    return mask


def _check_controls_per_batch(controls: Mask, batches: npt.NDArray[np.generic]) -> None:
    names, inverse = np.unique(batches, return_inverse=True)
    counts = np.bincount(inverse, weights=controls, minlength=len(names)).astype(int)
    poor = [f"{name!s} ({count})" for name, count in zip(names, counts, strict=True) if count < 2]
    if poor:
        raise ValueError(f"each batch needs at least 2 control wells for its covariance; too few in {', '.join(poor)}")


def _centre_scale(controls: Floats) -> CentreScale:
    mean, scale = controls.mean(axis=0), controls.std(axis=0)
    constant = scale <= ROUNDING * np.abs(controls).max(axis=0)
    return CentreScale(mean, np.where(constant, np.inf, scale), int(constant.sum()))


def _principal_axes(standardised: Floats) -> Floats:
    """Axes (R, D) along which the centred controls vary, largest first."""
    _, singular, axes = np.linalg.svd(standardised, full_matrices=False)
    rank = int((singular > singular[0] * max(standardised.shape) * np.finfo(np.float64).eps).sum())
    if rank == 0:
        raise ValueError(f"all {standardised.shape[1]} features are constant over the controls; nothing to correct by")
    result: Floats = axes[:rank]
    return result


def _whitening(controls: Floats) -> BatchWhitening:
    """From one batch's controls (n, R): the covariance's eigenvectors are the right singular vectors."""
    centred = controls - controls.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    gains = (singular**2 / (len(controls) - 1) + TVN_RIDGE) ** -0.5
    return BatchWhitening(axes.T, gains, TVN_RIDGE**-0.5)
