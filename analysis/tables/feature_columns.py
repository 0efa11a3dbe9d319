"""Which columns of a table of wells are features: one rule for all commands.

1. Columns that start with the prefix that was asked for; else those that start with "feature_", as in this project's
   own files.
2. Else columns that hold a list of numbers per well: all elements of all of them.
3. Else, of the columns that hold numbers and are not metadata by name: those of CellProfiler's compartments; else those
   of numbered families (`emb_0`, `emb_1`, ...) if these are most of them; else all.

What holds numbers and is not a feature is reported.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from analysis.tables.dialect import UNNAMED
from analysis.tables.errors import TableError
from analysis.tables.names import base_name
from analysis.tables.parquet_columns import is_vector
from analysis.tables.parse_numbers import Numbers, parse_numbers
from analysis.tables.read_table import Table

METADATA = "Metadata_"  # pycytominer's prefix of columns that are not features
FEATURE = "feature_"  # prefix of feature columns in this project's own embeddings
COMPARTMENTS = ("Cells_", "Cytoplasm_", "Nuclei_")
"""CellProfiler's objects in Cell Painting; pycytominer takes their columns too, and no others."""
NUMBERED = re.compile(r"(?P<stem>.*?)_?(?P<number>\d+)")
FAMILY, LARGE_FAMILY = 4, 8
"""The least number of columns of a numbered family without gaps, and of one with gaps."""
NAMES_OF_WELLS = """
    index level row rows col cols column columns well site sites field fields fov fieldid position plate batch
    experiment screen replicate rep run seed fold split passage guide guides sgrna gene treatment perturbation compound
    key id ids barcode label labels class target concentration conc dose dosage time timepoint donor channel imagenumber
    objectnumber tablenumber groupindex groupnumber count counts cells nuclei ncells nnuclei numcells numberofcells
"""
"""Without separators and prefixes; numbers in such columns describe a well."""
DESCRIBES = re.compile(
    r"(concentration|conc|dose|dosage|count|level|index)_.*|.*_id|(.*_)?(cell|nuclei|nucleus|object|spot)s?_?counts?"
)
HEAD = 64
"""Values by which most columns of text are told from numbers."""


@dataclass(frozen=True)
class FeatureColumns:
    """The columns that are features, and those that hold numbers and are not."""

    names: tuple[str, ...]
    left_out: tuple[str, ...]


def feature_columns(table: Table, prefix: str | None = None) -> FeatureColumns:
    """Choose the features of a table.

    Raises:
        TableError: there are none.
    """
    named = tuple(name for name in table.names if name.startswith(prefix or FEATURE))
    others = [name for name in table.names if not name.startswith(prefix or FEATURE)]
    if named:
        return FeatureColumns(named, _left_out(table, others))
    if prefix is not None:
        raise TableError(
            f"{table.source}: no column starts with {prefix!r}, so there are no features; it has {_listed(table.names)}"
        )
    vectors = tuple(name for name in others if is_vector(table.column(name).type) and not _is_metadata(name))
    if vectors:
        return FeatureColumns(vectors, _left_out(table, [name for name in others if name not in vectors]))
    candidates = [name for name in others if not _is_metadata(name) and holds_numbers(table.column(name))]
    chosen = _of_structure(candidates)
    if not chosen:
        raise TableError(
            f"{table.source}: no column is numeric, so there are no features; it has {_listed(table.names)}"
            + "; --prefix says how theirs begin"
        )
    features = frozenset(chosen)
    return FeatureColumns(tuple(chosen), _left_out(table, [name for name in others if name not in features]))


def holds_numbers(column: pa.ChunkedArray) -> bool:
    """Whether values, without missing ones, are numbers rather than words; booleans are none."""
    if pa.types.is_boolean(column.type) or is_vector(column.type):
        return False
    if not pa.types.is_string(column.type):
        return True
    head = parse_numbers(column.slice(0, HEAD))
    if not head.words and _count(head):
        return True  # a word below is then a fault of a column of numbers
    whole = parse_numbers(column) if len(column) > HEAD and (_count(head) or not head.words) else head
    return _count(whole) >= len(whole.words)


def _count(numbers: Numbers) -> int:
    """Numbers that were read, or meant and not read."""
    return int(np.count_nonzero(~np.isnan(numbers.values))) + len(numbers.faults)


def _has_numbers(column: pa.ChunkedArray) -> bool:
    return is_vector(column.type) or (holds_numbers(column) and _count(parse_numbers(column)) > 0)


def _of_structure(candidates: Sequence[str]) -> list[str]:
    compartments = [name for name in candidates if name.startswith(COMPARTMENTS)]
    if compartments:
        return compartments
    families = _families(candidates)
    return families if len(families) > len(candidates) / 2 else list(candidates)


def _families(names: Sequence[str]) -> list[str]:
    """Columns with one stem and numbers from 0 or 1; with gaps where features were selected."""
    stems = defaultdict[str, dict[int, str]](dict)
    for name in names:
        if match := NUMBERED.fullmatch(name):
            stems[match["stem"]][int(match["number"])] = name
    families = [numbered for numbered in stems.values() if _is_family(sorted(numbered))]
    members = {name for numbered in families for name in numbered.values()}
    return [name for name in names if name in members]


def _is_family(numbers: Sequence[int]) -> bool:
    gapless = numbers[0] <= 1 and numbers[-1] - numbers[0] == len(numbers) - 1
    return len(numbers) >= (FAMILY if gapless else LARGE_FAMILY)


def _is_metadata(name: str) -> bool:
    """Whether a column describes a well, by its name alone."""
    if name.startswith((METADATA, "Image_Metadata_", UNNAMED)):
        return True
    if name.startswith(COMPARTMENTS):
        return False
    base = base_name(name)
    return re.sub(r"[\W_]+", "", base) in NAMES_OF_WELLS.split() or DESCRIBES.fullmatch(base) is not None


def _left_out(table: Table, names: Sequence[str]) -> tuple[str, ...]:
    """Those that hold numbers, without those that are metadata by their prefix and what every table has."""
    usual = {"well", "plate", "experiment", "site", "key"}
    others = (name for name in names if not name.startswith(METADATA) and base_name(name) not in usual)
    return tuple(name for name in others if _has_numbers(table.column(name)))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
