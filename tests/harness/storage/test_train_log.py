"""A training log is read while it is being written. Covers `train_log`."""

from __future__ import annotations

import json
from pathlib import Path

from harness.storage.train_log import TAIL_BYTES, damaged_lines, last_row, read_log


def test_an_incomplete_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    rows = [{"kind": "train", "step": step, "padding": " " * 100} for step in range(2 * TAIL_BYTES // 100)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows) + '{"kind": "train", "st')
    assert read_log(path) == rows
    assert last_row(path, "train") == rows[-1]
    assert last_row(path, "validation") is None


def test_damaged_lines_are_counted_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    good = {"kind": "train", "step": 1}
    torn = [b"\xff\xfe", b"[]", b'{"kind": "train"}', b'{"step": 1e999}', b'{"step": NaN}', b"[" * 100_000]
    path.write_bytes(b"\n".join([json.dumps(good).encode(), *torn, json.dumps(good).encode()]) + b'\n{"kind": "tr')
    assert read_log(path) == [good, good]
    assert damaged_lines(path) == len(torn)


def test_a_missing_log_has_no_rows(tmp_path: Path) -> None:
    assert read_log(tmp_path / "train.jsonl") == []
    assert last_row(tmp_path / "train.jsonl", "train") is None
