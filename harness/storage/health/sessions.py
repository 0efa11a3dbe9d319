"""How the hours of a cell's training were spent: `sessions.jsonl`, to which each start of it appends what happens.

A session is one start of a cell's training, from its first line to its end. One that was killed writes no end; its
last sign of life is noted by the session after it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from harness.storage.appended import append_line
from harness.storage.json_files import is_number, parse_json

SESSIONS = "sessions.jsonl"
MOST_BYTES = 64 << 20
HOUR = 3600.0

End = Literal["finished", "stopped"]


@dataclass(frozen=True)
class Save:
    """A checkpoint: of which step, when, and how long training waited for it (in seconds)."""

    step: int
    at: float  # since the session began
    blocked: float


@dataclass(frozen=True)
class Session:
    """One start of a cell's training.

    Attributes:
        step: at which it began.
        ranks: processes, one for each GPU.
        seconds: until its end, or its last sign of life.
        ready: seconds until the first batch was there; None if it never was.
        end: None if it was killed, failed, or is still running.
    """

    began: float
    step: int
    ranks: int
    nodes: int
    seconds: float = 0.0
    ready: float | None = None
    saves: tuple[Save, ...] = ()
    end: End | None = None


@dataclass(frozen=True)
class Spent:
    """Hours of all ranks of a cell's training, by what they were spent on.

    `useful` hours are those in the steps and validations of which the final weights are made; `lost` ones are of steps
    that had to be repeated, and of sessions that made none. `failures` are starts that did not end by themselves.
    """

    hours: float = 0.0
    useful: float = 0.0
    starting: float = 0.0
    saving: float = 0.0
    lost: float = 0.0
    failures: int = 0

    @property
    def goodput(self) -> float | None:
        """The useful share; None before anything was spent."""
        return self.useful / self.hours if self.hours > 0 else None

    @property
    def in_words(self) -> str:
        """What the hours were spent on, in one line; empty before anything was."""
        if self.goodput is None:
            return ""
        parts = {"start-up": self.starting, "saves": self.saving, "lost": self.lost}
        rest = ", ".join(f"{name} {hours / self.hours:.1%}" for name, hours in parts.items())
        failed = f"{self.failures} start{'' if self.failures == 1 else 's'} failed"
        return f"training took {self.hours:,.2f} GPU or process hours: {self.goodput:.1%} useful, {rest}; {failed}"

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.hours + other.hours, self.useful + other.useful, self.starting + other.starting,
            self.saving + other.saving, self.lost + other.lost, self.failures + other.failures,
        )  # fmt: skip


class SessionLog:
    """Appends to a cell's `sessions.jsonl`, on its first rank. A full disk costs lines of it, never the training."""

    def __init__(self, folder: Path, session: Session, alive: float) -> None:
        """Begin a session in a cell's folder, after one that gave its `last_sign` of life at `alive`."""
        self._path = folder / SESSIONS
        start = {"time": session.began, "step": session.step, "ranks": session.ranks, "nodes": session.nodes}
        self._write({"event": "start", **start, "alive": alive})

    def ready(self) -> None:
        """The first batch is there."""
        self._write({"event": "ready"})

    def saved(self, step: int, blocked: float) -> None:
        """A checkpoint of a step was begun, for which training waited for so many seconds."""
        self._write({"event": "save", "step": step, "blocked": round(blocked, 4)})

    def ended(self, how: End) -> None:
        self._write({"event": how})

    def _write(self, row: dict[str, object]) -> None:
        with suppress(OSError):
            append_line(self._path, json.dumps({"time": time.time(), **row}).encode())


def last_sign(folder: Path, signs: Sequence[str]) -> float:
    """When one of these files of a folder was last written, in seconds since the epoch; 0 if there is none."""
    times = [0.0]
    for name in (SESSIONS, *signs):
        with suppress(OSError):
            times.append((folder / name).stat().st_mtime)
    return max(times)


def read_sessions(folder: Path, signs: Sequence[str] = ()) -> list[Session]:
    """The sessions of a cell; empty if it has none. Lines that no session writes are left out.

    Args:
        folder: of the cell.
        signs: names of files there that a session writes while it lives: they tell how long the last one lived.
    """
    found: list[Session] = []
    for row in _rows(folder / SESSIONS):
        session = _began(row)
        if session is not None:
            if found and found[-1].end is None:
                found[-1] = _until(found[-1], row.get("alive"))
            found.append(session)
        elif found:
            found[-1] = _after(found[-1], row)
    if found and found[-1].end is None:
        found[-1] = _until(found[-1], last_sign(folder, signs))
    return found


def _rows(path: Path) -> Iterator[dict[str, object]]:
    try:
        if path.stat().st_size > MOST_BYTES:
            return
        lines = path.read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        with suppress(ValueError):
            row = parse_json(line)
            if isinstance(row, dict) and is_number(row.get("time"), 0, 1e12):
                yield row


def _began(row: dict[str, object]) -> Session | None:
    """The session that a line begins."""
    step, ranks, nodes, began = row.get("step"), row.get("ranks"), row.get("nodes"), row.get("time")
    if row.get("event") != "start" or not is_number(began):
        return None
    if not (is_number(step, 0, 2**53) and is_number(ranks, 1, 1e7) and is_number(nodes, 1, 1e7)):
        return None
    return Session(float(began), int(step), int(ranks), int(nodes))


def _until(session: Session, alive: object) -> Session:
    """A session that lived at least until a time, given in seconds since the epoch."""
    return replace(session, seconds=max(session.seconds, alive - session.began)) if is_number(alive) else session


def _after(session: Session, row: dict[str, object]) -> Session:
    """A session after one more line of it."""
    session = _until(session, row["time"])
    event, step, blocked = row.get("event"), row.get("step"), row.get("blocked")
    if event == "ready" and session.ready is None:
        return replace(session, ready=session.seconds)
    if event == "save" and is_number(step, 0, 2**53) and is_number(blocked, 0, 1e9):
        return replace(session, saves=(*session.saves, Save(int(step), session.seconds, float(blocked))))
    if event in ("finished", "stopped"):
        return replace(session, end="finished" if event == "finished" else "stopped")
    return session


def read_spent(values: Mapping[str, object]) -> Spent | None:
    """What a finished training's hours were spent on, from its ledger values; None of an early version's."""
    spent = values.get("spent")
    if not isinstance(spent, dict) or not all(is_number(spent.get(field.name), 0) for field in fields(Spent)):
        return None
    return Spent(**{field.name: spent[field.name] for field in fields(Spent)})


def spent(sessions: Sequence[Session], *, is_running: bool = False) -> Spent:
    """What the hours of a cell's sessions were spent on.

    Args:
        sessions: in the order in which they began.
        is_running: whether the last one is alive: its steps since its last save may still count.
    """
    total, kept = Spent(), float("inf")  # the step up to which the work of a session was used
    for number, session in reversed(list(enumerate(sessions))):
        is_last = number == len(sessions) - 1
        whole = session.end is not None or (is_last and is_running)
        total += _spent(session, kept, whole=whole, failed=not whole)
        kept = min(kept, session.step)
    return total


def _spent(session: Session, kept: float, *, whole: bool, failed: bool) -> Spent:
    """What a session's hours were spent on.

    Args:
        kept: the next session began at this step.
        whole: whether nothing of the session was lost because of its end; else only what was saved counts.
    """
    saves = [save for save in session.saves if save.step <= kept]
    reached = max((save.step for save in session.saves), default=session.step)
    until = session.seconds if whole and reached <= kept else max((save.at for save in saves), default=0.0)
    ready = session.seconds if session.ready is None else session.ready
    counted = sum(save.blocked for save in saves if save.at <= until)
    useful = max(until - ready - counted, 0.0)
    starting, hours = min(ready, session.seconds), session.ranks / HOUR
    lost = max(session.seconds - starting - counted - useful, 0.0)
    return Spent(session.seconds * hours, useful * hours, starting * hours, counted * hours, lost * hours, int(failed))


@dataclass(frozen=True)
class FailureRate:
    """How often a node of this study fails: failures that were seen, in so many hours of nodes."""

    failures: int
    node_hours: float


def failure_rate(sessions: Sequence[Sequence[Session]]) -> FailureRate:
    """Failures and node hours of several cells. The last session of each may be running, and counts as no failure."""
    failures = sum(session.end is None for cell in sessions for session in cell[:-1])
    hours = sum(session.seconds * session.nodes for cell in sessions for session in cell) / HOUR
    return FailureRate(failures, hours)
