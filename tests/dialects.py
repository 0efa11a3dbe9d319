"""Tables as different programs write them: the same rows in any dialect."""

import bz2
import csv
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import zstandard
from hypothesis import strategies as st


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._table.csv", b"")
        archive.writestr("table.csv", data)
    return file.getvalue()


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes, "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstandard.compress,
    "zip": zipped,
}  # fmt: skip
WELLS = ("{row}{column}", "{row}{column:02d}", "{row}{column:03d}", "{row:l}{column}", " {row}{column:02d} ")
"""Ways to write the name of a well."""


@dataclass(frozen=True)
class Dialect:
    """How a table is written."""

    separator: str
    quoting: int
    encoding: str
    end: str
    compression: str
    parquet: bool

    def write(self, path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write a table under this name, whatever the name says."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.parquet:
            pd.DataFrame(rows, columns=list(header), dtype=str).to_parquet(path)
            return
        text = io.StringIO()
        writer = csv.writer(text, delimiter=self.separator, quoting=self.quoting, lineterminator=self.end)
        writer.writerows([header, *rows, [""] * len(header)])
        path.write_bytes(COMPRESSIONS[self.compression](text.getvalue().encode(self.encoding)))


def dialects(parquet: bool = True) -> st.SearchStrategy[Dialect]:
    """Any dialect."""
    return st.builds(
        Dialect,
        separator=st.sampled_from([",", "\t", ";"]),
        quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
        end=st.sampled_from(["\n", "\r\n", "\r"]),
        compression=st.sampled_from(sorted(COMPRESSIONS)),
        parquet=st.booleans() if parquet else st.just(False),
    )


def written_well(style: str, row: str, column: int) -> str:
    """A well's name in one of the WELLS."""
    if ":l" in style:
        return f"{row.lower()}{column}"
    return style.format(row=row, column=column)
