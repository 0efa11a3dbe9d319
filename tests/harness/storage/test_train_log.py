"""A training log is read while it is being written. Covers `train_log`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.storage.train_log import TAIL_BYTES, last_row, last_step, read_log, scan_log


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
    assert len(scan_log(path)[1]) == len(torn)


def test_a_missing_log_has_no_rows(tmp_path: Path) -> None:
    assert read_log(tmp_path / "train.jsonl") == []
    assert last_row(tmp_path / "train.jsonl", "train") is None


ODD_LINES = [
    b"\xff\xfe\x00", b"[]", b'"text"', b"7", b"null", b"{}", b'{"kind": "train"}', b'{"kind": "train", "step": "1"}',
    b'{"kind": "train", "step": -1}', b'{"kind": "train", "step": 1e999}', b'{"kind": "train", "step": true}',
    b'{"kind": "train", "step": 1.5}', b'{"kind": "train", "step": 9007199254740993}',
    b'{"kind": "train", "step": 1, "loss": "low"}', b'{"kind": "train", "step": 1, "loss": NaN}',
    b'{"kind": "train", "step": 1, "progress": 2}', b'{"kind": "train", "step": 1, "progress": [0]}',
    b'{"kind": "train", "step": 1, "crops_per_second": -1}', b'{"kind": "validation", "step": 1, "crops": {}}',
    b"[" * 100_000, b'{"kind": "train", "step": ' + b"9" * 5000 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("line", ODD_LINES, ids=range(len(ODD_LINES)))
def test_a_line_that_no_run_writes_is_left_out_and_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "train.jsonl"
    good = {"kind": "train", "step": 3, "loss": 0.5}
    path.write_bytes(json.dumps(good).encode() + b"\n" + line + b"\n" + json.dumps(good).encode() + b"\n")
    rows, problems = scan_log(path)
    assert rows == read_log(path) == [good, good]
    assert len(problems) == 1
    assert problems[0].startswith(f"{path}:2: not a row of a log: ")
    path.write_bytes(line)
    assert last_row(path, "train") is None
    assert last_step(path) == 0


def test_the_last_step_is_the_highest_of_training(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"kind": "train", "step": 5}\n{"kind": "validation", "step": 6}\n{"kind": "train", "st')
    assert last_step(path) == 5
