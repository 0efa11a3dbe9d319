"""What a day at a GPU is made of: sections, what each found, and the folder that keeps it between runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from benchmarks.timing import StepSpeed, matmul_rate
from benchmarks.train_step import Measurement
from harness.storage.atomic import write_atomic

Number = float | int | None


@dataclass(frozen=True)
class Row:
    """One figure, with what it is compared with. `met` is None where no goal can be judged."""

    name: str
    unit: str
    ours: Number
    peer: Number = None
    peer_name: str | None = None
    ratio: Number = None
    goal: str | float | None = None
    met: bool | None = None


@dataclass(frozen=True)
class Found:
    """What a section found: figures, speeds of training steps, and text such as a profile."""

    rows: list[Row] = field(default_factory=list)
    steps: list[Measurement] = field(default_factory=list)
    text: str = ""


@dataclass(frozen=True)
class Day:
    """The device and the size of the measurements.

    Attributes:
        small: miniature models and short measurements, which try every section on a CPU.
        scratch: a folder for shards, cells and checkpoints.
    """

    device: torch.device
    small: bool
    scratch: Path

    @property
    def bf16(self) -> bool:
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.bf16 else torch.float32

    @property
    def seconds(self) -> float:
        """For which one configuration is timed."""
        return 0.05 if self.small else 3.0

    def matmul(self) -> float:
        """FLOP/s of one large product, now."""
        return matmul_rate(self.device, self.bf16, self.seconds)


@dataclass(frozen=True)
class Section:
    """A piece of the day that runs in a process of its own.

    Attributes:
        seconds: an estimate on an H100, start of the process included; a time that was measured replaces it.
        work: gets the day and what earlier sections have found, by their names.
    """

    name: str
    seconds: float
    work: Callable[[Day, dict[str, Found]], Found]


@dataclass(frozen=True)
class Entry:
    """What is kept of a section: what it found, or why it failed after how many attempts, and how long it took."""

    name: str
    seconds: float
    found: Found | None = None
    error: str | None = None
    attempts: int = 1


class Store:
    """One JSON file for each section, in a folder for each device."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        return self.folder / f"{slug(name)}.json"

    def write(self, entry: Entry) -> None:
        text = json.dumps(asdict(entry), indent=1).encode()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path(entry.name), lambda file: file.write(text))

    def read(self, name: str) -> Entry | None:
        """What is kept of a section; None if it has not run."""
        if not self.path(name).exists():
            return None
        kept = json.loads(self.path(name).read_bytes())
        return Entry(**{**kept, "found": None if kept["found"] is None else _found(kept["found"])})

    def found(self, sections: list[Section]) -> dict[str, Found]:
        """What the finished ones of these sections found, by name, in their order."""
        entries = (self.read(section.name) for section in sections)
        return {entry.name: entry.found for entry in entries if entry is not None and entry.found is not None}


def slug(name: str) -> str:
    """A name as the name of a file."""
    return re.sub(r"[^A-Za-z0-9.+]+", "-", name).strip("-").lower()


def _found(kept: dict[str, list[dict[str, object]]]) -> Found:
    steps = [{**step, "speed": StepSpeed(**step["speed"])} for step in kept["steps"]]  # type: ignore[arg-type]
    rows = [Row(**row) for row in kept["rows"]]  # type: ignore[arg-type]
    return Found(rows, [Measurement(**step) for step in steps], str(kept["text"]))  # type: ignore[arg-type]
