"""Nodes that runs of a study found slow: `<output>/slow_nodes/<node>.json`. A later submission can leave them out."""

from __future__ import annotations

import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.storage.atomic import write_json
from harness.storage.json_files import is_number, read_json

FOLDER = "slow_nodes"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,253}")
KEPT_SECONDS = 7 * 24 * 3600.0  # after which a node may have been repaired


@dataclass(frozen=True)
class SlowNode:
    """A node whose ranks keep others waiting.

    Attributes:
        ratio: how long its slowest rank takes for a step, in units of the median rank.
        text: what it is slow at.
        time: in seconds since the epoch.
    """

    node: str
    cell: str
    ratio: float
    text: str
    time: float


def record_slow_node(output: Path, slow: SlowNode) -> None:
    """Write a node's file, in place of what was known of it."""
    if NAME.fullmatch(slow.node):
        write_json(output / FOLDER / f"{slow.node}.json", asdict(slow))


def forget_slow_node(output: Path, node: str) -> None:
    """Remove a node's file: it is no longer slow."""
    if NAME.fullmatch(node):
        (output / FOLDER / f"{node}.json").unlink(missing_ok=True)


def read_slow_nodes(output: Path) -> list[SlowNode]:
    """The nodes that were slow within the last week, by name; files that hold no such record are left out."""
    found = (_read(path) for path in sorted((output / FOLDER).glob("*.json")))
    return [slow for slow in found if slow is not None and time.time() - slow.time < KEPT_SECONDS]


def _read(path: Path) -> SlowNode | None:
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return None
    if not isinstance(value, dict) or value.get("node") != path.stem or not NAME.fullmatch(path.stem):
        return None
    ratio, seconds = value.get("ratio"), value.get("time")
    if not is_number(ratio, 0, 1e9) or not is_number(seconds, 0, 1e12):
        return None
    cell, text = (str(value.get(name, ""))[:300] for name in ("cell", "text"))
    return SlowNode(path.stem, cell, float(ratio), text, float(seconds))
