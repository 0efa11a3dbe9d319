"""Two sections of the page: what is to be expected of the runs that are training, and how sealed forecasts did."""

from __future__ import annotations

from analysis.forecast.outlook import Outlook
from analysis.forecast.scores import Scored, summary
from analysis.page.html import number, table, text
from analysis.page.study import Study

RUNNING = [
    "cell",
    "done",
    "loss",
    "final loss",
    "90% interval",
    "frontier",
    "above it",
    "siblings",
    "verdict",
    "evidence",
]
SEALED = [
    "forecast", "cell", "metric", "predicted", "interval", "measured", "error", "inside", "inside so far", "note",
]  # fmt: skip


def running(study: Study) -> str:
    """A row for each run that has begun: its loss so far, the interval of its final loss, and the verdict."""
    if not study.outlooks:
        return ""
    about = (
        "From each run's own validations, its schedule, and finished runs with the same schedule. The frontier is the "
        "lowest loss of the finished runs of the same task at no more compute."
    )
    shown = table(RUNNING, [_running(cell, seen) for cell, seen in study.outlooks.items()])
    return f'<section><h2 id="running">Runs that have begun</h2><p class="soft">{about}</p>{shown}</section>'


def _running(cell: str, seen: Outlook) -> str:
    frontier = seen.frontier.loss if seen.frontier else None
    numbers = f"{number(seen.share, '.0%')}{number(seen.loss, '.4g')}{number(seen.final, '.4g')}"
    numbers += f"{_range(seen.low, seen.high)}{number(frontier, '.4g')}{number(seen.above, '.1%')}"
    words = f'<td>{text(seen.verdict)}</td><td class="wide">{text(seen.evidence)}</td>'
    return f"<tr><td>{text(cell)}</td>{numbers}{number(seen.siblings, 'd')}{words}</tr>"


def sealed(study: Study) -> str:
    """The score of every sealed prediction, with the coverage of its metric so far."""
    if not study.forecasts:
        return ""
    lines = "".join(f"<li>{text(line)}</li>" for line in summary(study.forecasts))
    about = f'<p class="soft">{text(study.sealed)}</p><ul>{lines}</ul>'
    shown = table(SEALED, [_sealed(one) for one in study.forecasts])
    return f'<section><h2 id="forecasts">Sealed forecasts</h2>{about}{shown}</section>'


def _sealed(one: Scored) -> str:
    made = one.prediction
    inside = "" if one.is_inside is None else "yes" if one.is_inside else "no"
    so_far = f"{one.inside} of {one.scored}" if one.is_inside is not None else ""
    names = f"{number(made.forecast, 'd')}<td>{text(made.cell)}</td><td>{text(made.metric)}</td>"
    numbers = f"{number(made.value, '.4g')}{_range(made.low, made.high)}"
    numbers += f"{number(made.measured, '.4g')}{number(one.error, '+.4g')}"
    words = f'<td>{inside}</td><td class="number">{so_far}</td><td class="wide">{text(made.note)}</td>'
    return f"<tr>{names}{numbers}{words}</tr>"


def _range(low: float | None, high: float | None) -> str:
    shown = "" if low is None or high is None else f"{low:.4g} – {high:.4g}"
    return f'<td class="number">{shown}</td>'
