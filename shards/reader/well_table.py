"""Read the table of a set, `wells.parquet`, which may be damaged or written by anybody.

Its SHA-256 is compared with the manifest's whenever it is read, and columns, types, counts and values are checked
before they are used. It is in memory only while it is read, and never mapped: a mapped file that another process cuts
ends this process. For some rows only their row groups are read, whose CRC-32Cs are known since the set was opened.

Shapes: W wells of the set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.codecs import crc32c
from shards.format.manifest import MANIFEST, Manifest
from shards.format.payload import MAX_IMAGE_BYTES
from shards.format.source import Source
from shards.format.writer import WELLS

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from pyarrow.parquet import ColumnChunkMetaData, FileMetaData, ParquetFile

TEXT, SIDES = ("key", "experiment", "shard", "split"), ("height", "width")
MAX_ROW_BYTES = 1 << 16
"""Bytes per row of the table, on average, above which it is refused."""


@dataclass(frozen=True)
class WellTable:
    """The columns of a set's table that every reader needs. The others are read when they are asked for."""

    source: Source = field(repr=False)
    manifest: Manifest = field(repr=False)
    experiments: tuple[str, ...]
    codes: NDArray[np.int32] = field(repr=False)  # (W,): each well's number among the experiments
    shapes: NDArray[np.int64] = field(repr=False)  # (W, 2): height and width; a view of one row where all are the same
    _ends: tuple[int, ...] = field(repr=False)  # of each shard's rows
    _footer: FileMetaData = field(repr=False)
    _pieces: tuple[_Piece, ...] = field(repr=False)  # of the file, which hold its rows in order

    @classmethod
    def open(cls, source: Source, manifest: Manifest) -> WellTable:
        """Read and check the table; ShardError, with file and column, if it is not what the manifest says."""
        known, codes, shapes = dict[str, int](), list[NDArray[np.int32]](), list[NDArray[np.int64]]()
        data = _load(source, manifest)
        with _decoded(source, manifest, data) as file:
            for group in _groups(file, ["experiment", *SIDES]):
                coded = group["experiment"].chunk(0)
                numbers = [known.setdefault(name, len(known)) for name in coded.dictionary.to_pylist()]
                codes.append(np.array(numbers, np.int32)[np.from_dlpack(coded.indices)])
                shapes.append(_shapes(group, manifest))
            if (rows := sum(map(len, codes))) != sum(manifest.wells.values()):
                raise ShardError(f"{rows} rows, but {MANIFEST} states {sum(manifest.wells.values())} wells")
            footer, pieces = file.metadata, _pieces(file.metadata, data)
        ends = tuple(accumulate(shard.wells for shard in manifest.shards))
        return cls(source, manifest, tuple(known), np.concatenate(codes), _joined(shapes), ends, footer, pieces)

    @property
    def columns(self) -> list[str]:
        """The names of all columns."""
        return [str(name) for name in self._footer.schema.to_arrow_schema().names]

    def frame(self, names: Sequence[str] | None = None) -> pd.DataFrame:
        """All rows of the named columns, or of all, as a pandas table."""
        with _decoded(self.source, self.manifest, _load(self.source, self.manifest)) as file:
            return _frame([_plain(group) for group in _groups(file, names or file.schema_arrow.names)])

    def rows(self, wells: NDArray[np.int64], names: Sequence[str] | None = None) -> pd.DataFrame:
        """Some rows of the named columns, or of all, as a pandas table whose index is their numbers.

        Whole numbers that are missing elsewhere in a column, and not in these rows, are integers here.

        Args:
            wells: numbers of the rows, in any order.
            names: the columns.

        Raises:
            ValueError: a number is not one of a row.
            ShardError: the table is not what it was when the set was opened.
        """
        ends = np.cumsum([len(piece.rows) for piece in self._pieces])
        if len(wells) and not 0 <= wells.min() <= wells.max() < ends[-1]:
            raise ValueError(f"well {wells.min()} or {wells.max()} is not one of {ends[-1]} wells")
        numbers = np.unique(wells)
        own = np.split(numbers, np.searchsorted(numbers, ends[:-1]))
        held = [one for one in zip(self._pieces, own, strict=True) if len(one[1])] or [(self._pieces[0], numbers)]
        return _frame([part for one in held for part in self._rows_of(*one, names)]).set_axis(numbers).loc[wells]

    def _rows_of(self, piece: _Piece, wells: NDArray[np.int64], names: Sequence[str] | None) -> Iterator[pa.Table]:
        """Rows of one piece of the file, by their ascending numbers in the set."""
        data = np.zeros(self._pieces[-1].end, np.uint8)  # only the pages that are written to take memory
        (read,) = self.source.ranges([(WELLS, piece.begin, piece.end)])
        if crc32c(read) != piece.crc:
            raise _another_table(self.source)
        data[piece.begin : piece.end] = np.frombuffer(read, np.uint8)
        first = piece.rows.start
        with _decoded(self.source, self.manifest, data, self._footer) as file:
            for group in _groups(file, names or file.schema_arrow.names, piece.groups):
                own = wells[(wells >= first) & (wells < first + len(group))] - first
                yield _plain(group.take(own))
                first += len(group)

    def shapes_of(self, number: int) -> NDArray[np.int64]:
        """Heights and widths of the images of a shard, (wells, 2)."""
        return self.shapes[self._ends[number] - self.manifest.shards[number].wells : self._ends[number]]

    def keys_of(self, number: int) -> list[str]:
        """Keys of the images of a shard, in order."""
        end = self._ends[number]
        begin, first, keys = end - self.manifest.shards[number].wells, 0, list[str]()
        with _decoded(self.source, self.manifest, _load(self.source, self.manifest)) as file:
            for group in _groups(file, ["key"]):
                start = max(0, begin - first)
                keys += group["key"].slice(start, max(0, end - first - start)).to_pylist()
                first += len(group)
        return keys


@dataclass(frozen=True)
class _Piece:
    """Row groups of the file that are read together: their bytes, as they were when the table was checked."""

    rows: range
    groups: range
    begin: int
    end: int
    crc: int


def _pieces(footer: FileMetaData, data: bytes) -> tuple[_Piece, ...]:
    """A piece for each row group; one of the whole file where row groups do not follow one another in it."""
    pieces, row, last = list[_Piece](), 0, 0
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        columns = [group.column(column) for column in range(group.num_columns)]
        begin, end = min(map(_begin, columns)), max(_begin(one) + one.total_compressed_size for one in columns)
        if not last <= begin <= end <= len(data):
            whole = range(footer.num_rows), range(footer.num_row_groups)
            return (_Piece(*whole, 0, len(data), crc32c(data)),)
        rows = range(row, row + group.num_rows)
        pieces.append(_Piece(rows, range(number, number + 1), begin, end, crc32c(data[begin:end])))
        row, last = row + group.num_rows, end
    return tuple(pieces)


def _begin(column: ColumnChunkMetaData) -> int:
    """First byte of a column in a row group. Some writers state 0 where there is no dictionary."""
    return int(column.dictionary_page_offset or column.data_page_offset)


def _load(source: Source, manifest: Manifest) -> bytes:
    """The bytes of the table; ShardError if they are not those of the manifest."""
    data = source.load(WELLS, MAX_ROW_BYTES * _rows(manifest)) if source.size(WELLS) is not None else b""
    if hashlib.sha256(data).hexdigest() != manifest.wells_sha256:
        raise _another_table(source)
    return data


def _another_table(source: Source) -> ShardError:
    return ShardError(f"{source.place}/{WELLS}: not the table that {MANIFEST} describes: build the set again")


@contextmanager
def _decoded(
    source: Source, manifest: Manifest, data: bytes | NDArray[np.uint8], footer: FileMetaData | None = None
) -> Iterator[ParquetFile]:
    """The table, its structure verified; whatever fails in the block becomes a ShardError.

    It is decoded from the bytes that were hashed. Arrow would also start a thread to read from a file.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    path = f"{source.place}/{WELLS}"
    try:
        first = parquet.ParquetFile(pa.BufferReader(pa.py_buffer(data)), metadata=footer)
        text = [column.name for column in first.schema_arrow if _is_text(column.type)]
        _check(first, manifest)
        # As dictionaries: one long string that is named by many rows is expanded only after its size is checked.
        yield parquet.ParquetFile(pa.BufferReader(pa.py_buffer(data)), metadata=first.metadata, read_dictionary=text)
    except ShardError as error:
        raise ShardError(f"{path}: {error}") from None
    except (pa.ArrowException, ValueError, TypeError, OSError, KeyError, OverflowError, MemoryError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ShardError(f"{path}: cannot be read: {type(error).__name__}: {reason}") from None


def _rows(manifest: Manifest) -> int:
    return sum(manifest.wells.values()) + 16  # some rows more, for what does not depend on their number


def _check(file: ParquetFile, manifest: Manifest) -> None:
    """Refuse a table of other columns, types or counts than this format has, before any of it is decoded."""
    from pyarrow import types

    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    rows, size = file.metadata.num_rows, sum(group.total_byte_size for group in groups)
    if rows != sum(manifest.wells.values()) or any(not 0 <= group.num_rows <= rows for group in groups):
        raise ShardError(f"{rows} rows, but {MANIFEST} states {sum(manifest.wells.values())} wells")
    if size > MAX_ROW_BYTES * _rows(manifest):
        raise ShardError(f"{rows} rows of {size} bytes; {MAX_ROW_BYTES} per row are the limit")
    kinds = {column.name: column.type for column in file.schema_arrow}
    if missing := sorted({*TEXT, *SIDES} - set(kinds)):
        raise ShardError(f"no column {', '.join(missing)}")
    for name, kind in kinds.items():
        plain = _is_text(kind) or any(test(kind) for test in (types.is_primitive, types.is_null))
        if not plain or (name in TEXT and not _is_text(kind)) or (name in SIDES and not types.is_integer(kind)):
            wanted = "text" if name in TEXT else "integers" if name in SIDES else "text or numbers"
            raise ShardError(f"column {name} holds {kind}, not {wanted}")


def _groups(file: ParquetFile, names: Sequence[str], numbers: range | None = None) -> Iterator[pa.Table]:
    """Columns of each row group, each in one chunk, text as dictionaries; one group is in memory at a time."""
    for number in range(file.num_row_groups) if numbers is None else numbers:
        read = file.read_row_group(number, list(names), use_threads=False)
        read.validate(full=True)  # Arrow does not compare the numbers of a dictionary's texts with their count
        group = read.unify_dictionaries().combine_chunks()
        for name in names:
            if name in (*TEXT, *SIDES) and group[name].null_count:
                raise ShardError(f"column {name} lacks {group[name].null_count} values")
        if len(group):
            yield group


def _plain(group: pa.Table) -> pa.Table:
    """A row group with its text expanded, if that is not too long."""
    import pyarrow as pa
    import pyarrow.compute as compute

    columns = {}
    for name in group.column_names:
        column = columns[name] = group[name].chunk(0)
        if pa.types.is_dictionary(column.type):
            lengths = compute.binary_length(column.dictionary).take(column.indices)
            if (compute.sum(lengths).as_py() or 0) > MAX_ROW_BYTES * (len(group) + 16):
                raise ShardError(f"column {name}: its text is longer than {MAX_ROW_BYTES} bytes per row")
            columns[name] = column.cast(column.type.value_type)
    return pa.table(columns)


def _frame(groups: Sequence[pa.Table]) -> pd.DataFrame:
    import pyarrow as pa

    # Without threads: see shards.tables.parquet. Metadata in the file must not choose types or an index.
    frame: pd.DataFrame = pa.concat_tables(groups).to_pandas(use_threads=False, ignore_metadata=True)
    return frame


def _shapes(group: pa.Table, manifest: Manifest) -> NDArray[np.int64]:
    """Height and width of each image of a row group, (rows, 2), none of more pixels than an image may have."""
    columns = [np.from_dlpack(group[side].chunk(0).cast("int64")) for side in SIDES]
    same = all((column == column[0]).all() for column in columns)
    sides = np.array([[column[0] for column in columns]]) if same else np.stack(columns, axis=1)
    pixels = MAX_IMAGE_BYTES // (len(manifest.channels) * np.dtype(manifest.pixel_type).itemsize)
    bounded = np.clip(sides, 0, pixels)  # so that the product cannot wrap
    wrong = (bounded != sides).any(axis=1) | (bounded[:, 0] * bounded[:, 1] > pixels) | (sides == 0).any(axis=1)
    if wrong.any():
        height, width = sides[np.argmax(wrong)].tolist()
        raise ShardError(f"height and width: an image of {height} x {width} pixels; {pixels} pixels are the limit")
    return np.broadcast_to(sides[0], (len(group), 2)) if same else sides


def _joined(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    if all(part.strides[0] == 0 and (part[0] == parts[0][0]).all() for part in parts):
        return np.broadcast_to(parts[0][0], (sum(map(len, parts)), 2))
    return np.concatenate(parts)


def _is_text(kind: pa.DataType) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))
