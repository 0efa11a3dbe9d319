"""Decode TIFF files: the plane or planes that are wanted, after everything that the file claims about them was checked.

What a file holds is decided by its pages, not by metadata that may speak of other files. Pages of reduced resolution
(pyramids, thumbnails), masks, and pages that are smaller than the first are no planes.

Shapes: H height, W width.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shards.errors import ImageError
from shards.images.grey import GreyImage, looked_up, turned
from shards.images.headers import check_header, jpeg2000_header, jpeg_shape
from shards.images.planes import UNKNOWN, Plane, check_width, maximum, planes_to_read, rows
from shards.images.tiff_axes import are_rows, axes_of_pages, described, varying_axes

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffFrame, TiffPage

    Page = TiffPage | TiffFrame

MAX_PAGES = 1000
MAX_SEGMENTS = 1 << 20
"""Strips or tiles of a page."""
SIZED = {
    1: "none", 5: "LZW", 8: "Deflate", 32946: "Deflate", 32773: "PackBits", 34925: "LZMA", 50000: "Zstandard",
}  # fmt: skip
"""Compressions that are decoded into a buffer whose size the page gives."""
JPEG = 7
JPEG2000 = (33003, 33004, 33005, 34712)
PHOTOMETRIC, WHITE_IS_ZERO, PALETTE = 262, 0, 3
NOT_GREY = {
    4: "a mask", 5: "ink", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "a colour filter array", 32844: "LogL",
    32845: "LogLuv",
}  # fmt: skip
"""Values of PhotometricInterpretation with which single samples are not grey values."""
REDUCED, MASK = 1, 4
"""Bits of NewSubfileType."""


def decode_tiff(data: bytes, limit: int, plane: Plane | None = None) -> GreyImage:
    """An image (H, W), at most `limit` bytes, of the plane that is wanted of a TIFF file.

    Raises ImageError, without the image's name, or what tifffile raises.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data), _multifile=False) as file:  # True would open files that this one names
        _check_pages(file)
        _check_end(file, data)
        stack = _stack_of(file, data, limit)
        return maximum(map(stack.read, planes_to_read(stack.count, stack.axes, plane)))


@dataclass(frozen=True)
class _Stack:
    """The planes of a file: how many, the axes along which they differ, and how to read one by its number, from 0."""

    count: int
    axes: str
    read: Callable[[int], GreyImage]


def _stack_of(file: TiffFile, data: bytes, limit: int) -> _Stack:
    """The planes that are pages of their own, or lie behind the only page; one plane if they are the rows of one."""
    numbers, pages = _full_pages(file)
    _check_claim(pages[0], limit)
    stack = _Stack(len(pages), UNKNOWN, lambda number: _decode_page(pages[number], data, limit))
    if len(pages) > 1:
        stack = replace(stack, axes=axes_of_pages(file, numbers))
    elif len(planes := _contiguous_planes(file, pages[0], data)):
        axes = varying_axes(described(file.pages.first), len(planes))
        stack = _Stack(len(planes), axes, lambda number: _grey(planes[number], _keyframe(pages[0])))
    if stack.count > 1 and are_rows(file, pages[0], stack.axes):
        return _Stack(1, UNKNOWN, lambda _: rows(map(stack.read, range(stack.count))))
    if stack.count > 1:
        check_width(stack.count, pages[0].shape[:2])
    return stack


def _check_pages(file: TiffFile) -> None:
    try:
        file.pages[MAX_PAGES]
    except IndexError:
        return
    raise ImageError(f"has more than {MAX_PAGES} pages; one greyscale image per channel is needed")


def _check_end(file: TiffFile, data: bytes) -> None:
    """Check that the file was not cut after the pixels of its last page, which tifffile would not notice.

    Then the next page should lie beyond the end. Some programs leave any number there in a file of one page, so there
    have to be further pixels, too.
    """
    if not len(file.pages):
        raise ImageError("has no page where its header says that the first one is; it may be cut short")
    layout, last = file.tiff, file.pages[-1]
    try:
        (tags,) = struct.unpack_from(layout.tagnoformat, data, last.offset)
        at = last.offset + layout.tagnosize + tags * layout.tagsize
        (following,) = struct.unpack_from(layout.offsetformat, data, at)
    except struct.error:
        return
    if following < len(data):
        return
    strips = zip(last.dataoffsets, last.databytecounts, strict=False)
    own = max([at + layout.offsetsize, *(begin + size for begin, size in strips)])
    if len(data) - own >= max(1, _row_bytes(last)):
        raise ImageError(f"is cut short: page {len(file.pages) + 1} lies at byte {following}, but it has {len(data)}")


def _row_bytes(page: Page) -> int:
    return page.nbytes // max((1, *page.shape[:1]))


def _full_pages(file: TiffFile) -> tuple[list[int], list[Page]]:
    """Numbers and pages of full resolution: those like the first that is not marked as reduced, but no masks.

    A page that is marked as reduced, but has the size of that one, is a plane: some programs mark all of a stack.
    """
    every = list(enumerate(file.pages))
    pages = [(number, page) for number, page in every if not _keyframe(page).subfiletype & MASK] or every
    full = [(number, page) for number, page in pages if not _keyframe(page).subfiletype & REDUCED] or pages
    first = full[0][1]
    if any(page.ndim == first.ndim and page.size > first.size for _, page in full):
        raise ImageError("has a page that is larger than its first; only smaller copies of one image are possible")
    alike = [(number, page) for number, page in pages if (page.shape, page.dtype) == (first.shape, first.dtype)]
    return [number for number, _ in alike], [page for _, page in alike]


def _contiguous_planes(file: TiffFile, page: Page, data: bytes) -> NDArray[np.generic]:
    """The planes (N, H, W) of a stack that is stored behind its only page, as ImageJ and MetaMorph do; else none.

    There are as many as the page says. Raises ImageError if further pixels follow, but not all of them.
    """
    none = np.empty((0, 0, 0), np.uint8)
    begin = page.dataoffsets[0] if page.dataoffsets else len(data)
    if begin + page.nbytes + _row_bytes(page) > len(data) or not page.is_final or page.dtype is None:
        return none  # as in most files: their descriptions need not be read
    count = math.prod(size for _, size in described(file.pages.first))
    end = begin + count * page.nbytes
    if count < 2 or begin <= page.offset < end or (end > len(data) and len(file.pages) > 1):
        return none
    if end > len(data):
        raise ImageError(f"is cut short: its {count} planes end at byte {end}, but it has {len(data)}")
    pixels = np.frombuffer(data, page.dtype.newbyteorder(file.byteorder), count * page.size, begin)
    return pixels.reshape(count, *page.shape)


def _decode_page(page: Page, data: bytes, limit: int) -> GreyImage:
    _check_page(page, data, limit)
    return _grey(np.asarray(page.asarray()), _keyframe(page))


def _grey(stored: NDArray[np.generic], keyframe: TiffPage) -> GreyImage:
    """The grey values, (H, W), of the samples of a page."""
    samples = stored.reshape(stored.shape[:2])  # a single sample may have an axis of its own
    tag = keyframe.tags.get(PHOTOMETRIC)  # without which tifffile says that 0 is white
    kind = None if tag is None else int(tag.value)
    if kind == WHITE_IS_ZERO:
        return turned(samples, keyframe.bitspersample)
    if kind == PALETTE:
        if keyframe.colormap is None:
            raise ImageError("has no palette, but its pixels are indices into one")
        return GreyImage(looked_up(samples, np.asarray(keyframe.colormap, np.uint16).T))
    if kind in NOT_GREY:
        raise ImageError(f"holds {NOT_GREY[kind]} (PhotometricInterpretation {kind}); grey values are needed")
    return GreyImage(samples)


def _keyframe(page: Page) -> TiffPage:
    """The page whose tags hold for this one: itself, unless tifffile has read its offsets only."""
    if page.keyframe is None:
        raise ImageError("has a page of which only offsets are known")
    return page.keyframe


def _check_claim(page: Page, limit: int) -> None:
    """Check that a page is one greyscale plane of a possible size."""
    if page.dtype is None:
        raise ImageError("has a page whose pixel type is unknown")
    shape = tuple(page.shape)
    check_header(shape[:2] if shape[2:] == (1,) else shape, page.dtype.name, limit)


def _check_page(page: Page, data: bytes, limit: int) -> None:
    """Check the numbers by which memory is allocated while a page is decoded."""
    _check_claim(page, limit)
    keyframe = _keyframe(page)
    segments, pixels = math.prod(keyframe.chunked), math.prod(keyframe.chunks)
    if segments > MAX_SEGMENTS or pixels * page.nbytes > limit * page.size:
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
