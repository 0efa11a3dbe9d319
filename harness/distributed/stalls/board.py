"""What ranks tell each other beside the collectives, which hang when one rank does.

Each rank writes its place into a store of its own, hosted by rank 0, from a thread. A rank that is stopped, or whose
node is gone, no longer writes.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in its list of names

from harness.distributed.ranks import Ranks
from harness.distributed.stalls.pulse import ORDER

Answer = TypeVar("Answer")

ANSWER_SECONDS = 10.0  # that rank 0 has to answer
NAMED = 8  # ranks of one message


@dataclass(frozen=True)
class Place:
    """Where a rank is in its work, and where it runs. `beat` grows while its process runs."""

    beat: int
    phase: str
    step: int
    host: str
    pid: int

    @classmethod
    def here(cls, beat: int, phase: str, step: int) -> Place:
        return cls(beat, phase, step, socket.gethostname(), os.getpid())

    @property
    def progress(self) -> tuple[int, int]:
        """What orders places: the step, and the phase within it."""
        return self.step, ORDER.index(self.phase)


class Board:
    """The places of all ranks."""

    def __init__(self, store: TCPStore, rank: int, world: int) -> None:
        self._store, self.rank, self._world = store, rank, world

    @classmethod
    def of(cls, ranks: Ranks) -> Board | None:
        """Open the board on every rank; None with one process."""
        if ranks.world == 1:
            return None
        host, limit = os.environ["MASTER_ADDR"], timedelta(minutes=5)
        store = TCPStore(host, 0, None, True, limit, wait_for_workers=False) if ranks.is_first else None
        port: list[int | None] = [store.port if store is not None else None]
        dist.broadcast_object_list(port, src=0, group=ranks.control)
        if store is None:
            assert port[0] is not None
            store = TCPStore(host, port[0], None, False, limit, wait_for_workers=False)
        return cls(store, ranks.rank, ranks.world)

    def write(self, place: Place) -> None:
        """Write this rank's place.

        Raises:
            TimeoutError: rank 0 does not answer.
        """
        _within(ANSWER_SECONDS, lambda: self._store.set(str(self.rank), json.dumps(asdict(place))))

    def read(self) -> list[Place | None]:
        """The place of each rank; None of one that has not written yet.

        Raises:
            TimeoutError: rank 0 does not answer.
        """
        return _within(ANSWER_SECONDS, self._read)

    def _read(self) -> list[Place | None]:
        names = [str(rank) for rank in range(self._world)]
        known = [self._store.check([name]) for name in names]
        return [
            Place(**json.loads(self._store.get(name))) if there else None
            for name, there in zip(names, known, strict=True)
        ]


def _within(seconds: float, ask: Callable[[], Answer]) -> Answer:
    """What a call to the store returns; the store itself waits without limit for a host that is stopped.

    Raises:
        TimeoutError: it has not returned in time, or has failed.
    """
    answers = list[Answer]()

    def call() -> None:
        with suppress(RuntimeError):  # the connection is lost
            answers.append(ask())

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answers:
        raise TimeoutError("rank 0 does not answer")
    return answers[0]


@dataclass(frozen=True)
class Late:
    """The ranks that a stalled step waits for, and the first rank that can say so; None: any that is first."""

    speaker: int | None
    text: str


def who_is_late(before: Sequence[Place | None], after: Sequence[Place | None]) -> Late:
    """Compare two readings of the board, some beats apart: silent ranks are named, else those that are behind."""
    silent = [
        rank for rank, (old, new) in enumerate(zip(before, after, strict=True))
        if new is None or (old is not None and old.beat == new.beat)
    ]  # fmt: skip
    answering = {rank: place for rank, place in enumerate(after) if place is not None and rank not in silent}
    speaker = min(answering, default=0)
    if silent:
        return Late(speaker, f"{_names(silent, after)} not answering; {_waiting(answering)}")
    least = min(place.progress for place in answering.values())
    behind = [rank for rank, place in answering.items() if place.progress == least]
    if len(behind) == len(answering):
        return Late(speaker, f"all {len(answering)} ranks answer, {_waiting(answering)}")
    place = answering[behind[0]]
    others = {rank: one for rank, one in answering.items() if rank not in behind}
    return Late(
        speaker, f"{_names(behind, after)} still in phase {place.phase} of step {place.step}; {_waiting(others)}"
    )


def _names(ranks: Sequence[int], places: Sequence[Place | None]) -> str:
    """Ranks with their hosts and processes: `rank 3 (node7, pid 812) is`."""
    texts = []
    for rank in ranks[:NAMED]:
        place = places[rank]
        texts.append(f"{rank} ({place.host}, pid {place.pid})" if place else f"{rank} (never heard of)")
    more = f" and {len(ranks) - NAMED} more" if len(ranks) > NAMED else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(texts)}{more} {'are' if len(ranks) > 1 else 'is'}"


def _waiting(places: dict[int, Place]) -> str:
    phases = sorted({f"{place.phase} of step {place.step}" for place in places.values()})
    return f"{len(places)} wait in phase {' or '.join(phases)}" if len(places) != 1 else f"1 waits in phase {phases[0]}"
