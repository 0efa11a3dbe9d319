"""CellProfiler prediction: how well do embeddings predict hand-designed features (supplement A.6)?

Wells of one experiment train, wells of another test. Skewed features are transformed, everything is standardised, each
feature is predicted by its own elastic net and scored by the coefficient of determination on the test experiment:
Table 7 is the median of each category, Figure 9 the scatter of two models.

Where the paper does not say: log scaling is log(1 + x - min); squaring is of x - min where x can be negative. Both keep
the order and use the training experiment's min. Standardisation is by the training experiment, or by each experiment
separately.

Legend: W wells, D embedding width, T features.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.arrays import Floats
from analysis.cellprofiler.elastic_net import FOLDS, RATIOS, ElasticNetFolds
from analysis.embeddings.checks import checked_embeddings

CATEGORIES = ("AreaShape", "Intensity", "Neighbors", "RadialDistribution", "Texture")
COMPARTMENTS = ("Cells", "Cytoplasm", "Nuclei", "Image")
SKEWED = 0.5
VERSION = "a6/1"
Standardise = Literal["train", "each"]


@dataclass(frozen=True)
class Transform:
    """A transform that makes a feature less skewed, fitted on training wells."""

    kind: Literal["none", "log", "square"]
    shift: float  # subtracted first

    def apply(self, values: Floats) -> Floats:
        """(W,) → (W,). Test values below the training minimum are clipped to it."""
        if self.kind == "none":
            return values
        shifted = np.maximum(values - self.shift, 0)
        result: Floats = np.log1p(shifted) if self.kind == "log" else shifted**2
        return result


@dataclass(frozen=True)
class FeaturePrediction:
    """How well one feature is predicted."""

    feature: str
    category: str
    r2: float  # on the test experiment
    transform: str
    ratio: float
    alpha: float
    weights: int  # number that are not zero


def fit_transform(values: Floats) -> Transform:
    """Log where the skew is above 0.5, square where it is below -0.5 (supplement A.6)."""
    centred = values - values.mean()
    skew = (centred**3).mean() / centred.std() ** 3
    if skew > SKEWED:
        return Transform("log", float(values.min()))
    if skew < -SKEWED:
        return Transform("square", float(min(values.min(), 0)))
    return Transform("none", 0.0)


def category_of(feature: str) -> str:
    """`Cells_Texture_Contrast_DNA_3_00` → Texture; names of another form are `other`."""
    parts = feature.split("_")
    return parts[1] if len(parts) > 1 and parts[0] in COMPARTMENTS else "other"


def predict_features(
    train: tuple[npt.ArrayLike, pd.DataFrame],
    test: tuple[npt.ArrayLike, pd.DataFrame],
    *,
    standardise: Standardise = "train",
    ratios: Sequence[float] = RATIOS,
    folds: int = FOLDS,
    done: Mapping[str, FeaturePrediction] | None = None,
    progress: Callable[[FeaturePrediction], None] = lambda _: None,
) -> tuple[list[FeaturePrediction], list[str]]:
    """Predict every feature of the test wells from their embeddings.

    Args:
        train, test: embeddings (W, D) and features (W, T) of the wells of two experiments, features by column name.
        standardise: by the training experiment's mean and deviation, or each experiment by its own.
        done: predictions of an earlier run; they are not computed again.
        progress: called with each new prediction.

    Returns:
        Predictions in the features' order, and the features left out because they are constant in either experiment.

    Raises:
        ValueError: wells or columns do not match, values that are not finite, or too few wells.
    """
    (raw, features), (raw_test, test_features) = train, test
    embeddings, test_embeddings = checked_embeddings(raw), checked_embeddings(raw_test)
    _check_shapes(embeddings, features, test_embeddings, test_features)
    regression = ElasticNetFolds(_standard(embeddings, embeddings), ratios, folds)
    unseen = _standard(test_embeddings, embeddings if standardise == "train" else test_embeddings)
    predictions, constant = [], []
    for name in features.columns:
        if done and name in done:
            predictions.append(done[name])
            continue
        target, truth = features[name].to_numpy(np.float64), test_features[name].to_numpy(np.float64)
        if not target.std() or not truth.std():
            constant.append(str(name))
            continue
        prediction = _predict_one(str(name), target, truth, regression, unseen, standardise)
        progress(prediction)
        predictions.append(prediction)
    return predictions, constant


def _predict_one(
    name: str, target: Floats, truth: Floats, regression: ElasticNetFolds, unseen: Floats, standardise: Standardise
) -> FeaturePrediction:
    transform = fit_transform(target)
    known, expected = transform.apply(target), transform.apply(truth)
    mean, scale = known.mean(), known.std()
    fitted = regression.fit((known - mean) / scale)
    if standardise == "train":
        expected = (expected - mean) / scale
    else:
        expected = (expected - expected.mean()) / (expected.std() or 1)
    weights = int(np.count_nonzero(fitted.coefficients))
    score = r2(expected, fitted.predict(unseen))
    return FeaturePrediction(name, category_of(name), score, transform.kind, fitted.ratio, fitted.alpha, weights)


def r2(truth: Floats, predicted: Floats) -> float:
    """Coefficient of determination of (W,) predictions; 0 where the truth does not vary."""
    total = float(((truth - truth.mean()) ** 2).sum())
    return 1 - float(((truth - predicted) ** 2).sum()) / total if total else 0.0


def table7(predictions: Sequence[FeaturePrediction]) -> pd.DataFrame:
    """Median R² ± median absolute deviation per category, the paper's five first.

    Columns: category, features, median_r2, median_absolute_deviation.
    """
    frame = pd.DataFrame([{"category": prediction.category, "r2": prediction.r2} for prediction in predictions])
    order = [*CATEGORIES, *sorted(set(frame["category"]) - set(CATEGORIES))]
    rows = []
    for category in order:
        scores = frame.loc[frame["category"] == category, "r2"].to_numpy(np.float64)
        if len(scores):
            middle = float(np.median(scores))
            deviation = float(np.median(np.abs(scores - middle)))
            rows.append((category, len(scores), middle, deviation))
    return pd.DataFrame(rows, columns=["category", "features", "median_r2", "median_absolute_deviation"])


def _standard(values: Floats, reference: Floats) -> Floats:
    """Standardised by the reference's wells; what is constant there becomes 0."""
    scale = reference.std(axis=0)
    result: Floats = (values - reference.mean(axis=0)) / np.where(scale, scale, np.inf)
    return result


def _check_shapes(embeddings: Floats, features: pd.DataFrame, others: Floats, other_features: pd.DataFrame) -> None:
    for name, values, table in (("training", embeddings, features), ("test", others, other_features)):
        if len(values) != len(table):
            raise ValueError(f"{len(values)} {name} embeddings, but features of {len(table)} wells")
        bad = [str(column) for column in table if not np.isfinite(table[column].to_numpy(np.float64)).all()]
        if bad:
            raise ValueError(f"{len(bad)} features of the {name} wells hold NaN or infinity, the first {bad[0]}")
    if embeddings.shape[1] != others.shape[1]:
        raise ValueError(f"training embeddings have {embeddings.shape[1]} dimensions, test ones {others.shape[1]}")
    if list(features.columns) != list(other_features.columns):
        raise ValueError("training and test wells have different features")
