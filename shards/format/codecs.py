"""Encode and decode chunks of pixels: codecs by name, each a chain of codecs that stock Zarr supports.

A chunk is an array (C, T, T). Its values may be replaced by their differences along the flattened chunk ("delta",
modulo the type's range) and its bytes grouped by significance ("shuffle"); then they are compressed, and the CRC-32C of
the result is appended. Decoding here is plain Python, one chunk at a time; `shards.reader.kernel` is the fast version,
and the two must agree.

Shapes: C channels, T chunk side.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from threading import get_ident
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.huffman import HuffmanCompressor

if TYPE_CHECKING:
    import zstandard

CRC_BYTES = 4
MIN_SAVING = 0.1
"""Below this fraction of bytes saved, compression is not worth the decoding time."""
NOISE = 6
"""Differences that Huffman coding does not shrink by more than this factor count as noise, in which a search for
repetitions does not pay. A code has at least one bit, so the factor is at most 8."""


@dataclass(frozen=True)
class Codec:
    """One way to store chunks. All of them are lossless."""

    name: str
    compressor: Literal["none", "lz4", "zstd"]
    delta: bool = False
    shuffle: bool = False

    def zarr(self, pixel_type: str) -> list[dict[str, Any]]:
        """The chain as Zarr v3 metadata: array to array, array to bytes, bytes to bytes."""
        size = np.dtype(pixel_type).itemsize
        chain: list[dict[str, Any]] = []
        if self.delta:
            chain.append({"name": "numcodecs.delta", "configuration": {"dtype": np.dtype(pixel_type).str}})
        chain.append({"name": "bytes", "configuration": {"endian": "little"}} if size > 1 else {"name": "bytes"})
        if self.shuffle:
            chain.append({"name": "numcodecs.shuffle", "configuration": {"elementsize": size}})
        if self.compressor == "zstd":
            chain.append({"name": "zstd", "configuration": {"level": 1, "checksum": False}})
        elif self.compressor == "lz4":
            chain.append({"name": "numcodecs.lz4", "configuration": {"acceleration": 1}})
        return [*chain, {"name": "crc32c"}]

    def encode(self, chunk: NDArray[np.generic]) -> bytes:
        """Encode one chunk of uint8 or uint16."""
        if self.delta:
            flat = chunk.ravel()
            chunk = np.concatenate([flat[:1], np.diff(flat)])
        data = self._grouped(chunk).tobytes() if self.shuffle else chunk.astype(_little(chunk.dtype)).tobytes()
        stored = self._compress(data)
        return stored + struct.pack("<I", crc32c(stored))

    def decode(self, stored: bytes, shape: tuple[int, ...], pixel_type: np.dtype[Any]) -> NDArray[np.generic]:
        """Decode one chunk; ShardError if it is damaged or not of this shape. Never allocates more than the chunk."""
        body = stored[:-CRC_BYTES]
        if len(stored) < CRC_BYTES or struct.pack("<I", crc32c(body)) != stored[-CRC_BYTES:]:
            raise ShardError("a chunk's checksum does not match")
        count = int(np.prod(shape))
        data = np.frombuffer(self._decompress(body, count * pixel_type.itemsize), np.uint8)
        if self.shuffle:
            data = np.ascontiguousarray(data.reshape(pixel_type.itemsize, count).T).ravel()
        values: NDArray[np.generic] = data.view(_little(pixel_type)).astype(pixel_type)
        return (np.cumsum(values, dtype=pixel_type) if self.delta else values).reshape(shape)

    def _grouped(self, chunk: NDArray[np.generic]) -> NDArray[np.uint8]:
        """The bytes of a chunk, the lowest bytes of all values first."""
        size = chunk.dtype.itemsize
        return np.ascontiguousarray(chunk.astype(_little(chunk.dtype)).ravel().view(np.uint8).reshape(-1, size).T)

    def _compress(self, data: bytes) -> bytes:
        if self.compressor == "zstd":
            coded = _huffman(get_ident()).compress(data) if self.delta and not self.shuffle else None
            if coded is not None and NOISE * len(coded) >= len(data):
                return coded
            searched = _zstd(self.shuffle, get_ident()).compress(data)
            return searched if coded is None or len(searched) < len(coded) else coded
        if self.compressor == "lz4":
            from imagecodecs import lz4_encode

            return bytes(lz4_encode(data, header=True))
        return data

    def _decompress(self, stored: bytes, size: int) -> bytes:
        data: bytes | bytearray = stored
        if self.compressor != "none":
            import imagecodecs

            out = bytearray(size)  # the size that the frame states is not trusted
            try:
                if self.compressor == "zstd":
                    data = imagecodecs.zstd_decode(stored, out=out)
                else:
                    data = imagecodecs.lz4_decode(stored, header=True, out=out)
            except (imagecodecs.ZstdError, imagecodecs.Lz4Error, ValueError) as error:
                raise ShardError(f"a chunk cannot be decompressed: {error}") from None
        if len(data) != size:
            raise ShardError(f"a chunk holds {len(data)} bytes instead of {size}")
        return bytes(data)

    @cached_property
    def flags(self) -> tuple[int, bool, bool]:
        """The codec as the kernel takes it: compressor number, delta, shuffle."""
        return ("none", "zstd", "lz4").index(self.compressor), self.delta, self.shuffle


CODECS = {
    codec.name: codec
    for codec in (
        Codec("none", "none"),
        Codec("lz4", "lz4"),
        Codec("zstd", "zstd"),
        Codec("delta+zstd", "zstd", delta=True),
        Codec("shuffle+zstd", "zstd", shuffle=True),
        Codec("delta+shuffle+zstd", "zstd", delta=True, shuffle=True),
    )
}


def max_stored(size: int) -> int:
    """Bytes that a chunk of `size` bytes takes at most: the bounds of zstd and LZ4 are below it."""
    return size + (size >> 7) + 1024


def codec_named(name: str) -> Codec:
    """Look a codec up; ValueError names the ones there are."""
    if name not in CODECS:
        raise ValueError(f"no codec {name!r}; there are {', '.join(CODECS)}")
    return CODECS[name]


def choose_codec(ratios: dict[str, float]) -> Codec:
    """The codec with the highest ratio; the first among equals, and `none` where little is saved."""
    best = max(ratios, key=lambda name: ratios[name])
    return CODECS[best if ratios[best] >= 1 / (1 - MIN_SAVING) else "none"]


def trial_ratios(chunks: Sequence[NDArray[np.generic]], names: Iterable[str] | None = None) -> dict[str, float]:
    """Compression ratio of each codec on chunks of one set, rounded; shuffling is left out for 8-bit pixels."""
    raw = sum(chunk.nbytes for chunk in chunks)
    wide = chunks[0].dtype.itemsize > 1
    codecs = [codec_named(name) for name in names or CODECS]
    return {
        codec.name: round(raw / sum(len(codec.encode(chunk)) for chunk in chunks), 3)
        for codec in codecs
        if wide or not codec.shuffle
    }


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), like Zarr's codec of that name."""
    import google_crc32c

    return int(google_crc32c.value(data))


def _little(pixel_type: np.dtype[Any]) -> np.dtype[Any]:
    return pixel_type.newbyteorder("<")


@lru_cache(64)
def _huffman(thread: int) -> HuffmanCompressor:
    """A thread's own compressor of differences."""
    return HuffmanCompressor()


@lru_cache(64)
def _zstd(matches: bool, thread: int) -> zstandard.ZstdCompressor:
    """A thread's own compressor of pixels. Short matches only slow decoding down, so few are searched for; the grouped
    bytes of 16-bit pixels do repeat."""
    import zstandard

    if matches:
        return zstandard.ZstdCompressor(level=1)
    return zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(
            strategy=zstandard.STRATEGY_FAST, min_match=7, hash_log=6, window_log=17
        )
    )
