"""Draw the ground truth of the demo assay: its genes, their complexes and pathways, and each gene's phenotype.

A phenotype is a vector of traits (`TRAITS`), in units of how much genes differ. Members of a complex share most of it,
complexes of a pathway share some of it, so both can be recalled from images, the second less easily.

Shapes: G genes, K traits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

TRAITS = (
    "nucleus_size", "nucleus_elongation", "cell_size", "nucleus_offset", "er_radius", "actin_cortex", "actin_spacing",
    "nucleolus_size", "mito_polarity", "mito_radius", "golgi_distance", "cell_elongation", "alignment",
)  # fmt: skip
Pair = tuple[str, str]


@dataclass(frozen=True)
class Truth:
    """Genes in order, with the complex (-1: none) and pathway of each, and phenotypes (G, K)."""

    genes: tuple[str, ...]
    complexes: NDArray[np.int64]
    pathways: NDArray[np.int64]
    phenotypes: NDArray[np.float64]


def draw_truth(seed: int, complexes: int, members: int, singles: int, complexes_per_pathway: int) -> Truth:
    """Draw genes and phenotypes: pathway + complex + gene parts, with variances 0.35, 0.65 and 0.2."""
    rng = np.random.default_rng([seed, 1])
    of_complex = np.concatenate([np.repeat(np.arange(complexes), members), np.full(singles, -1)])
    pathway_of = np.arange(complexes) // complexes_per_pathway
    of_pathway = np.where(of_complex >= 0, pathway_of[of_complex], -1)
    genes, traits = len(of_complex), len(TRAITS)
    shared = rng.normal(0, 0.35**0.5, (pathway_of.max() + 1, traits))[pathway_of]
    shared = shared + rng.normal(0, 0.65**0.5, (complexes, traits))
    unshared = rng.normal(0, 1, (genes, traits))
    phenotypes = np.where(of_complex[:, None] >= 0, shared[of_complex], unshared)
    phenotypes = phenotypes + rng.normal(0, 0.2**0.5, (genes, traits))
    names = tuple(f"DEMO{number:03d}" for number in range(1, genes + 1))
    return Truth(names, of_complex, of_pathway, phenotypes)


def relationships(truth: Truth, seed: int) -> dict[str, list[Pair]]:
    """Known pairs by source, each like the public source that it stands for.

    complexes (CORUM): every pair within a complex.
    clusters (hu.MAP): four in five of them, and one wrong pair for every four.
    pathways (Reactome): pairs of one pathway, across its complexes.
    network (StringDB): half of the complexes' pairs, a third of the pathways', and one wrong pair for every five.
    """
    rng = np.random.default_rng([seed, 2])
    within = _pairs_within(truth.genes, truth.complexes)
    pathway = sorted(set(_pairs_within(truth.genes, truth.pathways)) - set(within))
    clusters = _sample(within, 0.8, rng)
    network = _sample(within, 1 / 2, rng) + _sample(pathway, 1 / 3, rng)
    return {
        "complexes": within,
        "clusters": sorted({*clusters, *_random_pairs(truth.genes, len(clusters) // 4, rng)}),
        "pathways": pathway,
        "network": sorted({*network, *_random_pairs(truth.genes, len(network) // 5, rng)}),
    }


def _pairs_within(genes: tuple[str, ...], group: NDArray[np.int64]) -> list[Pair]:
    members = ([genes[i] for i in np.flatnonzero(group == g)] for g in np.unique(group[group >= 0]))
    return sorted(pair for names in members for pair in combinations(sorted(names), 2))


def _sample(pairs: list[Pair], share: float, rng: np.random.Generator) -> list[Pair]:
    return [pairs[i] for i in sorted(rng.permutation(len(pairs))[: round(share * len(pairs))])]


def _random_pairs(genes: Iterable[str], count: int, rng: np.random.Generator) -> list[Pair]:
    drawn = (rng.choice(list(genes), 2, replace=False) for _ in range(count))
    return [(min(a, b), max(a, b)) for a, b in drawn]
