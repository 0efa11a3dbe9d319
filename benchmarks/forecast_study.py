"""Forecasts replayed on a study's own finished runs, as if each were still training.

    python -m benchmarks.forecast_study RECIPE [field=value ...] [--profile laptop] [--json]

Coverage of 90% intervals of the final loss and the error of their median: from each run's curve and schedule alone, and
with the study's other finished runs of the same task and schedule. The peer knows nothing of the schedule.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.forecast.live import Curve, final_loss
from analysis.forecast.rates import Rates
from benchmarks.forecast import LEAST, Errors
from benchmarks.forecast_peers import End
from benchmarks.laws import row
from benchmarks.shares import line
from harness.grid.cells import cells
from harness.recipe.load import load
from harness.train.outlook import FinishedRun, StudyRuns, rates_of, study_runs

SEEN = (0.25, 0.5, 0.75)
PEER = "schedule unknown"


def siblings(runs: StudyRuns, run: FinishedRun) -> list[Curve]:
    """The other finished runs of a run's task and schedule."""
    own = run.likeness.task, run.likeness.schedule
    alike = [one for one in runs.finished if one is not run and (one.likeness.task, one.likeness.schedule) == own]
    return [curve for one in alike if (curve := runs.curve(one)) is not None]


def forecasts(runs: StudyRuns, run: FinishedRun, share: float) -> tuple[End, End, End] | None:
    """From a share of a run: alone, with siblings, and without its schedule; None if it does not tell yet."""
    curve = runs.curve(run)
    if curve is None:
        return None
    seen, rates = curve.until(share), rates_of(run.cell)
    try:
        return final_loss(seen, rates), final_loss(seen, rates, siblings(runs, run)), final_loss(seen, Rates.constant())
    except ValueError:
        return None


def rows(runs: StudyRuns) -> list[dict[str, Any]]:
    """Coverage and the median's error by what was seen."""
    found = []
    for share in SEEN:
        told = [(run.loss, ends) for run in runs.finished if (ends := forecasts(runs, run, share)) is not None]
        if not told:
            continue
        finals = [final for final, _ in told]
        *ours, blind = (Errors.of([ends[kind] for _, ends in told], finals) for kind in range(3))
        for kind, errors in zip(("alone", "with siblings"), ours, strict=True):
            name = f"{share:.0%} seen, {len(told)} runs, {kind}"
            covered, error = float(errors.inside.mean()), float(errors.error.mean())
            peers, off = float(blind.inside.mean()), float(blind.error.mean())
            found.append(row(f"{name}: 90% intervals", "coverage", covered, peers, PEER, LEAST, covered >= LEAST))
            found.append(row(f"{name}: median's error", "log loss", error, off, PEER, off, error <= off))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("fields", nargs="*", metavar="field=value")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_intermixed_args(arguments)
    recipe = load(options.recipe, options.profile, options.fields)
    found = rows(study_runs(recipe, cells(recipe)))
    if not found:
        print(f"error: no run of {recipe.output} is finished and has a log to tell from", file=sys.stderr)
        return 2
    print(json.dumps(found, indent=1) if options.json else "\n".join(map(line, found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
