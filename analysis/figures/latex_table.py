"""Tables for papers: recall per run as LaTeX, one column per relationship source."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

ESCAPES = str.maketrans({"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$"})


def latex_table(points: pd.DataFrame) -> str:
    """Recall with its interval, a row per model, data set and seed, a column per source; needs `booktabs`.

    Args:
        points: rows with model, dataset, seed, source, recall, recall_low, recall_high.
    """
    sources = list(dict.fromkeys(points["source"]))
    keys = ["model", "dataset", "seed"]
    head = " & ".join([*(key.capitalize() for key in keys), *map(_text, sources)])
    lines = [rf"\begin{{tabular}}{{ll{'r' * (len(sources) + 1)}}}", r"\toprule", head + r" \\", r"\midrule"]
    for labels, rows in points.groupby(keys, sort=False, dropna=False):
        by_source = rows.drop_duplicates("source").set_index("source")
        cells = [_interval(by_source.loc[source]) if source in by_source.index else "--" for source in sources]
        lines.append(" & ".join([*(_text(label) for label in labels), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _interval(row: pd.Series) -> str:
    return f"{row['recall']:.3f} [{row['recall_low']:.3f}, {row['recall_high']:.3f}]"


def _text(value: object) -> str:
    return "--" if value is None or value != value else str(value).translate(ESCAPES)
