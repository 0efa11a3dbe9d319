"""Aggregation of wells to guides to genes, and filters for the wells worth keeping.

Legend: W wells, G genes, D embedding width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.arrays import Floats, Mask, Names
from analysis.embeddings.checks import checked_embeddings

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
    values = checked_embeddings(embeddings)
    gene_of = np.asarray(genes, dtype=object)
    guide_of = np.full(len(gene_of), "") if guides is None else np.asarray(guides, dtype=object)
    if not len(values) == len(gene_of) == len(guide_of):
        raise ValueError(f"{len(values)} embeddings, but {len(gene_of)} genes and {len(guide_of)} guides")
    if (missing := pd.isna(gene_of)).any():
        raise ValueError(f'well {np.argmax(missing)} has a missing gene; wells without one must have ""')
    if method not in get_args(Method):
        raise ValueError(f"no aggregation {method!r}; known: {', '.join(get_args(Method))}")
    named = gene_of != ""
    if not named.any():
        raise ValueError("no well has a gene; nothing to aggregate")
    keys = [(str(gene), str(guide)) for gene, guide in zip(gene_of[named], guide_of[named], strict=True)]
    of_guides, by_guide, wells = _grouped(values[named], keys, method)
    only_gene = [(gene, "") for gene, _ in of_guides]
    of_genes, by_gene, guide_counts = _grouped(by_guide, only_gene, method)
    names = [gene for gene, _ in of_genes]
    well_counts = pd.Series(wells, [gene for gene, _ in of_guides]).groupby(level=0).sum().loc[names]
    return GeneMap(names, by_gene, well_counts.to_numpy(np.int64), guide_counts)


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


def _grouped(
    values: Floats, keys: Sequence[tuple[str, str]], method: Method
) -> tuple[list[tuple[str, str]], Floats, npt.NDArray[np.int64]]:
    """The rows of each key together, keys in ascending order, and how many rows each has."""
    names = sorted(set(keys))
    position = {name: index for index, name in enumerate(names)}
    group = np.array([position[key] for key in keys])
    order, counts = np.argsort(group, kind="stable"), np.bincount(group)
    starts = np.cumsum(counts) - counts
    if method == "mean":
        means = np.add.reduceat(values[order], starts, axis=0) / counts[:, None]
        return names, means, counts
    parts = np.split(values[order], starts[1:])
    return names, np.stack([np.median(part, axis=0) for part in parts]), counts
