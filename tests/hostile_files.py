"""Image files whose headers claim more than they hold, written byte by byte, and paths that are no regular files."""

import io
import os
import socket
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np

SIDE = 60_000
"""Of an image whose 3.6 GB are above the limit."""


def npy(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + b"x"


def png(height: int, width: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")


def tiff(height: int, width: int, data: bytes = b"x", compression: int = 1, tile: int | None = None) -> bytes:
    """One strip, or one tile of this side, of 8-bit pixels."""
    tags = [(256, width), (257, height), (258, 8), (259, compression), (262, 1), (277, 1)]
    tags += [(273, 8), (278, height), (279, len(data))] if tile is None else []
    tags += [(322, tile), (323, tile), (324, 8), (325, len(data))] if tile is not None else []
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    begin = b"II*\0" + struct.pack("<I", 8 + len(data)) + data
    return begin + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


def page_chain(pages: int) -> bytes:
    """A TIFF file of pages without any tags, six bytes each."""
    chain = (struct.pack("<HI", 0, 8 + 6 * (page + 1) if page + 1 < pages else 0) for page in range(pages))
    return b"II*\0" + struct.pack("<I", 8) + b"".join(chain)


def jpeg2000(side: int, kind: str = "j2k") -> bytes:
    """An image of 64 x 64 pixels whose code stream claims another size."""
    data = bytearray(imagecodecs.jpeg2k_encode(np.zeros((64, 64), np.uint8), reversible=True, codecformat=kind))
    at = data.index(b"\xff\x4f\xff\x51")
    struct.pack_into(">II", data, at + 8, side, side)  # of the image
    struct.pack_into(">II", data, at + 24, side, side)  # of its only tile
    return bytes(data)


def jpeg(side: int) -> bytes:
    data = bytearray(imagecodecs.jpeg_encode(np.zeros((64, 64), np.uint8)))
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, side, side)
    return bytes(data)


BOMBS = {
    "far.npy": npy((2**40, 2**40)),
    "area.npy": npy((SIDE, SIDE)),
    "empty.npy": npy((0, 5)),
    "big.png": png(SIDE, SIDE),
    "far.png": png(2**31 - 1, 2**31 - 1),
    "area.tif": tiff(SIDE, SIDE, zlib.compress(b"x"), compression=8),
    "far.tif": tiff(2**31, 2**31),
    "tile.tif": tiff(64, 64, zlib.compress(b"x"), compression=8, tile=2**20),
    "strip.tif": tiff(64, 64, zlib.compress(bytes(10**8)), compression=8),
    "pages.tif": page_chain(100_000),
    "j2k.tif": tiff(64, 64, jpeg2000(SIDE), compression=34712),
    "jpeg.tif": tiff(64, 64, jpeg(SIDE), compression=7),
    "webp.tif": tiff(64, 64, imagecodecs.webp_encode(np.zeros((64, 64, 3), np.uint8)), compression=50001),
    "area.j2k": jpeg2000(SIDE),
    "area.jp2": jpeg2000(SIDE, "jp2"),
    "area.jpg": jpeg(SIDE),
    "area.pgm": f"P5 {SIDE} {SIDE} 255\n".encode(),
    "run.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n",
}
"""Files that no decoder may be called for, or that it must end early."""


def not_files(folder: Path) -> dict[str, Path]:
    """A path of each kind that is not a regular file, and a link to each."""
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "s"))
    kinds = {"a FIFO": folder / "fifo", "a folder": folder / "folder", "a socket": folder / "s"}
    kinds["a character device"] = Path("/dev/zero")
    for number, path in enumerate(list(kinds.values())):
        (folder / f"link{number}").symlink_to(path)
    links = {f"{kind}, by a link": folder / f"link{number}" for number, kind in enumerate(kinds)}
    return {**kinds, **links, "an endless device": Path("/dev/urandom")}
