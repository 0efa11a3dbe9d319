"""What the tables of a study's sets say: sizes, labels, columns, controls, genes and their relationships. No torch.

Tables are read with pyarrow, so a plan leaves this out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.recall.pairs import PairFileError, Pairs, read_pairs
from harness.check.problem import Problem, at
from harness.check.sets import too_few
from harness.check.study import Study
from harness.data.labels import labels_of
from harness.data.shard_sets import open_shards
from harness.data.wells import evaluation_wells, training_wells
from harness.evaluate.well_columns import needed_columns, problems, read_wells
from harness.grid.cell import Cell
from harness.recipe.schema import Evaluate
from shards.errors import ShardError

if TYPE_CHECKING:
    import pandas as pd

    from harness.data.shard_sets import ShardLocation
    from harness.data.wells import Wells
    from shards.reader.shard_set import ShardSet

USEFUL_PAIRS = 10  # fewer known pairs between a map's genes say next to nothing
OPTIONAL = ("treatment",)  # columns that evaluation uses where a set has them


def tables(study: Study) -> Iterator[Problem]:
    """Problems of all tables that can be read, and of the lists whose genes they must have."""
    at_place: dict[ShardLocation, ShardSet | None] = {}  # a set of many shards is looked for once
    opened: dict[str, ShardSet] = {}
    for path, section, _ in study.read():
        try:
            if section.shards not in at_place:
                at_place[section.shards] = None
                at_place[section.shards] = open_shards(study.recipe, section.shards)
        except (ShardError, OSError, ImportError) as error:
            yield at(f"{path}.shards", error)
        if (shards := at_place[section.shards]) is not None:
            opened[path] = shards
    for cell in study.distinct:
        if cell.training is not None and f"datasets.{cell.dataset}" in opened:
            yield from _training(study, cell, opened[f"datasets.{cell.dataset}"])
    if "embed" in opened:
        yield from _embedding(study, opened["embed"])


def _training(study: Study, cell: Cell, shards: ShardSet) -> Iterator[Problem]:
    """Images smaller than a crop, labels, and how many images there are to train on."""
    recipe = cell.recipe(study.recipe)
    dataset = recipe.datasets[cell.dataset or ""]
    wells = training_wells(shards, dataset.fraction)[1]
    yield from _too_small(shards, wells, recipe.mae.crop)
    yield from _too_small(shards, shards.indices("validation"), recipe.mae.crop)
    try:
        labels = labels_of(cell, shards, wells)
    except ValueError as error:
        yield at(f"models.{cell.model}.label", error)
        return
    count = len(wells) if labels is None else int((labels.of_well[wells] >= 0).sum())
    yield from too_few(cell, count)


def _too_small(shards: ShardSet, wells: Wells, crop: int) -> Iterator[Problem]:
    sides = shards.shapes[wells].min(axis=1) if len(wells) else None
    if sides is not None and sides.min() < crop:
        height, width = shards.shapes[wells[int(sides.argmin())]].tolist()
        text = f"is {crop}, but {shards.folder} has images of {height} x {width} pixels"
        yield Problem("mae.crop", f"{text}: at most {sides.min()} fits")


def _embedding(study: Study, shards: ShardSet) -> Iterator[Problem]:
    """Whether the wells to embed can be embedded and evaluated."""
    embed, evaluate = study.recipe.embed, study.recipe.evaluate
    assert embed is not None
    try:
        wells = evaluation_wells(shards, embed.experiments)
    except ValueError:  # as `sets.experiments` says
        return
    for cell in study.distinct:
        yield from _too_small(shards, wells, cell.recipe(study.recipe).mae.crop)
    if evaluate is None:
        return
    table = _columns(evaluate, shards).iloc[wells]
    wrong = problems(evaluate, table)
    yield from (Problem(f"evaluate.{field}", text) for field, text in wrong)
    if set(needed_columns(evaluate).values()) <= set(table.columns):
        genes = set(read_wells(evaluate, table).gene) - {""}
        yield from relationships(evaluate.relationships, genes, evaluate.gene_column)


def _columns(evaluate: Evaluate, shards: ShardSet) -> pd.DataFrame:
    """The columns that evaluation reads; those that the set lacks are left out."""
    known = shards.table.columns
    wanted = [name for name in dict.fromkeys([*needed_columns(evaluate).values(), *OPTIONAL]) if name in known]
    absent = set(needed_columns(evaluate).values()) - set(known)
    return shards.table.frame(known if absent else wanted)  # all of them, for a message that names them


def relationships(lists: Mapping[str, Path], genes: set[str], column: str) -> Iterator[Problem]:
    """Lists that cannot be read, or that know no pair of the map's genes."""
    for name, path in lists.items():
        field = f"evaluate.relationships.{name}"
        if not os.path.isfile(path):  # noqa: PTH113  (False in a closed folder)
            continue  # as `inputs.files` says
        try:
            pairs = _pairs(path)
        except PairFileError as error:
            yield at(field, error)
            continue
        known = sum(a in genes and b in genes for a, b in pairs.pairs)
        if genes and known < USEFUL_PAIRS:
            yield Problem(field, _few_pairs(pairs, known, genes, path, column), is_warning=known > 0)


@cache
def _pairs(path: Path) -> Pairs:
    return read_pairs(path)


def _few_pairs(pairs: Pairs, known: int, genes: set[str], path: Path, column: str) -> str:
    """How little a list and the genes of the wells have in common, with examples of both."""
    listed = {gene for pair in pairs.pairs for gene in pair}
    shared = f"{known or 'none'} of the {len(pairs.pairs):,} pairs of {path} has both genes"
    named = f"{len(genes):,} genes, of which {len(genes & listed):,} are listed"
    text = f"{shared} in the wells' column {column}, which names {named}"
    by_case = {gene.upper() for gene in genes} & {gene.upper() for gene in listed}
    if len(by_case) > len(genes & listed):
        return f"{text}; {len(by_case):,} would be if case did not count: write both alike"
    return f"{text}: the wells have {_some(genes - listed)}, the list {_some(listed - genes)}"


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) or "no others"
