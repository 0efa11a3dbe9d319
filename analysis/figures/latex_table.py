"""Tables for papers: recall per run as LaTeX, one column per relationship source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analysis.fitting.annealing import unannealed, unknown

if TYPE_CHECKING:
    import pandas as pd

# Brackets and stars begin an argument of the `\\` that ends the line before.
ESCAPES = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "[": "{[}", "*": "{*}",
})  # fmt: skip
STOPPED, UNSAID = r"$^\dagger$", r"$^\ddagger$"
NOTES = {
    STOPPED: "stopped before its learning rate had decayed",
    UNSAID: "not known whether its learning rate had decayed",
}


def latex_table(points: pd.DataFrame, places: Mapping[str, str] | None = None) -> str:
    """Recall with its interval, a row per model, data set, seed and cell, a column per source; needs `booktabs`.

    Args:
        points: rows with model, dataset, seed, source, recall, recall_low, recall_high, and, if known, cell, trained
            and annealed: a run that was not annealed is marked, with a note below the table.
        places: further columns that tell runs apart, and their titles.
    """
    sources = list(dict.fromkeys(points["source"]))
    titles = {"model": "Model", "dataset": "Dataset", "seed": "Seed"} | dict(places or {})
    keys = [*titles, *(["cell"] if "cell" in points else [])]
    head = " & ".join(map(tex, [*titles.values(), *sources]))
    lines = [
        rf"\begin{{tabular}}{{ll{'r' * (len(sources) + len(titles) - 2)}}}",
        r"\toprule",
        head + r" \\",
        r"\midrule",
    ]
    marks = _marks(points)
    of_run: dict[tuple[str, ...], dict[str, Mapping[Any, Any]]] = {}  # rows by source
    for row in points.assign(mark=marks).to_dict("records"):
        of_run.setdefault(tuple(tex(row[key]) for key in keys), {}).setdefault(row["source"], row)
    for labels, rows in of_run.items():
        cells = [_interval(rows[source]) if source in rows else "--" for source in sources]
        model, *others = labels[: len(titles)]
        mark = next(iter(rows.values()))["mark"]
        lines.append(" & ".join([model + mark, *others, *cells]) + r" \\")
    lines.append(r"\bottomrule")
    for mark, note in NOTES.items():
        if mark in marks:
            lines.append(rf"\multicolumn{{{len(titles) + len(sources)}}}{{l}}{{{mark} {note}}} \\")
    return "\n".join([*lines, r"\end{tabular}", ""])


def tex(value: object) -> str:
    """The value as LaTeX text on one line; a dash where it is missing."""
    if value is None or value != value:
        return "--"
    return " ".join(str(value).split()).translate(ESCAPES)


def _marks(points: pd.DataFrame) -> list[str]:
    """The mark of each row."""
    trained = points["trained"].astype(bool) if "trained" in points else [True] * len(points)
    rows = zip(trained, unannealed(points), unknown(points), strict=True)
    return [STOPPED if stopped else UNSAID if unsaid and is_trained else "" for is_trained, stopped, unsaid in rows]


def _interval(row: Mapping[Any, Any]) -> str:
    ends = [row["recall_low"], row["recall_high"]]
    interval = "" if any(end != end or end is None for end in ends) else f" [{ends[0]:.3f}, {ends[1]:.3f}]"
    return f"{row['recall']:.3f}{interval}"
