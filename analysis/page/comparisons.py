"""Sections of the page for a grid with axes: compute multipliers of variants, and best learning rates."""

from __future__ import annotations

import base64

from analysis.page.html import number, table, text
from analysis.page.study import MultiplierRow, Multipliers, Study

HEAD = ("variant", "metric", "multiplier", "90% interval", "finding")


def multipliers(study: Study) -> str:
    """Forest plot and table of each axis; empty without axes."""
    if not study.multipliers:
        return ""
    about = (
        "The multiplier is the compute that the baseline needs over that which the variant needs for the same loss or "
        f"recall, counted as {study.convention}: above 1 the variant is better. Large marks: a fit with a shared "
        "exponent; small ones: an exponent each, from less to more compute."
    )
    parts = "".join(map(_axis, study.multipliers))
    return (
        f'<section><h2 id="multipliers">What the variants are worth in compute</h2><p class="soft">{text(about)}</p>'
        f"{parts}</section>"
    )


def _axis(along: Multipliers) -> str:
    baseline = f"Baseline: {along.baseline}, {along.why}."
    notes = "".join(f'<p class="soft">{text(note)}</p>' for note in along.notes)
    shown = table(HEAD, map(_row, along.rows)) if along.rows else ""
    plot = _image(along.image, f"Compute multipliers along {along.axis}; the numbers are in the table")
    return f"<h3>{text(along.axis)}</h3><p>{text(baseline)}</p>{notes}{plot}{shown}"


def _row(row: MultiplierRow) -> str:
    said = text(row.says) + "".join(f'<br><span class="warn">{text(warning)}</span>' for warning in row.warnings)
    ends = "" if row.low is None and row.high is None else f"{_end(row.low, '0')} – {_end(row.high, '∞')}"
    return (
        f"<tr><td>{text(row.variant)}</td><td>{text(row.metric)}</td>{number(row.multiplier, '.3g')}"
        f'<td class="number">{ends}</td><td class="wide">{said}</td></tr>'
    )


def _end(value: float | None, opened: str) -> str:
    return opened if value is None else f"{value:.3g}"


def best_rates(study: Study) -> str:
    """Loss against learning rate, and a sentence for each size; empty where no rate is swept."""
    if study.best_rates is None:
        return ""
    said = "".join(f"<li>{text(sentence)}</li>" for sentence in study.best_rates.says)
    plot = _image(study.best_rates.image, "Final validation loss against learning rate, with a parabola for each size")
    about = "The lowest point of a parabola in the logarithm of the rate, through the best rate and its two neighbours."
    return f'<section><h2 id="rates">Best learning rates</h2><p class="soft">{about}</p>{plot}<ul>{said}</ul></section>'


def _image(image: bytes | None, words: str) -> str:
    if image is None:
        return ""
    return f'<img src="data:image/png;base64,{base64.b64encode(image).decode()}" width="880" alt="{text(words)}">'
