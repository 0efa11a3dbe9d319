"""Comparisons of variants as data for JSON, that as text for a terminal, and as a table for a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from analysis.design.compare import Comparison, Multiplier
from analysis.design.variant_table import Group
from analysis.fitting.text import number

if TYPE_CHECKING:
    import pandas as pd


def as_json(group: Group) -> dict[str, Any]:
    """One group's comparisons as data for JSON."""
    return {
        "group": group.name,
        "comparisons": [_comparison(comparison) for comparison in group.comparisons],
        "failed": dict(group.failed),
        "notes": list(group.notes),
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "baseline": comparison.baseline, "variant": comparison.variant, "law": comparison.law,
        "multiplier": _multiplier(comparison.shared),
        "multiplier_at": [_multiplier(multiplier) for multiplier in comparison.separate],
        "exponent_ratio": _multiplier(comparison.exponents),
        "says": sentence(comparison),
        "pairs": comparison.pairs, "cells": comparison.cells, "runs": comparison.runs,
        "warnings": list(comparison.warnings), "notes": list(comparison.notes),
    }  # fmt: skip


def _multiplier(multiplier: Multiplier) -> dict[str, Any]:
    """A ratio that the runs do not identify has a range and no value."""
    values = asdict(multiplier) | {"identified": multiplier.identified}
    return values if multiplier.identified else values | {"value": None}


def sentence(comparison: Comparison) -> str:
    """What the fit with a shared exponent says."""
    baseline, variant, shared = comparison.baseline, comparison.variant, comparison.shared
    if not shared.identified:
        return f"{variant} against {baseline}: the runs do not say how much compute the difference is worth"
    if shared.holds_one:
        return f"{variant} against {baseline}: no difference is shown"
    ratios = [shared.value, shared.low, shared.high]
    better = variant
    if comparison.worse == variant:
        ratios, better = [1 / shared.value, 1 / shared.high, 1 / shared.low], baseline
    value, low, high = map(number, ratios)
    return (
        f"{variant} against {baseline}: {comparison.worse} needs {value} times [{low}, {high}] the compute of {better}"
    )


def figure_table(comparisons: Sequence[Comparison], labels: Sequence[str] = ()) -> pd.DataFrame:
    """The table that `analysis.figures.multiplier` draws; labels default to the variants' names."""
    import pandas as pd

    names = labels or [comparison.variant for comparison in comparisons]
    rows = [
        {"label": name} | asdict(multiplier) | {"value": multiplier.value if multiplier.identified else float("nan")}
        for name, comparison in zip(names, comparisons, strict=True)
        for multiplier in (comparison.shared, *comparison.separate)
    ]
    return pd.DataFrame(rows, columns=["label", "value", "low", "high", "compute", "extrapolated"])


def text(result: Mapping[str, Any]) -> str:
    """What `python -m analysis.fit --variant` prints without --json."""
    lines = [f"{result['y']} against {', '.join(result['x'])} by {result['variant']}: {result['metric']['meaning']}"]
    lines.append(
        f"multiplier: compute of the baseline over compute of the variant, {result['confidence']:.0%} intervals"
    )
    for group in result["groups"]:
        lines += ["", f"== {group['group']}"]
        for comparison in group["comparisons"]:
            lines += _lines(comparison)
        lines += [f"   {name}: {reason}" for name, reason in group["failed"].items()]
        lines += [f"   [ -- ] {note}" for note in group["notes"]]
    return "\n".join(lines)


def _lines(comparison: Mapping[str, Any]) -> list[str]:
    lines = [f"   {comparison['says']}", f"     multiplier, shared exponent  {_text(comparison['multiplier'])}"]
    for multiplier in comparison["multiplier_at"]:
        lines.append(f"     with an exponent each, at {number(multiplier['compute'])}: {_text(multiplier)}")
    lines.append(f"     ratio of the exponents       {_text(comparison['exponent_ratio'])}")
    lines += [f"     [WARN] {warning}" for warning in comparison["warnings"]]
    return lines + [f"     [ -- ] {note}" for note in comparison["notes"]]


def _text(multiplier: Mapping[str, Any]) -> str:
    value = number(multiplier["value"]) if multiplier["identified"] else "?"
    beyond = "  extrapolated" if multiplier["extrapolated"] else ""
    return f"{value} [{number(multiplier['low'])}, {number(multiplier['high'])}]{beyond}"
