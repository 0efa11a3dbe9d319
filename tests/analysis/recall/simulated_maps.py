"""Simulated maps of complexes whose expected recall is known: embeddings, and outcomes of pairs.

Legend: G genes, P known pairs, C complexes, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.recall.outcomes import PairOutcomes
from analysis.recall.pair_design import PairDesign

Array = np.ndarray


@dataclass(frozen=True)
class Complexes:
    """Complexes with no gene in common; all pairs within each are known."""

    sizes: Array  # (C,) genes

    @property
    def member_of(self) -> Array:
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    def pairs(self) -> tuple[Array, Array]:
        """(P,) and (P,) genes, first < second."""
        starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        within = [np.stack(np.triu_indices(size, 1)) + start for size, start in zip(self.sizes, starts, strict=True)]
        first, second = np.concatenate(within, axis=1)
        return first.astype(np.int64), second.astype(np.int64)

    def design(self) -> PairDesign:
        return PairDesign.of(int(self.sizes.sum()), *self.pairs())


def equal(count: int = 20, size: int = 7) -> Complexes:
    return Complexes(np.full(count, size))


def unequal(rng: np.random.Generator, count: int = 25, most: int = 40) -> Complexes:
    """Sizes of 3 to `most` genes, log-normal, so that few complexes have most of the pairs."""
    return Complexes(np.clip(np.round(np.exp(rng.normal(1.7, 0.8, count))), 3, most).astype(int))


def embeddings(of: Complexes, strength: Array, rng: np.random.Generator, unrelated: int = 120) -> Array:
    """Genes of a complex lie around a centre, at a distance that is the complex's own strength (C,): (G, D)."""
    width, member = 24, of.member_of
    centres = rng.normal(size=(len(of.sizes), width))
    genes = strength[member, None] * centres[member] + rng.normal(size=(len(member), width))
    return np.vstack([genes, rng.normal(size=(unrelated, width))])


def outcomes(of: Complexes, score: Array, source: str = "list") -> PairOutcomes:
    """Pairs with a positive score (P,) are recalled."""
    first, second = of.pairs()
    names = tuple(f"g{gene}" for gene in range(int(of.sizes.sum())))
    return PairOutcomes(source, names, first, second, (score > 0).astype(float))
