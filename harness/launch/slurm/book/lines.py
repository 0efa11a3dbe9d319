"""The lines of the submissions file, each a JSON object, and what they say together.

Lines are only ever appended, so that an interrupted write costs one line. What a lost line said is found elsewhere:
arrays in their folders (`folders.py`), ids and states in SLURM.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter, ValidationError

from harness.launch.slurm.book.entries import STRICT, ArrayName, CellId, JobId, JobNumber, Number, SubmittedArray, Text
from harness.storage.appended import append_line

MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Planned:
    """An array that is about to be submitted."""

    __pydantic_config__: ClassVar = STRICT
    array: SubmittedArray
    line: Literal["planned"] = "planned"


@dataclass(frozen=True)
class Accepted:
    """SLURM's id of an array."""

    __pydantic_config__: ClassVar = STRICT
    name: ArrayName
    array: JobNumber
    line: Literal["accepted"] = "accepted"


@dataclass(frozen=True)
class Dropped:
    """SLURM does not know an array that was to be submitted."""

    __pydantic_config__: ClassVar = STRICT
    name: ArrayName
    line: Literal["dropped"] = "dropped"


@dataclass(frozen=True)
class Throttled:
    """How many tasks of an array may run at one time from now on."""

    __pydantic_config__: ClassVar = STRICT
    name: ArrayName
    throttle: Number
    line: Literal["throttled"] = "throttled"


@dataclass(frozen=True)
class Ended:
    """How jobs ended, by job: SLURM's state, and its reason. SLURM forgets it, and shows it to some users only.

    Also the state of jobs that are live again, because somebody has requeued them after they ended.
    """

    __pydantic_config__: ClassVar = STRICT
    jobs: dict[JobId, tuple[Text, Text]]
    line: Literal["ended"] = "ended"


@dataclass(frozen=True)
class Cancelled:
    """Cells that are not submitted again before somebody asks for it (`resume`)."""

    __pydantic_config__: ClassVar = STRICT
    cells: tuple[CellId, ...]
    user: Text
    time: Text  # local, ISO 8601
    line: Literal["cancelled"] = "cancelled"

    @property
    def text(self) -> str:
        return f"cancelled by {self.user}, {self.time}"


@dataclass(frozen=True)
class Resumed:
    """Cells that were cancelled and may be submitted again."""

    __pydantic_config__: ClassVar = STRICT
    cells: tuple[CellId, ...]
    line: Literal["resumed"] = "resumed"


Line = Planned | Accepted | Dropped | Throttled | Ended | Cancelled | Resumed
_LINE: TypeAdapter[Line] = TypeAdapter(Annotated[Line, Field(discriminator="line")])


_LINES: TypeAdapter[list[Line]] = TypeAdapter(list[Annotated[Line, Field(discriminator="line")]])


class Book:
    """What lines say together. A line may refer to one that was lost, and that comes again later."""

    def __init__(self, lines: Iterable[Line] = ()) -> None:
        self.planned: dict[str, SubmittedArray] = {}
        self.accepted: dict[str, str] = {}
        self.dropped: set[str] = set()
        self.throttles: dict[str, int] = {}
        self.ended: dict[str, tuple[str, str]] = {}
        self.cancelled: dict[str, Cancelled] = {}
        self._entries: list[SubmittedArray] | None = None
        for line in lines:
            self.add(line)

    def add(self, line: Line) -> None:
        if not isinstance(line, Ended | Cancelled | Resumed):
            self._entries = None
        match line:
            case Planned(array):
                self.planned.setdefault(array.name, array)
            case Accepted(name, array_id):
                self.accepted[name] = array_id
            case Dropped(name):
                self.dropped.add(name)
            case Throttled(name, throttle):
                self.throttles[name] = throttle
            case Ended(jobs):
                self.ended |= jobs
            case Cancelled(cells):
                self.cancelled |= dict.fromkeys(cells, line)
            case Resumed(cells):
                self.cancelled = {cell: by for cell, by in self.cancelled.items() if cell not in cells}

    def entries(self) -> list[SubmittedArray]:
        """The arrays that SLURM has taken or may have taken, in order of submission."""
        if self._entries is None:
            self._entries = [
                array.taken(self.accepted.get(name), self.throttles.get(name, array.throttle))
                for name, array in self.planned.items()
                if name in self.accepted or name not in self.dropped
            ]
        return self._entries


@dataclass(frozen=True)
class Reading:
    """The lines of a file, and the numbers of those that are none with what is wrong.

    Attributes:
        is_open: the last of these has no end: it was torn, or is being written now.
    """

    lines: tuple[Line, ...] = ()
    damaged: tuple[tuple[int, str], ...] = ()
    is_open: bool = False
    content: bytes = field(default=b"", repr=False)


def read(path: Path, before: Reading | None = None) -> Reading:
    """Read the file; an empty reading if there is none.

    Args:
        path: of the file.
        before: an earlier reading, of which what the file still begins with is not parsed again.

    Raises:
        ValueError: it is not a regular file, is too large, or cannot be read.
    """
    content = content_of(path)
    if before is not None and before.lines and not before.damaged and content.startswith(before.content):
        rest = _parsed(content[len(before.content) :])
        if not rest.damaged:
            return Reading((*before.lines, *rest.lines), content=content)
    whole = _parsed_at_once(content)
    return Reading(whole, content=content) if whole is not None else _parsed(content)


def _parsed_at_once(content: bytes) -> tuple[Line, ...] | None:
    """The lines of a file without damage, in a third of the time; None if any is damaged, or the last has no end."""
    if not content.endswith(b"\n"):
        return None
    try:
        lines = _LINES.validate_json(b"[" + content[:-1].replace(b"\n", b",") + b"]")
    except (ValueError, RecursionError):
        return None
    return tuple(lines) if len(lines) == content.count(b"\n") else None


def _parsed(content: bytes) -> Reading:
    lines, damaged = list[Line](), list[tuple[int, str]]()
    for number, text in enumerate(content.split(b"\n"), 1):
        if not text:
            continue
        try:
            lines.append(_LINE.validate_json(text))
        except (ValueError, RecursionError) as error:
            damaged.append((number, first_error(error)))
    is_open = bool(damaged) and damaged[-1][0] == content.count(b"\n") + 1
    return Reading(tuple(lines), tuple(damaged), is_open, content)


def content_of(path: Path) -> bytes:
    """The bytes of a regular file of at most `MOST_BYTES`; empty if there is none.

    Raises:
        ValueError: it is something else, or cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
            raise ValueError(f"{path} is not a regular file of at most {MOST_BYTES} bytes")
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


def append(path: Path, line: Line) -> None:
    """Append a line and flush it to disk; on a line of its own, also if the last one was torn."""
    append_line(path, encoded(line).removesuffix(b"\n"), flush=True)


def encoded(line: Line) -> bytes:
    """The line as it is written.

    Raises:
        ValueError: it could not be read again.
    """
    text = _LINE.dump_json(line)
    _LINE.validate_json(text)
    return text + b"\n"


def first_error(error: Exception) -> str:
    """What is wrong first, and with which field."""
    if not isinstance(error, ValidationError):
        return str(error)[:300]
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:300]
