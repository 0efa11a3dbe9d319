"""The submissions file of earlier versions, `book.json`: one JSON document, written anew at each change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import TypeAdapter

from harness.launch.slurm.book.entries import STRICT, SubmittedArray
from harness.launch.slurm.book.lines import Accepted, Line, Planned, Reading, content_of, first_error
from harness.storage.atomic import write_json

MOVED = {"version": 2, "moved_to": "book.jsonl"}


@dataclass(frozen=True)
class _Book:
    __pydantic_config__: ClassVar = STRICT

    version: Literal[1]
    entries: tuple[SubmittedArray, ...]


@dataclass(frozen=True)
class _Moved:
    __pydantic_config__: ClassVar = STRICT

    version: Literal[2]
    moved_to: str


_FILE: TypeAdapter[_Book | _Moved] = TypeAdapter(_Book | _Moved)


def read_earlier(path: Path) -> Reading:
    """The same as lines; of a damaged file, what is wrong."""
    content = content_of(path)
    try:
        book = _FILE.validate_json(content) if content else None
    except (ValueError, RecursionError) as error:
        return Reading(damaged=((1, first_error(error)),))
    lines: list[Line] = []
    for array in book.entries if isinstance(book, _Book) else ():
        lines.append(Planned(replace(array, array=None)))
        lines += [Accepted(array.name, array.array)] if array.array else []
    return Reading(tuple(lines))


def retire(path: Path) -> None:
    """Leave a file in place of the earlier one that jobs refuse which still run the earlier code.

    They would submit by an old state. A damaged file is kept under another name.
    """
    try:
        moved = isinstance(_FILE.validate_json(content_of(path)), _Moved)
    except (ValueError, RecursionError):
        path.rename(path.with_name(f"{path.stem}.damaged{path.suffix}"))
        moved = False
    if not moved:
        write_json(path, MOVED)
