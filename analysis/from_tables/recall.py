"""Recall from tables of wells: read, correct, aggregate to genes, and measure, as `python -m analysis.evaluate` does.

Legend: W wells, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from analysis.arrays import Floats, Mask
from analysis.embeddings.aggregate import GeneMap, Method, aggregate, aggregate_blocks
from analysis.embeddings.blocks import Corrected
from analysis.embeddings.corrections import Correction, corrected
from analysis.embeddings.feature_tables import FeatureTable, controls, filled, parse_control, read_wells
from analysis.recall.gain import RecallGain, recall_gain
from analysis.recall.outcomes import PairOutcomes
from analysis.recall.pairs import Pairs
from analysis.recall.placebo_panel import PlaceboPanel, placebo_panel
from analysis.recall.placebos import number_features, position_features, random_features, shuffled
from analysis.recall.relationship_recall import RecallProtocol, RecallResult, Thresholds, recall_of_pairs


@dataclass(frozen=True)
class MapOptions:
    """How wells become genes."""

    key: str = "gene"  # column of gene symbols
    guide: str | None = None  # column of guides, averaged before the genes
    average: Method = "mean"
    correct: Correction = "none"
    batch: str | None = None  # column of batches
    control: str | None = None  # COLUMN=VALUE of negative controls
    prefix: str | None = None  # of feature columns


@dataclass(frozen=True)
class TableMap:
    """The genes of tables of wells, with what they were made of."""

    wells: FeatureTable
    control: Mask  # (W,)
    genes: list[str]  # (W,) "" for controls
    gene_map: GeneMap
    options: MapOptions

    def of(self, features: Floats) -> GeneMap:
        """The genes by other features (W, D) of the same wells."""
        return _gene_map(self.options, self.wells, features, self.control, self.genes)


def map_of_tables(paths: Sequence[Path], options: MapOptions) -> TableMap:
    """Read tables of wells and aggregate them to genes.

    Raises:
        ValueError: a table, a column, the controls or the features cannot be used.
    """
    wells = read_wells(paths, options.prefix)
    names = wells.column(options.key).tolist()
    control = np.zeros(len(wells.metadata), dtype=bool)
    if options.control:
        control = controls(wells, parse_control(options.control))
    genes = ["" if is_control else name for name, is_control in zip(names, control, strict=True)]
    return TableMap(wells, control, genes, _gene_map(options, wells, wells.features, control, genes), options)


def _gene_map(
    options: MapOptions, wells: FeatureTable, features: Floats, control: Mask, genes: Sequence[str]
) -> GeneMap:
    """The genes by features (W, D) of the wells; a mean needs no copy of them."""
    guides = wells.column(options.guide).tolist() if options.guide else None
    stream = _corrected(options, wells, features, control)
    if options.average == "mean":
        return aggregate_blocks(stream, genes, guides)
    return aggregate(stream.array(), genes, guides, options.average)


def _corrected(options: MapOptions, wells: FeatureTable, features: Floats, control: Mask) -> Corrected:
    if options.correct == "none":
        return corrected("none", features, control, control)
    if not options.control or (options.correct != "centre_scale" and not options.batch):
        needs = "--control COLUMN=VALUE" + ("" if options.correct == "centre_scale" else " and --batch COLUMN")
        raise ValueError(f"--correct {options.correct} needs {needs}: it is fitted on control wells")
    batch = filled(wells, options.batch).to_numpy(str) if options.batch else np.zeros(len(control), dtype=bool)
    return corrected(options.correct, features, control, batch)


def placebos_of_tables(
    found: TableMap, lists: Sequence[Pairs], protocol: RecallProtocol, tails: Thresholds,
    *, well: str | None = None, count: str | None = None,
) -> PlaceboPanel:  # fmt: skip
    """What placebos recall by the same wells, correction and lists.

    Args:
        found: the model's map.
        lists: the relationships.
        protocol: which null.
        tails: the thresholds.
        well: column of the wells' names, for the placebo of their position.
        count: column of the number of cells.

    Raises:
        ValueError: a column is missing.
    """

    def measure(features: Floats) -> list[RecallResult]:
        return _recalls(found.of(features), lists, protocol, tails)

    names = found.gene_map.genes
    features: dict[str, Callable[[], Floats]] = {"random_features": partial(random_features, len(found.genes))}
    if well:
        features["well_position"] = partial(position_features, found.wells.column(well).tolist())
    if count:
        features["cell_count"] = partial(number_features, _numbers(found.wells, count))
    others = [shuffled(one, names) for one in lists]
    return placebo_panel(features, measure, _recalls(found.gene_map, others, protocol, tails))


def _recalls(genes: GeneMap, lists: Sequence[Pairs], protocol: RecallProtocol, tails: Thresholds) -> list[RecallResult]:
    measured = recall_of_pairs(genes.genes, genes.embeddings, lists, protocol=protocol, thresholds=[tails])
    return [result for result, _ in measured]


def _numbers(wells: FeatureTable, column: str) -> Floats:
    try:
        return np.array(wells.column(column).tolist(), dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"column {column!r} is not a number of cells in every row: {error}") from error


def gains_of_tables(
    maps: Sequence[Sequence[Path]], others: Sequence[Sequence[Path]], lists: Sequence[Pairs], options: MapOptions,
    *, protocol: RecallProtocol = "current", tails: Thresholds = (0.05, 0.95), confidence: float = 0.9,
) -> list[RecallGain]:  # fmt: skip
    """What maps recall more than others of the same genes, by source; anyone's two tables, or two of each seed.

    Args:
        maps: the tables of each seed of a trained model, or of one model.
        others: the tables of each seed's own initialisation, or of the other model, in the same order.
        lists: the relationships.
        options: how wells become genes, the same for all.
        protocol: which null.
        tails: the thresholds.
        confidence: of the intervals.

    Raises:
        ValueError: a table cannot be used, or there are not as many maps as others.
    """
    if len(maps) != len(others):
        raise ValueError(f"{len(maps)} trained maps and {len(others)} initial ones: each needs one of its own")
    ours, theirs = ([_outcomes(paths, lists, options, protocol, tails) for paths in side] for side in (maps, others))
    return [
        recall_gain([one[number] for one in ours], [one[number] for one in theirs], confidence)
        for number in range(len(lists))
    ]


def _outcomes(
    paths: Sequence[Path], lists: Sequence[Pairs], options: MapOptions, protocol: RecallProtocol, tails: Thresholds
) -> list[PairOutcomes]:
    genes = map_of_tables(paths, options).gene_map
    measured = recall_of_pairs(
        genes.genes, genes.embeddings, lists, protocol=protocol, thresholds=[tails], confidence=None
    )
    return [outcomes for _, outcomes in measured]
