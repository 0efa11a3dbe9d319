"""Render a study as one HTML file that needs neither network nor server.

The question and the answer come first, then the figures (Plotly, embedded), the cells, the checks, the cost, what to
run next, and the provenance. Tables and answers are plain HTML; the script draws, switches, sorts and filters.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from analysis.page.comparisons import best_rates, multipliers
from analysis.page.forecasts import running, sealed
from analysis.page.gains import training_gain
from analysis.page.html import by_convention, number, table, text
from analysis.page.lifetime import lives
from analysis.page.sections import SECTIONS, allocation
from analysis.page.study import CellRow, Study

ASSETS = Path(__file__).parent / "assets"
EMPTY = "<td></td>"
VERDICTS = {"ok": "ok", "info": "–", "note": "note", "warn": "warning"}


def page(study: Study) -> str:
    """The complete page as text."""
    from plotly.offline import get_plotlyjs

    parts = [
        _head(study),
        training_gain(study.gain),
        _answers(study),
        '<section><h2 id="curves">Recall against compute</h2><div class="panels">',
        *(f'<div class="plot" role="img" data-plot="{text(source)}" aria-label="Recall of {text(source)} against '
          f'compute; the numbers are in the table of cells"></div>' for source in study.sources),
        '</div><p class="soft" id="legend"></p></section>',
        _loss(study),
        multipliers(study),
        best_rates(study),
        allocation(study),
        running(study),
        lives(study),
        _cells(study),
        sealed(study),
        _checks(study),
        *(section(study) for section in SECTIONS),
        f'<script type="application/json" id="study">{_json(study)}</script>',
        f"<script>{get_plotlyjs()}</script>",
        f"<script>{(ASSETS / 'report.js').read_text(encoding='utf-8')}</script>",
        "</body></html>",
    ]  # fmt: skip
    return "\n".join(parts)


def _json(study: Study) -> str:
    """What the script draws; `<` is escaped so that no value can end the element."""
    fits = {
        convention: {source: {"line": dict(fit.line)} for source, fit in by_source.items()}
        for convention, by_source in study.fits.items()
    }
    data = {
        "conventions": list(study.conventions), "sources": list(study.sources), "points": list(study.points),
        "curves": list(study.curves), "frontier": dict(study.frontier), "fits": fits, "cells": len(study.cells),
        "allocations": {
            name: [
                {"metric": allocation.metric, "line": dict(allocation.line), "cells": list(allocation.cells)}
                for allocation in by_metric
            ]
            for name, by_metric in study.allocations.items()
        },
        "lives": [
            {"metric": life.metric, "convention": life.convention, "line": dict(life.line), "models": list(life.models)}
            for life in study.lives
        ],
    }  # fmt: skip
    return json.dumps(data, allow_nan=False, default=float).replace("<", "\\u003c")


def _head(study: Study) -> str:
    style = (ASSETS / "report.css").read_text(encoding="utf-8")
    choices = " ".join(
        f'<label title="{text(convention["meaning"])}"><input type="radio" name="convention" '
        f'value="{text(convention["name"])}"'
        f"{' checked' if convention['name'] == study.convention else ''}> {text(convention['name'])}</label>"
        for convention in study.conventions
    )
    unfinished = f'<p class="warn">{text(study.unfinished)}</p>' if study.unfinished else ""
    files = "".join(f"<li>{text(file)}</li>" for file in study.left_out)
    left_out = f'<div class="warn">Left out of this page:<ul>{files}</ul></div>' if files else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{text(study.title)}</title><style>{style}</style></head><body>"
        f'<h1>{text(study.title)}</h1><p class="lead">{text(study.question)}</p>{unfinished}{left_out}'
        f'<fieldset class="screen"><legend>Compute is counted as</legend>{choices}</fieldset>'
    )


def _answers(study: Study) -> str:
    content = {}
    for convention in study.conventions:
        fits = study.fits.get(convention["name"], {})
        rows = "".join(f"<li><b>{text(source)}</b>: {text(fit.answer)}</li>" for source, fit in fits.items())
        none = "<p>Too few trained cells for a law: three distinct computes are needed.</p>"
        name, meaning, unit = (text(convention[key]) for key in ("name", "meaning", "unit"))
        about = f'<p class="soft">{name}: {meaning}, in {unit}.</p>'
        content[convention["name"]] = (f"<ul>{rows}</ul>" if rows else none) + about
    stopped = f'<p class="soft">{text(study.stopped)}</p>' if study.stopped else ""
    shown = by_convention(study.convention, content)
    return f'<section><h2 id="answer">What the runs say</h2>{shown}{stopped}</section>'


def _loss(study: Study) -> str:
    if not study.curves:
        return ""
    thinned = f'<p class="soft">{text(study.thinned)}</p>' if study.thinned else ""
    return (
        '<section><h2>Loss against compute</h2><div class="plot" id="loss" role="img" '
        f'aria-label="Validation loss of every run against compute, with its lower frontier"></div>{thinned}</section>'
    )


def _cells(study: Study) -> str:
    """A table of the cells, without columns that are empty for all of them."""
    columns = {name: [cell(row) for row in study.cells] for name, cell in _columns(study).items()}
    shown = {name: cells for name, cells in columns.items() if set(cells) - {EMPTY, number(None)}}
    head = "".join(f'<th scope="col"><button type="button">{text(name)}</button></th>' for name in shown)
    lines = "".join(
        f'<tr data-state="{text(row.state)}">{"".join(cells)}</tr>'
        for row, cells in zip(study.cells, zip(*shown.values(), strict=True), strict=True)
    )
    states = "".join(f"<option>{text(state)}</option>" for state in dict.fromkeys(row.state for row in study.cells))
    return (
        '<section><h2 id="table">Cells</h2><div class="controls">'
        '<label>Filter <input id="words" type="search" placeholder="words, such as vit_l8 rxrx3"></label>'
        f'<label>State <select id="state"><option value="">any</option>{states}</select></label>'
        '<span id="shown" role="status" aria-live="polite"></span></div>'
        f'<div class="table"><table id="cells" class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div></section>"
    )


def _columns(study: Study) -> dict[str, Callable[[CellRow], str]]:
    """How each column of the table of cells is written."""
    return {
        "cell": lambda row: _word(row.cell),
        "model": lambda row: _word(row.model),
        "data": lambda row: _word(row.dataset),
        "seed": lambda row: f'<td class="number" data-value="{row.seed}">{row.seed}</td>',
        "state": lambda row: _word(row.state),
        "loss": lambda row: number(row.loss, ".4f"),
        **{source: partial(_recall, source) for source in study.sources},
        "planned GPU h": lambda row: number(row.planned_hours, ".3g"),
        "spent GPU h" if study.price else "spent h": lambda row: number(row.spent_hours, ".3g"),
        "goodput": lambda row: number(row.goodput, ".0%"),
        "annealed": lambda row: _word(row.annealed),
        "log": lambda row: f'<td><a href="{text(row.log)}">log</a></td>' if row.log else EMPTY,
    }


def _recall(source: str, row: CellRow) -> str:
    return number(row.recalls.get(source))


def _word(value: str) -> str:
    return f"<td>{text(value)}</td>"


def _checks(study: Study) -> str:
    content = {}
    for convention, fits in study.fits.items():
        rows = (
            f"<tr><td>{text(source)}</td><td>{text(check['check'])}</td><td>{VERDICTS[check['verdict']]}</td>"
            f'<td class="wide">{text(check["detail"])}</td></tr>'
            for source, fit in fits.items()
            for check in fit.checks
        )
        content[convention] = table(["source", "check", "", "finding"], rows)
    if not any(fit.checks for fits in study.fits.values() for fit in fits.values()):
        return ""
    shown = by_convention(study.convention, content)
    return f"<section><h2>Two factors, influence and the other checks</h2>{shown}</section>"
