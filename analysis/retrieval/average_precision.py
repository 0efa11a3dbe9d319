"""Average precision of ranked cosines, with p values against random ranks.

Positives rank above negatives of the same similarity. A null needs no data: under chance the ranks of the positives are
a random subset, so it depends on (positives, candidates) alone. It is enumerated where there are few subsets and
otherwise drawn with a seed; nothing is stored on disk.

Legend: Q queries, P most positives of a query, M negatives, W wells, D features, T subsets of ranks.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats
from analysis.embeddings.checks import checked_embeddings

Indices = npt.NDArray[np.int64]

NULL_SIZE = 100_000
ENUMERATED = 100_000  # a null of this many subsets or fewer is enumerated
TIE = 1e-9  # average precisions closer than this are the same number, computed in another order
SIMILARITIES_AT_ONCE = 1 << 21
COUNTED_POSITIVES = 48  # with more positives, sorting the negatives is quicker than counting for each
CHAIN_OF_DRAWS = 64  # up to this many positives, ranks are drawn one by one; beyond, by sorting random keys


def unit_rows(features: npt.ArrayLike) -> Floats:
    """(W, D) features scaled to length 1. Rows of zeros stay zero: their cosines are 0.

    Raises:
        ValueError: not a matrix, or not finite.
    """
    values = checked_embeddings(features)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    result: Floats = values / np.where(norms, norms, 1)
    return result


def average_precision(positive: Floats, negative: Floats) -> Floats:
    """Average precision (Q,) from similarities to positives (Q, P), padded with NaN, and negatives (Q, M).

    Negatives of -inf are ignored. A query without a positive gets NaN.
    """
    ordered = -np.sort(-positive, axis=1)  # NaN last
    above = _counted_above(ordered, negative) if positive.shape[1] <= COUNTED_POSITIVES else _above(ordered, negative)
    place = np.arange(1, positive.shape[1] + 1)
    precision = np.where(np.isnan(ordered), 0, place / (place + above))
    count = (~np.isnan(ordered)).sum(axis=1)
    result: Floats = np.divide(precision.sum(axis=1), count, out=np.full(len(count), np.nan), where=count > 0)
    return result


def _counted_above(ordered: Floats, negative: Floats) -> npt.NDArray[np.int64]:
    above = [np.count_nonzero(negative > column[:, None], axis=1) for column in ordered.T]
    return np.stack(above, axis=1) if above else np.zeros(ordered.shape, np.int64)


def _above(ordered: Floats, negative: Floats) -> npt.NDArray[np.int64]:
    descending = np.sort(-negative, axis=1)
    return np.stack([np.searchsorted(row, -values) for row, values in zip(descending, ordered, strict=True)])


def group_average_precision(features: npt.ArrayLike, label: npt.ArrayLike) -> tuple[Floats, Indices, Indices]:
    """How well each well finds the others of its label among all wells.

    Args:
        features: (W, D).
        label: (W,) names.

    Returns:
        Average precision (W,), NaN for a label with one well; numbers of positives (W,) and of candidates (W,).

    Raises:
        ValueError: shapes differ, or a value is not finite.
    """
    rows = unit_rows(features)
    names, code = np.unique(np.asarray(label), return_inverse=True)
    if len(code) != len(rows):
        raise ValueError(f"{len(rows)} wells, but {len(code)} labels")
    members = padded([np.flatnonzero(code == group) for group in range(len(names))])
    precision = np.empty(len(rows))
    height = max(1, SIMILARITIES_AT_ONCE // len(rows))
    for start in range(0, len(rows), height):
        queries = np.arange(start, min(start + height, len(rows)))
        similarity = rows[queries] @ rows.T  # (Q, W)
        own = members[code[queries]]  # (Q, P), -1 where there is none
        positive = np.take_along_axis(similarity, np.maximum(own, 0), axis=1)
        positive[(own < 0) | (own == queries[:, None])] = np.nan
        place, column = np.nonzero(own >= 0)
        similarity[place, own[place, column]] = -np.inf
        precision[queries] = average_precision(positive, similarity)
    positives = np.bincount(code)[code] - 1
    return precision, positives, np.full(len(rows), len(rows) - 1)


def padded(groups: Sequence[Indices]) -> Indices:
    """Groups of indices as one matrix, filled with -1."""
    result = np.full((len(groups), max(map(len, groups), default=0)), -1)
    for row, group in enumerate(groups):
        result[row, : len(group)] = group
    return result


def p_values(
    precision: Floats, positives: Indices, candidates: Indices, seed: int = 0, *, count_ties: bool = False
) -> Floats:
    """p (Q,) = (1 + n q) / (1 + n) with n = 100,000 and q the share of the null that is higher.

    A tie does not count as higher: if it did, two compounds that each rank the other first among 200 could not have a p
    below 0.005, and the fractions of Table 9 would not be reproduced. So p may be too small; with `count_ties` it is
    valid. Where the null is enumerated, q is exact and p is the average over draws.

    Raises:
        ValueError: a query without positives, or with more positives than candidates.
    """
    result = np.empty(len(precision))
    for number, total in np.unique(np.stack([positives, candidates], axis=1), axis=0):
        same_null = (positives == number) & (candidates == total)
        null = null_precisions(int(number), int(total), seed)
        least = precision[same_null] + (-TIE if count_ties else TIE)
        share = 1 - np.searchsorted(null, least) / len(null)
        result[same_null] = (1 + NULL_SIZE * share) / (1 + NULL_SIZE)
    return result


@lru_cache(maxsize=256)
def null_precisions(positives: int, candidates: int, seed: int = 0) -> Floats:
    """Average precisions under chance, ascending: of every subset of ranks where there are few, else of a draw.

    Raises:
        ValueError: not 0 < positives <= candidates.
    """
    if not 0 < positives <= candidates:
        raise ValueError(f"{positives} positives among {candidates} candidates: there must be at least 1, at most all")
    if math.comb(candidates, positives) <= ENUMERATED:
        ranks = np.array(list(combinations(range(1, candidates + 1), positives)))
        null = _precision_of_ranks(ranks)
    else:
        null = drawn_precisions(positives, candidates, seed)
    null = np.sort(null)
    null.flags.writeable = False
    return null


def drawn_precisions(positives: int, candidates: int, seed: int = 0) -> Floats:
    """Average precisions (100,000,) of random ranks, in the order drawn."""
    rng = np.random.default_rng([seed, positives, candidates])
    if positives <= CHAIN_OF_DRAWS:
        return _precision_of_ranks(np.sort(_chain(rng, positives, candidates), axis=1) + 1)
    height = max(1, SIMILARITIES_AT_ONCE // candidates)
    parts = []
    for start in range(0, NULL_SIZE, height):
        keys = rng.random((min(height, NULL_SIZE - start), candidates), dtype=np.float32)
        ranks = np.sort(np.argpartition(keys, positives - 1, axis=1)[:, :positives], axis=1) + 1
        parts.append(_precision_of_ranks(ranks))
    return np.concatenate(parts)


def _chain(rng: np.random.Generator, positives: int, candidates: int) -> Indices:
    """Floyd's draw of distinct numbers below `candidates`, (T, positives), for all subsets at once."""
    drawn = np.empty((NULL_SIZE, positives), np.int64)
    for place, last in enumerate(range(candidates - positives, candidates)):
        value = rng.integers(last + 1, size=NULL_SIZE)
        taken = (drawn[:, :place] == value[:, None]).any(axis=1)
        drawn[:, place] = np.where(taken, last, value)
    return drawn


def _precision_of_ranks(ranks: Indices) -> Floats:
    """Average precision (T,) of ascending ranks (T, P), counted from 1."""
    result: Floats = (np.arange(1, ranks.shape[1] + 1) / ranks).mean(axis=1)
    return result


def benjamini_hochberg(p: Floats) -> Floats:
    """q values (Benjamini and Hochberg 1995) of p values, in their order."""
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    result = np.empty(len(p))
    result[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    return result
