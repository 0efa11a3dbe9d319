"""Encode one well image as bytes: a self-describing object in Zarr v3's sharding format.

    magic, length of the header, header (the array's zarr.json), CRC-32C of the three
    one encoded chunk (C, T, T) after another, row by row of the grid
    8-byte offset and 8-byte length of every chunk, CRC-32C of them                   (Zarr's index, at the end)

Zarr looks for the index at the end and for chunks where the index says, so stock Zarr reads the object as the only
outer chunk of an array whose metadata is the header. A row of the grid is contiguous, so a crop is a few runs of bytes.

Shapes: C channels, H height, W width, T chunk side, N chunks of the image.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.format.codecs import CODECS, CRC_BYTES, Codec, crc32c

MAGIC = b"wellzarr"
PREFIX = struct.Struct("<8sI")
MAX_HEADER_BYTES = 1 << 16
MAX_IMAGE_BYTES = 1 << 30
"""Of one image, decoded. A 2048 x 2048 well of eight 16-bit channels has 2 ** 26; offsets have 4 bytes."""
MAX_PAYLOAD_BYTES = 2 * MAX_IMAGE_BYTES - 1
"""Of one image, encoded: noise grows a little, and a small image is padded to complete chunks."""
CHUNK_SIDES = (16, 32, 64, 128, 256)
PIXEL_TYPES = ("uint8", "uint16")


@dataclass(frozen=True)
class Header:
    """What a payload holds: an image (C, H, W) of a pixel type, in chunks of side T by a codec."""

    channels: int
    height: int
    width: int
    pixel_type: str
    chunk: int
    codec: Codec

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of chunks."""
        return -(-self.height // self.chunk), -(-self.width // self.chunk)

    @property
    def chunks(self) -> int:
        """Number of chunks, N."""
        rows, columns = self.grid
        return rows * columns

    @property
    def chunk_shape(self) -> tuple[int, int, int]:
        """(C, T, T)."""
        return self.channels, self.chunk, self.chunk

    def zarr(self) -> dict[str, Any]:
        """The array's zarr.json: the complete image is one outer chunk, padded to complete inner chunks."""
        rows, columns = self.grid
        sharding = {
            "chunk_shape": list(self.chunk_shape),
            "codecs": self.codec.zarr(self.pixel_type),
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "index_location": "end",
        }
        outer = [self.channels, rows * self.chunk, columns * self.chunk]
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [self.channels, self.height, self.width],
            "data_type": self.pixel_type,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": outer}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "attributes": {"codec": self.codec.name},
            "dimension_names": ["channel", "y", "x"],
        }

    def pack(self) -> bytes:
        """The header as the first bytes of a payload."""
        text = json.dumps(self.zarr(), separators=(",", ":")).encode()
        packed = PREFIX.pack(MAGIC, len(text)) + text
        return packed + struct.pack("<I", crc32c(packed))


def encode_payload(image: NDArray[np.generic], codec: Codec, chunk: int) -> tuple[bytes, NDArray[np.uint32]]:
    """Encode one image (C, H, W) of uint8 or uint16.

    Returns the payload, and the N + 1 offsets inside it at which chunks begin and the last one ends. Chunks at the
    lower and right edges are padded by repeating the edge. Raises ValueError for an image of another kind.
    """
    if image.ndim != 3 or not image.size or image.dtype.name not in PIXEL_TYPES:
        raise ValueError(f"an image (C, H, W) of uint8 or uint16 is needed, got {image.dtype.name} {image.shape}")
    if chunk not in CHUNK_SIDES:
        raise ValueError(f"the chunk's side must be one of {', '.join(map(str, CHUNK_SIDES))}, got {chunk}")
    channels, height, width = image.shape
    header = Header(channels, height, width, image.dtype.name, chunk, codec)
    check_size(header)
    parts = [header.pack(), *(codec.encode(part) for part in chunks_of(image, chunk))]
    bounds = np.cumsum([len(part) for part in parts], dtype=np.uint64)
    index = np.stack([bounds[:-1], np.diff(bounds)], axis=1).astype("<u8").tobytes()  # (N, 2)
    return b"".join([*parts, index, struct.pack("<I", crc32c(index))]), bounds.astype(np.uint32)


def chunks_of(image: NDArray[np.generic], chunk: int) -> Iterator[NDArray[np.generic]]:
    """The chunks (C, T, T) of an image, row by row, padded by repeating the edge."""
    _, height, width = image.shape
    for y in range(0, height, chunk):
        for x in range(0, width, chunk):
            part = image[:, y : y + chunk, x : x + chunk]
            beyond = ((0, 0), (0, chunk - part.shape[1]), (0, chunk - part.shape[2]))
            yield np.ascontiguousarray(np.pad(part, beyond, mode="edge") if part[0].size < chunk**2 else part)


def decode_payload(payload: bytes) -> NDArray[np.generic]:
    """Decode a complete payload, (C, H, W), one chunk at a time; ShardError if any of it is damaged."""
    header = read_header(payload)
    bounds = read_bounds(header, len(payload), payload[-index_bytes(header) :])
    image = np.empty((header.channels, header.height, header.width), header.pixel_type)
    columns = header.grid[1]
    for number in range(header.chunks):
        stored = payload[bounds[number] : bounds[number + 1]]
        try:
            pixels = header.codec.decode(stored, header.chunk_shape, image.dtype)
        except ShardError as error:
            raise ShardError(f"chunk {number} of {header.chunks}: {error}") from None
        y, x = header.chunk * (number // columns), header.chunk * (number % columns)
        inside = image[:, y : y + header.chunk, x : x + header.chunk]
        inside[...] = pixels[:, : inside.shape[1], : inside.shape[2]]
    return image


def header_bytes(payload: bytes) -> int:
    """Size of the header in bytes, from the payload's first bytes; ShardError if these are of another format."""
    if len(payload) < PREFIX.size or not payload.startswith(MAGIC):
        raise ShardError("not a payload of this format: it does not begin with the magic bytes")
    _, length = PREFIX.unpack_from(payload)
    if length > MAX_HEADER_BYTES:
        raise ShardError(f"the header claims {length} bytes; {MAX_HEADER_BYTES} is the limit")
    return int(PREFIX.size + length + CRC_BYTES)


def read_header(payload: bytes) -> Header:
    """Read the header at the beginning of a payload.

    Raises ShardError if it is damaged, not as this format writes it, or of an image out of bounds (`check_size`).
    """
    size = header_bytes(payload)
    packed, checksum = payload[: size - CRC_BYTES], payload[size - CRC_BYTES : size]
    if struct.pack("<I", crc32c(packed)) != checksum:
        raise ShardError("the header is damaged: its checksum does not match")
    try:
        stored = json.loads(packed[PREFIX.size :])
        channels, height, width = stored["shape"]
        chunk = stored["codecs"][0]["configuration"]["chunk_shape"][-1]
        header = Header(channels, height, width, stored["data_type"], chunk, CODECS[stored["attributes"]["codec"]])
        same = _is_supported(header) and header.pack() == payload[:size]
    except (KeyError, TypeError, ValueError, IndexError, RecursionError):
        same = False
    if not same:
        raise ShardError("the header describes an array that this format does not write")
    check_size(header)
    return header


def _is_supported(header: Header) -> bool:
    """Whether the types are right: JSON's 16.0 and true also pass for numbers, and are written back as they were."""
    sizes = (header.channels, header.height, header.width, header.chunk)
    return {type(size) for size in sizes} == {int} and header.chunk in CHUNK_SIDES and header.pixel_type in PIXEL_TYPES


def index_bytes(header: Header) -> int:
    """Size of Zarr's index at the end of the payload."""
    return 16 * header.chunks + CRC_BYTES


def read_bounds(header: Header, size: int, index: bytes) -> NDArray[np.uint32]:
    """Offsets of the chunks, (N + 1,), from Zarr's index at the end of a payload of `size` bytes.

    Raises ShardError if the index is damaged, or if the chunks are not contiguous.
    """
    if len(index) != index_bytes(header) or struct.pack("<I", crc32c(index[:-CRC_BYTES])) != index[-CRC_BYTES:]:
        raise ShardError("the index of chunks is damaged: its checksum does not match")
    table = np.frombuffer(index[:-CRC_BYTES], "<u8").reshape(-1, 2)  # (N, 2)
    if size > MAX_PAYLOAD_BYTES or (table > size).any():
        raise ShardError("the index of chunks points outside the payload")
    bounds = np.append(table[:, 0], np.uint64(size - len(index))).astype(np.int64)
    sizes = np.diff(bounds)
    if bounds[0] != len(header.pack()) or (sizes != table[:, 1]).any() or (sizes < CRC_BYTES).any():
        raise ShardError("the chunks are not contiguous")
    return bounds.astype(np.uint32)


def chunk_crcs(payload: bytes, bounds: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The CRC-32C at the end of each chunk, (N,), by the offsets of the chunks, (N + 1,)."""
    ends = bounds[1:].astype(np.int64)[:, None] + np.arange(-CRC_BYTES, 0)  # (N, 4)
    crcs: NDArray[np.uint32] = np.frombuffer(payload, np.uint8)[ends].view("<u4")[:, 0]
    return crcs


def check_size(header: Header) -> None:
    """Raise ShardError for an image larger than the format allows, before anything is allocated for it."""
    pixels = header.channels * header.height * header.width * np.dtype(header.pixel_type).itemsize
    if min(header.channels, header.height, header.width) < 1 or pixels > MAX_IMAGE_BYTES:
        shape = f"{header.channels} x {header.height} x {header.width}"
        raise ShardError(
            f"an image of {shape} {header.pixel_type} is out of bounds: {MAX_IMAGE_BYTES} bytes are the limit"
        )
