"""Linear probes: which block of an encoder is most informative, and does a model depend on the channels it sees?

A linear probe is a ridge regression to one-hot labels, trained on the wells of some experiments and tested on others';
the best block of a vision transformer is often not its last.

Legend: W wells, D embedding width, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats, Mask
from analysis.embeddings.checks import checked_embeddings

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the mean variance of a direction; chosen within the training wells
HELD_OUT = 5  # every fifth training well is held out to choose the ridge


@dataclass(frozen=True)
class Probe:
    """What a linear probe reads from one set of features."""

    block: int
    accuracy: float  # of test wells
    balanced_accuracy: float  # mean over classes
    chance: float  # of always predicting the most common class
    ridge: float
    classes: int
    unseen_wells: int  # test wells of classes that no training well has; they are ignored


def probe_blocks(
    features: Mapping[int, npt.ArrayLike], label: Sequence[str], experiment: Sequence[str], test: Sequence[str]
) -> list[Probe]:
    """A probe of each block's features.

    Args:
        features: by block, (W, D) each.
        label: (W,) what to classify: perturbation, gene, cell type.
        experiment: (W,) of each well.
        test: the experiments to test on; the others train.

    Returns:
        One per block, in order; `best_block` picks.

    Raises:
        ValueError: shapes differ, fewer than two classes, or an experiment that is not there.
    """
    unknown = sorted(set(test) - set(experiment))
    if unknown or not set(experiment) - set(test):
        raise ValueError(f"test experiments {', '.join(test)}: unknown {unknown}, or none left to train on")
    held_out = np.isin(np.asarray(experiment, dtype=object).astype(str), list(test))
    return [linear_probe(values, label, held_out, block) for block, values in sorted(features.items())]


def best_block(probes: Sequence[Probe]) -> int:
    """The block with the highest balanced accuracy; on ties the earliest."""
    return max(probes, key=lambda probe: (probe.balanced_accuracy, -probe.block)).block


def linear_probe(features: npt.ArrayLike, label: Sequence[str], test: Mask, block: int = 0) -> Probe:
    """Train on the wells outside `test` (W,), score on those in it. Raises as `probe_blocks`."""
    values, names = checked_embeddings(features), np.asarray(label, dtype=object).astype(str)
    if not len(values) == len(names) == len(test):
        raise ValueError(f"{len(values)} embeddings, but {len(names)} labels")
    classes, code = np.unique(names[~test], return_inverse=True)
    known = test & np.isin(names, classes)
    if len(classes) < 2 or not known.any():
        raise ValueError(
            f"{len(classes)} classes to train on, {known.sum()} wells of them to test on: nothing to probe"
        )
    truth = np.searchsorted(classes, names[known])
    ridge = _choose_ridge(values[~test], code)
    predicted = _predict(values[~test], code, values[known], [ridge])[0]
    right = predicted == truth
    by_class = np.bincount(truth, right)[np.unique(truth)] / np.bincount(truth)[np.unique(truth)]
    commonest = float(np.bincount(truth).max() / len(truth))
    unseen = int(test.sum() - known.sum())
    return Probe(block, float(right.mean()), float(by_class.mean()), commonest, ridge, len(classes), unseen)


def _choose_ridge(values: Floats, code: npt.NDArray[np.int64]) -> float:
    held_out = np.arange(len(values)) % HELD_OUT == 0
    predicted = _predict(values[~held_out], code[~held_out], values[held_out], RIDGES)
    return RIDGES[int(np.argmax([(classes == code[held_out]).mean() for classes in predicted]))]


def _predict(
    train: Floats, code: npt.NDArray[np.int64], test: Floats, ridges: Sequence[float]
) -> list[npt.NDArray[np.int64]]:
    """The class of each test well under each ridge, from one decomposition."""
    mean, scale = train.mean(axis=0), train.std(axis=0)
    scale = np.where(scale, scale, np.inf)
    known, unseen = (train - mean) / scale, (test - mean) / scale
    targets = np.eye(code.max() + 1)[code]
    targets -= targets.mean(axis=0)
    spread, axes = np.linalg.eigh(known.T @ known)
    pulled, seen = axes.T @ (known.T @ targets), unseen @ axes
    level = max(float(np.maximum(spread, 0).mean()), np.finfo(float).tiny)
    shares = np.bincount(code) / len(code)
    return [
        np.argmax(seen @ (pulled / (np.maximum(spread, 0) + ridge * level)[:, None]) + shares, axis=1)
        for ridge in ridges
    ]


@dataclass(frozen=True)
class ChannelAgreement:
    """How well embeddings of the same wells agree when channels are left out or reordered."""

    shown: str
    median_cosine: float  # between a well's two embeddings
    retrieved: float  # share of wells whose nearest neighbour in the other set is themselves
    wells: int


def channel_agreement(reference: npt.ArrayLike, others: Mapping[str, npt.ArrayLike]) -> list[ChannelAgreement]:
    """Embeddings of wells with all channels in order against those with channels left out or in another order.

    A channel-agnostic model should not depend on the order (cosine 1) and should lose little with a subset.

    Args:
        reference: (W, D).
        others: by name of what was shown, (W, D) of the same wells in the same order.

    Raises:
        ValueError: shapes differ, a value is not finite, or nothing to compare.
    """
    base = _centred_directions(reference)
    if not others:
        raise ValueError("no other embeddings to compare with")
    agreements = []
    for name, values in others.items():
        rows = _centred_directions(values)
        if rows.shape != base.shape:
            raise ValueError(f"{name}: embeddings of shape {rows.shape}, the reference has {base.shape}")
        cosine = rows @ base.T
        nearest = np.argmax(cosine, axis=1) == np.arange(len(base))
        agreements.append(ChannelAgreement(name, float(np.median(np.diag(cosine))), float(nearest.mean()), len(base)))
    return agreements


def _centred_directions(values: npt.ArrayLike) -> Floats:
    """Directions about the mean well; a component common to all wells would make every pair agree."""
    rows = checked_embeddings(values)
    rows = rows - rows.mean(axis=0)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    result: Floats = rows / np.where(norms, norms, 1)
    return result
