"""Decode TIFF files: the first image series, after everything that the file claims about it has been checked."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shards.errors import ImageError
from shards.images.headers import check_header, jpeg2000_header, jpeg_shape

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffFrame, TiffPage

MAX_PAGES = 1000
MAX_SEGMENTS = 1 << 20
"""Strips or tiles of a page."""
SIZED = {
    1: "none", 5: "LZW", 8: "Deflate", 32946: "Deflate", 32773: "PackBits", 34925: "LZMA", 50000: "Zstandard",
}  # fmt: skip
"""Compressions that are decoded into a buffer whose size the page gives."""
JPEG = 7
JPEG2000 = (33003, 33004, 33005, 34712)


def decode_tiff(data: bytes, limit: int) -> NDArray[np.generic]:
    """The first series of a TIFF file, an image (H, W) of at most `limit` bytes; ImageError or what tifffile raises."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data), _multifile=False) as file:  # True would open files that this one names
        _check_pages(file)
        series = file.series[0]
        check_header(tuple(series.shape), _name(series.dtype), limit)
        for page in series.pages:
            if page is not None:
                _check_page(page, data, limit)
        return np.asarray(series.asarray())


def _check_pages(file: TiffFile) -> None:
    try:
        file.pages[MAX_PAGES]
    except IndexError:
        return
    raise ImageError(f"has more than {MAX_PAGES} pages; one greyscale image per channel is needed")


def _check_page(page: TiffPage | TiffFrame, data: bytes, limit: int) -> None:
    """Check the numbers by which memory is allocated while a page is decoded."""
    keyframe = page.keyframe
    if keyframe is None or keyframe.dtype is None:
        raise ImageError("has a page whose pixel type is unknown")
    check_header(tuple(keyframe.shape), _name(keyframe.dtype), limit)
    segments, pixels = math.prod(keyframe.chunked), math.prod(keyframe.chunks)
    if segments > MAX_SEGMENTS or pixels * keyframe.dtype.itemsize > limit:
        raise ImageError(f"claims {segments} strips or tiles of {pixels} pixels; more than can be decoded")
    if keyframe.compression in SIZED:
        return
    for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
        _check_segment(int(keyframe.compression), data[offset : offset + size], pixels)


def _check_segment(compression: int, encoded: bytes, pixels: int) -> None:
    """Check that a strip or tile that has a header of its own claims no more pixels than the page gives it."""
    if not encoded:
        return
    if compression == JPEG:
        claimed = math.prod(jpeg_shape(encoded))
    elif compression in JPEG2000:
        claimed = math.prod(jpeg2000_header(encoded)[0])
    else:
        raise ImageError(
            f"has compression {compression}; possible are {', '.join(dict.fromkeys(SIZED.values()))}, "
            "JPEG and JPEG 2000"
        )
    if claimed > pixels:
        raise ImageError(f"has a strip or tile that claims {claimed} pixels instead of {pixels}")


def _name(dtype: np.dtype[np.generic] | None) -> str:
    return dtype.name if isinstance(dtype, np.dtype) else str(dtype)
