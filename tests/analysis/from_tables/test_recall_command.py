"""Gain and placebos from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis import evaluate


def command(folder: Path, *more: str) -> list[str]:
    pairs = ["--pairs", str(folder / "pairs.csv"), "--correct", "tvn", "--batch", "plate"]
    return [*pairs, "--control", "treatment=control", *more]


def test_the_gain_from_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = ["--trained", str(folder / "trained.parquet"), "--initial", str(folder / "initial.parquet")]
    assert evaluate.main(["gain", *tables, *command(folder), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["gain"]
    assert row["low"] > 0.2
    assert evaluate.main(["gain", *tables, *command(folder)]) == 0
    shown = capsys.readouterr().out
    assert f"{row['gain']:+.4f}" in shown
    assert "90% intervals cover complexes, genes and wells" in shown


def test_placebos_stand_below_the_recall(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recall = ["recall", str(folder / "initial.parquet"), *command(folder, "--well", "well")]
    assert evaluate.main([*recall, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["placebo"] for row in found["placebos"]] == ["shuffled_pairs", "random_features", "well_position"]
    # neighbours on the plate are of one complex here, which position alone recalls, and this map hardly does
    assert [row["suspect"] for row in found["placebos"]] == [False, False, True]
    assert evaluate.main(recall) == 0
    assert "half of the map's or more" in capsys.readouterr().out
    assert evaluate.main([*recall, "--no-placebos"]) == 0
    assert "well_position" not in capsys.readouterr().out


def test_a_column_that_is_no_number_of_cells_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recall = ["recall", str(folder / "trained.parquet"), *command(folder, "--count", "plate")]
    assert evaluate.main(recall) == 2
    assert "column 'plate' is not a number of cells in every row" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["recall", "gain"])
def test_two_lists_of_one_name_are_refused(verb: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their counts and placebos are by name, so that one list's would stand for both."""
    other = folder / "other" / "pairs.csv"
    other.parent.mkdir()
    lists = [folder / "pairs.csv", other]
    for path in lists:
        path.write_text("entity1,entity2\nG1,G2\n")
    tables = [str(folder / "trained.parquet")]
    if verb == "gain":
        tables = ["--trained", *tables, "--initial", str(folder / "initial.parquet")]
    assert evaluate.main([verb, *tables, "--pairs", *map(str, lists)]) == 2
    assert f"--pairs: {other} is the second list named pairs; give it another" in capsys.readouterr().err
