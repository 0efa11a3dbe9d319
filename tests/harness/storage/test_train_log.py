"""A training log is read while it is being written. Covers `train_log`."""

from __future__ import annotations

import json
from pathlib import Path

from harness.storage.train_log import TAIL_BYTES, last_row, read_log


def test_an_incomplete_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    rows = [{"kind": "train", "step": step, "padding": " " * 100} for step in range(2 * TAIL_BYTES // 100)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows) + '{"kind": "train", "st')
    assert read_log(path) == rows
    assert last_row(path, "train") == rows[-1]
    assert last_row(path, "validation") is None


def test_a_missing_log_has_no_rows(tmp_path: Path) -> None:
    assert read_log(tmp_path / "train.jsonl") == []
    assert last_row(tmp_path / "train.jsonl", "train") is None
