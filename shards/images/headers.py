"""What an encoded image claims to be, read from its header, and the limits that this is checked against.

A few bytes may claim any number of pixels, so a decoder is called only after its image's claim has been checked.

Shapes: H height, W width.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

import numpy as np

from shards.errors import ImageError

PIXEL_TYPES = ("uint8", "uint16")
MAX_FILE_BYTES = 1 << 30
"""Of one encoded image."""
MAX_WELL_BYTES = 1 << 30
"""Of the decoded channels of one well image together: what a shard can hold (`shards.format.payload`)."""
MAX_SIDE = 1 << 16
"""Height and width in pixels."""
MAX_BOXES = 1000
"""Boxes of a JPEG 2000 file, or segments of a JPEG file, before its size is given."""
JPEG2000_BYTES = 4
"""Bytes of a pixel while OpenJPEG decodes it."""


def check_header(shape: tuple[int, ...], pixel_type: str, limit: int = MAX_WELL_BYTES, pixel_bytes: int = 0) -> None:
    """Raise ImageError, without the image's name, for anything but an image (H, W) of at most `limit` bytes.

    `pixel_bytes` is what decoding takes per pixel, if that is more than the pixel itself.
    """
    if len(shape) != 2:
        raise ImageError(f"has shape {shape}; one greyscale image per channel is needed")
    if pixel_type not in PIXEL_TYPES:
        raise ImageError(f"holds {pixel_type} pixels; {' or '.join(PIXEL_TYPES)} is needed")
    height, width = shape
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ImageError(f"claims {height} x {width} pixels; 1 to {MAX_SIDE} are possible along each side")
    if height * width * max(pixel_bytes, np.dtype(pixel_type).itemsize) > limit:
        raise ImageError(f"claims {height} x {width} pixels of {pixel_type}; {limit} bytes are the limit")


def npy_header(data: bytes) -> tuple[tuple[int, ...], str]:
    """Shape and pixel type of an .npy file; ValueError for a header that NumPy does not write for numbers."""
    file = io.BytesIO(data)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"version {version} of the format is not supported")
    shape, _, dtype = readers[version](file)
    return tuple(shape), dtype.name


def jpeg2000_header(data: bytes) -> tuple[tuple[int, ...], str]:
    """Shape and pixel type of a JPEG 2000 file or code stream (ISO/IEC 15444-1, Annexes A.5.1 and I).

    Raises ValueError or struct.error if the header is damaged.
    """
    begin = _code_stream(data)
    if data[begin : begin + 4] != b"\xff\x4f\xff\x51":
        raise ValueError("no size marker at the beginning of the code stream")
    right, bottom, left, top = struct.unpack_from(">IIII", data, begin + 8)
    (components,) = struct.unpack_from(">H", data, begin + 40)
    depth, across, down = struct.unpack_from(">BBB", data, begin + 42)
    if not across or not down:
        raise ValueError("the size marker has a step of 0")
    shape = -(-bottom // down) - -(-top // down), -(-right // across) - -(-left // across)
    bits = (depth & 0x7F) + 1
    pixel_type = "signed" if depth & 0x80 else f"uint{8 if bits <= 8 else 16 if bits <= 16 else 32}"
    return (*shape, components) if components != 1 else shape, pixel_type


def jpeg_shape(data: bytes) -> tuple[int, int]:
    """Height and width of a JPEG stream, by its first frame header (ITU-T T.81, B.2.2).

    Raises ValueError or struct.error if there is none.
    """
    at = 2
    for _ in range(MAX_BOXES):
        marker, length = struct.unpack_from(">HH", data, at)
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return height, width
        at += 2 + length
    raise ValueError("no frame header")


def jpeg2000_palette_columns(data: bytes) -> int:
    """How many components the palette of a JPEG 2000 file makes of one (Annex I.5.3.4); 0 if it has no palette.

    Raises ValueError or struct.error if the boxes are damaged.
    """
    if data[4:8] != b"jP  ":
        return 0
    for kind, begin, end in _boxes(data, 0, len(data)):
        if kind == b"jp2h":
            for inner, at, _ in _boxes(data, begin, end):
                if inner == b"pclr":
                    return int(struct.unpack_from(">B", data, at + 2)[0])
        if kind == b"jp2c":
            break
    return 0


def _code_stream(data: bytes) -> int:
    """Where the code stream of a JPEG 2000 file begins."""
    if data[4:8] != b"jP  ":
        return 0
    for kind, begin, _ in _boxes(data, 0, len(data)):
        if kind == b"jp2c":
            return begin
    raise ValueError("no code stream")


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, and begin and end of the content, of each box (Annex I.4)."""
    for _ in range(MAX_BOXES):
        if at >= end:
            return
        length, kind = struct.unpack_from(">I4s", data, at)
        header = 8
        if length == 1:
            (length,), header = struct.unpack_from(">Q", data, at + 8), 16
        if length == 0:  # up to the end of the file
            length = end - at
        if length < header:
            raise ValueError(f"a box of {length} bytes")
        yield kind, at + header, min(at + length, end)
        at += length
    raise ValueError(f"more than {MAX_BOXES} boxes")
