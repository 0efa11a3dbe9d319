"""The exact null distribution of recall: order statistics of all pairwise cosines, in blocks and little memory.

Products are computed in float32, which orders nearly all of the null; values too close to a requested rank for float32
are computed again in float64. The result is that of float64 throughout, at half of its cost.

Legend: G genes, D embedding width, P pairs, N pairs in the null, R and C rows and columns of a block.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats

Indices = npt.NDArray[np.int64]
Singles = npt.NDArray[np.float32]
Block = tuple[Indices, Indices, Singles]  # genes of the rows (R,), of the columns (C,), cosines (R, C)

BLOCK_VALUES = 1 << 22  # cosines held at once (16 MB)
PAIRS_AT_ONCE = 2048  # pairs whose embeddings are gathered at once
WHOLE_NULL = 1 << 21  # up to this many pairs the null is kept in full instead of bracketed
SAMPLE_GENES = (1024, 4096)  # fewest and most genes drawn to bracket an order statistic of a larger null
BRACKET_DEVIATIONS = 6.0  # half width of a bracket in standard errors of the sampled rank
ROUNDING_DEVIATIONS = 8.0  # float32 products err like a random walk of D roundings (Higham and Mary 2019)


@dataclass(frozen=True)
class Directions:
    """The embeddings of a map and what is needed of their directions."""

    values: npt.NDArray[np.floating[Any]]  # (G, D) as given
    norms: Floats  # (G,) none of them 0
    single: Singles  # (G, D) of length 1

    @staticmethod
    def of(values: npt.NDArray[np.floating[Any]]) -> "Directions":
        """Directions of (G, D) finite embeddings. A zero row has none; the caller excludes it."""
        single = np.empty(values.shape, np.float32)
        norms = np.empty(len(values))
        for rows in _slices(len(values)):
            part = values[rows].astype(np.float64)
            norms[rows] = np.linalg.norm(part, axis=1)
            with np.errstate(invalid="ignore"):  # infinite rows become NaN; their norms show it
                single[rows] = part / np.where(norms[rows], norms[rows], 1)[:, None]
        return Directions(values, norms, single)

    def cosines(self, first: Indices, second: Indices) -> Floats:
        """Cosines of pairs (P,) in float64; the same to the last bit whichever gene comes first."""
        result = np.empty(len(first))
        for rows in _slices(len(first)):
            a, b = first[rows], second[rows]
            products = np.einsum("pd,pd->p", self.values[a].astype(np.float64), self.values[b].astype(np.float64))
            result[rows] = products / (self.norms[a] * self.norms[b])
        return result

    def single_cosines(self, first: Indices, second: Indices) -> Singles:
        """Cosines of pairs (P,), accurate to `rounding`."""
        result = np.empty(len(first), np.float32)
        for rows in _slices(len(first)):
            result[rows] = np.einsum("pd,pd->p", self.single[first[rows]], self.single[second[rows]])
        return result

    @property
    def rounding(self) -> float:
        """How far a cosine in float32 may be from its value."""
        return ROUNDING_DEVIATIONS * (math.sqrt(self.values.shape[1]) + 4) * 2.0**-24


class Null(Protocol):
    """A set of pairs whose cosines are ranked."""

    @property
    def size(self) -> int:
        """How many pairs it holds."""

    def blocks(self, directions: Directions) -> Iterator[Block]:
        """Every pair once; NaN for entries of a block that are not in the null."""

    def sample(self, directions: Directions, random: np.random.Generator) -> Singles:
        """Cosines between randomly drawn genes, as a block."""


@dataclass(frozen=True)
class AllPairs:
    """Every unordered pair of different genes."""

    genes: int

    @property
    def size(self) -> int:
        return math.comb(self.genes, 2)

    def blocks(self, directions: Directions) -> Iterator[Block]:
        indices = np.arange(self.genes)
        height = max(16, BLOCK_VALUES // self.genes)
        for start in range(0, self.genes, height):
            rows, columns = indices[start : start + height], indices[start:]
            block = directions.single[start : start + height] @ directions.single[start:].T
            block[np.tril_indices(len(rows))] = np.nan
            yield rows, columns, block

    def sample(self, directions: Directions, random: np.random.Generator) -> Singles:
        fewest, most = SAMPLE_GENES
        drawn = random.choice(self.genes, min(self.genes, max(fewest, min(most, self.genes // 8))), replace=False)
        block: Singles = directions.single[drawn] @ directions.single[drawn].T
        np.fill_diagonal(block, np.nan)
        return block


@dataclass(frozen=True)
class DrawnPairs:
    """Every gene of one draw with every other gene of another; both are drawn with replacement."""

    rows: Indices
    columns: Indices

    @property
    def size(self) -> int:
        most = int(max(self.rows.max(), self.columns.max())) + 1
        alike = np.bincount(self.rows, minlength=most) @ np.bincount(self.columns, minlength=most)
        return len(self.rows) * len(self.columns) - int(alike)

    def blocks(self, directions: Directions) -> Iterator[Block]:
        height = max(16, BLOCK_VALUES // len(self.columns))
        for start in range(0, len(self.rows), height):
            rows = self.rows[start : start + height]
            yield rows, self.columns, _block(directions, rows, self.columns)

    def sample(self, directions: Directions, random: np.random.Generator) -> Singles:
        rows, columns = (random.choice(drawn, min(len(drawn), SAMPLE_GENES[0])) for drawn in (self.rows, self.columns))
        return _block(directions, rows, columns)


def _block(directions: Directions, rows: Indices, columns: Indices) -> Singles:
    block: Singles = directions.single[rows] @ directions.single[columns].T
    block[rows[:, None] == columns] = np.nan
    return block


@dataclass(frozen=True)
class _Inside:
    """The pairs inside a bracket."""

    bracket: tuple[float, float]
    below: int  # pairs below the bracket
    cosines: Singles  # (P,) of those inside
    first: npt.NDArray[np.int32]  # (P,)
    second: npt.NDArray[np.int32]


def order_statistics(directions: Directions, null: Null, ranks: Sequence[int]) -> dict[int, float]:
    """Null values of the given ranks (from 0, ascending), exact in float64, without the null in memory.

    Each rank is bracketed from a sample; one pass counts values below the bracket and keeps those inside. The
    pass is repeated with a wider bracket in the rare case that a rank falls outside.
    """
    values: dict[int, float] = {}
    deviations = BRACKET_DEVIATIONS if null.size > WHOLE_NULL else math.inf
    while missing := [rank for rank in dict.fromkeys(ranks) if rank not in values]:
        brackets = _brackets(directions, null, missing, deviations)
        for rank, inside in zip(missing, _scan(directions, null, brackets), strict=True):
            value = _resolve(directions, inside, rank)
            if value is not None:
                values[rank] = value
        deviations *= 4
    return values


def compare(
    directions: Directions, first: Indices, second: Indices, threshold: float, single: Singles,
    relation: Callable[[Floats, float], npt.NDArray[np.bool_]],
) -> npt.NDArray[np.bool_]:  # fmt: skip
    """`relation` (np.less or np.greater) between cosines of pairs (P,) and a threshold, decided as in float64."""
    result = relation(single.astype(np.float64), threshold)
    close = np.flatnonzero(np.abs(single - threshold) <= directions.rounding)
    result[close] = relation(directions.cosines(first[close], second[close]), threshold)
    return result


def _brackets(directions: Directions, null: Null, ranks: Sequence[int], deviations: float) -> list[tuple[float, float]]:
    """An interval of cosines per rank that very likely holds it."""
    if math.isinf(deviations):
        return [(-math.inf, math.inf)] * len(ranks)
    # The sample affects only speed: the result is exact for every sample.
    block = null.sample(directions, np.random.default_rng(0))
    drawn = np.sort(block[~np.isnan(block)])
    return [_bracket(block, drawn, rank / null.size, deviations) for rank in ranks]


def _bracket(block: Singles, drawn: Singles, fraction: float, deviations: float) -> tuple[float, float]:
    """The width allows for genes that differ in how often they fall below a cosine."""
    size = len(drawn)
    per_gene = (block < drawn[min(int(fraction * size), size - 1)]).mean(axis=1)
    error = 2 * per_gene.std() / math.sqrt(len(block)) + math.sqrt(fraction * (1 - fraction) / size) + 1 / size
    start, stop = (math.floor(size * (fraction + sign * deviations * error)) for sign in (-1, 1))
    return (float(drawn[start]) if start >= 0 else -math.inf, float(drawn[stop]) if stop < size else math.inf)


def _scan(directions: Directions, null: Null, brackets: Sequence[tuple[float, float]]) -> list[_Inside]:
    """One pass over the null."""
    below = [0] * len(brackets)
    parts: list[list[tuple[Singles, npt.NDArray[np.int32], npt.NDArray[np.int32]]]] = [[] for _ in brackets]
    for rows, columns, block in null.blocks(directions):
        for index, (low, high) in enumerate(brackets):
            under = block < np.float32(low)
            below[index] += int(np.count_nonzero(under))
            inside = np.flatnonzero((block <= np.float32(high)) ^ under)
            row, column = np.divmod(inside, len(columns))
            parts[index].append((block.ravel()[inside], rows[row].astype(np.int32), columns[column].astype(np.int32)))
    joined = [[np.concatenate(arrays) for arrays in zip(*part, strict=True)] for part in parts]
    return [_Inside(bracket, count, *arrays) for bracket, count, arrays in zip(brackets, below, joined, strict=True)]


def _resolve(directions: Directions, inside: _Inside, rank: int) -> float | None:
    """The null value of that rank, or None if it is not inside the bracket by the margin of float32's rounding."""
    offset = rank - inside.below
    if not 0 <= offset < len(inside.cosines):
        return None
    middle = float(np.partition(inside.cosines, offset)[offset])
    margin = 2 * directions.rounding
    if not inside.bracket[0] < middle - margin < middle + margin < inside.bracket[1]:
        return None
    close = np.flatnonzero(np.abs(inside.cosines - middle) <= margin)
    offset -= int(np.count_nonzero(inside.cosines < middle)) - int(np.count_nonzero(inside.cosines[close] < middle))
    exact = directions.cosines(inside.first[close].astype(np.int64), inside.second[close].astype(np.int64))
    return float(np.partition(exact, offset)[offset])


def _slices(count: int) -> Iterator[slice]:
    for start in range(0, count, PAIRS_AT_ONCE):
        yield slice(start, start + PAIRS_AT_ONCE)
