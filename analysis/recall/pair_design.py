"""Which known pairs vary together: pairs that share a gene, and pairs of one complex.

A relationship list says which genes belong together, not in which complexes. Complexes are found as sets of genes in
which at least a fifth of all pairs are known (Leiden with the constant Potts model: Traag, Waltman and van Eck 2019,
"From Louvain to Leiden"). Pairs within one complex are a group, and so are the pairs between two complexes.

Legend: G genes, P known pairs, C groups, M memberships, each a gene in a group that has pairs of it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats

Indices = npt.NDArray[np.int64]

DENSITY = 1 / 5  # of known pairs in a complex, at least
SEED = 0
KEPT = 16  # designs


@dataclass(frozen=True)
class PairDesign:
    """The structure of P known pairs of G genes."""

    genes: int
    first: Indices  # (P,)
    second: Indices  # (P,)
    group: Indices  # (P,) the complex of each pair, or the two complexes that it is between

    @staticmethod
    def of(genes: int, first: Indices, second: Indices) -> PairDesign:
        """Find the complexes of the pairs (first, second) of gene positions; no pair occurs twice.

        The maps of a study share their pairs, whose design is kept.
        """
        first_key, second_key = (np.asarray(places, dtype=np.int64).tobytes() for places in (first, second))
        return _design(genes, first_key, second_key)

    def __len__(self) -> int:
        return len(self.first)

    @cached_property
    def sizes(self) -> Indices:
        """Pairs of each group (C,)."""
        return np.bincount(self.group).astype(np.int64)

    @cached_property
    def degrees(self) -> Indices:
        """Pairs of each gene (G,)."""
        return np.bincount(np.concatenate([self.first, self.second]), minlength=self.genes).astype(np.int64)

    @property
    def hubs(self) -> float:
        """How many genes with as many pairs as the largest hub hold all pairs; a lone hub's own part cannot be told."""
        return len(self) / float(self.degrees.max())

    @cached_property
    def memberships(self) -> Memberships:
        """The genes of each group."""
        keys = np.concatenate([self.group * self.genes + self.first, self.group * self.genes + self.second])
        known, place = np.unique(keys, return_inverse=True)
        return Memberships(
            known // self.genes, np.bincount(place).astype(np.float64), place[: len(self)], place[len(self) :]
        )

    def gene_sums(self, values: Floats) -> Floats:
        """Sum of the values (P,) of each gene's pairs (G,)."""
        sums = np.bincount(self.first, values, self.genes) + np.bincount(self.second, values, self.genes)
        return np.asarray(sums, dtype=np.float64)


@dataclass(frozen=True)
class Memberships:
    """Each gene in each group that has pairs of it."""

    group: Indices  # (M,)
    degree: Floats  # (M,) pairs of the gene in the group
    first: Indices  # (P,) membership of each pair's first gene
    second: Indices  # (P,)


@lru_cache(maxsize=KEPT)
def _design(genes: int, first_key: bytes, second_key: bytes) -> PairDesign:
    """The design of pairs given by the bytes of their positions."""
    first, second = (np.frombuffer(key, dtype=np.int64) for key in (first_key, second_key))
    complexes = _complexes(genes, first, second)
    low, high = (pick(complexes[first], complexes[second]) for pick in (np.minimum, np.maximum))
    _, group = np.unique(low * genes + high, return_inverse=True)
    return PairDesign(genes, first, second, group.astype(np.int64))


def _complexes(genes: int, first: Indices, second: Indices) -> Indices:
    """The complex of each gene (G,); a gene of no dense set is alone."""
    import igraph

    graph = igraph.Graph(n=genes, edges=np.stack([first, second], axis=1).tolist())
    igraph.set_random_number_generator(random.Random(SEED))
    try:
        found = graph.community_leiden(objective_function="CPM", resolution=DENSITY, n_iterations=-1)
    finally:
        igraph.set_random_number_generator(random)
    return np.asarray(found.membership, dtype=np.int64)
