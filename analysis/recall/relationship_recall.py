"""Relationship recall: do genes known to work together have similar embeddings?

A known pair is recalled if at most `low` of a null of cosines is at or below its cosine, or at least `high` of it
is below it. Chance is low + 1 - high. Two order statistics of the null decide every pair, so recall is exact.

Protocol `current` (EFAAR_benchmarking since 1.0): the null is every unordered pair of genes in the map, known pairs
included. Protocol `legacy` (version 0.1, used when the paper was written): the null is 5,000 genes against 5,000, drawn
with replacement, a gene with itself left out; recall is the mean over three such draws.

Legend: G genes, D embedding width, P known pairs, S nulls.
"""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats, Mask
from analysis.recall.cosine_null import AllPairs, Directions, DrawnPairs, Indices, Null, compare, order_statistics
from analysis.recall.noise import interval
from analysis.recall.outcomes import PairOutcomes
from analysis.recall.pair_design import PairDesign
from analysis.recall.pairs import Pairs

RecallProtocol = Literal["current", "legacy"]
VERSIONS: dict[RecallProtocol, str] = {"current": "current/2", "legacy": "legacy/1"}
Thresholds = tuple[float, float]
BOTH_TAILS: Thresholds = (0.05, 0.95)

LEGACY_GENES, LEGACY_NULLS, LEGACY_SEED = 5000, 3, 42
RANDOM_PAIRS = 20_000  # drawn among a source's own genes, to show what they recall without being related


@dataclass(frozen=True)
class RecallResult:
    """Recall of one source's relationships at one pair of thresholds, with the counts behind it."""

    source: str
    low: float
    high: float
    recall: float
    recall_low: float | None  # interval over complexes, genes and wells; None if none was requested
    recall_high: float | None
    low_tail: float  # recalled in the low tail only; its chance is `low`
    high_tail: float  # recalled in the high tail only; its chance is 1 - `high`
    chance: float
    random_pairs: float  # recall of random pairs of the source's genes
    pairs: int  # known pairs with both genes in the map
    unknown_pairs: int  # known pairs with a gene that the map lacks
    unknown_genes: int  # genes of the source that the map lacks
    genes: int  # genes in the map
    threshold_low: float  # cosines below are recalled; the mean over nulls
    threshold_high: float  # cosines above are recalled
    protocol: str


@dataclass(frozen=True)
class _Known:
    """A source's pairs in the map, and random pairs of the same genes."""

    pairs: Pairs
    first: Indices
    second: Indices
    random_first: Indices
    random_second: Indices
    unknown_genes: int


def relationship_recall(
    genes: Sequence[str],
    embeddings: npt.ArrayLike,
    sources: Sequence[Pairs],
    *,
    protocol: RecallProtocol = "current",
    thresholds: Sequence[Thresholds] = (BOTH_TAILS,),
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[RecallResult]:
    """Recall of the known pairs of each source at each pair of thresholds, with an interval.

    The interval is of the recall expected of complexes, genes and wells drawn like those at hand (`noise`): pairs that
    share a gene vary together, and so do pairs of one complex. The null's thresholds stay as they are. It is (0, 1)
    where all pairs are of one complex or share one gene, since that tells nothing about others.

    Args:
        genes: (G,) distinct gene symbols.
        embeddings: (G, D), one row per gene; only directions matter. float32 stays float32, at half of the memory.
        sources: the known relationships; those with a gene outside the map are counted as unknown.
        protocol: which null distribution.
        thresholds: each (low, high): recalled up to this fraction of the null, and from this fraction on.
        replicates: 0 for no interval. Any other number gives the same interval; it needs no resampling.
        confidence: of the interval.
        seed: of the random pairs.

    Returns:
        One result per source and pair of thresholds, sources first.

    Raises:
        ValueError: if genes repeat or number fewer than 3, an embedding is zero or not finite, thresholds are out of
            order, there is no source, or the map holds no known pair of a source.
    """
    confidences = confidence if replicates else None
    measured = recall_of_pairs(
        genes, embeddings, sources, protocol=protocol, thresholds=thresholds, confidence=confidences, seed=seed
    )
    return [result for result, _ in measured]


def recall_of_pairs(
    genes: Sequence[str],
    embeddings: npt.ArrayLike,
    sources: Sequence[Pairs],
    *,
    protocol: RecallProtocol = "current",
    thresholds: Sequence[Thresholds] = (BOTH_TAILS,),
    confidence: float | None = 0.95,
    seed: int = 0,
) -> list[tuple[RecallResult, PairOutcomes]]:
    """As `relationship_recall`, each result with the outcome of every pair. No confidence: no interval."""
    for low, high in thresholds:
        if not 0 <= low <= high <= 1:
            raise ValueError(f"thresholds must satisfy 0 <= low <= high <= 1, not low {low}, high {high}")
    if not sources:
        raise ValueError("no relationship list was given; recall is of known pairs")
    directions = _directions(genes, embeddings)
    known = [_known(genes, pairs, np.random.default_rng([seed, index])) for index, pairs in enumerate(sources)]
    limits = [_limits(directions, null, thresholds) for null in _nulls(protocol, genes)]  # S lists
    measured: list[tuple[RecallResult, PairOutcomes]] = []
    for source in known:
        results, either = _of_source(directions, source, thresholds, limits, protocol, confidence)
        measured += [
            (result, PairOutcomes(result.source, tuple(genes), source.first, source.second, recalled))
            for result, recalled in zip(results, either, strict=True)
        ]
    return measured


def _of_source(
    directions: Directions, known: _Known, thresholds: Sequence[Thresholds], limits: Sequence[Sequence[Thresholds]],
    protocol: RecallProtocol, confidence: float | None,
) -> tuple[list[RecallResult], Floats]:  # fmt: skip
    """The results of a source, and which of its pairs they recall (thresholds, P)."""
    genes = len(directions.norms)
    design = PairDesign.of(genes, known.first, known.second) if confidence is not None else None
    single = directions.single_cosines(known.first, known.second)
    random_single = directions.single_cosines(known.random_first, known.random_second)
    tails = [_tails(directions, known.first, known.second, single, cuts) for cuts in zip(*limits, strict=True)]
    either = np.stack([low + high for low, high in tails])  # (thresholds, P)
    results = []
    for (low, high), cuts, (in_low, in_high) in zip(thresholds, zip(*limits, strict=True), tails, strict=True):
        ends = (None, None) if design is None or confidence is None else interval(design, in_low + in_high, confidence)
        random_low, random_high = _tails(directions, known.random_first, known.random_second, random_single, cuts)
        results.append(
            RecallResult(
                source=known.pairs.source,
                low=low,
                high=high,
                recall=float((in_low + in_high).mean()),
                recall_low=ends[0],
                recall_high=ends[1],
                low_tail=float(in_low.mean()),
                high_tail=float(in_high.mean()),
                chance=low + (1 - high),
                random_pairs=float((random_low + random_high).mean()),
                pairs=len(known.first),
                unknown_pairs=len(known.pairs.pairs) - len(known.first),
                unknown_genes=known.unknown_genes,
                genes=genes,
                threshold_low=float(np.mean([cut[0] for cut in cuts])),
                threshold_high=float(np.mean([cut[1] for cut in cuts])),
                protocol=VERSIONS[protocol],
            )
        )
    return results, either


def _directions(genes: Sequence[str], embeddings: npt.ArrayLike) -> Directions:
    """The directions of a valid map."""
    values = np.asarray(embeddings)
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    if values.ndim != 2:
        raise ValueError(f"embeddings must be a matrix (genes, features), not of shape {values.shape}")
    if len(genes) != len(values):
        raise ValueError(f"{len(genes)} genes, but {len(values)} embeddings")
    if len(genes) < 3:
        raise ValueError(f"a map of {len(genes)} genes has no null to rank pairs in; at least 3 are needed")
    if len(set(genes)) != len(genes):
        repeated = [gene for gene, count in Counter(genes).most_common(5) if count > 1]
        raise ValueError(f"genes repeat ({', '.join(repeated)}); aggregate wells to genes first")
    directions = Directions.of(values)
    bad = np.flatnonzero(~np.isfinite(directions.norms))
    if bad.size:
        rows = ", ".join(str(genes[row]) for row in bad[:5]) + (", ..." if bad.size > 5 else "")
        raise ValueError(f"{bad.size} of {len(values)} embeddings hold NaN or infinity ({rows})")
    if not directions.norms.all():
        raise ValueError(f"the embedding of {genes[int(np.argmin(directions.norms))]} is zero and has no direction")
    return directions


def _known(genes: Sequence[str], pairs: Pairs, rng: np.random.Generator) -> _Known:
    """Positions of the pairs in the map, first < second, ordered by first."""
    position = {gene: index for index, gene in enumerate(genes)}
    places = np.array([(position.get(a, -1), position.get(b, -1)) for a, b in pairs.pairs], dtype=np.int64)  # (P, 2)
    known = np.sort(places[(places >= 0).all(axis=1)], axis=1)
    if not len(known):
        raise ValueError(
            f"{pairs.source}: none of its {len(pairs.pairs)} pairs has both genes among the {len(genes)} of the map"
        )
    first, second = known[np.lexsort((known[:, 1], known[:, 0]))].T
    own = np.unique(places[places >= 0])
    a, b = rng.choice(own, (2, RANDOM_PAIRS))
    unknown = len({gene for pair in pairs.pairs for gene in pair}) - len(own)
    return _Known(pairs, first, second, a[a != b], b[a != b], unknown)


def _nulls(protocol: RecallProtocol, genes: Sequence[str]) -> list[Null]:
    """The nulls of a protocol; `legacy` draws exactly the genes that EFAAR_benchmarking 0.1 drew from a sorted map."""
    if protocol == "current":
        return [AllPairs(len(genes))]
    if protocol != "legacy":
        raise ValueError(f"no protocol {protocol!r}; known: {', '.join(get_args(RecallProtocol))}")
    seeds, in_order = random.Random(LEGACY_SEED), np.argsort(np.asarray(genes, dtype=object))
    drawn = [
        [np.random.RandomState(seeds.randint(0, 2**31 - 1)).choice(len(genes), LEGACY_GENES) for _ in range(2)]
        for _ in range(LEGACY_NULLS)
    ]
    return [DrawnPairs(in_order[rows], in_order[columns]) for rows, columns in drawn]


def _limits(directions: Directions, null: Null, thresholds: Sequence[Thresholds]) -> list[Thresholds]:
    """Per pair of thresholds: cosines below the first or above the second number are recalled.

    With N null values in order, at most k of them are at or below q if and only if q < value k (counted from 0), and
    at least m of them are below q if and only if q > value m - 1.
    """
    total = null.size
    ranks = [(_at_most(low, total), _at_least(high, total) - 1) for low, high in thresholds]
    needed = [rank for pair in ranks for rank in pair if 0 <= rank < total]
    values = order_statistics(directions, null, needed)
    return [(values.get(low, math.inf), values.get(high, -math.inf)) for low, high in ranks]


def _at_most(fraction: float, total: int) -> int:
    return max(k for k in _around(fraction * total) if k / total <= fraction)


def _at_least(fraction: float, total: int) -> int:
    return min(m for m in _around(fraction * total) if m / total >= fraction)


def _around(count: float) -> range:
    """Integers next to a product that may be off by rounding."""
    return range(max(math.floor(count) - 1, 0), math.ceil(count) + 2)


def _tails(
    directions: Directions, first: Indices, second: Indices, single: npt.NDArray[np.float32], cuts: Sequence[Thresholds]
) -> tuple[Floats, Floats]:
    """In which share of the nulls each pair (P,) is in the low tail, and in which it is only in the high tail."""
    low, high = np.zeros(len(first)), np.zeros(len(first))
    for lower, upper in cuts:
        in_low: Mask = compare(directions, first, second, lower, single, np.less)
        in_high: Mask = compare(directions, first, second, upper, single, np.greater)
        low += in_low
        high += in_high & ~in_low
    return low / len(cuts), high / len(cuts)
