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
from shards.images.headers import MAX_WELL_BYTES, check_header, jpeg2000_header, jpeg_shape, npy_header


@pytest.mark.parametrize("kind", ["j2k", "jp2"])
@pytest.mark.parametrize(("shape", "dtype"), [((7, 300), "uint8"), ((33, 1), "uint16"), ((4, 5, 3), "uint8")])
def test_jpeg_2000_claims_are_what_openjpeg_decodes(kind, shape, dtype):
    data = imagecodecs.jpeg2k_encode(np.zeros(shape, dtype), reversible=True, codecformat=kind)
    decoded = imagecodecs.jpeg2k_decode(data)
    assert jpeg2000_header(data) == (decoded.shape, decoded.dtype.name)
    assert jpeg2000_header(jpeg2000(SIDE, kind)) == ((SIDE, SIDE), "uint8")


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
