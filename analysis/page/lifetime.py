"""Section of the page: the best model size over a life of training and embedding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from analysis.page.html import number, table, text
from analysis.page.study import LifePanel, Study


def lives(study: Study) -> str:
    """Best size against wells embedded: a figure, a sentence and a table for each metric; empty without runs."""
    if not study.lives:
        return ""
    about = (
        "A model is trained once and embeds every well of every screen. From the joint law of cost per crop and crops "
        "seen, and the planned costs of a crop in training and embedding. Line and band: the size that reaches the "
        "metric at the least total cost; dotted: the models of the study. Repeats of data count as new data."
    )
    parts = "".join(_panel(life, study) for life in study.lives)
    return f'<section><h2 id="lifetime">The best size over its life</h2><p class="soft">{about}</p>{parts}</section>'


def _panel(life: LifePanel, study: Study) -> str:
    said = f"<p><b>{text(life.metric)}</b>: {text(life.answer)}</p>"
    if not life.places:
        return said
    plot = (
        f'<div class="plot" role="img" data-life="{text(life.metric)}" aria-label="Best cost per crop against wells '
        f'embedded for {text(life.metric)}; the numbers are in the table"></div>'
    )
    head = ["wells", f"best cost per crop ({life.convention})", "its 90% interval", "crops seen"]
    head += [f"training, {life.unit}", f"embedding, {life.unit}", f"together, {life.unit}"]
    head += ["cost"] if study.price else []
    return f"{said}{plot}{table(head, _rows(life, study))}"


def _rows(life: LifePanel, study: Study) -> Iterator[str]:
    for place in life.places:
        cost = number(place["total"] * study.price.per_hour, ",.0f") if study.price else ""
        interval = f'<td class="number">{place["size_low"]:.3g} – {place["size_high"]:.3g}</td>'
        sizes = f"{number(place['wells'], ',.0f')}{number(place['size'], '.3g')}{interval}"
        yield f"<tr>{sizes}{number(place['crops'], '.3g')}{_costs(place)}{cost}</tr>"


def _costs(place: Mapping[str, float]) -> str:
    return "".join(number(place[part], ",.4g") for part in ("train", "embed", "total"))
