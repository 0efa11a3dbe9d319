"""List all files below a local folder, by links too: each folder once, and whatever cannot be listed is named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


class _Link(NamedTuple):
    """A link to a folder, and the real paths of the folders that lead to it."""

    path: str
    above: tuple[str, ...]


def walk(root: str, left_out: list[str]) -> Iterator[str]:
    """The path of every file below a folder; `left_out` receives a line for all that is not followed or not listed.

    Links are followed once everything that the folder itself holds is listed, so a folder that is reached in two ways
    has the names of the folder, not those of the link. Links to what is not there count as files, and are named.
    """
    walked = _Walk(left_out)
    links = [_Link(root, ())]
    while links:
        found = list[_Link]()
        for link in links:
            yield from walked.files(link, found)
        links = found


@dataclass
class _Walk:
    """What has been listed so far."""

    left_out: list[str]
    seen: set[tuple[int, int]] = field(default_factory=set)  # device and inode of each folder

    def files(self, link: _Link, links: list[_Link]) -> Iterator[str]:
        """The files below the folder that a link (or the root) leads to; `links` receives the links among them."""
        target = os.path.realpath(link.path)
        if any(folder == target or folder.startswith(target.rstrip("/") + "/") for folder in link.above):
            self.left_out.append(f"{link.path}: a link to {target}, which contains it: not followed")
            return
        if self._is_seen(link.path):
            self.left_out.append(f"{link.path}: a link to {target}, which is read already: not followed")
            return
        stack = [link.path]
        while stack:
            files, folders, linked = self._list(stack.pop())
            yield from files
            links += [_Link(path, (*link.above, os.path.realpath(os.path.dirname(path)))) for path in linked]  # noqa: PTH120
            stack += [path for path in reversed(folders) if not self._is_seen(path)]

    def _is_seen(self, folder: str) -> bool:
        """Whether a folder was listed before; from now on it counts as listed."""
        try:
            status = os.stat(folder)  # noqa: PTH116
        except OSError:
            return False  # which listing it will report
        known = (status.st_dev, status.st_ino) in self.seen
        self.seen.add((status.st_dev, status.st_ino))
        return known

    def _list(self, folder: str) -> tuple[list[str], list[str], list[str]]:
        """Files, folders and links to folders of a folder, by name."""
        files, folders, links = list[str](), list[str](), list[str]()
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.left_out.append(f"{folder}: cannot be listed: {error.strerror}")
            return files, folders, links
        for entry in listed:
            path = f"{folder.rstrip('/')}/{entry.name}"
            if not entry.is_symlink():
                (folders if entry.is_dir(follow_symlinks=False) else files).append(path)
            elif os.path.isdir(path):  # noqa: PTH112
                links.append(path)
            else:
                files.append(path)
                if not os.path.exists(path):  # noqa: PTH110
                    self.left_out.append(f"{path}: a link to {os.readlink(path)}, which is not there")  # noqa: PTH115
        return files, folders, links
