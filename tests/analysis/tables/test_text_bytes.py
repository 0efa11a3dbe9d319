"""Compression is told by the content; what is not text is refused with its kind or line."""

import bz2
import gzip
import io
import lzma
import os
import zipfile
from pathlib import Path

import pytest
import zstandard

from analysis.tables.errors import TableError
from analysis.tables.text_bytes import is_parquet, text_bytes

TEXT = "flops,loss\n1e18,3.3\n" * 40


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def zipped(data: bytes, *more: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("folder/table.csv", data)
        for name in more:
            archive.writestr(name, "x")
    return file.getvalue()


COMPRESSIONS = {
    "none": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zip": zipped,
    "zst": zstandard.ZstdCompressor().compress, "gz of gz": lambda data: gzip.compress(gzip.compress(data)),
    "two frames of zst": lambda data: b"".join(map(zstandard.ZstdCompressor().compress, (data[:9], data[9:]))),
    "two members of gz": lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:]),
    "zip with hidden files": lambda data: zipped(data, "folder/.DS_Store", "folder/"),
    "zst that begins with a frame to skip": lambda data: b"\x50\x2a\x4d\x18\x02\0\0\0ab" + zstd(data),
    "zip of a Mac": lambda data: zipped(data, "__MACOSX/._table.csv"),
}  # fmt: skip


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("name", ["table.csv", "table", "table.csv.gz", "table.parquet"])
def test_compressed_text_is_read_whatever_the_file_is_called(tmp_path: Path, compression: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(COMPRESSIONS[compression](TEXT.encode()))
    assert not is_parquet(path)
    assert text_bytes(path).decode() == TEXT


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_byte_order_marks_are_no_text(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "t.csv").write_bytes("µg,Å\n1,2\n".encode(encoding))
    assert text_bytes(tmp_path / "t.csv").decode() == "µg,Å\n1,2\n"


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz", "zst"])
def test_what_is_cut_short_is_refused(tmp_path: Path, compression: str) -> None:
    for cut in (1, 5, 20):
        (tmp_path / "t.csv").write_bytes(COMPRESSIONS[compression](TEXT.encode())[:-cut])
        with pytest.raises(TableError, match=r"t\.csv: (is cut short|its compressed data are damaged)"):
            text_bytes(tmp_path / "t.csv")


@pytest.mark.parametrize("compression", ["none", "gz", "bz2", "xz", "zst", "zip"])
def test_no_more_than_the_limit_is_held(tmp_path: Path, compression: str) -> None:
    (tmp_path / "t.csv").write_bytes(COMPRESSIONS[compression](b"1" * 10_000_000))
    with pytest.raises(TableError, match=r"more than 1000000 bytes"):
        text_bytes(tmp_path / "t.csv", limit=1_000_000)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (zipped(b"a,b", "other.csv"), r"holds 2 files \(folder/table.csv, other.csv\)"),
        (zipped(b"", "[Content_Types].xml"), "is an Excel workbook: save it as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1", "is an Excel workbook"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"ARROW1\0\0", "is an Arrow file"),
        (gzip.compress(b"PAR1..."), "holds a Parquet file, compressed"),
        ("size,loss\n1,2\nµ,3\n".encode("latin-1"), "line 3: is not UTF-8 text"),
        (b"a,b\n1,2\n\0\0", "line 3: holds a zero byte"),
    ],
    ids=lambda value: value if isinstance(value, str) else "bytes",
)
def test_what_is_not_a_table_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(TableError, match=message):
        text_bytes(tmp_path / "t.csv")


def test_devices_and_absent_files_are_refused_and_pipes_are_read(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="/dev/zero: is a device, not a file"):
        text_bytes(Path("/dev/zero"))
    with pytest.raises(TableError, match="no such file"):
        is_parquet(tmp_path / "none.csv")
    reading, writing = os.pipe()
    os.write(writing, b"a,b\n1,2\n")
    os.close(writing)
    pipe = Path(f"/dev/fd/{reading}")
    assert not is_parquet(pipe)
    assert text_bytes(pipe) == b"a,b\n1,2\n"
    os.close(reading)
