"""Covers `json_files`: what another process wrote is read with bounds, or refused with the reason."""

import math
import os
from pathlib import Path

import pytest

from harness.storage import json_files
from harness.storage.json_files import is_number, parse_json, read_json


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": NaN}', "NaN is not a finite number"),
        ("[-Infinity]", "-Infinity is not a finite number"),
        ("[1e999]", "1e999 is not a finite number"),
        ('{"a": 1, "a": 2}', "a key is given twice"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "Expecting"),
    ],
)
def test_odd_json_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_json(text)


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, 0.5]}')
    assert read_json(path) == {"a": [1, 0.5]}
    monkeypatch.setattr(json_files, "MOST_BYTES", 10)
    with pytest.raises(ValueError, match="has 15 bytes, the limit is 10"):
        read_json(path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="is not a regular file"):
        read_json(tmp_path / "fifo")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none")


def test_a_boolean_is_no_number() -> None:
    assert is_number(1)
    assert is_number(0.5, 0, 1)
    assert not any(is_number(value, 0, 1) for value in (True, "1", None, 2, -0.1, math.nan))
