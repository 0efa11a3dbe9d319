"""Paths of images as other machines wrote them: file URLs, Windows paths, and beginnings that are other here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from shards.errors import LayoutError
from shards.images.locations import LOCAL, is_url, join, path_of
from shards.tables.columns import parse_pairs

WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
"""How a path of a Windows machine begins: `D:\\`, or `\\\\server`."""


def decoded(path: str) -> str:
    """A path, decoded if it is a file URL; other URLs stay as they are."""
    if not LOCAL.match(path):
        return path
    path = str(path_of(path))
    return path[1:] if WINDOWS.match(path, 1) else path


def with_slashes(path: str) -> str:
    """A path whose backslashes are slashes, if it is of a Windows machine or has no slash.

    In a path of a Windows machine, several are one, as programs may write each of them twice.
    """
    if WINDOWS.match(path):
        return path[0].replace("\\", "/") + re.sub(r"[\\/]+", "/", path[1:])
    return path if "/" in path else path.replace("\\", "/")


def joined(folder: str, file: str) -> str:
    """The path of a file in a folder, which may be blank or part of the file's own path; blank if the file is."""
    if not file or not folder or file.startswith("/") or is_url(file) or LOCAL.match(file) or WINDOWS.match(file):
        return file
    folder = decoded(folder)
    between = "\\" if "\\" in folder and "/" not in folder else "/"
    return folder.rstrip(between) + between + file


@dataclass(frozen=True)
class Replacement:
    """Replaces the beginning of paths, as the option `replace` says."""

    old: str = ""
    new: str = ""

    @classmethod
    def of(cls, option: str | None) -> Replacement:
        """Read an option such as `/their/path=s3://bucket`; None replaces nothing."""
        ((old, new),) = parse_pairs(option, "replace").items() if option else (("", ""),)
        return cls(with_slashes(decoded(old)), new)

    def locations(self, root: str, paths: Iterable[str], origins: Iterable[str]) -> list[str]:
        """The locations of a column of paths, which may be relative to the root; blank where a path is."""
        rows = zip(paths, origins, strict=True)
        return [path and join(root, self.location(path, origin)) for path, origin in rows]

    def location(self, path: str, origin: str) -> str:
        """Where a path of the table is now; LayoutError for a Windows path whose beginning is not replaced.

        Upper and lower case are the same in a Windows path.
        """
        path = decoded(path)
        windows, plain = WINDOWS.match(path) is not None, with_slashes(path)
        begin, old = (plain.lower(), self.old.lower()) if windows else (plain, self.old)
        if old and begin.startswith(old):
            between = "/" if old.endswith("/") and not self.new.endswith("/") else ""
            return self.new + between + plain[len(old) :]
        if windows:
            example = path[: path.replace("/", "\\").find("\\", 3)]
            raise LayoutError(
                f"{origin}: {path} is a path of a Windows machine: give the option replace, with how such paths begin "
                f"and where that is now, such as replace={example}=/data"
            )
        return plain
