"""Elastic-net regression with cross-validation, like scikit-learn's ElasticNetCV, for many targets of one matrix.

scikit-learn computes the Gram matrix of every fold again for every ratio and every target, which is most of its time.
Here the folds are fixed and share their Gram matrices, so that a target costs only its coordinate descent. Order, warm
starts and stopping rule of the descent are scikit-learn's, so that cross-validation selects the same penalties.

Legend: N samples, D features, A penalties of one path, F folds, R ratios.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats

RATIOS = (0.1, 0.6, 0.9, 0.95, 0.99)  # supplement A.6
FOLDS = 5
PENALTIES, SMALLEST = 100, 1e-3  # penalties of a path; the last one relative to the first


@dataclass(frozen=True)
class Products:
    """Centred products of the samples, which are all that a regression needs. `gram` (D, D), `mean` (D,)."""

    gram: Floats
    mean: Floats
    samples: int


@dataclass(frozen=True)
class Fold:
    """One fold: its held-out rows, and the products of training and held-out rows, centred by the training mean."""

    held_out: slice
    train: Products
    test_gram: Floats  # (D, D) of the held-out rows, centred by the training rows' mean
    test_sum: Floats  # (D,) their sum, likewise


@dataclass(frozen=True)
class FittedElasticNet:
    """A fitted regression and the penalties that cross-validation chose."""

    coefficients: Floats  # (D,)
    intercept: float
    ratio: float
    alpha: float
    error: float  # mean squared error over the folds

    def predict(self, features: Floats) -> Floats:
        """(N, D) → (N,)."""
        result: Floats = features @ self.coefficients + self.intercept
        return result


class ElasticNetFolds:
    """Features (N, D), cut into contiguous folds once, for any number of targets.

    Raises:
        ValueError: fewer samples than two per fold, or values that are not finite.
    """

    def __init__(self, features: npt.ArrayLike, ratios: Sequence[float] = RATIOS, folds: int = FOLDS) -> None:
        self.features = np.ascontiguousarray(features, dtype=np.float64)
        if self.features.ndim != 2 or not np.isfinite(self.features).all():
            raise ValueError(f"features must be a finite matrix (samples, features), not {self.features.shape}")
        if len(self.features) < 2 * folds:
            raise ValueError(f"{len(self.features)} samples do not make {folds} folds of at least two")
        self.ratios = tuple(ratios)
        raw = self.features.T @ self.features
        self.products = _products(raw, self.features.sum(axis=0), len(self.features))
        self.folds = [_fold(self.features, raw, part) for part in _contiguous(len(self.features), folds)]

    def fit(self, target: npt.ArrayLike) -> FittedElasticNet:
        """Choose ratio and penalty by the mean error over the folds, and fit on all samples.

        Args:
            target: (N,) finite.

        Raises:
            ValueError: another length, not finite, or constant.
        """
        y = np.ascontiguousarray(target, dtype=np.float64)
        if y.shape != (len(self.features),) or not np.isfinite(y).all():
            raise ValueError(f"the target must be {len(self.features)} finite numbers, not {y.shape}")
        if not y.std():
            raise ValueError("the target is constant; there is nothing to predict")
        largest = np.abs(self.features.T @ (y - y.mean())).max() / len(y)
        paths = [largest / ratio * np.geomspace(1, SMALLEST, PENALTIES) for ratio in self.ratios]
        errors = self._errors(y, paths).mean(axis=1)  # (R, A)
        ratio, penalty = np.unravel_index(int(np.argmin(errors)), errors.shape)
        alpha = float(paths[ratio][penalty])
        weights, intercept = self._solve(y, alpha, self.ratios[ratio])
        return FittedElasticNet(weights, intercept, self.ratios[ratio], alpha, float(errors[ratio, penalty]))

    def _errors(self, y: Floats, paths: Sequence[Floats]) -> Floats:
        """Mean squared error on each fold's held-out rows: (R, F, A)."""
        jobs = [(fold, ratio, path) for ratio, path in zip(self.ratios, paths, strict=True) for fold in self.folds]
        data = {id(fold): _fold_target(self.features, fold, y) for fold in self.folds}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            errors = list(pool.map(lambda job: _path_errors(job[0], data[id(job[0])], job[1], job[2]), jobs))
        return np.array(errors).reshape(len(self.ratios), len(self.folds), PENALTIES)

    def _solve(self, y: Floats, alpha: float, ratio: float) -> tuple[Floats, float]:
        centred = y - y.mean()
        correlation = self.features.T @ centred
        count = len(y)
        square, alphas = float(centred @ centred), np.array([alpha])
        weights = _descend(self.products.gram, correlation, square, alphas, ratio, count)[0]
        return weights, float(y.mean() - self.products.mean @ weights)


@dataclass(frozen=True)
class _FoldTarget:
    """A fold's products with one target, centred by the training rows' means."""

    correlation: Floats  # (D,) of training rows
    square: float
    test_correlation: Floats  # (D,)
    test_square: float
    held_out: int


def _contiguous(count: int, folds: int) -> list[slice]:
    """KFold without shuffling: the first folds take the remainder."""
    sizes = np.full(folds, count // folds)
    sizes[: count % folds] += 1
    ends = np.cumsum(sizes)
    return [slice(int(end - size), int(end)) for end, size in zip(ends, sizes, strict=True)]


def _products(raw: Floats, total: Floats, count: int) -> Products:
    mean = total / count
    return Products(raw - count * np.outer(mean, mean), mean, count)


def _fold(features: Floats, raw: Floats, held_out: slice) -> Fold:
    inside = features[held_out]
    inner = inside.T @ inside
    train = _products(raw - inner, features.sum(axis=0) - inside.sum(axis=0), len(features) - len(inside))
    shifted = inside - train.mean
    return Fold(held_out, train, shifted.T @ shifted, shifted.sum(axis=0))


def _fold_target(features: Floats, fold: Fold, y: Floats) -> _FoldTarget:
    inside, inner = features[fold.held_out], y[fold.held_out]
    mean = (y.sum() - inner.sum()) / fold.train.samples
    shifted, centred = inner - mean, y - mean
    square = float(centred @ centred - shifted @ shifted)
    correlation = features.T @ centred - inside.T @ shifted  # the training rows' means drop out: they sum to zero
    test = inside.T @ shifted - fold.train.mean * shifted.sum()
    return _FoldTarget(correlation, square, test, float(shifted @ shifted), len(inner))


def _path_errors(fold: Fold, target: _FoldTarget, ratio: float, alphas: Floats) -> Floats:
    """Mean squared error (A,) on the held-out rows, from products only."""
    weights = _descend(fold.train.gram, target.correlation, target.square, alphas, ratio, fold.train.samples)  # (A, D)
    residual = target.test_square - 2 * weights @ target.test_correlation
    residual += np.einsum("ad,ad->a", weights @ fold.test_gram, weights)
    result: Floats = residual / target.held_out
    return result


def _descend(gram: Floats, correlation: Floats, square: float, alphas: Floats, ratio: float, samples: int) -> Floats:
    """Coefficients (A, D) along a path of penalties, each started from the one before."""
    from analysis.cellprofiler.coordinate_descent import descend

    coefficients: Floats = descend(gram, correlation, square, alphas * ratio * samples, alphas * (1 - ratio) * samples)
    return coefficients
