"""A ledger row is written atomically when its stage is done, and pandas reads it. Covers `ledger` and `atomic`."""

import json
import math
import os
import pickle
from pathlib import Path

import pytest

from harness.storage import ledger
from harness.storage.atomic import write_atomic, write_json
from harness.storage.ledger import LedgerError, LedgerRow

LOSSES = [("b", 0.5), ("a", 0.25)]


def test_a_row_reads_back_and_is_in_the_table(tmp_path: Path) -> None:
    rows = [LedgerRow(name, "train", "print", {"validation_loss": loss, "nested": {"x": 1}}) for name, loss in LOSSES]
    for row in rows:
        ledger.record(tmp_path, row)
    assert ledger.read(tmp_path, "b", "train") == rows[0]
    assert ledger.read(tmp_path, "a", "embed") is None
    table = ledger.table(tmp_path, "train")
    assert table["cell"].tolist() == ["a", "b"]
    assert table["validation_loss"].tolist() == [0.25, 0.5]
    assert table["nested.x"].tolist() == [1, 1]


def test_an_old_row_is_read_under_the_current_names(tmp_path: Path) -> None:
    """Version 1 of an evaluation's row named the ends of a recall's interval low and high."""
    old = {"recall": {"CORUM": {"recall": 0.5, "low": 0.4, "high": 0.6, "low_tail": 0.2, "high_tail": 0.3}}}
    ledger.record(tmp_path, LedgerRow("a", "evaluate", "print", old))
    assert '"low"' in ledger.row_path(tmp_path, "a", "evaluate").read_text()
    row = ledger.read(tmp_path, "a", "evaluate")
    assert row is not None
    assert row.values["recall"]["CORUM"] == {
        "recall": 0.5, "recall_low": 0.4, "recall_high": 0.6, "low_tail": 0.2, "high_tail": 0.3
    }  # fmt: skip
    assert ledger.table(tmp_path, "evaluate")["recall.CORUM.recall_high"].tolist() == [0.6]


def test_a_damaged_row_is_named(tmp_path: Path) -> None:
    path = ledger.row_path(tmp_path, "a", "train")
    path.parent.mkdir(parents=True)
    row = '{"cell": "a", "stage": "train", "fingerprint": "f", "values": {"loss": %s}}'
    other = row.replace('"stage": "train"', '"stage": "embed"') % 1
    wrong = [row % "NaN", row % "-Infinity", row % "1e999", row % '1, "loss": 2', row.replace("values", "value") % 1]
    for text in ("", "{", "[]", '{"cell": "a"}', "null", "[" * 100_000, *wrong):
        path.write_text(text)
        with pytest.raises(LedgerError, match=r"train\.json: not a ledger row"):
            ledger.read(tmp_path, "a", "train")
    for text in (other, other.replace('"a"', '"b"')):
        path.write_text(text)
        with pytest.raises(LedgerError, match=r"train\.json: the row of another stage: embed of"):
            ledger.read(tmp_path, "a", "train")
    path.unlink()
    path.mkdir()
    with pytest.raises(LedgerError, match=r"train\.json: not a ledger row \(is not a regular file\)") as caught:
        ledger.read(tmp_path, "a", "train")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    write_json(path, {"a": 1})

    def fail(file: object) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, fail)
    assert path.read_text() == '{\n "a": 1\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"loss": float("nan")})
    assert path.read_text() == '{\n "a": 1\n}\n'


ROW = {"cell": "a", "stage": "train", "fingerprint": "print", "values": {"crops": 8, "validation_loss": 0.5}}
ODD_ROWS = {
    "bytes": (b"\xff\xfe\x00", "not a ledger row"),
    "NaN": (json.dumps(ROW | {"values": {"crops": math.nan}}).encode(), "NaN is not a finite number"),
    "infinity": (json.dumps(ROW).replace("0.5", "1e999").encode(), "1e999 is not a finite number"),
    "deep": (b"[" * 100_000, "nested too deeply"),
    "another cell": (json.dumps({**ROW, "cell": "b"}).encode(), "the row of another stage: train of b"),
    "another stage": (json.dumps({**ROW, "stage": "embed"}).encode(), "the row of another stage: embed of a"),
    "cell as a number": (json.dumps({**ROW, "cell": 7}).encode(), "cell should be str, this is int"),
    "fingerprint as a list": (json.dumps({**ROW, "fingerprint": []}).encode(), "fingerprint should be str"),
    "values as a list": (json.dumps({**ROW, "values": []}).encode(), "values should be dict, this is list"),
    "loss as text": (json.dumps({**ROW, "values": {"validation_loss": "low"}}).encode(), "validation_loss is low"),
    "crops as null": (json.dumps({**ROW, "values": {"crops": None}}).encode(), "values.crops is None, not a number"),
    "recall as a list": (json.dumps({**ROW, "values": {"recall": [1]}}).encode(), "values.recall is not a mapping"),
    "recall without a number": (json.dumps({**ROW, "values": {"recall": {"x": 1}}}).encode(), "values.recall.x has no"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "why"), ODD_ROWS.values(), ids=ODD_ROWS)
def test_an_odd_row_is_named_with_its_field(tmp_path: Path, content: bytes, why: str) -> None:
    ledger.record(tmp_path, LedgerRow("b", "train", "print", {}))
    path = ledger.row_path(tmp_path, "a", "train")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(LedgerError) as caught:
        ledger.read(tmp_path, "a", "train")
    assert str(caught.value).startswith(f"{path}: ")
    assert why in str(caught.value)
    rows, damaged = ledger.scan(tmp_path, "train")
    assert [row.cell for row in rows] == ["b"]
    assert [str(error) for error in damaged] == [str(caught.value)]
    with pytest.raises(LedgerError):
        list(ledger.rows(tmp_path, "train"))


def test_a_folder_or_pipe_in_place_of_a_row_is_named(tmp_path: Path) -> None:
    path = ledger.row_path(tmp_path, "a", "train")
    path.mkdir(parents=True)
    with pytest.raises(LedgerError, match="is not a regular file"):
        ledger.read(tmp_path, "a", "train")
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(LedgerError, match="is not a regular file"):
        ledger.read(tmp_path, "a", "train")
