"""Read a table of results, in any dialect that `analysis.tables` knows, into curves; errors name the place."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis.arrays import Floats
from analysis.fitting import annealing
from analysis.fitting.estimate import Factors, Points
from analysis.fitting.variance_components import Levels
from analysis.laws.kinds import Guess, Values, guess_by_label
from analysis.laws.metric import Metric
from analysis.tables.dialect import check_unique, join_levels
from analysis.tables.errors import TableError
from analysis.tables.expressions import typed
from analysis.tables.names import BLANK, names_of
from analysis.tables.parse_numbers import Hint, Numbers, checked, number, parse_numbers
from analysis.tables.read_table import read_table
from analysis.tables.series import column_of

if TYPE_CHECKING:
    import pandas as pd

KEEP = "--include-unannealed"
HINT = "commas"
"""Under which a table's attributes say what its commas are."""


class ResultsTableError(TableError):
    """A table that cannot be used; the message says where and what would be right."""


@dataclass(frozen=True)
class Columns:
    """The role of each column."""

    x: tuple[str, ...]
    y: str
    group: tuple[str, ...] = ()
    factors: tuple[str, ...] = ()  # none or two
    run: str | None = None
    architecture: tuple[str, ...] = ()  # columns whose equal values are of one architecture
    x_low: str | None = None
    x_high: str | None = None
    annealed: bool = True  # leave out the rows that the column `annealed` denies
    kinds: tuple[str, ...] | None = None  # rows of equal values here hold one kind of metric; default: those of `group`


@dataclass(frozen=True)
class Curve:
    """One group's points for fitting and points held out."""

    name: str
    train: Points
    held_out: Points
    factors: Factors | None
    notes: tuple[str, ...]
    guess: Guess  # what its metric is

    @property
    def metric(self) -> Metric:
        return self.guess.metric


def read_file(path: str | Path) -> pd.DataFrame:
    """The table at a path. Text stays as it is written; the index holds the line of each row (or its row in Parquet).

    Raises:
        ResultsTableError: it is not there, is empty, or cannot be read.
    """
    import pandas as pd

    try:
        table = read_table(path)
    except TableError as error:
        raise ResultsTableError(str(error)) from error
    columns = {
        name: pd.Series(column.to_numpy(zero_copy_only=False))
        for name, column in zip(table.names, table.columns, strict=True)
    }
    places = pd.RangeIndex(1, len(table) + 1, name="row") if table.lines is None else pd.Index(table.lines, name="line")
    frame = pd.DataFrame(columns).set_axis(places)
    frame.attrs[HINT] = table.hint
    return frame


def with_names(table: pd.DataFrame) -> pd.DataFrame:
    """The table with text for names; names on several levels are joined by an underscore.

    Raises:
        ResultsTableError: two columns have one name.
    """
    names = [join_levels([str(part) for part in name]) if isinstance(name, tuple) else str(name) for name in table]
    try:
        check_unique(names)
    except TableError as error:
        raise ResultsTableError(str(error)) from error
    return table.set_axis(names, axis="columns")


def column(table: pd.DataFrame, requested: str, option: str) -> str:
    """The column of that name; case, spaces and underscores do not matter.

    Raises:
        ResultsTableError: there is none, or several; the message has the nearest names.
    """
    if requested in table.columns:
        return requested

    def plain(name: object) -> str:
        return re.sub(r"[\s_\-]+", "", str(name)).lower()

    same = [str(name) for name in table.columns if plain(name) == plain(requested)]
    if len(same) == 1:
        return same[0]
    names = [str(name) for name in table.columns]
    near = difflib.get_close_matches(requested, names, 1, 0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ResultsTableError(f"{option}: no column {requested!r}{hint} (columns: {', '.join(names)})")


def numbers(table: pd.DataFrame, name: str) -> Floats:
    """A column as floats (n,), NaN where it holds none. `1,000`, `52M`, `1.3B` and `45%` are understood.

    Raises:
        ResultsTableError: a value was meant as a number and cannot be read as one; with its line.
    """
    try:
        return checked(_parsed(table, name), f"column {name!r}", lambda row: place(table, row), "missing")
    except TableError as error:
        raise ResultsTableError(str(error)) from error


def place(table: pd.DataFrame, row: int) -> str:
    """Where a row is in its file; a table without lines is taken for one whose header is line 1."""
    named = table.index.name in ("line", "row")
    return f"{table.index.name} {table.index[row]}" if named else f"line {row + 2}"


def _parsed(table: pd.DataFrame, name: str) -> Numbers:
    return parse_numbers(column_of(table[name]), table.attrs.get(HINT, Hint()))


def train_mask(table: pd.DataFrame, expression: str | None) -> np.ndarray:
    """Rows to fit (n,) bool. Columns with spaces may be written in backticks or plainly.

    Raises:
        ResultsTableError: the expression is not valid, or selects no row.
    """
    if expression is None:
        return np.ones(len(table), dtype=bool)
    text = expression
    if "`" not in text:
        for name in sorted((str(n) for n in table.columns if not str(n).isidentifier()), key=len, reverse=True):
            text = re.sub(rf"(?<![\w`]){re.escape(name)}(?![\w`])", f"`{name}`", text)
    try:
        mask = np.asarray(typed(table, table.attrs.get(HINT, Hint())).eval(text, engine="python"), dtype=bool)
    except Exception as error:  # pandas' parser raises errors of many types
        columns = ", ".join(map(str, table.columns))
        raise ResultsTableError(f"--train-where {expression!r}: {error} (columns: {columns})") from error
    if mask.shape != (len(table),):
        raise ResultsTableError(f"--train-where {expression!r}: gives no value per row")
    if not mask.any():
        raise ResultsTableError(f"--train-where {expression!r}: no row of {len(table)} fits")
    return mask


def curves(
    table: pd.DataFrame, columns: Columns, where: str | None = None, metric: Metric | None = None
) -> tuple[list[Curve], Metric]:
    """The groups of a table, each with its metric, and the first group's metric (guessed where it is not given).

    Raises:
        ResultsTableError: a column is missing, or no row has usable numbers.
    """
    x = np.column_stack([numbers(table, name) for name in columns.x])
    y, training = numbers(table, columns.y), train_mask(table, where)
    ends = [None if name is None else numbers(table, name) for name in (columns.x_low, columns.x_high)]
    if ends[0] is not None and ends[1] is not None and len(columns.x) == 1:
        x, ends = _pinned(x, ends[0], ends[1])
    usable = np.isfinite(x).all(axis=1) & (x > 0).all(axis=1) & np.isfinite(y)
    if not usable.any():
        raise ResultsTableError(f"no row has a positive number in {', '.join(columns.x)} and a number in {columns.y}")
    stopped = annealing.unannealed(table) & columns.annealed
    if not (usable & ~stopped).any():
        raise ResultsTableError(f"every row stopped before its learning rate had decayed; {KEEP} fits such rows too")
    unsaid = annealing.unknown(table) & usable
    missing, usable = ~usable, usable & ~stopped
    names = _labels(table, columns.group)
    kinds = names if columns.kinds is None else _labels(table, columns.kinds)
    seen = Values(kinds, np.where(usable[:, None], x, 1.0).prod(axis=1), y, usable & training, usable)
    guesses = guess_by_label(columns.y, seen) if metric is None else dict.fromkeys(kinds.tolist(), Guess(metric))
    runs = names_of(column_of(table[columns.run]), columns.run) if columns.run else None
    levels = _architectures(table, columns.architecture, usable) if columns.architecture else None
    rate = next((str(name) for name in table.columns if annealing.RATE.fullmatch(str(name))), None)
    rates = numbers(table, rate) if rate and columns.run else None
    commas = _comma_notes(table, columns)
    curve_list = []
    for name in dict.fromkeys(names.tolist()):
        in_group = names == name
        guess = guesses[kinds[np.flatnonzero(in_group)[0]]]
        inside = _inside(y, guess.metric)
        rows = [np.flatnonzero(in_group & usable & part) for part in (inside & training, ~training)]
        parts = [_points(table, part, x, y, runs, ends) for part in rows]
        if levels is not None:
            parts = [replace(part, levels=Levels(tuple(levels[at]))) for part, at in zip(parts, rows, strict=True)]
        ordered = rows[0][parts[0].order]
        decaying = annealing.decaying(
            table.iloc[ordered], None if runs is None else runs[ordered], None if rates is None else rates[ordered]
        )
        outside = usable & training & ~inside
        notes = commas + _notes(table, in_group & missing, in_group & outside, columns, guess.metric)
        stopped_here, unsaid_here = (int((in_group & rows).sum()) for rows in (stopped & ~missing, unsaid))
        notes += annealing.notes(stopped_here, unsaid_here, "rows", KEEP)
        factors = _factors(table, columns, rows[0])
        train = replace(parts[0], decaying=decaying)
        curve_list.append(Curve(name, train, parts[1], factors, tuple(notes), guess))
    return curve_list, curve_list[0].guess.metric


def _labels(table: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """The values of each row in some columns, joined (rows,); `all` without columns."""
    labels = [names_of(column_of(table[name]), name) for name in names]
    return np.array(
        [" / ".join(text or BLANK for text in row) for row in zip(*labels, strict=True)] or ["all"] * len(table)
    )


def _architectures(table: pd.DataFrame, names: Sequence[str], usable: np.ndarray) -> np.ndarray:
    """The architecture of each row (rows,).

    Raises:
        ResultsTableError: a row that is used has none.
    """
    labels = _labels(table, names)
    lacking = np.flatnonzero(usable & np.array([BLANK in label.split(" / ") for label in labels]))
    if lacking.size:
        raise ResultsTableError(
            f"{place(table, int(lacking[0]))}: no {' or '.join(names)}; --architecture needs one for every run"
        )
    return labels


def check_architecture(requested: str | None, curve_list: Sequence[Curve]) -> None:
    """Refuse an architecture that no run is of.

    Raises:
        ResultsTableError: with the nearest names.
    """
    known = dict.fromkeys(name for curve in curve_list if curve.train.levels for name in curve.train.levels.names)
    if requested is not None and requested not in known:
        near = difflib.get_close_matches(requested, known, 3, 0.3)
        hint = f"; near are {', '.join(near)}" if near else "; name their columns with --architecture"
        raise ResultsTableError(f"--of-architecture: no run is of {requested!r}{hint}")


def _pinned(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """Rows without bounds are pinned at x; rows without x are placed in the (logarithmic) middle of their bounds."""
    with np.errstate(all="ignore"):
        middle = np.sqrt(low) * np.sqrt(high)
    x = np.where(np.isnan(x), middle[:, None], x)
    return x, [np.where(np.isnan(end), x[:, 0], end) for end in (low, high)]


def _factors(table: pd.DataFrame, columns: Columns, rows: np.ndarray) -> Factors | None:
    """The two factors of the rows, where they were named and are positive numbers throughout."""
    if not columns.factors:
        return None
    values = np.column_stack([numbers(table, name)[rows] for name in columns.factors])
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ResultsTableError(f"--factors {' '.join(columns.factors)}: every fitted row needs positive numbers there")
    return Factors((columns.factors[0], columns.factors[1]), values)


def _inside(y: np.ndarray, metric: Metric) -> np.ndarray:
    """Rows whose metric has a logarithm."""
    return np.asarray(metric.distance(y) > 0) if metric.kind != "score" else np.ones(len(y), dtype=bool)


def _points(table: pd.DataFrame, rows: np.ndarray, x: np.ndarray, y: np.ndarray, runs: np.ndarray | None,
            ends: Sequence[np.ndarray | None]) -> Points:  # fmt: skip
    low, high = (None if end is None else end[rows][:, None] for end in ends)
    if low is not None and high is not None:
        bad = ~(np.isfinite(low) & np.isfinite(high) & (low > 0) & (low <= high))
        if bad.any():
            raise ResultsTableError(
                f"{place(table, int(rows[np.flatnonzero(bad)[0]]))}: the ends of x must be positive, low first"
            )
    return Points(x[rows], y[rows], tuple(runs[rows]) if runs is not None else (), low, high)


def _comma_notes(table: pd.DataFrame, columns: Columns) -> list[str]:
    """What was assumed of commas."""
    texts = {name: _parsed(table, name).assumed for name in (*columns.x, columns.y)}
    return [f"{name}: commas separate thousands, so {text} is {number(text):g}" for name, text in texts.items() if text]


def _notes(
    table: pd.DataFrame, without_numbers: np.ndarray, out_of_range: np.ndarray, columns: Columns, metric: Metric
) -> list[str]:  # fmt: skip
    """What was left out of a group, with the first place."""
    notes = []
    missing, outside = np.flatnonzero(without_numbers), np.flatnonzero(out_of_range)
    if missing.size:
        names = f"{', '.join(columns.x)}, {columns.y}"
        where = place(table, int(missing[0]))
        notes.append(f"{missing.size} rows without usable numbers in {names} left out, first on {where}")
    if outside.size:
        bound = f"at or beyond {metric.bound:g}" if metric.kind == "share" else "at or below 0"
        where = place(table, int(outside[0]))
        notes.append(f"{outside.size} rows with {columns.y} {bound} left out, first on {where}")
    return notes
