"""TIFF files in memory: by tifffile's writer, and page by page with any tags."""

import io
import struct

import imagecodecs
import numpy as np
import tifffile


def written(values: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    byteorder = {"byteorder": options.pop("byteorder")} if "byteorder" in options else {}
    with tifffile.TiffWriter(
        file, ome=options.pop("ome", False), imagej=options.pop("imagej", False), bigtiff=options.pop("bigtiff", False),
        **byteorder,
    ) as tif:  # fmt: skip
        tif.write(values, **options)
    return file.getvalue()


def ome(blocks: str, **sizes: int) -> str:
    """OME-XML of an image of 96 x 80 pixels whose planes are in these blocks; the file's own UUID is 1."""
    said = {"SizeC": 1, "SizeZ": 1, "SizeT": 1, **sizes}
    text = " ".join(f'{name}="{size}"' for name, size in said.items())
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1"><Image>'
        f'<Pixels DimensionOrder="XYCZT" Type="uint16" SizeX="80" SizeY="96" {text}>{blocks}</Pixels></Image></OME>'
    )


def samples(values: np.ndarray, bits: int) -> bytes:
    return values.tobytes() if bits % 8 == 0 else imagecodecs.packints_encode(values, bits)


def entry(tag: int, value: int, count: int = 1, kind: int = 4) -> bytes:
    return struct.pack("<HHII", tag, kind, count, value)


def pages(strips: list[bytes], shape: tuple[int, int], tags: dict[int, int | bytes]) -> bytes:
    """A TIFF file of a page per strip, with these tags; a value of bytes is stored in front, as 16-bit numbers."""
    data, after = bytearray(b"II*\0\0\0\0\0"), 4
    for strip in strips:
        content = {256: shape[1], 257: shape[0], 259: 1, 273: len(data), 278: shape[0], 279: len(strip), **tags}
        data += strip + bytes(len(strip) % 2)
        entries = b""
        for tag, value in sorted(content.items()):
            if isinstance(value, bytes):
                entries += entry(tag, len(data), len(value) // 2, kind=3)
                data += value
            else:
                entries += entry(tag, value)
        struct.pack_into("<I", data, after, len(data))
        data += struct.pack("<H", len(content)) + entries + bytes(4)
        after = len(data) - 4
    return bytes(data)
