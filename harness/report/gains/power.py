"""`plan --power`: which difference in recall the study can tell, and how many seeds or genes a slope needs."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from analysis.compute.flops import compute
from harness.grid.cell import Cell
from harness.grid.cell_folder import PAIR_OUTCOMES
from harness.models.architecture import cost_of
from harness.plan.cost import plan_cells
from harness.recipe.schema import Evaluate, Recipe
from harness.report.points import points
from harness.storage.pair_outcomes import read_outcomes

if TYPE_CHECKING:
    from analysis.arrays import Floats
    from analysis.recall.outcomes import PairOutcomes
    from analysis.recall.pairs import Pairs
    from analysis.recall.power import Variation

MOST_MAPS = 12  # of a pilot, that are compared two by two


@dataclass(frozen=True)
class SourcePower:
    """What the study can tell of one source. Numbers that cannot be told are None."""

    source: str
    pairs: int  # known, of the assay's genes
    complexes: float  # as many of equal size as the pairs are spread over
    genes: int
    wells_per_gene: float
    told_by: str  # a pilot, or assumptions
    difference: float | None  # between two models of the grid, with its seeds
    slope: float | None  # per decade of compute
    wanted: float  # slope
    seeds_needed: int | None
    genes_factor: float | None  # times as many genes and complexes, with the grid's seeds


@dataclass(frozen=True)
class _Assay:
    """The genes that the study embeds, with their wells."""

    wells: dict[str, int]

    @property
    def per_gene(self) -> float:
        return sum(self.wells.values()) / max(len(self.wells), 1)


def power(recipe: Recipe, grid: Sequence[Cell], slope: float) -> list[SourcePower]:
    """The power of each source of the study.

    Args:
        recipe: the study.
        grid: its cells.
        slope: in recall per decade of compute, that is to be told.

    Raises:
        ValueError: the study evaluates nothing, its shards are not built, or a list has no pair of its genes.
    """
    from analysis.recall.pairs import read_pairs

    settings = recipe.evaluate
    if settings is None or recipe.embed is None:
        raise ValueError("evaluate: this study measures no recall, so there is no power to plan")
    assay, computes = _assay(recipe, settings), _log_computes(recipe, grid)
    lists = [read_pairs(path, name) for name, path in settings.relationships.items()]
    pilot = _pilot(recipe, grid)
    return [_of_source(recipe, one, assay, computes, pilot.get(one.source, []), slope) for one in lists]


def _assay(recipe: Recipe, settings: Evaluate) -> _Assay:
    """The genes of the wells to be embedded, but of controls."""
    from harness.data.shard_sets import open_shards

    assert recipe.embed is not None
    wells = open_shards(recipe, recipe.embed.shards).wells
    if recipe.embed.experiments is not None:
        wells = wells[wells["experiment"].isin(recipe.embed.experiments)]
    column = settings.gene_column
    if column not in wells:
        raise ValueError(f"evaluate.gene_column: the shards have no column {column!r}; they have {list(wells.columns)}")
    counts = wells.loc[wells[column].astype(str) != "", column].astype(str).value_counts()
    return _Assay({str(gene): int(count) for gene, count in counts.items()})


def _log_computes(recipe: Recipe, grid: Sequence[Cell]) -> Floats:
    """log10 of the compute of each design of the grid (n,); seeds are repeats of one."""
    import numpy as np

    trained = [cell for cell in grid if cell.kind == "trained"]
    designs = {
        (plan.cell.model, plan.cell.dataset, plan.cell.point.coordinates().get("end")): compute(
            recipe.fit.convention, cost_of(plan.cell.architecture), plan.crops
        )
        for plan in plan_cells(recipe, trained)
        if plan.cell.architecture is not None and plan.crops
    }
    return np.log10(np.array(sorted(designs.values()), dtype=np.float64))


def _pilot(recipe: Recipe, grid: Sequence[Cell]) -> dict[str, list[tuple[Cell, PairOutcomes]]]:
    """The outcomes of trained cells that are evaluated, by source."""
    table = points(recipe, grid, recipe.fit.convention)
    trained, cells = table[table["trained"].astype(bool)], {cell.id: cell for cell in grid}
    found: dict[str, list[tuple[Cell, PairOutcomes]]] = {}
    for cell, rows in trained.groupby("cell", sort=False):
        recalls = dict(zip(rows["source"].astype(str), rows["recall"].astype(float), strict=True))
        for source, outcomes in read_outcomes(recipe.output / "cells" / str(cell) / PAIR_OUTCOMES, recalls).items():
            found.setdefault(source, []).append((cells[str(cell)], outcomes))
    return found


def _of_source(
    recipe: Recipe, pairs: Pairs, assay: _Assay, computes: Floats, pilot: Sequence[tuple[Cell, PairOutcomes]],
    wanted: float,
) -> SourcePower:  # fmt: skip
    import numpy as np

    from analysis.recall.pair_design import PairDesign
    from analysis.recall.power import assumed_variation

    place = {gene: number for number, gene in enumerate(sorted(assay.wells))}
    known = np.array([(place[a], place[b]) for a, b in pairs.pairs if a in place and b in place], dtype=np.int64)
    if not len(known):
        raise ValueError(
            f"{pairs.source}: none of its {len(pairs.pairs)} pairs has both genes among the assay's {len(place)}"
        )
    design = PairDesign.of(len(place), known[:, 0], known[:, 1])
    assert recipe.evaluate is not None
    variation, told_by = _measured(pilot), "the finished cells"
    if variation is None:
        variation, told_by = assumed_variation(design, assay.per_gene, recipe.evaluate.tails), "assumptions"
    seeds = len(recipe.grid.seeds)
    return SourcePower(
        source=pairs.source, pairs=len(design),
        complexes=float(len(design) ** 2 / np.sum(design.sizes.astype(float) ** 2)), genes=len(place),
        wells_per_gene=assay.per_gene, told_by=told_by, difference=_finite(variation.difference(seeds)),
        slope=_finite(variation.slope(computes, seeds)), wanted=wanted,
        seeds_needed=variation.seeds_for(wanted, computes),
        genes_factor=_finite(variation.genes_for(wanted, computes, seeds)),
    )  # fmt: skip


def _measured(pilot: Sequence[tuple[Cell, PairOutcomes]]) -> Variation | None:
    """The variation of the finished cells; models are compared within a seed."""
    from analysis.recall.outcomes import aligned
    from analysis.recall.power import measured_variation

    if len(pilot) < 2:
        return None
    repeats: dict[tuple[Any, ...], list[float]] = {}
    for cell, outcomes in pilot:
        repeats.setdefault((cell.model, cell.dataset, cell.point), []).append(outcomes.recall)
    compared = list(pilot)[-MOST_MAPS:]
    both = aligned([outcomes for _, outcomes in compared]).common()
    rows = zip((cell for cell, _ in compared), both.recalled, strict=True)
    differences = [
        one - other for (a, one), (b, other) in itertools.combinations(rows, 2) if a.seed == b.seed and a.id != b.id
    ]
    return measured_variation(both.design, differences, list(repeats.values()))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def as_json(found: Sequence[SourcePower]) -> str:
    """The power of every source, for scripts."""
    return json.dumps([asdict(one) for one in found], indent=1)


def text(found: Sequence[SourcePower]) -> str:
    """A table of every source, and what it rests on."""
    from analysis.figures.text_table import text_table
    from analysis.recall.power import LEVEL, POWER, Assumptions

    rows = [
        {"source": one.source, "pairs": f"{one.pairs:,}", "complexes": f"{one.complexes:.0f}",
         "wells/gene": f"{one.wells_per_gene:.1f}", "difference": _shown(one.difference), "slope": _shown(one.slope),
         f"seeds for {one.wanted:g}": "no number" if one.seeds_needed is None else str(one.seeds_needed),
         f"genes for {one.wanted:g}": "no number" if one.genes_factor is None else f"{one.genes_factor:.1f} ×"}
        for one in found
    ]  # fmt: skip
    lines = [
        f"The smallest difference of two models, and slope in recall per decade, that are told in {POWER:.0%} of such "
        f"studies ({LEVEL:.0%}, two-sided), with the grid's seeds:",
        text_table(rows, left=["source"]),
    ]
    told = {one.told_by for one in found}
    if "assumptions" in told:
        lines.append(f"No finished cells tell how recalls vary. Assumed: {Assumptions()}.")
    if "the finished cells" in told:
        lines.append("How recalls vary is that of the finished cells, compared two by two within a seed.")
    lines.append("complexes: as many of equal size. genes: times as many genes and complexes, with the grid's seeds.")
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "cannot tell" if value is None else f"{value:.3f}"
