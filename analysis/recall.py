"""The recall room: do genes that are known to work together look alike? Relationship recall of a map of genes.

Protocol `current` (EFAAR_benchmarking): the null is the cosine of every unordered pair of genes in the map, known
pairs included. A known pair is recalled if at most `low` of the null lies at or below its cosine, or at least `high`
of it lies below. Chance is low + 1 - high. All of it is exact: two order statistics of the null decide every pair.

Legend: W wells, G genes, D embedding width, P known pairs, N = G(G-1)/2 null pairs.
"""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from analysis.correct import Floats, checked_embeddings
from analysis.cosines import Indices, order_statistics

Mask = npt.NDArray[np.bool_]

PROTOCOL = "current/1"
HEADER = ["entity1", "entity2"]


class PairFileError(ValueError):
    """A relationship list is not what it should be; the message names file and line."""


@dataclass(frozen=True)
class Pairs:
    """Known relationships of one source: unordered, de-duplicated, non-self pairs, and what was set aside."""

    source: str
    pairs: tuple[tuple[str, str], ...]  # each in alphabetical order, all sorted
    rows: int
    duplicates: int
    self_pairs: int
    empty: int


@dataclass(frozen=True)
class RecallResult:
    """Recall of one source's relationships, with a bootstrap interval over genes and what it rests on."""

    source: str
    recall: float
    recall_low: float
    recall_high: float
    chance: float
    pairs: int  # known pairs with both genes in the map
    unknown_pairs: int  # known pairs with a gene that the map lacks
    genes: int  # genes in the map
    threshold_low: float  # cosines below are recalled
    threshold_high: float  # cosines above are recalled
    protocol: str = PROTOCOL


def aggregate(
    embeddings: npt.ArrayLike, genes: Sequence[str], guides: Sequence[str] | None = None
) -> tuple[list[str], Floats]:
    """Average wells to genes: over the replicates of each guide, then over the guides of each gene.

    Args:
        embeddings: (W, D).
        genes: (W,) gene symbol of each well; wells without one ("", controls and compounds) take no part.
        guides: (W,) guide of each well; without it every well of a gene weighs the same.

    Returns:
        The gene symbols in alphabetical order and their embeddings (G, D).

    Raises:
        ValueError: if lengths differ, a value is not finite, a gene is missing (None, NaN), or no well has one.
    """
    values = checked_embeddings(embeddings)
    gene_of = np.asarray(genes, dtype=object)
    guide_of = np.full(len(gene_of), "") if guides is None else np.asarray(guides, dtype=object)
    if not len(values) == len(gene_of) == len(guide_of):
        raise ValueError(f"{len(values)} embeddings, but {len(gene_of)} genes and {len(guide_of)} guides")
    if (missing := pd.isna(gene_of)).any():
        raise ValueError(f'well {np.argmax(missing)} has a missing gene; wells without one must say ""')
    named = gene_of != ""
    if not named.any():
        raise ValueError("no well has a gene; nothing to aggregate")
    keys = [(str(gene), str(guide)) for gene, guide in zip(gene_of[named], guide_of[named], strict=True)]
    of_guides, guide_means = _group_means(values[named], keys)
    of_genes, gene_means = _group_means(guide_means, [(gene, "") for gene, _ in of_guides])
    return [gene for gene, _ in of_genes], gene_means


def read_pairs(path: str | Path) -> Pairs:
    """Read a relationship list: CSV with the header entity1,entity2, one pair of gene symbols per row.

    Pairs are unordered: A,B and B,A are one. Duplicates, self pairs and rows with an empty symbol are counted and left
    out. The file's stem names the source.

    Raises:
        PairFileError: if the header or a row is malformed, or no pair is left.
    """
    path = Path(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = [field.strip() for field in next(reader, [])]
        if header != HEADER:
            raise PairFileError(f"{path}, line 1: the header is {','.join(header)!r}, it must be 'entity1,entity2'")
        rows = [_parse_row(row, path, reader.line_num) for row in reader if row]
    complete = [row for row in rows if all(row)]
    proper = [row for row in complete if row[0] != row[1]]
    unique = sorted(set(proper))
    if not unique:
        raise PairFileError(f"{path}: none of its {len(rows)} rows is a pair of two different genes")
    return Pairs(
        source=path.stem,
        pairs=tuple(unique),
        rows=len(rows),
        duplicates=len(proper) - len(unique),
        self_pairs=len(complete) - len(proper),
        empty=len(rows) - len(complete),
    )


def relationship_recall(
    genes: Sequence[str],
    embeddings: npt.ArrayLike,
    pairs: Pairs,
    low: float = 0.05,
    high: float = 0.95,
    *,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> RecallResult:
    """Recall of known pairs in the low and high tail of all pairs' cosines, with an interval over genes.

    The interval resamples genes with replacement `replicates` times: a pair weighs the product of its genes'
    multiplicities, so that pairs which share a gene vary together. The null's thresholds stay as they are. Such an
    interval errs on the wide side (Owen 2007, "The pigeonhole bootstrap"): right where genes differ in how well they
    are recalled, up to the square root of 3 too wide where pairs vary on their own.

    Args:
        genes: (G,) distinct gene symbols.
        embeddings: (G, D), one row per gene; only directions matter.
        pairs: the known relationships; those with a gene outside the map are counted as unknown.
        low: recalled in the low tail up to this fraction of the null.
        high: recalled in the high tail from this fraction of the null.

    Raises:
        ValueError: if genes repeat or number fewer than 3, an embedding is zero or not finite, the thresholds are out
            of order, or the map holds no known pair.
    """
    if not 0 <= low <= high <= 1:
        raise ValueError(f"thresholds must satisfy 0 <= low <= high <= 1, not low {low}, high {high}")
    directions = _directions(genes, embeddings)
    first, second = _pair_indices(genes, pairs)
    lower, upper, cosines = _thresholds_and_cosines(directions, first, second, low, high)
    recalled = (cosines < lower) | (cosines > upper)
    ends = _interval_over_genes(len(genes), first, second, recalled, replicates, confidence, seed)
    return RecallResult(
        source=pairs.source,
        recall=float(recalled.mean()),
        recall_low=ends[0],
        recall_high=ends[1],
        chance=low + (1 - high),
        pairs=len(cosines),
        unknown_pairs=len(pairs.pairs) - len(cosines),
        genes=len(genes),
        threshold_low=lower,
        threshold_high=upper,
    )


def _group_means(values: Floats, keys: Sequence[tuple[str, str]]) -> tuple[list[tuple[str, str]], Floats]:
    """Means of the rows of each key, keys in ascending order."""
    names = sorted(set(keys))
    position = {name: index for index, name in enumerate(names)}
    group = np.array([position[key] for key in keys])
    order = np.argsort(group, kind="stable")
    counts = np.bincount(group)
    sums = np.add.reduceat(values[order], np.cumsum(counts) - counts, axis=0)
    return names, sums / counts[:, None]


def _parse_row(row: list[str], path: Path, line: int) -> tuple[str, str]:
    if len(row) != len(HEADER):
        raise PairFileError(f"{path}, line {line}: {len(row)} fields, a pair has {len(HEADER)}")
    first, second = sorted(field.strip() for field in row)
    return first, second


def _directions(genes: Sequence[str], embeddings: npt.ArrayLike) -> Floats:
    """Unit vectors (G, D) of a valid map."""
    values = checked_embeddings(embeddings)
    if len(genes) != len(values):
        raise ValueError(f"{len(genes)} genes, but {len(values)} embeddings")
    if len(genes) < 3:
        raise ValueError(f"a map of {len(genes)} genes has no null to rank pairs in; at least 3 are needed")
    if len(set(genes)) != len(genes):
        repeated = [gene for gene, count in Counter(genes).most_common(5) if count > 1]
        raise ValueError(f"genes repeat ({', '.join(repeated)}); aggregate wells to genes first")
    norms = np.linalg.norm(values, axis=1)
    if not norms.all():
        raise ValueError(f"the embedding of {list(genes)[int(np.argmin(norms))]} is zero and has no direction")
    result: Floats = values / norms[:, None]
    return result


def _pair_indices(genes: Sequence[str], pairs: Pairs) -> tuple[Indices, Indices]:
    """Positions (P,), (P,) of the pairs in the map, first < second, ordered by first."""
    position = {gene: index for index, gene in enumerate(genes)}
    known = sorted(sorted((position[a], position[b])) for a, b in pairs.pairs if a in position and b in position)
    if not known:
        raise ValueError(
            f"{pairs.source}: none of its {len(pairs.pairs)} pairs has both genes among the {len(genes)} of the map"
        )
    indices = np.array(known, dtype=np.int64)
    return indices[:, 0], indices[:, 1]


def _thresholds_and_cosines(
    directions: Floats, first: Indices, second: Indices, low: float, high: float
) -> tuple[float, float, Floats]:
    """Cosines below the first or above the second number are recalled; and the cosines of the pairs (P,).

    With N null values in order, at most k of them are at or below q if and only if q < value k (counted from 0), and
    at least m of them are below q if and only if q > value m - 1.
    """
    total = math.comb(len(directions), 2)
    at_most = max(k for k in _around(low * total) if k / total <= low)
    at_least = min(m for m in _around(high * total) if m / total >= high)
    ranks = [rank for rank in (at_most, at_least - 1) if 0 <= rank < total]
    statistics, cosines = order_statistics(directions, ranks, first, second)
    return statistics.get(at_most, math.inf), statistics.get(at_least - 1, -math.inf), cosines


def _around(count: float) -> range:
    """Whole numbers next to a product that rounding may have moved."""
    return range(max(math.floor(count) - 1, 0), math.ceil(count) + 2)


def _interval_over_genes(
    genes: int, first: Indices, second: Indices, recalled: Mask, replicates: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Percentile interval of recall over resampled genes; replicates that hold no known pair at all do not count."""
    rng = np.random.default_rng(seed)
    multiplicity = rng.multinomial(genes, np.full(genes, 1 / genes), size=replicates).T.astype(np.float64)  # (G, K)
    known = sparse.csr_array((np.ones(len(first)), (first, second)), shape=(genes, genes))
    found = sparse.csr_array((recalled.astype(np.float64), (first, second)), shape=(genes, genes))
    weight = np.einsum("gk,gk->k", multiplicity, known @ multiplicity)
    weight_found = np.einsum("gk,gk->k", multiplicity, found @ multiplicity)
    recalls = weight_found[weight > 0] / weight[weight > 0]
    if not recalls.size:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low, high = np.quantile(recalls, [tail, 1 - tail])
    return float(low), float(high)
