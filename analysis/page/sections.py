"""The page's plainer sections: how to split compute, reconstructions, cost, what to run next, provenance."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

from analysis.page.html import by_convention, number, table, text
from analysis.page.study import Allocation, CellRow, Sample, Study


def allocation(study: Study) -> str:
    """The compute-optimal frontier of each metric: exponents in words, a figure, and the numbers at some budgets."""
    if not study.allocations:
        return ""
    content = {name: "".join(_allocated(one) for one in of) for name, of in study.allocations.items()}
    drawn = list(dict.fromkeys(one.metric for of in study.allocations.values() for one in of if one.line))
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


def _allocated(one: Allocation) -> str:
    rows = (
        f"<tr>{number(place['compute'], '.3g')}{number(place['cost'], '.3g')}"
        f'<td class="number">{place["cost_low"]:.3g} – {place["cost_high"]:.3g}</td>'
        f"{number(place['crops'], '.3g')}{number(place['predicted'], '.4f')}</tr>"
        for place in one.places
    )
    head = ["compute", "best cost per crop", "its interval", "crops", f"{one.metric} predicted"]
    numbers = table(head, rows) if one.places else ""
    return f"<p><b>{text(one.metric)}</b>: {text(one.answer)}</p>{numbers}"


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


def _sample(one: Sample) -> str:
    image = base64.b64encode(one.image).decode()
    loss = "" if one.loss is None else f", loss {one.loss:.4f}"
    return (
        f'<figure><img src="data:image/jpeg;base64,{image}" alt="{text(one.cell)}: original, masked, '
        f'reconstruction"><figcaption>{text(one.cell)}{loss}</figcaption></figure>'
    )


def _cost(study: Study) -> str:
    """Planned against spent, per model and in sum: spent is set beside what the same cells were planned to take."""
    by_model: dict[str, list[CellRow]] = {}
    for row in study.cells:
        by_model.setdefault(row.model, []).append(row)
    unit, money = ("GPU h", ["planned, money", "spent, money"]) if study.price else ("h of processes", [])
    head = ["model", "cells", f"planned {unit}", "begun", f"their plan, {unit}", f"spent {unit}", *money]
    rows = [_spent(model, of, study) for model, of in by_model.items()]
    priced = (
        f"Money is GPU hours at {study.price.per_hour:g} an hour of {text(study.price.machine)}. "
        if study.price
        else "There are no GPUs here: nothing is planned in GPU hours, and spent are hours of processes. "
    )
    return (
        f'<section><h2 id="cost">Cost, planned against spent</h2><p class="soft">{priced}'
        "Planned and spent are of training and embedding; a cell that was resumed counts all of its training.</p>"
        f"{table(head, [*rows, _spent('all', study.cells, study)])}</section>"
    )


def _spent(name: str, cells: Sequence[CellRow], study: Study) -> str:
    begun = [row for row in cells if row.spent_hours is not None]
    planned = sum(row.planned_hours or 0.0 for row in cells)
    theirs, spent = (sum(getattr(row, key) or 0.0 for row in begun) for key in ("planned_hours", "spent_hours"))
    rate = study.price.per_hour if study.price else None
    money = "" if rate is None else "".join(number(hours * rate, ",.0f") for hours in (planned, spent))
    counts = f"{number(len(cells), ',d')}{_hours(planned)}{number(len(begun), ',d')}"
    return f"<tr><td>{text(name)}</td>{counts}{_hours(theirs)}{_hours(spent)}{money}</tr>"


def _hours(value: float) -> str:
    return number(value, ",.0f" if value >= 100 else ".3g")


def _next(study: Study) -> str:
    rate = study.price.per_hour if study.price else None
    rows = [
        f"<tr><td>{text(one.cell)}</td>{_hours(one.hours)}"
        f"{'' if rate is None else number(one.hours * rate, ',.0f')}"
        f'<td class="wide">{text(one.narrows)}</td></tr>'
        for one in study.next_runs
    ]
    if not rows and not study.no_next:
        return ""
    head = ["cell", "GPU hours", *([] if rate is None else ["money"]), "what it would tell"]
    shown = table(head, rows) if rows else f"<p>{text(study.no_next)}</p>"
    return f'<section><h2 id="next">What to run next</h2>{shown}</section>'


def _provenance(study: Study) -> str:
    rows = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in study.provenance.items())
    return f'<section><h2 id="provenance">Provenance</h2><dl>{rows}</dl></section>'


SECTIONS: tuple[Callable[[Study], str], ...] = (_reconstructions, _cost, _next, _provenance)
