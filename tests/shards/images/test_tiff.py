"""TIFF files: what tifffile decodes is decoded as it does, and what a file claims is checked page by page."""

import io
import re

import imagecodecs
import numpy as np
import pytest
import tifffile
from hostile_files import BOMBS, SIDE, tiff

from shards.errors import ImageError
from shards.images.headers import MAX_WELL_BYTES
from shards.images.tiff import MAX_PAGES, MAX_SEGMENTS, decode_tiff

VALUES = np.arange(96 * 80, dtype=np.uint16).reshape(96, 80)


def written(values: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "packbits", "lzma", "jpeg2000", None])
@pytest.mark.parametrize("layout", [{"rowsperstrip": 7}, {"tile": (32, 16)}])
def test_strips_and_tiles_are_decoded(compression, layout):
    data = written(VALUES, compression=compression, **layout)
    assert np.array_equal(decode_tiff(data, VALUES.nbytes), VALUES)


def test_a_jpeg_strip_is_decoded_as_pillow_decodes_the_stream():
    stream = imagecodecs.jpeg_encode(np.full((64, 64), 9, np.uint8))
    assert np.array_equal(decode_tiff(tiff(64, 64, stream, compression=7), 1 << 20), imagecodecs.jpeg_decode(stream))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("area.tif", f"claims {SIDE} x {SIDE} pixels of uint8; {MAX_WELL_BYTES} bytes are the limit"),
        ("far.tif", "claims 2147483648 x 2147483648 pixels"),
        ("tile.tif", "claims 1 strips or tiles of 1099511627776 pixels"),
        ("pages.tif", f"has more than {MAX_PAGES} pages"),
        ("j2k.tif", f"has a strip or tile that claims {SIDE**2} pixels instead of 4096"),
        ("jpeg.tif", f"has a strip or tile that claims {SIDE**2} pixels instead of 4096"),
        ("webp.tif", "has compression 50001; possible are none, LZW,"),
    ],
)
def test_each_claim_is_refused_by_name(name, message):
    with pytest.raises(ImageError, match=f"^{re.escape(message)}"):
        decode_tiff(BOMBS[name], MAX_WELL_BYTES)


def test_the_limit_counts_decoded_bytes():
    data = written(VALUES, compression="zlib")
    assert len(data) < VALUES.nbytes
    with pytest.raises(ImageError, match=f"{VALUES.nbytes - 1} bytes are the limit"):
        decode_tiff(data, VALUES.nbytes - 1)


def test_too_many_tiles_are_not_visited_one_by_one():
    """A tile of one pixel each."""
    with pytest.raises(ImageError, match=f"claims {4096 * 4096} strips or tiles of 1 pixels"):
        decode_tiff(tiff(4096, 4096, compression=8, tile=1), MAX_WELL_BYTES)
    assert MAX_SEGMENTS < 4096 * 4096


@pytest.mark.parametrize("options", [{}, {"metadata": None}, {"imagej": True}, {"ome": True}])
def test_several_planes_are_refused_however_they_are_stored(options):
    with pytest.raises(ImageError, match=r"has shape \(3, 96, 80\); one greyscale image per channel is needed"):
        decode_tiff(written(np.stack([VALUES] * 3), photometric="minisblack", **options), MAX_WELL_BYTES)


def test_a_cut_file_is_not_decoded():
    data = written(VALUES)
    for end in (10, 100, 200, len(data) - 1):
        with pytest.raises((ImageError, ValueError, tifffile.TiffFileError)):
            decode_tiff(data[:end], MAX_WELL_BYTES)


def test_bigtiff_files_are_decoded():
    assert np.array_equal(decode_tiff(written(VALUES, bigtiff=True), MAX_WELL_BYTES), VALUES)
