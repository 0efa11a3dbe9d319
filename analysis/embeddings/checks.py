"""Checks of embeddings, controls and batches before anything is computed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats, Mask, Names, Rows


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


def checked_screen(
    embeddings: npt.ArrayLike, control: npt.ArrayLike, batch: npt.ArrayLike
) -> tuple[Floats, Mask, Names]:
    """Embeddings, controls and batches of a screen. Raises ValueError for a batch with fewer than two controls."""
    values = checked_embeddings(embeddings)
    controls = checked_controls(control, len(values))
    batches = np.asarray(batch)
    if batches.shape != controls.shape:
        raise ValueError(f"batch has shape {batches.shape}, but there are {len(values)} embeddings")
    _check_controls_per_batch(controls, batches)
    return values, controls, batches


def checked_controls(control: npt.ArrayLike, wells: int) -> Mask:
    """Which wells are controls, (W,).

    Raises:
        ValueError: if they are not `wells` booleans, or none is true.
    """
    mask = np.asarray(control)
    if mask.dtype != np.bool_ or mask.shape != (wells,):
        raise ValueError(f"control must be {wells} booleans, one per embedding, not {mask.dtype} {mask.shape}")
    if not mask.any():
        raise ValueError(f"none of the {wells} wells is a control; a correction is fitted on controls")
    return mask


def _check_controls_per_batch(controls: Mask, batches: Names) -> None:
    names, inverse = np.unique(batches, return_inverse=True)
    counts = np.bincount(inverse, weights=controls, minlength=len(names)).astype(int)
    poor = [f"{name!s} ({count})" for name, count in zip(names, counts, strict=True) if count < 2]
    if poor:
        raise ValueError(f"each batch needs at least 2 control wells for its covariance; too few in {', '.join(poor)}")


def rows_by_batch(batches: Names, fitted: Mapping[Hashable, object]) -> list[tuple[Hashable, Rows]]:
    """The rows of each batch; a slice where they are contiguous, which avoids a copy.

    Raises:
        ValueError: a batch is not among those fitted.
    """
    by_batch: list[tuple[Hashable, Rows]] = []
    for name in np.unique(batches):
        if name not in fitted:
            raise ValueError(f"batch {name} was not fitted; fitted are {', '.join(map(str, fitted))}")
        rows = np.flatnonzero(batches == name)
        together = rows[-1] - rows[0] + 1 == len(rows)
        by_batch.append((name, slice(rows[0], rows[-1] + 1) if together else rows))
    return by_batch
