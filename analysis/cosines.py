"""The exact null behind recall: order statistics of all genes' pairwise cosines, in blocks and in little memory.

Legend: G genes, D embedding width, P known pairs, N = G(G-1)/2 null pairs.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from analysis.correct import Floats

Indices = npt.NDArray[np.int64]

BLOCK_ROWS = 256  # genes whose cosines to all later genes are held at once
WHOLE_NULL = 1 << 22  # up to this many pairs (32 MB) the null is kept whole instead of bracketed
SAMPLED_PAIRS = 1 << 20  # pairs drawn to bracket an order statistic of a larger null
BRACKET_DEVIATIONS = 8.0  # half width of a bracket in standard errors of the sampled rank


def order_statistics(
    directions: Floats, ranks: Sequence[int], first: Indices, second: Indices
) -> tuple[dict[int, float], Floats]:
    """Null values of the given ranks (from 0), without holding the null; and the cosines of the pairs.

    Each rank is bracketed from a sample; one pass counts what lies below the bracket and keeps what lies inside. The
    pass is repeated with a wider bracket in the rare case that a rank falls outside.

    Args:
        directions: (G, D) unit vectors.
        ranks: positions in the ascending null, each in [0, N).
        first, second: (P,) genes of each pair, first < second, ordered by first.
    """
    total = math.comb(len(directions), 2)
    deviations = BRACKET_DEVIATIONS if total > WHOLE_NULL else math.inf
    while True:
        brackets = _brackets(directions, ranks, total, deviations)
        below, inside, cosines = _scan(directions, brackets, first, second)
        offsets = [rank - count for rank, count in zip(ranks, below, strict=True)]
        if all(0 <= offset < len(values) for offset, values in zip(offsets, inside, strict=True)):
            picked = [
                float(np.partition(values, offset)[offset]) for offset, values in zip(offsets, inside, strict=True)
            ]
            return dict(zip(ranks, picked, strict=True)), cosines
        deviations *= 4


def _brackets(directions: Floats, ranks: Sequence[int], total: int, deviations: float) -> list[tuple[float, float]]:
    """An interval of cosines per rank that very likely holds it."""
    if math.isinf(deviations):
        return [(-math.inf, math.inf)] * len(ranks)
    rng = np.random.default_rng(0)  # decides speed alone: the result is exact whatever is drawn
    drawn = rng.integers(len(directions), size=(2, SAMPLED_PAIRS))
    a, b = drawn[:, drawn[0] != drawn[1]]
    chunks = np.array_split(np.arange(len(a)), 64)
    sample = np.sort(np.concatenate([np.einsum("pd,pd->p", directions[a[c]], directions[b[c]]) for c in chunks]))
    return [_bracket(sample, rank / total, deviations) for rank in ranks]


def _bracket(sample: Floats, fraction: float, deviations: float) -> tuple[float, float]:
    size = len(sample)
    margin = deviations * math.sqrt(size * fraction * (1 - fraction)) + deviations
    start, stop = math.floor(fraction * size - margin), math.ceil(fraction * size + margin)
    return (sample[start] if start >= 0 else -math.inf, sample[stop] if stop < size else math.inf)


def _scan(
    directions: Floats, brackets: Sequence[tuple[float, float]], first: Indices, second: Indices
) -> tuple[list[int], list[Floats], Floats]:
    """One pass over the null: how many lie below each bracket, which inside, and the pairs' cosines from the same pass.

    Taking the pairs from the same products keeps a pair equal, to the last bit, to itself in the null.
    """
    below = [0] * len(brackets)
    inside: list[list[Floats]] = [[] for _ in brackets]
    cosines = np.empty(len(first))
    for start, block in _cosine_blocks(directions):
        here = slice(*np.searchsorted(first, (start, start + len(block))))
        cosines[here] = block[first[here] - start, second[here] - start]
        null = block[_upper(block)]
        for index, (low, high) in enumerate(brackets):
            under = null < low
            below[index] += int(np.count_nonzero(under))
            inside[index].append(null[~under & (null <= high)])
    return below, [np.concatenate(parts) for parts in inside], cosines


def _cosine_blocks(directions: Floats) -> Iterator[tuple[int, Floats]]:
    """Cosines of BLOCK_ROWS genes at a time with themselves and all later genes."""
    for start in range(0, len(directions), BLOCK_ROWS):
        yield start, directions[start : start + BLOCK_ROWS] @ directions[start:].T


def _upper(block: Floats) -> npt.NDArray[np.bool_]:
    """Where a block holds a pair for the first time: right of its diagonal."""
    result: npt.NDArray[np.bool_] = np.arange(block.shape[1]) > np.arange(block.shape[0])[:, None]
    return result
