"""Write well images into a shard, and the table of a set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shards.format.atomic import atomic_write
from shards.format.codecs import Codec, codec_named, crc32c
from shards.format.index import IndexRow, ShardIndex
from shards.format.payload import chunk_crcs, encode_payload
from shards.format.tar import TarWriter
from shards.tables import parquet as columns

if TYPE_CHECKING:
    import pandas as pd


WELLS = "wells.parquet"
ROW_GROUP = 1 << 17
"""Rows of a row group of the table: wells whose columns are in memory at a time while it is read or written."""
DEFAULT_CODEC = "delta+zstd"
DEFAULT_CHUNK = 64


@dataclass(frozen=True)
class WellLocation:
    """Location of a well image inside its shard: byte offset of its payload, and its shape and pixel type."""

    offset: int
    height: int
    width: int
    pixel_type: str


class ShardWriter:
    """Appends well images to a tar stream; equal wells give equal bytes. Call `close` after the last well."""

    def __init__(self, file: IO[bytes], codec: str | Codec = DEFAULT_CODEC, chunk: int = DEFAULT_CHUNK) -> None:
        self._tar = TarWriter(file)
        self._codec = codec_named(codec) if isinstance(codec, str) else codec
        self._chunk = chunk
        self._rows: list[IndexRow] = []

    @property
    def bytes(self) -> int:
        """Bytes written so far."""
        return self._tar.bytes

    def add(self, key: str, image: NDArray[np.generic], metadata: Mapping[str, object]) -> WellLocation:
        """Append one (C, H, W) image and its metadata as `<key>.zs` and `<key>.json`."""
        payload, bounds = encode_payload(image, self._codec, self._chunk)
        text = json.dumps(metadata, sort_keys=True, ensure_ascii=False).encode()
        offset = self._tar.add(f"{key}.zs", payload)
        text_offset = self._tar.add(f"{key}.json", text)
        _, height, width = image.shape
        crcs = chunk_crcs(payload, bounds)
        self._rows.append(
            IndexRow(offset, len(payload), height, width, bounds, crcs, text_offset, len(text), crc32c(text))
        )
        return WellLocation(offset, height, width, image.dtype.name)

    def close(self) -> str:
        """End the archive and return its SHA-256 in hexadecimal."""
        self._sha256 = self._tar.close()
        return self._sha256

    def index(self) -> memoryview:
        """The sidecar index of the closed archive."""
        return memoryview(ShardIndex.of(self._rows, self.bytes, self._sha256).pack())


def write_table(folder: Path, parts: Iterable[pd.DataFrame]) -> str:
    """Write the table of well images from its parts, and return its SHA-256."""
    with atomic_write(folder / WELLS) as file:
        columns.write_frames(parts, file, ROW_GROUP)
    with (folder / WELLS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
