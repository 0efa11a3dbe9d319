"""`plan --power`: which difference in recall the study can tell, and how many seeds or genes a slope needs."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from harness.grid.cell import Cell
from harness.grid.cell_folder import PAIR_OUTCOMES
from harness.plan.cost import plan_cells
from harness.recipe.axes import Point
from harness.recipe.schema import Evaluate, Recipe
from harness.report.points import for_laws, points
from harness.storage.pair_outcomes import read_outcomes

if TYPE_CHECKING:
    from analysis.arrays import Floats
    from analysis.recall.outcomes import PairOutcomes
    from analysis.recall.pairs import Pairs
    from analysis.recall.power import Variation

MOST_MAPS = 12  # of a pilot, that are compared two by two
LEAST_DESIGNS = 3  # of a slope
ASSUMED, FINISHED, ONE_SEED = "assumptions", "the finished cells", "the finished cells, of one seed"


@dataclass(frozen=True)
class SourcePower:
    """What the study can tell of one source. Numbers that cannot be told are None."""

    source: str
    pairs: int  # known, of the assay's genes
    complexes: float  # as many of equal size as the pairs are spread over
    genes: int
    wells_per_gene: float
    told_by: str  # ASSUMED, FINISHED or ONE_SEED
    difference: float | None  # between two models of the grid, with its seeds
    slope: float | None  # per decade of compute
    wanted: float  # slope
    seeds_needed: int | None
    genes_factor: float | None  # times as many genes and complexes, with the grid's seeds


@dataclass(frozen=True)
class _Pilot:
    """The last finished maps of a source, and its recalls by design, one of each seed."""

    maps: list[tuple[Cell, PairOutcomes]]
    repeats: dict[tuple[Any, ...], list[float]]

    @property
    def has_seeds(self) -> bool:
        """Whether a design has several."""
        return any(len(recalls) > 1 for recalls in self.repeats.values())


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
        ValueError: the slope is not above 0, the study evaluates nothing, its shards are not built or lack a column or
            an experiment, or a list has no pair of its genes.
    """
    from analysis.recall.pairs import read_pairs

    settings = recipe.evaluate
    if not 0 < slope < math.inf:
        raise ValueError(f"--power: a slope is a number above 0 such as 0.01, in recall per decade, not {slope:g}")
    if settings is None or recipe.embed is None:
        raise ValueError("evaluate: this study measures no recall, so there is no power to plan")
    assay, computes = _assay(recipe, settings), _log_computes(recipe, grid)
    lists = [read_pairs(path, name) for name, path in settings.relationships.items()]
    pilot = _pilot(recipe, grid)
    return [_of_source(recipe, one, assay, computes, pilot.get(one.source), slope) for one in lists]


def _assay(recipe: Recipe, settings: Evaluate) -> _Assay:
    """The genes of the wells to be embedded, but of controls; named as evaluation names them."""
    from analysis.tables.names import name_of, names_of
    from analysis.tables.series import column_of
    from harness.data.shard_sets import open_shards
    from harness.data.wells import evaluation_wells

    assert recipe.embed is not None
    shards = open_shards(recipe, recipe.embed.shards)
    table, control = shards.table, settings.control
    for field, column in (("gene_column", settings.gene_column), ("control.column", control.column)):
        if column not in table.columns:
            raise ValueError(f"evaluate.{field}: the shards have no column {column!r}; they have {table.columns}")
    names = list(dict.fromkeys((settings.gene_column, control.column)))
    wells = table.frame(names).loc[evaluation_wells(shards, recipe.embed.experiments)]
    genes, marks = (names_of(column_of(wells[name]), name) for name in (settings.gene_column, control.column))
    treated = genes[(genes != "") & (marks != name_of(control.value, control.column))]
    return _Assay(dict(Counter(treated.tolist())))


def _log_computes(recipe: Recipe, grid: Sequence[Cell]) -> Floats:
    """log10 of the compute of each design that one law is fitted to (n,); seeds are repeats of one.

    A grid with axes has a law at each of their points. Of those, this is the one whose computes tell a slope least.
    """
    import numpy as np

    designs: dict[Point, dict[tuple[Any, ...], float]] = {}
    for plan in plan_cells(recipe, [cell for cell in grid if cell.kind == "trained"]):
        designs.setdefault(plan.cell.point, {})[_design(plan.cell)] = plan.flops[recipe.fit.convention]
    laws = [np.log10(np.array(sorted(found.values()), dtype=np.float64)) for found in designs.values()]
    return min(laws, key=lambda law: (len(law) >= LEAST_DESIGNS) * len(law) * law.var(), default=np.empty(0))


def _pilot(recipe: Recipe, grid: Sequence[Cell]) -> dict[str, _Pilot]:
    """What trained cells that are evaluated tell of each source."""
    table = for_laws(points(recipe, grid, recipe.fit.convention), recipe.fit)
    trained, cells = table[table["trained"].astype(bool)], {cell.id: cell for cell in grid}
    found = {str(source): _Pilot([], {}) for source in trained["source"].unique()}
    for row in trained.to_dict("records"):
        cell = cells[row["cell"]]
        found[row["source"]].repeats.setdefault(_design(cell), []).append(float(row["recall"]))
    for name in reversed(trained["cell"].unique().tolist()):
        if all(len(pilot.maps) >= MOST_MAPS for pilot in found.values()):
            break
        rows = trained[trained["cell"] == name]
        recalls = dict(zip(rows["source"].astype(str), rows["recall"].astype(float), strict=True))
        for source, outcomes in read_outcomes(recipe.output / "cells" / name / PAIR_OUTCOMES, recalls).items():
            found[source].maps.append((cells[name], outcomes))
    return found


def _design(cell: Cell) -> tuple[Any, ...]:
    """What seeds of a cell have in common."""
    return cell.model, cell.dataset, cell.point, cell.training.share if cell.training else None


def _of_source(
    recipe: Recipe, pairs: Pairs, assay: _Assay, computes: Floats, pilot: _Pilot | None, wanted: float
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
    variation, told_by = _measured(pilot), FINISHED if pilot and pilot.has_seeds else ONE_SEED
    if variation is None:
        variation, told_by = assumed_variation(design, assay.per_gene, recipe.evaluate.tails), ASSUMED
    seeds = len(recipe.grid.seeds)
    return SourcePower(
        source=pairs.source, pairs=len(design),
        complexes=float(len(design) ** 2 / np.sum(design.sizes.astype(float) ** 2)), genes=len(place),
        wells_per_gene=assay.per_gene, told_by=told_by, difference=_finite(variation.difference(seeds)),
        slope=_finite(variation.slope(computes, seeds)), wanted=wanted,
        seeds_needed=variation.seeds_for(wanted, computes),
        genes_factor=_finite(variation.genes_for(wanted, computes, seeds)),
    )  # fmt: skip


def _measured(pilot: _Pilot | None) -> Variation | None:
    """The variation of the finished cells; models are compared within a seed."""
    from analysis.recall.outcomes import aligned
    from analysis.recall.power import measured_variation

    if pilot is None or len(pilot.maps) < 2:
        return None
    compared = pilot.maps[:MOST_MAPS]
    both = aligned([outcomes for _, outcomes in compared]).common()
    rows = zip((cell for cell, _ in compared), both.recalled, strict=True)
    differences = [one - other for (a, one), (b, other) in itertools.combinations(rows, 2) if a.seed == b.seed]
    return measured_variation(both.design, differences, list(pilot.repeats.values()))


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
    if ASSUMED in told:
        lines.append(f"No finished cells tell how recalls vary. Assumed: {Assumptions()}.")
    if told & {FINISHED, ONE_SEED}:
        lines.append("How recalls vary is that of the finished cells, compared two by two within a seed.")
    if ONE_SEED in told:
        lines.append(f"No design has two seeds. Assumed: {Assumptions().seeds:g} of deviation over seeds.")
    lines.append("complexes: as many of equal size. genes: times as many genes and complexes, with the grid's seeds.")
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return "cannot tell" if value is None else f"{value:.3f}"
