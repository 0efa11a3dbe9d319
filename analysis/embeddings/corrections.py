"""Batch corrections of embeddings, fitted on control wells and applied to all wells.

All arithmetic is float64: float32 moves cosines by up to 7.5e-4 through the whitening. It is done on blocks of wells:
`corrected` needs no second copy of the embeddings, and `apply_named` returns an array. Chromosome arms, which are
corrected gene by gene, are in `chromosome_arms.py`.

Legend: W wells, w wells of a block, N control wells, n control wells of one batch, D embedding width, R rank of the
controls (at most min(N - 1, D)), K width after the correction.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from analysis.arrays import Features, Floats, Mask, Rows
from analysis.embeddings.blocks import Corrected, blocks_of
from analysis.embeddings.checks import Screen, batch_rows, checked_controls, checked_features, checked_screen
from analysis.embeddings.whitening import BatchWhitening, batch_whitening, whitening_matrix

Correction = Literal["none", "centre_scale", "pca_centre_scale", "tvn"]
CORRECTIONS: tuple[Correction, ...] = get_args(Correction)
ROUNDING = 1e-12  # a spread below this fraction of a feature's size is rounding, not signal
COMPONENTS = 128  # principal axes


@dataclass(frozen=True)
class CentreScale:
    """Mean and standard deviation per feature over controls. Constant features are counted and come out as 0."""

    mean: Floats  # (D,)
    scale: Floats  # (D,) infinite for a feature that is constant over the controls
    constant_features: int

    def apply(self, embeddings: npt.ArrayLike) -> Floats:
        """Standardise (W, D) embeddings: subtract the controls' mean, divide by their standard deviation."""
        return self.corrected(checked_features(embeddings)).array()

    def corrected(self, values: Features) -> Corrected:
        """`apply` block by block, for values that are already checked."""
        return Corrected(
            len(values), values.shape[1], ((rows, self.standardised(block)) for rows, block in blocks_of(values))
        )

    def standardised(self, values: Floats) -> Floats:
        """`apply` for a block that is already checked."""
        result: Floats = values - self.mean
        result /= self.scale
        return result


@dataclass(frozen=True)
class BatchCentreScale:
    """A centre-scale for each batch, from that batch's controls."""

    batches: Mapping[str, CentreScale]

    def apply(self, embeddings: npt.ArrayLike, batch: npt.ArrayLike) -> Floats:
        """Standardise the wells of each batch. Raises ValueError for a batch that was not fitted."""
        values = checked_features(embeddings)
        blocks = (
            (rows, self.batches[name].standardised(block))
            for name, wells in _fitted_batches(batch, self.batches)
            for rows, block in blocks_of(values, wells)
        )
        return Corrected(len(values), values.shape[1], blocks).array()


@dataclass(frozen=True)
class PcaCentreScale:
    """Standardise each batch by all of its wells, project to principal axes, centre-scale on the controls.

    It is fitted on the screen's own wells and applied only to them: `corrected` (W, K).
    """

    corrected: Floats
    explained: float  # fraction of the variance that the K axes keep


@dataclass(frozen=True)
class Tvn:
    """A fitted typical variation normalisation."""

    standardise: CentreScale
    whiten: Floats  # (D, R) standardised controls times this have the identity as their covariance
    whitenings: Mapping[str, BatchWhitening]

    @property
    def constant_features(self) -> int:
        """Features that did not vary over the controls; they drop out."""
        return self.standardise.constant_features

    def apply(self, embeddings: npt.ArrayLike, batch: npt.ArrayLike) -> Floats:
        """Correct (W, D) embeddings of the wells of `batch` (W,); returns (W, R).

        Raises:
            ValueError: for a batch that was not among those fitted, or embeddings that are not finite.
        """
        values = checked_features(embeddings)
        blocks = (
            part
            for name, wells in _fitted_batches(batch, self.whitenings)
            for part in _whitened(values, wells, self.standardise, self.whiten, self.whitenings[name])
        )
        return Corrected(len(values), self.whiten.shape[1], blocks).array()


def fit_centre_scale(embeddings: npt.ArrayLike, control: npt.ArrayLike) -> CentreScale:
    """Fit mean and (population) standard deviation on the rows of (W, D) embeddings where `control` (W,) is true.

    Raises:
        ValueError: if there is no control, shapes differ, or a value is not finite.
    """
    values = checked_features(embeddings)
    return _centre_scale(values, np.flatnonzero(checked_controls(control, len(values))))


def fit_batch_centre_scale(embeddings: npt.ArrayLike, control: npt.ArrayLike, batch: npt.ArrayLike) -> BatchCentreScale:
    """`fit_centre_scale` batch by batch. Raises as it does, and for a batch with fewer than two controls."""
    screen = checked_screen(embeddings, control, batch)
    return BatchCentreScale({one.name: _centre_scale(screen.values, one.controls) for one in screen.batches})


def pca_centre_scale(
    embeddings: npt.ArrayLike, control: npt.ArrayLike, batch: npt.ArrayLike, components: int = COMPONENTS
) -> PcaCentreScale:
    """EFAAR_benchmarking's PCA baseline: (W, D) → (W, min(components, D, W - 1)).

    Each batch is standardised by all of its wells, the result is projected to its first principal axes, and those are
    standardised on each batch's controls.

    Raises:
        ValueError: as `fit_batch_centre_scale` does, or if fewer than one component is requested.
    """
    if components < 1:
        raise ValueError(f"components must be at least 1, not {components}")
    result, explained = _pca(checked_screen(embeddings, control, batch), components)
    return PcaCentreScale(result.array(), explained)


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
    screen = checked_screen(embeddings, control, batch)
    standardise, whiten = _whitening(screen)
    named = {one.name: _of_batch(screen.values, one.controls, standardise, whiten) for one in screen.batches}
    return Tvn(standardise, whiten, named)


def corrected(correction: Correction, embeddings: npt.ArrayLike, control: Mask, batch: npt.ArrayLike) -> Corrected:
    """Fit the correction of that name on the controls, and correct all wells (W, D) in blocks.

    A batch is fitted when its first block is read, so that the whitenings of all batches are never in memory together.
    A block that was read is not needed again, and its rows may be overwritten.

    Raises:
        ValueError: as the corrections do, or for an unknown name.
    """
    if correction == "tvn":
        return _tvn(checked_screen(embeddings, control, batch))
    if correction == "centre_scale":
        return fit_centre_scale(embeddings, control).corrected(checked_features(embeddings))
    if correction == "pca_centre_scale":
        return _pca(checked_screen(embeddings, control, batch), COMPONENTS)[0]
    if correction == "none":
        values = checked_features(embeddings)
        return Corrected(len(values), values.shape[1], blocks_of(values))
    raise ValueError(f"no correction {correction!r}; known: {', '.join(CORRECTIONS)}")


def apply_named(correction: Correction, embeddings: npt.ArrayLike, control: Mask, batch: npt.ArrayLike) -> Floats:
    """`corrected` as an array: (W, D) → (W, K). Raises as it does."""
    return corrected(correction, embeddings, control, batch).array()


def _centre_scale(values: Features, rows: npt.NDArray[np.int64]) -> CentreScale:
    """Of some rows of (W, D), in two passes, as accurate as of all of them together."""
    mean = _mean(values, rows)
    squares, largest = np.zeros(len(mean)), np.zeros(len(mean))
    for _, block in blocks_of(values, rows):
        largest = np.maximum(largest, np.abs(block).max(axis=0))
        block -= mean
        block *= block
        squares += block.sum(axis=0)
    scale = np.sqrt(squares / len(rows))
    constant = scale <= ROUNDING * largest
    return CentreScale(mean, np.where(constant, np.inf, scale), int(constant.sum()))


def _mean(values: Features, rows: npt.NDArray[np.int64]) -> Floats:
    sums = np.zeros(values.shape[1])
    for _, block in blocks_of(values, rows):
        sums += block.sum(axis=0)
    return sums / len(rows)


def _tvn(screen: Screen) -> Corrected:
    values, (standardise, whiten) = screen.values, _whitening(screen)
    blocks = (
        part
        for one in screen.batches
        for of_batch in [_of_batch(values, one.controls, standardise, whiten)]
        for part in _whitened(values, one.wells, standardise, whiten, of_batch)
    )
    return Corrected(len(values), whiten.shape[1], blocks)


def _whitening(screen: Screen) -> tuple[CentreScale, Floats]:
    """What standardises the controls, and what whitens them then, (D, R)."""
    standardise = _centre_scale(screen.values, screen.controls)
    controls = blocks_of(screen.values, screen.controls)
    return standardise, whitening_matrix(standardise.standardised(block) for _, block in controls)


def _of_batch(
    values: Features, controls: npt.NDArray[np.int64], standardise: CentreScale, whiten: Floats
) -> BatchWhitening:
    mean = standardise.standardised(_mean(values, controls)) @ whiten
    whitened = (standardise.standardised(block) @ whiten for _, block in blocks_of(values, controls))
    return batch_whitening(whitened, mean, len(controls))


def _whitened(
    values: Features, wells: npt.NDArray[np.int64], standardise: CentreScale, whiten: Floats, of_batch: BatchWhitening
) -> Iterator[tuple[Rows, Floats]]:
    """The wells of a batch, whitened by all controls and then by its own; by one product if that costs less."""
    both = of_batch.apply(whiten) if len(wells) > len(whiten) else None
    for rows, block in blocks_of(values, wells):
        standardised = standardise.standardised(block)
        yield rows, of_batch.apply(standardised @ whiten) if both is None else standardised @ both


def _pca(screen: Screen, components: int) -> tuple[Corrected, float]:
    """See `pca_centre_scale`; with the fraction of the variance that is kept."""
    values, width = screen.values, screen.values.shape[1]
    scales = [_centre_scale(values, one.wells) for one in screen.batches]
    products, sums = np.zeros((width, width)), np.zeros(width)
    for one, scale in zip(screen.batches, scales, strict=True):
        for _, block in blocks_of(values, one.wells):
            scaled = scale.standardised(block)
            products += scaled.T @ scaled
            sums += scaled.sum(axis=0)  # 0 but for rounding, because every batch is centred
    mean = sums / len(values)
    spread, axes = np.linalg.eigh(products - len(values) * np.outer(mean, mean))  # ascending
    kept = min(components, int((spread > spread[-1] * len(values) * np.finfo(float).eps).sum()))
    if kept == 0:
        raise ValueError(f"all {width} features are constant in every batch; there is nothing to project")
    largest = axes[:, : -kept - 1 : -1]

    def blocks() -> Iterator[tuple[Rows, Floats]]:
        for one, scale in zip(screen.batches, scales, strict=True):
            projected = np.concatenate(
                [(scale.standardised(block) - mean) @ largest for _, block in blocks_of(values, one.wells)]
            )
            by_controls = _centre_scale(projected, np.searchsorted(one.wells, one.controls))
            yield one.wells, by_controls.standardised(projected)

    return Corrected(len(values), kept, blocks()), float(spread[-kept:].sum() / spread.sum())


def _fitted_batches(batch: npt.ArrayLike, fitted: Mapping[str, object]) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """The rows of each batch. Raises ValueError for a batch that is not among those fitted."""
    for name, rows in batch_rows(np.asarray(batch)):
        if name not in fitted:
            raise ValueError(f"batch {name} was not fitted; fitted are {', '.join(fitted)}")
        yield name, rows
