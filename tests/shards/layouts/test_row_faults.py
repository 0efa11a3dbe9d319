"""Rows with a fault: refused by their line with the ways on, or kept with their fault. Covers `keys`, too."""

import pandas as pd
import pytest

from shards.errors import LayoutError
from shards.layouts.keys import keys_of
from shards.layouts.row_faults import STRICT, FaultRule, Tolerance, first_blank

CHANNELS = ("channel:DNA", "channel:ER", "channel:AGP")


def rows(*images: str, **columns: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame([row.split() for row in images], columns=CHANNELS)
    lines = [f"t.csv, line {number + 2}" for number in range(len(frame))]
    return frame.assign(**{"source:line": lines, **{name.replace("_", ":"): texts for name, texts in columns.items()}})


def test_two_channels_that_name_one_file_are_refused_by_line():
    for second in ("/i/a", "/i/./a", "/i/x/../a"):
        with pytest.raises(
            LayoutError, match=r"t.csv, line 3: channels 'DNA' and 'AGP' name one file, /i/a; --on-error"
        ):
            FaultRule(STRICT, CHANNELS).applied(rows("/i/a /i/b /i/c", f"/i/a /i/b {second}"))
    part = FaultRule(Tolerance(quarantine=True), CHANNELS).applied(rows("a b c", "a a a"))
    assert part["source:fault"].tolist() == ["", "channels 'DNA' and 'ER' name one file, a"]


def test_the_first_fault_counts_the_others():
    faulty = rows("a b c", "a b c", "a b c", source_fault=["", "x is wrong", "y is wrong"])
    with pytest.raises(
        LayoutError, match=r"^t.csv, line 3: x is wrong \(and 1 more such rows\); --on-error quarantine"
    ):
        FaultRule(STRICT, CHANNELS).applied(faulty)


def test_wells_that_no_table_describes():
    undescribed = rows("a b c", "a b c", source_undescribed=["", "nothing describes B02"])
    with pytest.raises(LayoutError, match=r"line 3: nothing describes B02; --unlabelled keep .*, and --on-error quar"):
        FaultRule(STRICT, CHANNELS).applied(undescribed)
    kept = FaultRule(Tolerance(unlabelled=True), CHANNELS)
    assert set(kept.applied(undescribed)) == {*CHANNELS, "source:line"}
    assert kept.unlabelled == 1
    left_out = FaultRule(Tolerance(quarantine=True), CHANNELS).applied(undescribed)
    assert left_out["source:fault"].tolist() == ["", "nothing describes B02"]


def test_blank_cells():
    table = rows("a b c", "a b c").assign(**{"channel:ER": ["b", "  "], "channel:AGP": ["c", ""]})
    assert first_blank(table, list(CHANNELS)).tolist() == ["", "column 'channel:ER' is empty"]


def test_keys_have_the_experiment_only_where_two_experiments_share_one():
    wells = pd.DataFrame(
        [("B1", "R1", "A01"), ("B2", "R1", "A01"), ("B2", "R1", "A02"), ("B1", "R2", "A01"), ("B2", "R3", "A01"),
         ("B1", "R4", "A01"), ("B2", "R4", "A02")],
        columns=["experiment", "plate", "well"],
    )  # fmt: skip
    assert keys_of("{plate}_{well}", wells) == [
        "B1_R1_A01", "B2_R1_A01", "B2_R1_A02", "R2_A01", "R3_A01", "R4_A01", "R4_A02",
    ]  # fmt: skip
