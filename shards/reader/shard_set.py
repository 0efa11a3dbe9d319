"""Open a shard set: a folder of tar shards with their sidecar indices, `wells.parquet` and `manifest.json`.

docs/shard-format.md describes it. `ShardSet.open` opens a set, whose crops and wells are read by their number in the
table. Shards are written by `shards.format.writer`; `payload`, `tar` and `index` next to it define their bytes.

Shapes: C channels, H height, W width, s crop size, K crops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.codecs import crc32c
from shards.format.manifest import MANIFEST, SPLITS, Manifest, Split, read_manifest
from shards.format.rebuild import parse_metadata
from shards.format.source import LocalFolder, Source
from shards.format.writer import WELLS
from shards.order.random_order import Indices
from shards.reader.crop_reader import Reader, ReadMode, Windows
from shards.reader.well_table import WellTable

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ShardSet:
    """An opened set of shards. Methods take well images by their number, which is their row in the table."""

    source: Source
    manifest: Manifest
    reader: Reader
    table: WellTable

    @classmethod
    def open(cls, place: Path | Source, mode: ReadMode = "runs", *, sizes: bool = True) -> ShardSet:
        """Open a shard set, checking everything that needs no reading of pixels.

        `mode` is how crops are read: see `shards.reader.crop_reader.ReadMode`. Raises ShardError if a file is absent,
        cut short or not what the manifest says, or if an experiment is in both splits. Without `sizes` the shards are
        not looked for: many processes that open one set can leave that to one of them (`check_sizes`).
        """
        source = LocalFolder(place) if isinstance(place, Path) else place
        manifest = read_manifest(source)
        table = WellTable.open(source, manifest)
        shards = cls(source, manifest, Reader(source, table, mode), table)
        shards._check()
        if sizes:
            shards.check_sizes()
        return shards

    def check_sizes(self) -> None:
        """Look for every shard: one request each. Raises ShardError if one is missing or has another size."""
        for shard in self.manifest.shards:
            _check_size(self.source, shard.name, shard.bytes)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest, which holds the checksums of all other files."""
        return hashlib.sha256(self.manifest.model_dump_json().encode()).hexdigest()

    @property
    def folder(self) -> Path | str:
        """Folder or URL of the set."""
        return self.source.place

    @cached_property
    def wells(self) -> pd.DataFrame:
        """The table: one row per well image, in the order of the shards. It stays in memory; `rows` reads some."""
        return self.table.frame()

    def rows(self, wells: NDArray[np.int64], columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Rows of the table by well number, which is their index; only the row groups that hold them are read.

        Raises ValueError for a number that is no well's, ShardError if the table has changed since the set was opened.
        """
        return self.table.rows(np.asarray(wells, np.int64), columns)

    def indices(self, split: Split, experiments: Iterable[str] | None = None) -> NDArray[np.int64]:
        """Numbers of the wells of a split, or only of the named experiments."""
        first = 0 if split == "train" else self.manifest.wells["train"]
        wells = np.arange(first, first + self.manifest.wells[split])
        if experiments is None:
            return wells
        selected = np.isin(np.array(self.table.experiments), list(experiments))
        return wells[selected[self.table.codes[wells]]]

    @property
    def shapes(self) -> NDArray[np.int64]:
        """Height and width of each well image, (wells, 2); a view of one row where all are the same."""
        return self.table.shapes

    def read_well(
        self, index: int, *, into: NDArray[np.generic] | None = None, sums: NDArray[np.uint64] | None = None
    ) -> NDArray[np.generic]:
        """Read a complete well image, (C, H, W); into the array `into`, if there is one.

        `sums` (C, 2) is filled with the exact sums of each channel's pixels and of their squares.
        """
        height, width = self.shapes[index].tolist()
        if into is None:
            into = np.empty((len(self.manifest.channels), height, width), self.manifest.pixel_type)
        window = self.windows(np.array([index]), np.zeros((1, 4), np.int64))
        self.reader.read(window, into[None], None if sums is None else sums[None])
        return into

    def read_crop(self, index: int, y: int, x: int, size: int) -> NDArray[np.generic]:
        """Read the (C, s, s) crop whose upper left corner is row `y`, column `x`; ValueError if it leaves the image."""
        height, width = self.shapes[index].tolist()
        if not (0 <= y <= height - size and 0 <= x <= width - size and size > 0):
            raise ValueError(f"crop of {size} at ({y}, {x}) leaves the {height} x {width} image of well {index}")
        out = np.empty((1, len(self.manifest.channels), size, size), self.manifest.pixel_type)
        self.reader.read(self.windows(np.array([index]), np.array([[y, x, 0, 0]], np.int64)), out)
        image: NDArray[np.generic] = out[0]
        return image

    def windows(self, wells: NDArray[np.int64], corners: NDArray[np.int64]) -> Windows:
        """Rectangles by well number, (K,), and top, left, row flip and column flip, (K, 4), for the reader."""
        wells = np.asarray(wells, np.int64)
        if len(wells) and not 0 <= wells.min() <= wells.max() < self._ends[-1]:
            raise ValueError(f"well {wells.min()} or {wells.max()} is not one of {self._ends[-1]} wells")
        shard = np.searchsorted(self._ends, wells, side="right")
        begins = self._ends[shard] - self._sizes[shard]
        return Windows(shard, wells - begins, np.ascontiguousarray(corners, np.int64))

    def metadata(self, index: int) -> dict[str, object]:
        """The metadata member of a well image; ShardError if it is damaged."""
        where = self.windows(np.array([index]), np.zeros((1, 4), np.int64))
        number, position = int(where.shard[0]), int(where.position[0])
        record = self.reader.open_shard(number).index.records[position]
        name, start = self.manifest.shards[number].name, int(record["json_offset"])
        (text,) = self.source.ranges([(name, start, start + int(record["json_length"]))])
        if crc32c(text) != record["json_crc"]:
            raise ShardError(f"{self.folder}/{name}: metadata of image {position}: its checksum does not match")
        return parse_metadata(text)

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        return np.array([shard.wells for shard in self.manifest.shards], np.int64)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum(self._sizes)

    def _check(self) -> None:
        manifest, place = self.manifest, f"{self.folder}/{MANIFEST}"
        if shared := set(manifest.experiments["train"]) & set(manifest.experiments["validation"]):
            raise ShardError(f"{place}: experiments {sorted(shared)} are in both training and validation")
        names, codes = np.array(self.table.experiments), self.table.codes
        for split in SPLITS:
            known = set(names[np.unique(codes[self.indices(split)])].tolist())
            if known != set(manifest.experiments[split]):
                raise ShardError(f"{place}: {WELLS} has other {split} experiments than stated here")


def _check_size(source: Source, name: str, expected: int) -> None:
    size = source.size(name)
    if size != expected:
        actual = "missing" if size is None else f"{size} bytes"
        raise ShardError(f"{source.place}/{name}: {actual}, but {MANIFEST} says {expected} bytes: build the set again")


def wells_per_shard(shards: ShardSet, wells: Indices) -> Indices:
    """How many of `wells` (ascending) each shard of the set holds: the sizes of a stream order over them."""
    if (np.diff(wells) <= 0).any():
        raise ValueError("the wells of a stream must ascend, each once")
    of_well = shards.windows(wells, np.zeros((len(wells), 4), np.int64)).shard
    return np.bincount(of_well, minlength=len(shards.manifest.shards))
