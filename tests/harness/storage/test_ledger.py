"""A ledger row is there when its stage is done, whole or not at all, and pandas reads it."""

from pathlib import Path

import pytest

from harness.storage import atomic as files
from harness.storage import ledger
from harness.storage.ledger import LedgerError, LedgerRow

LOSSES = [("b", 0.5), ("a", 0.25)]


def test_a_row_reads_back_and_stands_in_the_table(tmp_path: Path) -> None:
    rows = [LedgerRow(name, "train", "print", {"validation_loss": loss, "nested": {"x": 1}}) for name, loss in LOSSES]
    for row in rows:
        ledger.record(tmp_path, row)
    assert ledger.read(tmp_path, "b", "train") == rows[0]
    assert ledger.read(tmp_path, "a", "embed") is None
    table = ledger.table(tmp_path, "train")
    assert table["cell"].tolist() == ["a", "b"]
    assert table["validation_loss"].tolist() == [0.25, 0.5]
    assert table["nested.x"].tolist() == [1, 1]


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    path = ledger.row_path(tmp_path, "a", "train")
    path.parent.mkdir(parents=True)
    for text in ("", "{", "[]", '{"cell": "a"}', "null"):
        path.write_text(text)
        with pytest.raises(LedgerError, match=r"train\.json: not a ledger row"):
            ledger.read(tmp_path, "a", "train")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    files.write_json(path, {"a": 1})

    def fail(file: object) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_atomic(path, fail)
    assert path.read_text() == '{\n "a": 1\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"loss": float("nan")})
    assert path.read_text() == '{\n "a": 1\n}\n'
