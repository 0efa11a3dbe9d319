"""The checklist judged by misses: whether its items fire on curves whose held-out rows the intervals miss.

    python -m benchmarks.checklist [--data FOLDER] [--grids 240] [--json]

Curves are the 92 learning curves, the 57 curves of the development set of shares, and simulated grids of shares. A
curve is missed if less than 0.7 of its rows held out are inside their 90% intervals. Of each item that fired: on how
many misses and on how many curves that are covered. Its precision is to exceed the share of misses among all curves.
A warning that does not, although it fired often enough to be judged, is marked. Of three rows held out that are each
inside with a chance of 0.9, one is outside on 27% of curves, so some misses cannot be told beforehand. Coverage for
each curve and the interval score (Gneiting and Raftery 2007) are given by kind. The last rows say how well any one
quantity at hand tells misses: chosen on part of the data sets by the area under its ROC curve (mean over kinds), judged
on the others.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from analysis.arrays import Floats
from analysis.fitting.estimate import Points
from analysis.fitting.fit_curve import FittedCurve, fit_points
from analysis.laws.metric import Metric
from benchmarks import laws, shares
from benchmarks.laws import row
from benchmarks.shares import CONFIDENCE, MISSED

LOSS, SHARE = Metric("loss"), Metric("share")
CHOSEN_ON = ("bird", "c", "LAION-2B", "even seeds")  # data sets on which a quantity is chosen
TOO_WIDE = "interval"  # the check that says an interval is too wide to be of use, not that it misses
FEWEST = 10  # firings from which an item is judged
TELLS, MOST_MISSED = 0.65, 0.2  # least area of a quantity that tells misses; goal for the share of misses


@dataclass(frozen=True)
class Case:
    """A curve with rows held out."""

    kind: str
    dataset: str
    train: Points
    rest: Points
    metric: Metric
    law: str


@dataclass(frozen=True)
class Judged:
    """How a curve was predicted, what its checklist said, and quantities that might have told."""

    case: Case
    covered: float
    score: float  # mean interval score, in the fitted space
    width: float  # mean full width
    fired: dict[str, str]  # verdict by check: notes and warnings
    quantities: dict[str, float]

    @property
    def missed(self) -> bool:
        return self.covered < MISSED


def cases(folder: Path, grids: int) -> Iterator[Case]:
    """All curves; those whose table the folder lacks are left out and named."""
    if (folder / "benchmark.vision.csv").exists():
        for task in laws.tasks(folder):
            yield Case("learning curves", task.dataset, task.train, task.rest, LOSS, "learning_curve")
    else:
        print(f"no benchmark.vision.csv in {folder}: learning curves are not measured", file=sys.stderr)
    if (folder / "openclip_dev.csv").exists():
        upstream = [str(name) for (name, _), _ in _development(folder)]
        for name, pair in zip(upstream, shares.development(folder), strict=True):
            yield Case("shares", name, pair.train, pair.rest, SHARE, "auto")
    else:
        print(f"no openclip_dev.csv in {folder}: the development set is not measured", file=sys.stderr)
    for seed in range(grids):
        pair = shares.grid(1000 + seed)
        yield Case("simulated grids", f"{('even', 'odd')[seed % 2]} seeds", pair.train, pair.rest, SHARE, "auto")


def _development(folder: Path) -> Any:  # noqa: ANN401  (pandas' grouping)
    return pd.read_csv(folder / "openclip_dev.csv").groupby(["upstream_dataset", "downstream_dataset"])


def judge(case: Case) -> Judged:
    """Fit a curve with its checklist, and score it on its rows held out."""
    farthest = case.rest.x[[int(np.argmax(case.rest.x[:, 0]))]]
    fitted = fit_points(case.train, case.metric, case.law, targets=farthest, held_out=case.rest, confidence=CONFIDENCE)
    half = fitted.scale.half_width[1:]
    error = case.metric.to_space(case.rest.y, fitted.law.space) - fitted.law.log_or_linear(case.rest.x)
    off = np.abs(error)
    score = 2 * half + 2 / (1 - CONFIDENCE) * np.maximum(off - half, 0)
    fired = {check.check: check.verdict for check in fitted.checks if check.verdict in ("note", "warn")}
    return Judged(
        case, float(np.mean(off <= half)), float(score.mean()), float(2 * half.mean()), fired,
        quantities(fitted, case.rest.x, half),
    )  # fmt: skip


def quantities(fitted: FittedCurve, places: Floats, half: Floats) -> dict[str, float]:
    """What is at hand before the rows held out are known."""
    points, scale, law = fitted.points, fitted.scale, fitted.law
    ordered = points.subset(points.order)
    z = law.metric.to_space(ordered.y, law.space)
    residual = z - law.log_or_linear(ordered.x)
    noise, changed, widest = max(scale.residual, 1e-12), max(float(np.ptp(z)), 1e-12), float(half.max())
    members = np.stack([member.log_or_linear(places) for member in law.members]) - law.log_or_linear(places)
    range_ = max(float(np.ptp(np.log(points.x))), 1e-12)
    last = residual[-max(len(z) // 4, 2) :]
    return {
        "points": float(len(z)),
        "range of x": range_,
        "reach over range": float(points.beyond(places).max()) / range_,
        "noise": noise,
        "change over noise": changed / noise,
        "rolling error over noise": fitted.rolling.error / noise if fitted.rolling.origins else 0.0,
        "resampled spread over noise": float(scale.spread.max()) / noise,
        "half width over change": widest / changed,
        "disagreement of laws over half width": float(np.sqrt(law.shares @ members**2).max()) / widest,
        "mean of the last residuals over noise": abs(float(last.mean())) * len(last) ** 0.5 / noise,
        "correlation of neighbours": float(np.corrcoef(residual[1:], residual[:-1])[0, 1]) if residual.any() else 0.0,
    }


def by_kind(found: Sequence[Judged]) -> Iterator[dict[str, Any]]:
    """Coverage for each curve, and the interval score beside the width."""
    for kind in dict.fromkeys(one.case.kind for one in found):
        part = [one for one in found if one.case.kind == kind]
        missed = float(np.mean([one.missed for one in part]))
        yield row(f"{kind}, {len(part)}: covered below {MISSED}", "share", missed, None, "", MOST_MISSED,
                  missed <= MOST_MISSED)  # fmt: skip
        score, width = (float(np.mean([getattr(one, name) for one in part])) for name in ("score", "width"))
        yield row(f"{kind}: interval score", "log", score, width, "mean width", 2 * width, score <= 2 * width)


def by_check(found: Sequence[Judged]) -> Iterator[dict[str, Any]]:
    """Each item that fired, with counts: precision beside the share of misses among all curves."""
    misses, base = sum(one.missed for one in found), float(np.mean([one.missed for one in found]))
    for check in sorted({check for one in found for check in one.fired}):
        on = [one for one in found if check in one.fired]
        caught = sum(one.missed for one in on)
        verdict, precision = on[0].fired[check], caught / len(on)
        others = f"{len(on) - caught} of {len(found) - misses} others"
        label = f"{check} ({verdict}): on {caught} of {misses} misses, {others}"
        fair = verdict == "note" or check == TOO_WIDE or len(on) < FEWEST or precision > base
        yield row(label, "precision", precision, base, "all curves", base, fair)


def area(found: Sequence[Judged], name: str) -> float:
    """How often a quantity is larger on a miss than on a curve that is covered: the mean over kinds; 0.5 by chance."""
    areas = []
    for kind in dict.fromkeys(one.case.kind for one in found):
        part = [one for one in found if one.case.kind == kind]
        missed = np.array([one.missed for one in part])
        if 0 < missed.sum() < len(part):
            ranks = rankdata(np.nan_to_num([one.quantities[name] for one in part]))
            above = ranks[missed].sum() - missed.sum() * (missed.sum() + 1) / 2
            areas.append(float(above / (missed.sum() * (~missed).sum())))
    return float(np.mean(areas)) if areas else 0.5


def by_quantity(found: Sequence[Judged]) -> Iterator[dict[str, Any]]:
    """The quantity that tells misses best on some data sets, on those and on the others."""
    parts = [[one for one in found if (one.case.dataset in CHOSEN_ON) == chosen] for chosen in (True, False)]
    best = max(found[0].quantities, key=lambda name: abs(area(parts[0], name) - 0.5))
    chosen, judged = (area(part, best) for part in parts)
    if chosen < 0.5:
        chosen, judged, best = 1 - chosen, 1 - judged, f"small {best}"
    yield row(f"best quantity, where chosen: {best}", "ROC area", chosen, 0.5, "chance", TELLS, chosen >= TELLS)
    yield row(f"the same on other data sets: {best}", "ROC area", judged, 0.5, "chance", TELLS, judged >= TELLS)


def line(entry: dict[str, Any]) -> str:
    peer = f"  {entry['peer_name']} {entry['peer']:.3f}" if entry["peer"] else ""
    return f"{entry['name']:<76}{entry['ours']:>8.3f} {entry['unit']:<10}{'met' if entry['met'] else 'NOT met'}{peer}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("SCALING_TEST_DATA", "../shared/data")) / "scaling_laws"
    parser.add_argument("--data", type=Path, default=default, help="folder of the curves")
    parser.add_argument("--grids", type=int, default=240, help="simulated grids")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    judged = [judge(case) for case in cases(options.data, options.grids)]
    found = [*by_kind(judged), *by_check(judged), *by_quantity(judged)]
    print(json.dumps(found, indent=1) if options.json else "\n".join(map(line, found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
