"""What images claim, compared with the decoders' own reading of files that they can decode."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
from hostile_files import SIDE, jpeg, jpeg2000, npy
from PIL import Image

from shards.errors import ImageError
from shards.format.payload import MAX_IMAGE_BYTES
from shards.images.decode import decode
from shards.images.headers import (
    MAX_WELL_BYTES,
    check_header,
    jpeg2000_header,
    jpeg2000_palette_columns,
    jpeg_shape,
    npy_header,
)


@pytest.mark.parametrize("kind", ["j2k", "jp2"])
@pytest.mark.parametrize(("shape", "dtype"), [((7, 300), "uint8"), ((33, 1), "uint16"), ((4, 5, 3), "uint8")])
def test_jpeg_2000_claims_are_what_openjpeg_decodes(kind, shape, dtype):
    data = imagecodecs.jpeg2k_encode(np.zeros(shape, dtype), reversible=True, codecformat=kind)
    decoded = imagecodecs.jpeg2k_decode(data)
    assert jpeg2000_header(data) == (decoded.shape, decoded.dtype.name)
    assert jpeg2000_header(jpeg2000(SIDE, kind)) == ((SIDE, SIDE), "uint8")


def with_palette(data: bytes, columns: int, entries: np.ndarray) -> bytes:
    """A JPEG 2000 file with boxes that map its component by a palette (E, columns) (Annex I.5.3.4 and 5)."""
    count = len(entries)
    pclr = struct.pack(">HB", count, columns) + bytes([7] * columns) + entries.astype(np.uint8).tobytes()
    cmap = b"".join(struct.pack(">HBB", 0, 1, column) for column in range(columns))
    boxes = b"".join(struct.pack(">I4s", 8 + len(c), kind) + c for kind, c in ((b"pclr", pclr), (b"cmap", cmap)))
    at = data.index(b"jp2h") - 4
    (length,) = struct.unpack_from(">I", data, at)
    head = struct.pack(">I", length + len(boxes)) + data[at + 4 : at + length] + boxes
    return (
        data[:at]
        + head.replace(struct.pack(">I", 17), struct.pack(">I", 16 if columns > 1 else 17))
        + data[at + length :]
    )


def test_a_jpeg_2000_palette_gives_grey_values_or_is_refused():
    indices = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    data = imagecodecs.jpeg2k_encode(indices, reversible=True, codecformat="jp2")
    assert jpeg2000_palette_columns(data) == jpeg2000_palette_columns(data[data.index(b"\xff\x4f") :]) == 0
    greys = 255 - np.arange(256)
    for columns in (1, 3):
        grey = with_palette(data, columns, np.stack([greys] * columns, axis=1))
        assert jpeg2000_palette_columns(grey) == columns
        assert np.array_equal(decode(grey).pixels, greys[indices])
    with pytest.raises(ImageError, match="has a palette of colours"):
        decode(with_palette(data, 3, np.arange(768).reshape(256, 3)))


def test_a_palette_of_many_columns_takes_no_memory():
    side = 16_000
    data = imagecodecs.jpeg2k_encode(np.zeros((64, 64), np.uint8), reversible=True, codecformat="jp2")
    data = bytearray(with_palette(data, 255, np.zeros((256, 255))))
    at = data.index(b"\xff\x4f\xff\x51")
    for field in (8, 24):
        struct.pack_into(">II", data, at + field, side, side)
    with pytest.raises(
        ImageError, match=f"claims {side} x {side} pixels of uint8; {MAX_WELL_BYTES} bytes are the limit"
    ):
        decode(bytes(data))


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_claims_are_what_pillow_reads(progressive):
    file = io.BytesIO()
    Image.new("L", (300, 7)).save(file, "JPEG", progressive=progressive, exif=b"Exif\0\0" + bytes(200))
    assert jpeg_shape(file.getvalue()) == (7, 300)
    assert jpeg_shape(jpeg(SIDE)) == (SIDE, SIDE)


def test_npy_headers():
    assert npy_header(npy((2**40, 3), "<u2")) == ((2**40, 3), "uint16")
    with pytest.raises(ValueError, match="version"):
        npy_header(b"\x93NUMPY\x09\0" + npy((1, 1))[8:])


@pytest.mark.parametrize(
    ("claim", "whole"), [(jpeg2000_header, jpeg2000(64, "jp2")), (jpeg_shape, jpeg(64)), (npy_header, npy((4, 4)))]
)
def test_a_damaged_header_is_an_error_and_never_a_loop(claim, whole):
    for damaged in (*(whole[:end] for end in range(40)), whole[:2] + bytes(100_000)):
        with pytest.raises((ValueError, struct.error)):
            claim(damaged)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((4, 4, 3), "uint8", r"has shape \(4, 4, 3\)"),
        ((4, 4), "float32", "holds float32 pixels"),
        ((0, 4), "uint8", "claims 0 x 4 pixels"),
        ((1, 65537), "uint8", "claims 1 x 65537 pixels"),
        ((1 << 15, (1 << 15) + 1), "uint8", "1073741824 bytes are the limit"),
        ((1 << 15, 1 << 15), "uint16", "1073741824 bytes are the limit"),
    ],
)
def test_claims_beyond_a_limit(shape, dtype, message):
    with pytest.raises(ImageError, match=message):
        check_header(shape, dtype)


def test_the_limits_themselves_are_possible_and_a_shard_can_hold_them():
    check_header((1, 65536), "uint16")
    check_header((1 << 15, 1 << 15), "uint8")
    assert MAX_WELL_BYTES == MAX_IMAGE_BYTES
