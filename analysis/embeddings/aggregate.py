"""Aggregation of wells to guides to genes, and filters for the wells worth keeping.

Legend: W wells, U guides, G genes, D embedding width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.arrays import Features, Floats, Mask, Names
from analysis.embeddings.blocks import Corrected, blocks_of, coded, group_sums, rows_of_groups
from analysis.embeddings.checks import checked_features

Method = Literal["mean", "median"]


@dataclass(frozen=True)
class GeneMap:
    """One embedding per gene, genes in alphabetical order, with the number of wells and guides behind it."""

    genes: list[str]
    embeddings: Floats  # (G, D)
    wells: npt.NDArray[np.int64]  # (G,)
    guides: npt.NDArray[np.int64]  # (G,) 1 where no guides were given


@dataclass(frozen=True)
class KeptWells:
    """Which wells a filter keeps, and how many perturbations and wells it leaves out."""

    keep: Mask  # (W,)
    perturbations: int
    dropped_perturbations: int
    dropped_wells: int
    dropped_controls: int


def aggregate(
    embeddings: npt.ArrayLike,
    genes: Sequence[str],
    guides: Sequence[str] | None = None,
    method: Method = "mean",
) -> GeneMap:
    """Aggregate wells to genes: over the replicates of each guide, then over the guides of each gene.

    Args:
        embeddings: (W, D).
        genes: (W,) gene symbol of each well; wells without one ("", controls and compounds) are ignored.
        guides: (W,) guide of each well; without it every well of a gene has the same weight.
        method: mean, or the median of each feature, in both steps.

    Raises:
        ValueError: if lengths differ, a value is not finite, a gene is missing (None, NaN), or no well has one.
    """
    values = checked_features(embeddings)
    if method == "mean":
        return aggregate_blocks(Corrected(len(values), values.shape[1], blocks_of(values)), genes, guides)
    if method != "median":
        raise ValueError(f"no aggregation {method!r}; known: {', '.join(get_args(Method))}")
    guides_of = _guides_of(genes, guides, len(values))
    by_guide = _medians(values, guides_of.of_well, len(guides_of.gene))
    return guides_of.gene_map(_medians(by_guide, guides_of.gene, len(guides_of.genes)))


def aggregate_blocks(corrected: Corrected, genes: Sequence[str], guides: Sequence[str] | None = None) -> GeneMap:
    """`aggregate` by the mean, of wells that come in blocks: only the sums of the genes are kept."""
    guides_of = _guides_of(genes, guides, corrected.wells)
    guide = guides_of.of_well
    named = guide >= 0
    gene, share = np.full(len(guide), -1), np.zeros(len(guide))
    gene[named] = guides_of.gene[guide[named]]
    share[named] = 1 / (guides_of.wells[guide[named]] * guides_of.guides[gene[named]])
    weighted = ((rows, block * share[rows, None]) for rows, block in corrected.blocks)
    return guides_of.gene_map(group_sums(weighted, gene, (len(guides_of.genes), corrected.width)))


@dataclass(frozen=True)
class _Guides:
    """The U guides, in the order of their genes, and those in the order of their names."""

    genes: list[str]  # (G,) names
    gene: npt.NDArray[np.int64]  # (U,) number of each guide's gene, ascending
    wells: npt.NDArray[np.int64]  # (U,) how many each has
    of_well: npt.NDArray[np.int64]  # (W,) number of each well's guide, -1 for none

    @property
    def guides(self) -> npt.NDArray[np.int64]:
        """How many each gene has, (G,)."""
        return np.bincount(self.gene)

    def gene_map(self, embeddings: Floats) -> GeneMap:
        """The map with these embeddings of its genes, (G, D)."""
        wells = np.bincount(self.gene, self.wells).astype(np.int64)
        return GeneMap(self.genes, embeddings, wells, self.guides)


def _guides_of(genes: Sequence[str], guides: Sequence[str] | None, wells: int) -> _Guides:
    """Raises ValueError as `aggregate` does."""
    gene_of = np.asarray(genes, dtype=object)
    guide_of = np.full(len(gene_of), "", dtype=object) if guides is None else np.asarray(guides, dtype=object)
    if not wells == len(gene_of) == len(guide_of):
        raise ValueError(f"{wells} embeddings, but {len(gene_of)} genes and {len(guide_of)} guides")
    if (missing := pd.isna(gene_of)).any():
        raise ValueError(f'well {np.argmax(missing)} has a missing gene; wells without one must have ""')
    named = gene_of != ""
    if not named.any():
        raise ValueError("no well has a gene; nothing to aggregate")
    names, gene = coded(gene_of[named])
    guide_names, guide = coded(guide_of[named])
    pairs, number, counts = np.unique(gene * len(guide_names) + guide, return_inverse=True, return_counts=True)
    of_well = np.full(wells, -1)
    of_well[named] = number
    return _Guides(names, pairs // len(guide_names), counts, of_well)


def curate(
    perturbation: npt.ArrayLike,
    experiment: npt.ArrayLike,
    control: npt.ArrayLike,
    *,
    min_experiments: int = 1,
    min_wells: int = 1,
    controls_per_experiment: int | None = None,
    seed: int = 0,
) -> KeptWells:
    """Keep perturbations with enough experiments and wells, and at most the requested number of controls.

    Args:
        perturbation, experiment: (W,) names.
        control: (W,) true for negative controls, to which the two minima do not apply.
        min_experiments, min_wells: a perturbation in fewer is left out.
        controls_per_experiment: at most this many controls of each experiment are kept, drawn at random.

    Raises:
        ValueError: if lengths differ.
    """
    names, experiments, controls = np.asarray(perturbation), np.asarray(experiment), np.asarray(control, dtype=bool)
    if not names.shape == experiments.shape == controls.shape:
        raise ValueError(f"{len(names)} perturbations, {len(experiments)} experiments and {len(controls)} controls")
    treated = pd.DataFrame({"name": names[~controls], "experiment": experiments[~controls]})
    counts = treated.groupby("name")["experiment"].agg(["nunique", "size"])
    often = counts.index[(counts["nunique"] >= min_experiments) & (counts["size"] >= min_wells)]
    keep = np.where(controls, True, np.isin(names, often))
    dropped_wells = int((~keep).sum())
    if controls_per_experiment is not None:
        keep &= ~controls | _sample_controls(experiments, controls, controls_per_experiment, seed)
    return KeptWells(keep, len(often), len(counts) - len(often), dropped_wells, int((~keep).sum()) - dropped_wells)


def _sample_controls(experiments: Names, controls: Mask, most: int, seed: int) -> Mask:
    """At most `most` controls of each experiment."""
    rng, kept = np.random.default_rng(seed), np.zeros(len(controls), dtype=bool)
    for name in np.unique(experiments):
        rows = np.flatnonzero(controls & (experiments == name))
        kept[rng.permutation(rows)[:most]] = True
    return kept


def _medians(values: Features, group: npt.NDArray[np.int64], groups: int) -> Floats:
    """The median of each feature over the rows of each group, (groups, D); `group` is -1 for none."""
    rows_of = rows_of_groups(group, groups)
    return np.stack([np.median(values[rows].astype(np.float64), axis=0) for rows in rows_of])
