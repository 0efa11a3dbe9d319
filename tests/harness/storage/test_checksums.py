"""Checksums detect missing, truncated and changed files. Covers `checksums`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.storage.checksums import Damaged, check, checksum, read_checksummed, write_checksummed


def test_a_changed_json_file_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    write_checksummed(path, {"a": [1, 2.5, None]})
    assert read_checksummed(path) == {"a": [1, 2.5, None]}
    path.write_text(json.dumps({"value": {"a": 2}, "sha256": json.loads(path.read_text())["sha256"]}))
    with pytest.raises(Damaged, match=r"values\.json is damaged: its checksum does not match"):
        read_checksummed(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"value": {}}', "null"])
def test_a_file_without_a_checksum_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "values.json"
    path.write_text(text)
    with pytest.raises(Damaged, match=r"values\.json is damaged: not JSON with a checksum"):
        read_checksummed(path)


def test_the_first_damaged_file_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode() * 8)
    sizes_and_digests = {name: checksum(tmp_path / name) for name in ("a", "b")}
    check(tmp_path, sizes_and_digests, ["a", "b"])
    (tmp_path / "b").write_bytes(b"bbbbbbbc")
    with pytest.raises(Damaged, match="b is damaged: its checksum does not match"):
        check(tmp_path, sizes_and_digests, ["a", "b"])
    (tmp_path / "b").write_bytes(b"bbb")
    with pytest.raises(Damaged, match="b has 3 bytes instead of 8"):
        check(tmp_path, sizes_and_digests, ["a", "b"])
    (tmp_path / "a").unlink()
    with pytest.raises(Damaged, match="a cannot be read: No such file"):
        check(tmp_path, sizes_and_digests, ["a", "b"])
