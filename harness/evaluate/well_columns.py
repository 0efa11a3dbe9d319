"""The columns of wells that evaluation reads, and what would keep it from using them. No torch.

`harness.check` asks this of a set's table before a study begins, evaluation of a cell's embeddings.

Shapes: W wells.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.recall.placebos import COUNTS
from analysis.tables.names import name_of, names_of
from analysis.tables.series import column_of
from harness.recipe.schema import Control, Evaluate

WELL = "well"
BATCHWISE = ("tvn", "pca_centre_scale")  # corrections that are fitted on the controls of each batch
FEWEST_CONTROLS = 2  # of a batch, for its covariance
FEWEST_GENES = 3  # with fewer, there is no null to rank pairs in
MOST_SHOWN = 5

Problem = tuple[str, str]
"""A field of `evaluate`, and what is wrong with the wells, with what would be right."""


@dataclass(frozen=True)
class EvaluatedWells:
    """Metadata of the W wells, each of length W.

    Attributes:
        gene: blank for controls and wells without one.
        count: of biological cells, where a column has it.
    """

    gene: list[str]
    guide: list[str] | None
    batch: NDArray[Any]
    control: NDArray[np.bool_]
    position: list[str] | None
    count: NDArray[Any] | None


def needed_columns(settings: Evaluate) -> dict[str, str]:
    """The columns that evaluation cannot do without, by the field of `evaluate` that names each."""
    return {
        "batch_column": settings.batch_column,
        "control.column": settings.control.column,
        "gene_column": settings.gene_column,
    }


def problems(settings: Evaluate, table: pd.DataFrame) -> list[Problem]:
    """All that would keep these wells from being evaluated."""
    absent = [(field, name) for field, name in needed_columns(settings).items() if name not in table]
    if absent:
        has = f"it has {', '.join(map(str, table.columns))}"
        return [(field, f"no column {name!r}; {has}") for field, name in absent]
    return list(_problems(settings, table, read_wells(settings, table)))


def read_wells(settings: Evaluate, table: pd.DataFrame) -> EvaluatedWells:
    """The metadata of wells whose table has all `needed_columns`."""
    batch, gene = (_names(table, column) for column in (settings.batch_column, settings.gene_column))
    control = _names(table, settings.control.column) == name_of(settings.control.value, settings.control.column)
    gene[control] = ""  # a control may have a name there, which is no gene
    guide = _names(table, "treatment").tolist() if "treatment" in table else None
    position = _names(table, WELL).tolist() if WELL in table else None
    count = next((table[name].to_numpy() for name in table.columns if name.lower() in COUNTS), None)
    return EvaluatedWells(gene.tolist(), guide, batch, control, position, count)


def _problems(settings: Evaluate, table: pd.DataFrame, wells: EvaluatedWells) -> Iterator[Problem]:
    if (blank := wells.batch == "").any():
        where = f"the first is well {np.argmax(blank) + 1}"
        yield "batch_column", f"{blank.sum()} of {len(blank)} wells have no {settings.batch_column}, {where}"
    if settings.correction != "none" and not wells.control.any():
        yield "control.value", _without_controls(settings.control, table)
    elif settings.correction in BATCHWISE:
        yield from _poor_batches(settings, wells)
    genes = set(wells.gene) - {""}
    if len(genes) < FEWEST_GENES:
        named = f" ({', '.join(sorted(genes))})" if genes else ""
        few = f"column {settings.gene_column} names {len(genes)} genes{named} beside the controls"
        cure = "name the column of genes, or build the shards from a table that has one"
        yield "gene_column", f"{few}; at least {FEWEST_GENES} are needed: {cure}"


def _without_controls(control: Control, table: pd.DataFrame) -> str:
    counts = Counter(_names(table, control.column).tolist())
    in_order = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    values = [f"{value or '(blank)'} ({count:,})" for value, count in in_order[:MOST_SHOWN]]
    more = f" and {len(counts) - MOST_SHOWN:,} others" if len(counts) > MOST_SHOWN else ""
    near = difflib.get_close_matches(control.value, counts, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ": name the negative controls, by which wells are corrected"
    return f"column {control.column} has no {control.value}; it has {', '.join(values)}{more}{hint}"


def _poor_batches(settings: Evaluate, wells: EvaluatedWells) -> Iterator[Problem]:
    counts = Counter(wells.batch[wells.control].tolist())
    poor = [f"{name} ({counts[name]})" for name in sorted(set(wells.batch.tolist())) if counts[name] < FEWEST_CONTROLS]
    if poor:
        shown = ", ".join(poor[:MOST_SHOWN]) + (f" and {len(poor) - MOST_SHOWN:,} others" if poor[MOST_SHOWN:] else "")
        needs = f"{settings.correction} needs {FEWEST_CONTROLS} control wells in each {settings.batch_column}"
        cure = "choose a coarser batch_column, or correction centre_scale, which is fitted on all controls together"
        yield "batch_column", f"{needs}; too few in {shown}: {cure}"


def _names(table: pd.DataFrame, column: str) -> NDArray[Any]:
    return names_of(column_of(table[column]), column)
