"""Forecasts of final losses with a quarter of each run seen: coverage, and what stopping by them saves.

    python -m benchmarks.forecast [--data FOLDER] [--lcpfn PYTHON] [--json]

The 72 vision curves and 20 language curves of Alabdulmohsin et al. (2022) are replayed as they were trained: nothing is
known of their schedules. Siblings of a vision curve are the other five models on its task. Constants were chosen on the
language curves, CIFAR-100 and Caltech ("development"); birds and ImageNet judge. Simulated runs have schedules.

Stopping: the six models of a task run one after another, in each of the 720 orders. With a quarter seen, a run is ended
if it will end above the best finished one with the stated probability. Regret is how much higher the best loss of the
runs that were not ended is than that of all. Each run counts as one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analysis.arrays import Floats
from analysis.forecast.live import Curve, final_loss
from analysis.forecast.rates import Rates
from benchmarks.annealed_runs import SCHEDULES, study
from benchmarks.forecast_peers import End, fitted_average, lcpfn, power_law
from benchmarks.laws import CurveTask, row, tasks
from benchmarks.shares import line

SEEN, CONFIDENCE, LEAST = 0.25, 0.9, 0.85
JUDGED = ("bird", "inet")  # data sets that no constant was chosen on
STOP, REGRET = 0.99, 0.01
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0)
LOOKS = tuple(round(SEEN + 0.1 * number, 2) for number in range(7))  # where a run is asked again and again
SIMULATIONS, SIBLINGS = 60, 4
UNKNOWN = Rates.constant()
MISSING = "peer lcpfn is missing (--lcpfn PYTHON)"


@dataclass(frozen=True)
class Replayed:
    """A curve that is complete, and what was seen of it."""

    task: CurveTask
    curve: Curve

    @property
    def seen(self) -> Curve:
        return self.curve.until(SEEN)

    @property
    def final(self) -> float:
        return float(self.curve.loss[-1])

    @property
    def name(self) -> str:
        return f"{self.task.task} {self.task.model}"


def replayed(folder: Path) -> list[Replayed]:
    """The 92 curves, whole, by share of their examples."""
    found = []
    for task in tasks(folder):
        x = np.concatenate([task.train.x[:, 0], task.rest.x[:, 0]])
        y, order = np.concatenate([task.train.y, task.rest.y]), np.argsort(x)
        found.append(Replayed(task, Curve(x[order] / x.max(), y[order])))
    return found


def siblings(run: Replayed, others: Sequence[Replayed]) -> list[Replayed]:
    """The other models on a run's task."""
    same = (run.task.domain, run.task.task)
    return [one for one in others if one is not run and (one.task.domain, one.task.task) == same]


@dataclass(frozen=True)
class Errors:
    """How ends were forecast, (n,) each: log error of the median, and of the 90% interval its score and coverage.

    The interval score is the log width, and 2 / (1 - confidence) times by how much a miss is outside.
    """

    error: Floats
    score: Floats
    inside: Floats

    @classmethod
    def of(cls, ends: Sequence[End], finals: Sequence[float]) -> Errors:
        tail = (1 - CONFIDENCE) / 2
        low, middle, high = (np.array([end.quantile(p) for end in ends]) for p in (tail, 0.5, 1 - tail))
        final = np.array(finals)
        missed = np.maximum(np.log(low / final), 0) + np.maximum(np.log(final / high), 0)
        return cls(np.abs(np.log(middle / final)), np.log(high / low) + 2 / (1 - CONFIDENCE) * missed, missed == 0)


def coverage(name: str, ours: Errors, peers: dict[str, Errors]) -> list[dict[str, Any]]:
    """Coverage and error beside each peer."""
    covered, found = float(ours.inside.mean()), []
    for peer, theirs in peers.items():
        found.append(row(f"{name}: 90% intervals", "coverage", covered, float(theirs.inside.mean()), peer, LEAST,
                         covered >= LEAST))  # fmt: skip
        for what, unit in (("error", "median's error"), ("score", "interval score")):
            own, other = (float(getattr(one, what).mean()) for one in (ours, theirs))
            found.append(row(f"{name}: {unit}", "log loss", own, other, peer, other, own <= other))
    return found


Method = Callable[["Replayed", Sequence["Replayed"], float], End]  # of a run at a share of it, given finished ones


@dataclass
class Replay:
    """Stopping on one task by one method, asked at some shares of a run."""

    runs: Sequence[Replayed]
    end: Method
    looks: tuple[float, ...] = (SEEN,)
    _known: dict[tuple[int, frozenset[int], float], float] = field(default_factory=dict)

    def outcome(self, order: Sequence[int], threshold: float) -> tuple[float, float]:
        """The share of all training that is saved, and the regret, of runs in this order."""
        finished: list[int] = []
        saved = 0.0
        for number in order:
            stop = next((share for share in self.looks if self._above(number, finished, share) >= threshold), 1.0)
            saved += 1 - stop
            finished += [number] if stop == 1 else []
        kept = min(self.runs[number].final for number in finished)
        return saved / len(order), kept / min(run.final for run in self.runs) - 1

    def _above(self, number: int, finished: Sequence[int], share: float) -> float:
        """The probability that a run ends above the best finished one; each is computed once."""
        if not finished:
            return 0.0
        key = number, frozenset(finished), share
        if key not in self._known:
            others = [self.runs[one] for one in finished]
            best = min(one.final for one in others)
            self._known[key] = self.end(self.runs[number], others, share).above(best)
        return self._known[key]


def stopping(groups: Sequence[Sequence[Replayed]], end: Method, looks: tuple[float, ...] = (SEEN,)) -> Floats:
    """Saving and regret of each task at each of `THRESHOLDS`, means over all orders: (tasks, thresholds, 2)."""
    return np.array([_stopped(Replay(runs, end, looks)) for runs in groups])


def _stopped(replay: Replay) -> Floats:
    orders = list(itertools.permutations(range(len(replay.runs))))
    return np.array([
        np.mean([replay.outcome(order, threshold) for order in orders], axis=0) for threshold in THRESHOLDS
    ])  # fmt: skip


def saved(name: str, ours: Floats, peers: dict[str, Floats]) -> list[dict[str, Any]]:
    """Saving and regret at the stated probability, and the most that is saved at the regret that is allowed."""
    at = THRESHOLDS.index(STOP)
    regret = float(ours[at, 1])
    found = [row(f"{name}: regret of stopping at {STOP:g}", "of loss", regret, None, "", REGRET, regret <= REGRET)]
    for peer, theirs in peers.items():
        found += [
            row(f"{name}: saved by stopping at {STOP:g}", "of steps", float(ours[at, 0]), float(theirs[at, 0]),
                f"{peer}, regret {theirs[at, 1]:.4f}", 0.0, bool(ours[at, 0] > 0)),
            row(f"{name}: most saved at regret <= {REGRET:.0%}", "of steps", _most(ours), _most(theirs), peer,
                _most(theirs), _most(ours) >= _most(theirs)),
        ]  # fmt: skip
    return found


def _most(outcomes: Floats) -> float:
    allowed = outcomes[outcomes[:, 1] <= REGRET, 0]
    return float(allowed.max()) if len(allowed) else 0.0


def simulated() -> list[dict[str, Any]]:
    """Coverage on runs under schedules, by what was seen, alone and with siblings."""
    found = []
    for schedule in SCHEDULES:
        for count in (0, SIBLINGS):
            ends: list[End] = []
            finals: list[float] = []
            for share in (SEEN, 0.5, 0.8):
                for seed in range(SIMULATIONS):
                    one = study(schedule, 10_000 + seed, count)
                    ends.append(final_loss(one.curve.until(share), one.rates, one.siblings))
                    finals.append(float(one.curve.loss[-1]))
            errors = Errors.of(ends, finals)
            covered = float(errors.inside.mean())
            name = f"simulated, {schedule}, {count} siblings"
            found.append(row(name, "coverage", covered, CONFIDENCE, "stated", LEAST, covered >= LEAST))
    return found


def published(folder: Path, python: str | None) -> list[dict[str, Any]]:
    """Coverage and stopping on the 92 curves."""
    runs = replayed(folder)
    alone = {run.name: final_loss(run.seen, UNKNOWN) for run in runs if len(run.seen.share) > 2}
    together = {run.name: final_loss(run.seen, UNKNOWN, [one.curve for one in siblings(run, runs)]) for run in runs}
    plain = {run.name: power_law(run.seen) for run in runs}
    average = {run.name: fitted_average(run.seen) for run in runs}
    peers: dict[str, dict[str, End]] = {"power law": dict(plain), "analysis.fit": dict(average)}
    missing: list[dict[str, Any]] = []
    try:
        if python is None:
            raise RuntimeError(MISSING)
        peers["lcpfn"] = dict(zip(plain, lcpfn(python, [run.seen for run in runs]), strict=True))
    except RuntimeError as error:
        missing = [row(str(error), "", 0.0, None, "lcpfn", 0.0, False)]
    vision = [run for run in runs if run.task.domain == "IC"]
    parts = {
        "vision, 72 curves": vision,
        "vision, judged": [run for run in vision if run.task.dataset in JUDGED],
        "vision, development": [run for run in vision if run.task.dataset not in JUDGED],
        "language, 20 curves": [run for run in runs if run.task.domain != "IC"],
    }
    found = []
    for name, part in parts.items():
        finals = [run.final for run in part]
        others = {peer: Errors.of([ends[run.name] for run in part], finals) for peer, ends in peers.items()}
        for kind, ends in (("alone", alone), ("siblings", together)):
            found += coverage(f"{name}, {kind}", Errors.of([ends[run.name] for run in part], finals), others)
    return [*found, *_stopping(vision, peers), *missing]


def _stopping(vision: Sequence[Replayed], peers: dict[str, dict[str, End]]) -> list[dict[str, Any]]:
    groups = [list(group) for _, group in itertools.groupby(sorted(vision, key=_task), key=_task)]
    judged = np.array([group[0].task.dataset in JUDGED for group in groups])
    ours, often = stopping(groups, _ours), stopping(groups, _alone(), LOOKS)
    theirs = {peer: stopping(groups, lambda run, *_, e=ends: e[run.name]) for peer, ends in peers.items()}  # type: ignore[misc]
    found = []
    for name, part in (("12 tasks", judged | True), ("6 judged tasks", judged)):
        found += saved(name, ours[part].mean(axis=0), {peer: one[part].mean(axis=0) for peer, one in theirs.items()})
        share, regret = often[part, THRESHOLDS.index(STOP)].mean(axis=0)
        name = f"{name}: saved, asked {len(LOOKS)} times"
        found.append(row(name, "of steps", float(share), None, "", 0.0, regret <= REGRET))
        found.append(row(f"{name}, regret", "of loss", float(regret), None, "", REGRET, regret <= REGRET))
    return found


def _ours(run: Replayed, finished: Sequence[Replayed], share: float) -> End:
    return final_loss(run.curve.until(share), UNKNOWN, [one.curve for one in finished])


def _alone() -> Method:
    """Forecasts without siblings, of which there are too many sets for as many shares."""
    known: dict[tuple[str, float], End] = {}

    def end(run: Replayed, _: Sequence[Replayed], share: float) -> End:
        if (run.name, share) not in known:
            known[run.name, share] = final_loss(run.curve.until(share), UNKNOWN)
        return known[run.name, share]

    return end


def _task(run: Replayed) -> str:
    return run.task.task


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("SCALING_TEST_DATA", "../shared/data")) / "scaling_laws"
    parser.add_argument("--data", type=Path, default=default, help="folder of the benchmark's tables")
    parser.add_argument("--lcpfn", metavar="PYTHON", help="an interpreter with the package lcpfn and its weights")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = []
    if (options.data / "benchmark.vision.csv").exists():
        found += published(options.data, options.lcpfn)
    else:
        print(f"no benchmark.vision.csv in {options.data}; name the folder with --data", file=sys.stderr)
    found += simulated()
    print(json.dumps(found, indent=1) if options.json else "\n".join(map(line, found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
