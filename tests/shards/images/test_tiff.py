"""Covers `tiff`: a page is decoded only after its claims are checked, and no other file is opened for it."""

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile

from shards.errors import ImageError
from shards.images.tiff import MAX_PAGES, decode_tiff

VALUES = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48)
LIMIT = 1 << 20


def tiff(values: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"bigtiff": True}])
def test_values_are_those_that_were_written(options: dict[str, object]) -> None:
    np.testing.assert_array_equal(decode_tiff(tiff(VALUES, **options), LIMIT), VALUES)


def test_an_image_beyond_the_limit_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ImageError):
        decode_tiff(tiff(VALUES, compression="zlib"), VALUES.nbytes - 1)


def test_a_file_of_too_many_pages_is_refused() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for _ in range(MAX_PAGES + 1):
            writer.write(np.zeros((1, 1), np.uint8), contiguous=False, metadata=None)
    with pytest.raises(ImageError, match=f"more than {MAX_PAGES} pages"):
        decode_tiff(file.getvalue(), LIMIT)


def test_a_cut_file_is_not_decoded(tmp_path: Path) -> None:
    with pytest.raises((ImageError, ValueError, tifffile.TiffFileError)):
        decode_tiff(tiff(VALUES)[:200], LIMIT)
