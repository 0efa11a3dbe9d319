"""Exponents of the compute-optimal size from published iso-FLOP runs, beside those that their authors published.

A table of runs with the columns experiment, params, tokens and loss, such as data/isoflops/transform/isoflops.csv of
Open-Athena/scaling-law-analysis: Chinchilla and Llama 3 digitised, Marin's runs as released. Authors read their
exponents off parabolas; a joint law of all runs has no parabola's bias.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analysis.design.frontier import Exponent, split
from analysis.fitting import averages
from analysis.fitting.estimate import Points
from analysis.laws.metric import Metric

UNIT = "decades of size per decade of compute"
# by the experiment's name: by parabolas, by a joint law
PUBLISHED: dict[str, tuple[float | None, float | None]] = {
    "chinchilla": (0.49, 0.513),  # Hoffmann et al. 2022, table 2; Besiroglu et al. 2024, table 1: 0.366/(0.348 + 0.366)
    "llama_3": (0.47, None),  # Llama 3 (2024), section 3.2.1: tokens as C^0.53
}


def rows(file: Path) -> list[dict[str, Any]]:
    """Both exponents of each experiment, beside the published one, or the parabolas' own where a law's is unpublished.

    Met if the published exponent is inside the 90% interval; if the two intervals overlap.
    """
    found = []
    for experiment, runs in pd.read_csv(file).groupby("experiment", sort=False):
        points = Points(runs[["params", "tokens"]].to_numpy(float), runs["loss"].to_numpy(float))
        reading = split(averages.fit(points, Metric("loss")).members[0], points)
        by_parabolas, by_law = next((one for key, one in PUBLISHED.items() if key in str(experiment)), (None, None))
        name, law, parabolas = f"{experiment}, {len(points)} runs", reading.frontier.size_exponent, reading.iso_flop
        if parabolas is not None and by_parabolas is not None:
            found.append(_row(f"{name}: parabolas", parabolas, "published", by_parabolas, by_parabolas))
        if by_law is not None:
            found.append(_row(f"{name}: joint law", law, "published", by_law, by_law))
        elif parabolas is not None:
            warned = f"parabolas, {len(reading.warnings)} warnings"
            found.append(_row(f"{name}: joint law", law, warned, parabolas.value, parabolas.low, parabolas.high))
    return found


def _row(name: str, ours: Exponent, peer: str, value: float, low: float, high: float | None = None) -> dict[str, Any]:
    return {
        "name": f"{name} [{ours.low:.3f}, {ours.high:.3f}]", "unit": UNIT, "ours": ours.value, "peer": value,
        "peer_name": peer, "ratio": ours.value / value, "goal": value,
        "met": bool(ours.low <= (low if high is None else high) and low <= ours.high),
    }  # fmt: skip
