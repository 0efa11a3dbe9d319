"""Tables of results: separators, comments, column names, numbers, row selections; what of them `annealing` tells."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.read_results import (
    Columns,
    ResultsTableError,
    column,
    curves,
    number,
    read_file,
    train_mask,
    with_names,
)


def test_a_colour_is_not_a_comment(tmp_path: Path) -> None:
    """Digitised figures carry colours such as #faebdd; comments are above the header."""
    path = tmp_path / "figure.csv"
    rows = "".join(f"{x},#faebdd,{2 + 30 * x**-0.3}\n" for x in (10.0, 30.0, 100.0, 300.0, 1000.0))
    path.write_text("# digitised\nsize,colour,loss\n" + rows)
    assert len(read_file(path)) == 5
    assert list(read_file(path).columns) == ["size", "colour", "loss"]


@pytest.mark.parametrize(
    ("text", "value"), [("1,000", 1e3), ("52M", 52e6), (" 1.3B ", 1.3e9), ("45%", 45.0), ("2e21", 2e21)]
)
def test_numbers_with_separators_and_suffixes_are_read(text: str, value: float) -> None:
    assert number(text) == value
    assert np.isnan(number(f"{text} or so"))


def test_columns_are_found_by_their_plain_name() -> None:
    table = pd.DataFrame(columns=["Seen Examples", "Loss"])
    assert column(table, "seen_examples", "--x") == "Seen Examples"
    with pytest.raises(ResultsTableError, match="--y: no column 'Lose'; did you mean 'Loss'"):
        column(table, "Lose", "--y")


def test_rows_are_selected_by_an_expression_with_plain_column_names() -> None:
    table = pd.DataFrame({"Seen Examples": [1, 10, 100]})
    assert train_mask(table, "Seen Examples < 50").tolist() == [True, True, False]
    with pytest.raises(ResultsTableError, match="no row of 3 fits"):
        train_mask(table, "Seen Examples > 1000")


@pytest.mark.parametrize(
    ("texts", "expression", "rows"),
    [
        (["", "b", "NA"], "t.notna()", [1, 2]),
        (["", "b", "NA"], "t == 'NA'", [2]),
        (["", "b", "NA"], "t < 'c'", [1, 2]),
        (["", "b", "NA"], "t.str.contains('b')", [1]),
        (["", "True", "false"], "t == True", [1]),
        (["", "True", "false"], "t", [1]),
        (["FALSE", "TRUE", "true"], "not t", [0]),
        (["", "1", "2"], "t > 1", [2]),
    ],
)
def test_a_blank_in_an_expression_is_missing(texts: list[str], expression: str, rows: list[int]) -> None:
    for table in (pd.DataFrame({"t": texts}), pd.DataFrame({"t": texts}, index=[7, 7, 7])):
        assert np.flatnonzero(train_mask(table, expression)).tolist() == rows


def test_names_of_other_types_become_text() -> None:
    levels = pd.MultiIndex.from_tuples([("loss", "mean"), ("loss", "std"), ("flops", "")])
    assert list(with_names(pd.DataFrame(columns=levels))) == ["loss_mean", "loss_std", "flops"]
    assert list(with_names(pd.DataFrame(columns=[0, 1.5, "x"]))) == ["0", "1.5", "x"]
    with pytest.raises(ResultsTableError, match="several columns are called 'loss'"):
        with_names(pd.DataFrame(columns=["loss", "loss"]))


def test_rows_without_usable_numbers_are_left_out_of_their_group_and_noted() -> None:
    table = pd.DataFrame({"c": [1.0, 2, -3, 4], "loss": [4.0, 3, 2, 0], "model": ["A", "B", "A", "B"]})
    groups, metric = curves(table, Columns(("c",), "loss", ("model",)))
    assert metric.kind == "loss"
    assert [(curve.name, curve.train.y.tolist()) for curve in groups] == [("A", [4.0]), ("B", [3.0])]
    assert groups[0].notes == ("1 rows without usable numbers in c, loss left out, first on line 4",)
    assert groups[1].notes == ("1 rows with loss at or below 0 left out, first on line 5",)


@pytest.mark.parametrize(
    ("extra", "run", "decaying"),
    [
        ({}, None, False),
        ({"lr": [4e-4, 4e-4, 2e-4, 1e-4, 4e-4, 4e-4, 2e-4, 1e-4]}, "run", True),
        ({"Learning Rate": [4e-4] * 4 + [1e-4] * 4}, "run", False),  # tuned per run, constant within each
        ({"lr": [4e-4, 4e-4, 2e-4, 1e-4] * 2}, None, False),  # of runs that are not named
        ({"annealed": ["False"] * 3 + ["True"] + ["False"] * 3 + ["True"]}, None, True),
    ],
    ids=["unsaid", "rate", "tuned", "unnamed", "annealed"],
)
def test_a_column_tells_whether_checkpoints_are_under_a_decaying_rate(extra, run, decaying) -> None:
    table = pd.DataFrame(
        {"run": ["a"] * 4 + ["b"] * 4, "steps": [1.0, 2, 3, 4] * 2, "loss": 3 - 0.1 * np.arange(8)} | extra
    )
    (found,), _ = curves(table, Columns(("steps",), "loss", run=run, annealed=False))
    assert found.train.decaying == decaying
