"""Covers `slow_nodes`: what is written is read back, for a week, and nothing else is."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from harness.storage.health.slow_nodes import (
    FOLDER,
    KEPT_SECONDS,
    SlowNode,
    forget_slow_node,
    read_slow_nodes,
    record_slow_node,
)


def test_slow_nodes_are_kept_for_a_week_and_forgotten_by_name(tmp_path: Path) -> None:
    slow = SlowNode("gpu-07", "vit_l8-s0", 1.6, "node gpu-07 is slow", time.time())
    old = replace(slow, node="gpu-08", time=time.time() - KEPT_SECONDS - 1)
    for node in (slow, old, replace(slow, node="../../gpu"), replace(slow, node="a,b")):
        record_slow_node(tmp_path, node)
    assert read_slow_nodes(tmp_path) == [slow]
    assert {path.name for path in tmp_path.rglob("*.json")} == {"gpu-07.json", "gpu-08.json"}
    forget_slow_node(tmp_path, "gpu-07")
    forget_slow_node(tmp_path, "gpu-07")
    assert read_slow_nodes(tmp_path) == []


def test_a_damaged_file_names_no_node(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    for name, text in {
        "a": "{",
        "b": "[]",
        "c": '{"node": "d", "ratio": 2, "time": 1e9}',
        "e": '{"node": "e"}',
    }.items():
        (tmp_path / FOLDER / f"{name}.json").write_text(text)
    assert read_slow_nodes(tmp_path) == []
