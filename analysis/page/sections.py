"""Further sections of the page: how to split compute, reconstructions, cost, what to run next, provenance."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

from analysis.page.html import by_convention, number, table, text
from analysis.page.study import Allocation, CellRow, Sample, Study


def allocation(study: Study) -> str:
    """The compute-optimal frontier of each metric: exponents in words, a figure, and the numbers at some budgets."""
    if not study.allocations:
        return ""
    content = {name: "".join(map(_allocated, by_metric)) for name, by_metric in study.allocations.items()}
    every_allocation = [allocated for by_metric in study.allocations.values() for allocated in by_metric]
    drawn = list(dict.fromkeys(allocated.metric for allocated in every_allocation if allocated.line))
    plots = "".join(
        f'<div class="plot" role="img" data-allocation="{text(metric)}" aria-label="Best cost per crop against compute '
        f'for {text(metric)}; the numbers are in the table"></div>'
        for metric in drawn
    )
    about = (
        "From a joint law of cost per crop and crops seen, fitted to finished runs; compute is their product. "
        "Line and band: the best cost per crop; marks: the runs."
    )
    return (
        f'<section><h2 id="frontier">How to split compute between model and crops</h2><p class="soft">{about}</p>'
        f'<div class="panels">{plots}</div>{by_convention(study.convention, content)}</section>'
    )


def _allocated(allocated: Allocation) -> str:
    rows = (
        f"<tr>{number(place['compute'], '.3g')}{number(place['cost'], '.3g')}"
        f'<td class="number">{place["cost_low"]:.3g} – {place["cost_high"]:.3g}</td>'
        f"{number(place['crops'], '.3g')}{number(place['predicted'], '.4f')}</tr>"
        for place in allocated.places
    )
    head = ["compute", "best cost per crop", "its interval", "crops", f"{allocated.metric} predicted"]
    numbers = table(head, rows) if allocated.places else ""
    return f"<p><b>{text(allocated.metric)}</b>: {text(allocated.answer)}</p>{numbers}"


def _reconstructions(study: Study) -> str:
    """Crops of the best cell at full size, then one crop of every cell."""
    shown = list[str]()
    if study.reconstructions is not None and study.reconstructions.exists():
        image = base64.b64encode(study.reconstructions.read_bytes()).decode()
        shown.append(f'<img src="data:image/png;base64,{image}" alt="Crops: original, masked, reconstruction">')
    if study.samples:
        strips = "".join(map(_sample, study.samples))
        shown.append(
            "<h3>One crop of every cell, lowest loss first: original, masked, reconstruction</h3>"
            f'<div class="samples">{strips}</div>'
        )
    return f'<section><h2 id="reconstructions">Reconstructions</h2>{"".join(shown)}</section>' if shown else ""


def _sample(sample: Sample) -> str:
    image = base64.b64encode(sample.image).decode()
    loss = "" if sample.loss is None else f", loss {sample.loss:.4f}"
    return (
        f'<figure><img src="data:image/jpeg;base64,{image}" alt="{text(sample.cell)}: original, masked, '
        f'reconstruction"><figcaption>{text(sample.cell)}{loss}</figcaption></figure>'
    )


def _cost(study: Study) -> str:
    """Planned against spent, per model and in total; spent is shown next to the plan of the same cells."""
    by_model: dict[str, list[CellRow]] = {}
    for row in study.cells:
        by_model.setdefault(row.model, []).append(row)
    unit, cost = ("GPU h", ["planned cost", "spent cost"]) if study.price else ("process h", [])
    head = ["model", "cells", f"planned {unit}", "started", f"planned of started, {unit}", f"spent {unit}", *cost]
    rows = [_spent(model, rows_of_model, study) for model, rows_of_model in by_model.items()]
    about_cost = (
        f"Cost is GPU hours of {text(study.price.machine)} at {study.price.per_hour:g} an hour, in the currency of "
        "hardware.price_per_hour. "
        if study.price
        else "This study runs without GPUs: no GPU hours are planned, and hours spent are process hours. "
    )
    return (
        f'<section><h2 id="cost">Cost, planned against spent</h2><p class="soft">{about_cost}'
        "Planned and spent are of training and embedding; a cell that was resumed counts all of its training.</p>"
        f"{f'<p>{text(study.goodput)}</p>' if study.goodput else ''}"
        f"{table(head, [*rows, _spent('all', study.cells, study)])}</section>"
    )


def _spent(name: str, cells: Sequence[CellRow], study: Study) -> str:
    started = [row for row in cells if row.spent_hours is not None]
    planned = sum(row.planned_hours or 0.0 for row in cells)
    their_plan, spent = (sum(getattr(row, key) or 0.0 for row in started) for key in ("planned_hours", "spent_hours"))
    rate = study.price.per_hour if study.price else None
    cost = "" if rate is None else "".join(number(hours * rate, ",.0f") for hours in (planned, spent))
    counts = f"{number(len(cells), ',d')}{_hours(planned)}{number(len(started), ',d')}"
    return f"<tr><td>{text(name)}</td>{counts}{_hours(their_plan)}{_hours(spent)}{cost}</tr>"


def _hours(value: float) -> str:
    return number(value, ",.0f" if value >= 100 else ".3g")


def _next(study: Study) -> str:
    rate = study.price.per_hour if study.price else None
    rows = [
        f"<tr><td>{text(run.cell)}</td>{_hours(run.hours)}"
        f"{'' if rate is None else number(run.hours * rate, ',.0f')}"
        f'<td class="wide">{text(run.narrows)}</td></tr>'
        for run in study.next_runs
    ]
    if not rows and not study.no_next:
        return ""
    head = ["cell", "GPU hours", *([] if rate is None else ["cost"]), "expected effect"]
    shown = table(head, rows) if rows else f"<p>{text(study.no_next)}</p>"
    left = "".join(f'<p class="soft">{text(line)}.</p>' for line in study.unsettled)
    return f'<section><h2 id="next">What to run next</h2>{left}{shown}</section>'


def _provenance(study: Study) -> str:
    rows = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in study.provenance.items())
    return f'<section><h2 id="provenance">Provenance</h2><dl>{rows}</dl></section>'


SECTIONS: tuple[Callable[[Study], str], ...] = (_reconstructions, _cost, _next, _provenance)
