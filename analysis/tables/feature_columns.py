"""Which columns of a table of wells are features: one rule for all commands.

1. Columns that start with the prefix that was asked for; else those of numbers or lists that start with "feature_",
   as in this project's own files, without metadata by name (`feature_count`).
2. Else columns that hold a list of numbers per well: all elements of all of them. Lists of whole numbers beside lists
   of fractions, boxes, and lists shorter than there are numbered columns or columns of compartments, are none; nor are
   lists of whole numbers shorter than there are other columns of numbers.
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
import pyarrow.compute as pc

from analysis.tables.dialect import UNNAMED
from analysis.tables.errors import TableError
from analysis.tables.list_columns import is_vector
from analysis.tables.names import PREFIXES, base_name, joined_name
from analysis.tables.parse_numbers import Numbers, parse_numbers
from analysis.tables.read_table import Table

METADATA = "Metadata_"  # pycytominer's prefix of columns that are not features
FEATURE = "feature_"  # prefix of feature columns in this project's own embeddings
COMPARTMENTS = ("Cells_", "Cytoplasm_", "Nuclei_")
"""CellProfiler's objects in Cell Painting; pycytominer takes their columns too, and no others."""
NUMBERED = re.compile(r"(?P<stem>.*?)[\W_]*(?P<number>\d+)(?P<rest>\D*)")
FAMILY, LARGE_FAMILY = 4, 8
"""The least number of columns of a numbered family without gaps, and of one with gaps."""
NAMES_OF_WELLS = """
    level sites fields fov position batches experiment screen rep run seed fold split key label labels class target
    donor channel imagenumber objectnumber tablenumber groupindex groupnumber cells nuclei ncells nnuclei numcells
    numberofcells nobjects year date control iscontrol chromosome chrom bbox box boundingbox shape imageshape
    centroid coordinates featurecount featureid featureset featuredim featuredimension nfeatures counts ntiles numtiles
    ncrops numcrops
"""
"""Without separators and prefixes; numbers in such columns describe a well."""
PARTS = "x y z pos position abs time h hours day image name number no num count level index rep"
IDENTITIES = """
    well plate row rows col cols column columns site field batch replicate guide guides sgrna gene treatment
    perturbation compound id ids
"""
"""A name of these words and of PARTS only describes a well: `well_row`, `Plate Number`, `PositionX`, `guide_1`."""
QUANTITIES = "concentration conc dose dosage mmoles barcode passage seeding timepoint entrez ncbi"
"""A name with one of these words describes a well: `log10_conc`, `compound concentration (uM)`."""
COUNTS = re.compile(r"(counts?|level|index)_.*|.*_id|(.*_)?(cell|nuclei|nucleus|object|spot)s?_?counts?|\.\.\.\d+")
"""`...1` is R's word for a column without a name."""
RUN_TOGETHER = re.compile(
    "(plate|well|batch|image|cell|sample|site|field|fov|experiment|replicate|donor|run|time|sgrna)"
    "(id|ids|number|no|name|index|row|col|column|barcode|point)"
)
IN_BRACKETS = re.compile(r"\[.*?\]|\(.*?\)")
"""A unit."""
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
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
    begin = [name for name in table.names if name.startswith(prefix or FEATURE)]
    named = tuple(name for name in begin if prefix or _is_ours(table, name))
    features = frozenset(named)
    others = [name for name in table.names if name not in features]
    if named:
        return FeatureColumns(named, _left_out(table, others))
    if prefix is not None:
        raise TableError(
            f"{table.source}: no column starts with {prefix!r}, so there are no features; it has {_listed(table.names)}"
        )
    candidates = [name for name in others if not _is_metadata(name) and holds_numbers(table.column(name))]
    chosen = _vectors(table)
    if len(_rivals(table, chosen, candidates)) > sum(_width(table.column(name)) for name in chosen):
        chosen = _of_structure(candidates)
    if not chosen:
        raise TableError(
            f"{table.source}: no column is numeric, so there are no features; it has {_listed(table.names)}"
            + "; --prefix says how theirs begin"
        )
    features = frozenset(chosen)
    return FeatureColumns(tuple(chosen), _left_out(table, [name for name in others if name not in features]))


def _is_ours(table: Table, name: str) -> bool:
    """Whether a column that begins like this project's features is one; those with a number are, whatever they hold."""
    column = table.column(name)
    if name.removeprefix(FEATURE).isdecimal():
        return True
    return not _is_metadata(name) and (is_vector(column.type) or holds_numbers(column))


def _vectors(table: Table) -> list[str]:
    """Columns of lists; without those of whole numbers where there are others."""
    kinds = {name: table.column(name).type for name in table.names}
    names = [name for name, kind in kinds.items() if is_vector(kind) and not _is_metadata(name)]
    fractions = [name for name in names if pa.types.is_floating(kinds[name].value_type)]
    return fractions or names


def _rivals(table: Table, vectors: Sequence[str], candidates: Sequence[str]) -> Sequence[str]:
    """Columns of numbers that are features instead of lists if there are more of them than elements."""
    fractions = any(pa.types.is_floating(table.column(name).type.value_type) for name in vectors)
    return _structured(candidates) if fractions else candidates


def _width(lists: pa.ChunkedArray) -> int:
    """Elements of the longest of the first lists."""
    return pc.max(pc.list_value_length(lists.slice(0, HEAD))).as_py() or 0


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
    structured = _structured(candidates)
    most = len(structured) > len(candidates) / 2 or any(name.startswith(COMPARTMENTS) for name in structured)
    return structured if most else list(candidates)


def _structured(candidates: Sequence[str]) -> list[str]:
    return [name for name in candidates if name.startswith(COMPARTMENTS)] or _families(candidates)


def _families(names: Sequence[str]) -> list[str]:
    """Columns that differ in a number from 0 or 1 on; with gaps where features were selected."""
    stems = defaultdict[tuple[str, str], dict[int, str]](dict)
    for name in names:
        if match := NUMBERED.fullmatch(name):
            stems[match["stem"], match["rest"]][int(match["number"])] = name
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
    words = [word.lower() for word in WORD.findall(IN_BRACKETS.sub("", PREFIXES.sub("", name)))]
    identities, quantities = frozenset(IDENTITIES.split()), frozenset(QUANTITIES.split())
    only_parts = any(len(word) > 1 for word in words) and identities.union(PARTS.split()).issuperset(words)
    return (
        joined_name(name) in NAMES_OF_WELLS.split()
        or (only_parts and (not NUMBERED.fullmatch(name) or not identities.isdisjoint(words)))
        or not quantities.isdisjoint(words)
        or RUN_TOGETHER.fullmatch(joined_name(name)) is not None
        or COUNTS.fullmatch(re.sub(r"[^\w.]+", "_", base_name(name))) is not None
    )


def _left_out(table: Table, names: Sequence[str]) -> tuple[str, ...]:
    """Those that hold numbers, without those that are metadata by their prefix and what every table has."""
    usual = {"well", "plate", "experiment", "site", "key"}
    others = (name for name in names if not name.startswith(METADATA) and base_name(name) not in usual)
    return tuple(name for name in others if _has_numbers(table.column(name)))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
