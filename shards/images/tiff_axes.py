"""How the planes of a TIFF file differ, by what its first page says: OME-XML, ImageJ's text, tifffile's JSON.

Such metadata may be of another file, or of several files together. It never decides how many pages there are, and where
it does not fit to them, they differ in an unknown way. Axes are letters: C channel, Z, T time, P position, I unknown.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from shards.images.planes import CHANNELS, UNKNOWN

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffFrame, TiffPage

    Page = TiffPage | TiffFrame

Dimensions = Sequence[tuple[str, int]]
"""Axis and size of each dimension of a stack; the one that changes from each plane to the next comes first."""
Place = tuple[int, ...]
"""Of a plane: number of its position, channel, z-plane and time point."""

IS_OME = re.compile(r"<(\w+:)?OME\b")
OME_SIZE = re.compile(r"\bSize([CZT])\s*=\s*[\"'](\d{1,9})[\"']")
MAX_XML = 1 << 24
"""Characters of OME-XML that are parsed."""
UIC2 = 33629
"""Tag of MetaMorph's STK files, with an entry for each plane."""


def axes_of_pages(file: TiffFile, numbers: Sequence[int]) -> str:
    """The axes along which the pages of these numbers, at least two, differ."""
    first = file.pages.first
    if IS_OME.search(first.description[:4096]):
        return _ome_axes(first.description, numbers)
    dimensions = described(first) or (_series(file) if file.is_lsm or file.is_fluoview else [])
    return varying_axes(dimensions, len(numbers))


def are_rows(file: TiffFile, page: Page, axes: str) -> bool:
    """Whether pages like this one, that differ along these axes, are the rows of one image.

    They are if the file says that it holds an array (H, 1, W) or (H, W, 1): some programs then write H pages.
    """
    first = file.pages.first
    return 1 in page.shape[:2] and len(axes) == 1 and bool(described(first) or IS_OME.search(first.description[:4096]))


def described(page: TiffPage) -> Dimensions:
    """The dimensions of the stack that this page begins, by tifffile's or ImageJ's description or by STK's tags."""
    if page.shaped_description is not None:
        return _shaped(page.shaped_description, math.prod(page.shape))
    if page.imagej_description is not None:
        return _imagej(page.imagej_description)
    if page.is_stk and (tag := page.tags.get(UIC2)) is not None:
        return [(UNKNOWN, int(tag.count))]
    return []


def varying_axes(dimensions: Dimensions, count: int) -> str:
    """The axes along which the first `count` planes of a stack differ."""
    axes, planes = "", 1
    for axis, size in dimensions:
        if size > 1 and planes < count:
            axes += axis
        planes *= size
    if planes < count and not CHANNELS.intersection(axes):  # the description is of fewer planes than there are
        return UNKNOWN
    return axes or UNKNOWN


def _shaped(description: str, page_pixels: int) -> Dimensions:
    """The axes of `{"shape": [3, 48, 48], "axes": "ZYX"}`, or of `shape=(3, 48, 48)`, that come before a page's."""
    try:
        content = json.loads(re.sub(r"^shape=\((.*?),?\)", r'{"shape": [\1]}', description))
        shape, axes = [int(size) for size in content["shape"]], content.get("axes")
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return []
    known = isinstance(axes, str) and len(axes) == len(shape)
    letters = axes.upper().replace("Q", UNKNOWN) if known else UNKNOWN * len(shape)
    planes, leading = math.prod(shape) // max(1, page_pixels), list[tuple[str, int]]()
    for axis, size in zip(letters, shape, strict=True):
        if planes > 1 and size > 0:
            leading.insert(0, (axis, size))
            planes //= size
    return leading


def _imagej(description: str) -> Dimensions:
    """The axes of ImageJ's `channels=`, `slices=` and `frames=`, else of `images=`."""
    numbers = {name: int(value) for name, value in re.findall(r"^(\w+)=(\d{1,18})\s*$", description, re.MULTILINE)}
    order = re.search(r"^order=([czt]{3})\s*$", description, re.MULTILINE | re.IGNORECASE)
    sizes = {"C": numbers.get("channels", 1), "Z": numbers.get("slices", 1), "T": numbers.get("frames", 1)}
    if all(size <= 1 for size in sizes.values()):
        return [(UNKNOWN, numbers.get("images", 1))]
    return [(axis, max(1, sizes.get(axis, 1))) for axis in (order[1].upper() if order else "CZT")]


def _series(file: TiffFile) -> Dimensions:
    """The axes of the first series, by tifffile's reading of the tags of microscopes."""
    try:
        series = file.series[0]
        return [(axis, size) for axis, size in zip(series.axes, series.shape, strict=True) if axis not in "YXS"][::-1]
    except Exception:  # damaged metadata may raise anything in tifffile, and the pages are there all the same
        return []


def _ome_axes(xml: str, numbers: Sequence[int]) -> str:
    """The axes along which these pages differ; those that any planes differ along, if it does not place these pages."""
    try:
        places = _ome_places(xml, max(numbers) + 1)
        columns = zip(*(places[number] for number in numbers), strict=True)
        return "".join(axis for axis, values in zip("PCZT", columns, strict=True) if len(set(values)) > 1)
    except (ElementTree.ParseError, ValueError, KeyError):  # no XML, no numbers, or nothing about a page
        return "".join(sorted({axis for axis, size in OME_SIZE.findall(xml) if int(size) > 1})) or UNKNOWN


def _ome_places(xml: str, pages: int) -> dict[int, Place]:
    """The place of each of the first pages of a file, by the `TiffData` of its own UUID, or by those without any.

    Raises ParseError or ValueError if the XML is damaged or too long, or places a page or a plane twice.
    """
    if len(xml) > MAX_XML:
        raise ValueError("too long")
    places: dict[int, Place] = {}
    root = ElementTree.fromstring(xml)
    for position, pixels in enumerate(root.iterfind("{*}Image/{*}Pixels")):
        dimensions = _ome_dimensions(pixels)
        for block in pixels.findall("{*}TiffData") or [ElementTree.Element("TiffData")]:
            if any((name.text or "").strip() != root.get("UUID") for name in block.iterfind("{*}UUID")):
                continue  # of another file
            for page, place in _ome_block(block, dimensions, pages):
                if page in places:
                    raise ValueError("placed twice")
                places[page] = (position, *place)
    if len(set(places.values())) < len(places):
        raise ValueError("placed twice")
    return places


def _ome_dimensions(pixels: ElementTree.Element) -> Dimensions:
    """The axes of an image in the order in which its planes follow each other."""
    order = pixels.get("DimensionOrder", "XYCZT")[2:]
    if sorted(order) != ["C", "T", "Z"]:
        raise ValueError("no order of dimensions")
    return [(axis, max(1, int(pixels.get(f"Size{axis}", "1")))) for axis in order]


def _ome_block(block: ElementTree.Element, dimensions: Dimensions, pages: int) -> Iterator[tuple[int, Place]]:
    """The pages of one `TiffData`, with channel, z-plane and time point of each."""
    page = max(0, int(block.get("IFD", "0")))
    if page >= pages:
        return
    stride, strides, plane = 1, dict[str, tuple[int, int]](), 0
    for axis, size in dimensions:
        strides[axis] = stride, size
        plane += int(block.get(f"First{axis}", "0")) * stride
        stride *= size
    planes = int(block.get("PlaneCount", 1 if "IFD" in block.attrib else stride))
    for number in range(plane, plane + min(planes, pages - page)):
        yield page + number - plane, tuple(number // step % size for step, size in map(strides.__getitem__, "CZT"))
