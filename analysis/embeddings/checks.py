"""Checks of embeddings, controls and batches before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.arrays import Features, Floats, Mask, Names
from analysis.embeddings.blocks import BLOCK, coded, rows_of_groups


def checked_embeddings(embeddings: npt.ArrayLike) -> Floats:
    """The embeddings as a float64 matrix.

    Raises:
        ValueError: if they are not a matrix, or rows hold NaN or infinity; the first such rows are named.
    """
    return checked_features(embeddings).astype(np.float64, copy=False)


def checked_features(embeddings: npt.ArrayLike) -> Features:
    """The embeddings as a matrix, without a copy where they are float32 or float64 already; errors as above."""
    given = np.asarray(embeddings)
    values: Features = given if given.dtype == np.float32 else given.astype(np.float64, copy=False)
    if values.ndim != 2:
        raise ValueError(f"embeddings must be a matrix (wells, features), not of shape {values.shape}")
    blocks = (values[start : start + BLOCK] for start in range(0, len(values), BLOCK))
    finite = np.concatenate([np.empty(0, dtype=bool), *(np.isfinite(block).all(axis=1) for block in blocks)])
    bad = np.flatnonzero(~finite)
    if bad.size:
        rows = ", ".join(map(str, bad[:5])) + (", ..." if bad.size > 5 else "")
        raise ValueError(f"{bad.size} of {len(values)} embeddings hold NaN or infinity (rows {rows})")
    return values


@dataclass(frozen=True)
class Batch:
    """The wells of a batch, and its controls among them, as ascending row numbers."""

    name: str
    wells: npt.NDArray[np.int64]
    controls: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Screen:
    """Embeddings of wells in batches, each with two controls or more."""

    values: Features  # (W, D)
    controls: npt.NDArray[np.int64]  # (N,) row numbers, ascending
    batches: list[Batch]


def checked_screen(embeddings: npt.ArrayLike, control: npt.ArrayLike, batch: npt.ArrayLike) -> Screen:
    """Embeddings, controls and batches of a screen. Raises ValueError for a batch with fewer than two controls."""
    values = checked_features(embeddings)
    mask = checked_controls(control, len(values))
    names = np.asarray(batch)
    if names.shape != mask.shape:
        raise ValueError(f"batch has shape {names.shape}, but there are {len(values)} embeddings")
    batches = [Batch(name, rows, rows[mask[rows]]) for name, rows in batch_rows(names)]
    poor = [f"{one.name} ({len(one.controls)})" for one in batches if len(one.controls) < 2]
    if poor:
        raise ValueError(f"each batch needs at least 2 control wells for its covariance; too few in {', '.join(poor)}")
    return Screen(values, np.flatnonzero(mask), batches)


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


def batch_rows(batches: Names) -> list[tuple[str, npt.NDArray[np.int64]]]:
    """The rows of each batch, batches in ascending order."""
    names, codes = coded(batches)
    return list(zip(names, rows_of_groups(codes, len(names)), strict=True))
