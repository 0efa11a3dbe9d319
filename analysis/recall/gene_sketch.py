"""What the choice of genes and pairs adds to a recall, in numbers that any two recalls of the same genes can share.

A recall over a sample of genes is off by noise that other recalls of the same genes share, more or less. A sketch is K
linear functionals of the per-pair deviations, with signs that only a gene's name determines. So sketches of different
maps, made at different times, are draws of one joint distribution: averages of their products estimate the covariance
of the recalls, and those of a linear combination of recalls its variance.

With e_d the deviation of pair d from the recall over the number of pairs, the covariance of two recalls is
sum over pairs that share a gene of e_d e'_d' (dyadic-robust: Aronow, Samii and Assenova 2015, "Cluster-robust variance
estimation for dyadic data"). Signs of genes, u_i + u_j for the pair (i, j), count a pair itself twice; products of
signs, v_i v_j, count it once. Their difference is that sum.

Legend: G genes, P pairs, K signs of each kind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats

SIGNS = 256
VERSION = 1
PAIRS_AT_ONCE = 16_384

Signs = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


def gene_sketch(genes: Sequence[str], first: Indices, second: Indices, recalled: Floats) -> Floats:
    """Sketch (2, K) of a recall: by genes, and by pairs.

    Args:
        genes: (G,) names.
        first: (P,) position of each known pair's first gene; likewise `second`.
        recalled: (P,) whether, or in which share of the nulls, each pair is recalled.
    """
    of_genes, of_pairs = _signs(genes)
    deviations = ((recalled - recalled.mean()) / len(recalled)).astype(np.float32)
    sums = np.zeros(len(genes), dtype=np.float32)
    for side in (first, second):
        np.add.at(sums, side, deviations)
    by_pairs = np.zeros(SIGNS)
    for start in range(0, len(first), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        by_pairs += deviations[part] @ (of_pairs[first[part]] * of_pairs[second[part]])
    return np.stack([sums @ of_genes, by_pairs]).astype(np.float64)


def _signs(genes: Sequence[str]) -> tuple[Signs, Signs]:
    """Two independent rows of signs for each gene (G, K), from its name alone."""
    size = 2 * SIGNS // 8
    digests = b"".join(hashlib.shake_256(f"{VERSION}/{gene}".encode()).digest(size) for gene in genes)
    bits = np.unpackbits(np.frombuffer(digests, dtype=np.uint8).reshape(len(genes), size), axis=1)
    signs = 2 * bits.astype(np.float32) - 1
    return signs[:, :SIGNS], signs[:, SIGNS:]


def sketched_variance(sketch: Floats) -> Floats:
    """Variance of a recall, or of a linear combination of recalls, from its sketch (..., 2, K).

    It is at least that of independent pairs, below which the estimate falls by chance alone.
    """
    by_genes, by_pairs = (np.mean(sketch[..., side, :] ** 2, axis=-1) for side in (0, 1))
    return np.asarray(np.maximum(by_genes - by_pairs, by_pairs), dtype=np.float64)
