"""The page's room: a study as one HTML file that needs neither network nor server.

The question and the answer come first, then the figures (Plotly, embedded), the cells, the checks, the cost, what to
run next, and where every number is from. Tables and answers are plain HTML; the script draws, switches, sorts and
filters.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

ASSETS = Path(__file__).parent / "assets"
VERDICTS = {"ok": "ok", "info": "–", "warn": "look"}


@dataclass(frozen=True)
class CellRow:
    """One cell of the study's table. Numbers that are not known yet are None."""

    cell: str
    model: str
    dataset: str
    seed: int
    state: str  # done, part, missing
    loss: float | None
    recalls: Mapping[str, float | None]  # by source
    planned_hours: float | None
    spent_hours: float | None
    log: str | None  # a link, relative to the page


@dataclass(frozen=True)
class SourceFit:
    """One source under one convention: the line with its interval, and what is to be said of it."""

    answer: str
    line: Mapping[str, Sequence[float]]  # x, y, low, high
    checks: Sequence[Mapping[str, str]] = ()  # check, verdict, detail


@dataclass(frozen=True)
class Next:
    """A run that is proposed."""

    cell: str
    hours: float
    narrows: str  # in words


@dataclass(frozen=True)
class Study:
    """All that the page shows. Compute is given under every convention."""

    title: str
    question: str
    convention: str  # shown first
    conventions: Sequence[Mapping[str, str]]  # name, unit, meaning
    sources: Sequence[str]
    points: Sequence[Mapping[str, Any]]
    courses: Sequence[Mapping[str, Any]]  # cell, size, patch, loss, compute by convention
    frontier: Mapping[str, Mapping[str, Sequence[float]]]
    fits: Mapping[str, Mapping[str, SourceFit]]  # by convention and source
    cells: Sequence[CellRow]
    unfinished: str  # what is missing, in words; empty when the study is whole
    next_runs: Sequence[Next] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    reconstructions: Path | None = None  # a PNG


def page(study: Study) -> str:
    """The whole page as text."""
    from plotly.offline import get_plotlyjs

    parts = [
        _head(study),
        _answers(study),
        '<section><h2 id="curves">Recall against compute</h2><div class="panels">',
        *(f'<div class="plot" role="img" data-plot="{_text(source)}" aria-label="Recall of {_text(source)} against '
          f'compute; the numbers are in the table of cells"></div>' for source in study.sources),
        '</div><p class="soft" id="legend"></p></section>',
        _loss(study),
        _cells(study),
        _checks(study),
        _reconstructions(study),
        _cost(study),
        _next(study),
        _provenance(study),
        f'<script type="application/json" id="study">{_json(study)}</script>',
        f"<script>{get_plotlyjs()}</script>",
        f"<script>{(ASSETS / 'report.js').read_text(encoding='utf-8')}</script>",
        "</body></html>",
    ]  # fmt: skip
    return "\n".join(parts)


def _text(value: object) -> str:
    return escape(str(value), quote=True)


def _json(study: Study) -> str:
    """What the script draws; `<` is escaped so that no value can end the element."""
    fits = {
        convention: {source: {"line": dict(fit.line)} for source, fit in of.items()}
        for convention, of in study.fits.items()
    }
    data = {
        "conventions": list(study.conventions), "sources": list(study.sources), "points": list(study.points),
        "courses": list(study.courses), "frontier": dict(study.frontier), "fits": fits, "cells": len(study.cells),
    }  # fmt: skip
    return json.dumps(data, allow_nan=False, default=float).replace("<", "\\u003c")


def _head(study: Study) -> str:
    style = (ASSETS / "report.css").read_text(encoding="utf-8")
    choices = " ".join(
        f'<label title="{_text(one["meaning"])}"><input type="radio" name="convention" value="{_text(one["name"])}"'
        f"{' checked' if one['name'] == study.convention else ''}> {_text(one['name'])}</label>"
        for one in study.conventions
    )
    unfinished = f'<p class="warn">{_text(study.unfinished)}</p>' if study.unfinished else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{_text(study.title)}</title><style>{style}</style></head><body>"
        f'<h1>{_text(study.title)}</h1><p class="lead">{_text(study.question)}</p>{unfinished}'
        f'<fieldset class="screen"><legend>Compute is counted as</legend>{choices}</fieldset>'
    )


def _by_convention(study: Study, content: Mapping[str, str]) -> str:
    """One block per convention, of which the script shows one; without a script the first is shown."""
    return "".join(
        f'<div data-convention="{_text(name)}"{"" if name == study.convention else " hidden"}>{html}</div>'
        for name, html in content.items()
    )


def _answers(study: Study) -> str:
    content = {}
    for one in study.conventions:
        fits = study.fits.get(one["name"], {})
        rows = "".join(f"<li><b>{_text(source)}</b>: {_text(fit.answer)}</li>" for source, fit in fits.items())
        none = "<p>Too few trained cells for a law: three distinct computes are needed.</p>"
        meaning = f'<p class="soft">{_text(one["name"])}: {_text(one["meaning"])}, in {_text(one["unit"])}.</p>'
        content[one["name"]] = (f"<ul>{rows}</ul>" if rows else none) + meaning
    return f'<section><h2 id="answer">What the runs say</h2>{_by_convention(study, content)}</section>'


def _loss(study: Study) -> str:
    if not study.courses:
        return ""
    return (
        '<section><h2>Loss against compute</h2><div class="plot" id="loss" role="img" '
        'aria-label="Validation loss of every run against compute, with its lower frontier"></div></section>'
    )


def _number(value: float | None, digits: str = ".3f") -> str:
    if value is None:
        return '<td class="number" data-value=""></td>'
    return f'<td class="number" data-value="{value!r}">{value:{digits}}</td>'


def _cells(study: Study) -> str:
    names = ["cell", "model", "data", "seed", "state", "loss", *study.sources, "planned GPU h", "spent h", "log"]
    head = "".join(f'<th scope="col"><button type="button">{_text(name)}</button></th>' for name in names)
    states = "".join(f"<option>{_text(state)}</option>" for state in dict.fromkeys(row.state for row in study.cells))
    return (
        '<section><h2 id="table">Cells</h2><div class="controls">'
        '<label>Filter <input id="words" type="search" placeholder="words, such as vit_l8 rxrx3"></label>'
        f'<label>State <select id="state"><option value="">any</option>{states}</select></label>'
        '<span id="shown" role="status" aria-live="polite"></span></div>'
        f'<div class="table"><table id="cells" class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(_cell(row, study.sources) for row in study.cells)}</tbody></table></div></section>"
    )


def _cell(row: CellRow, sources: Sequence[str]) -> str:
    log = f'<td><a href="{_text(row.log)}">log</a></td>' if row.log else "<td></td>"
    recalls = "".join(_number(row.recalls.get(source)) for source in sources)
    words = "".join(f"<td>{_text(word)}</td>" for word in (row.cell, row.model, row.dataset))
    seed = f'<td class="number" data-value="{row.seed}">{row.seed}</td>'
    hours = _number(row.planned_hours, ".3g") + _number(row.spent_hours, ".3g")
    state = f"<td>{_text(row.state)}</td>"
    return (
        f'<tr data-state="{_text(row.state)}">{words}{seed}{state}{_number(row.loss, ".4f")}{recalls}{hours}{log}</tr>'
    )


def _checks(study: Study) -> str:
    content = {}
    for convention, fits in study.fits.items():
        rows = "".join(
            f"<tr><td>{_text(source)}</td><td>{_text(check['check'])}</td><td>{VERDICTS[check['verdict']]}</td>"
            f'<td class="wide">{_text(check["detail"])}</td></tr>'
            for source, fit in fits.items()
            for check in fit.checks
        )
        head = "<tr><th>source</th><th>check</th><th></th><th>what was found</th></tr>"
        content[convention] = f'<div class="table"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    if not content:
        return ""
    return f"<section><h2>Two factors, influence and the other checks</h2>{_by_convention(study, content)}</section>"


def _reconstructions(study: Study) -> str:
    if study.reconstructions is None or not study.reconstructions.exists():
        return ""
    image = base64.b64encode(study.reconstructions.read_bytes()).decode()
    return (
        "<section><h2>Reconstructions</h2>"
        f'<img src="data:image/png;base64,{image}" alt="Crops: original, masked, reconstruction"></section>'
    )


def _cost(study: Study) -> str:
    planned = sum(row.planned_hours or 0.0 for row in study.cells)
    finished = [row for row in study.cells if row.spent_hours is not None]
    spent = sum(row.spent_hours or 0.0 for row in finished)
    theirs = sum(row.planned_hours or 0.0 for row in finished)
    return (
        f"<section><h2>Cost</h2><p>Planned: {planned:,.3g} GPU hours of training for {len(study.cells)} cells. "
        f"Spent so far on {len(finished)} cells: {spent:,.3g} hours of their own processes, where {theirs:,.3g} "
        "GPU hours were planned.</p>"
        "</section>"
    )


def _next(study: Study) -> str:
    if not study.next_runs:
        return ""
    rows = "".join(
        f'<tr><td>{_text(one.cell)}</td>{_number(one.hours, ".3g")}<td class="wide">{_text(one.narrows)}</td></tr>'
        for one in study.next_runs
    )
    head = "<tr><th>cell</th><th>GPU hours</th><th>what it would tell</th></tr>"
    return (
        "<section><h2>What to run next</h2>"
        f'<div class="table"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div></section>'
    )


def _provenance(study: Study) -> str:
    rows = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in study.provenance.items())
    return f"<section><h2>Provenance</h2><dl>{rows}</dl></section>"
