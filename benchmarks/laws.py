"""Extrapolation, coverage, the joint law's optimum and the speed of refits, compared with peers.

    python -m benchmarks.laws [--data FOLDER] [--iso-flop FILE] [--json]

Peers' errors per curve were measured once from their authors' code (baselines_92.csv); SciPy's per-start loop is timed
in this run. The data (Alabdulmohsin et al. 2022; Besiroglu et al. 2024) are not part of the project. --iso-flop names a
table of published iso-FLOP runs (`benchmarks.iso_flop`), whose exponents are set beside the published ones.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import least_squares, minimize

from analysis import fit
from analysis.arrays import Floats
from analysis.fitting import averages
from analysis.fitting.estimate import Fitted, Points, Settings, fit_law, problem_of
from analysis.fitting.intervals import CONFIDENCES, bootstrap, rolling_origin, scale_at, spread
from analysis.fitting.least_squares import polish, solve
from analysis.laws.beliefs import Belief
from analysis.laws.catalogue import named_law
from analysis.laws.metric import Coordinates, Metric

LOSS = Metric("loss")
RESAMPLES = 1000
DRAWS = 400  # of an interval by resampling, for comparison
SCIPY_RESAMPLES = 30  # timed, then scaled: the loop is slow


@dataclass(frozen=True)
class CurveTask:
    """One learning curve: rows to fit and rows to predict."""

    domain: str
    task: str
    model: str
    train: Points
    rest: Points

    @property
    def dataset(self) -> str:
        return self.task.split("_")[0] if self.domain == "IC" else self.domain


def tasks(folder: Path) -> list[CurveTask]:
    """The 92 curves."""
    curves = []
    for name in ("vision", "lang"):
        table = pd.read_csv(folder / f"benchmark.{name}.csv")
        for (domain, task, model), rows in table.groupby(["Domain", "Task", "Model"], sort=False):
            parts = [rows[rows["Training"] == part] for part in (1, 0)]
            points = [Points(part[["Seen Examples"]].to_numpy(float), part["Loss"].to_numpy(float)) for part in parts]
            curves.append(CurveTask(str(domain), str(task), str(model), *points))
    return curves


@dataclass(frozen=True)
class CurveScore:
    """How one curve was predicted."""

    rmse: float  # of the log of the loss
    scores: Floats  # |error| over the uncalibrated scale, per row held out
    resampled: float  # share of rows inside 90% of resampled M2, the usual interval
    spread: float  # the same of resampled and differing laws


def predict(task: CurveTask) -> CurveScore:
    law = averages.fit(task.train, LOSS, "learning_curve")
    rolling = rolling_origin(task.train, LOSS, "learning_curve")
    scale = scale_at(law, task.train, task.rest.x, rolling, confidence=0.9)
    error = np.log(task.rest.y) - law.log_or_linear(task.rest.x)
    single = fit_law(named_law("power_offset"), task.train, LOSS)
    draws = single.log_or_linear(task.rest.x, bootstrap(single, task.train, DRAWS))
    return CurveScore(
        float(np.sqrt(np.mean(error**2))),
        np.abs(error) / (scale.half_width / scale.calibrated),
        share_inside(draws, np.log(task.rest.y)),
        share_inside(spread(law, task.train, task.rest.x, DRAWS), np.log(task.rest.y)),
    )


def share_inside(draws: Floats, z: Floats) -> float:
    """Share of z (m,) inside the middle 90% of draws (K, m)."""
    low, high = np.nanquantile(draws, [0.05, 0.95], axis=0)
    return float(np.mean((low <= z) & (z <= high)))


def quantile(outcomes: list[CurveScore], share: float) -> float:
    """The score that this share of rows stays within, every curve counting as one."""
    scores = np.concatenate([outcome.scores for outcome in outcomes])
    weights = np.concatenate([np.full(len(outcome.scores), 1 / len(outcome.scores)) for outcome in outcomes])
    order = np.argsort(scores)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(scores[order][min(np.searchsorted(reached, share), len(order) - 1)])


def coverage(scored: list[tuple[CurveTask, CurveScore]]) -> dict[str, float]:
    """Coverage of 90% intervals per data set, calibrated on all the other data sets."""
    covered = {}
    for dataset in dict.fromkeys(task.dataset for task, _ in scored):
        factor = quantile([outcome for task, outcome in scored if task.dataset != dataset], 0.9)
        covered[dataset] = float(np.mean([np.mean(o.scores <= factor) for t, o in scored if t.dataset == dataset]))
    return covered


def chinchilla(folder: Path) -> Points:
    """Besiroglu et al.'s points: the five highest losses dropped, tokens = FLOP / 6N."""
    table = pd.read_csv(folder / "chinchilla_epoch.csv").sort_values("loss").iloc[:-5]
    size, flop = table["Model Size"].to_numpy(float), table["Training FLOP"].to_numpy(float)
    return Points(np.column_stack([size, flop / (6 * size)]), table["loss"].to_numpy(float))


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The best of some runs."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def scipy_curve(fitted: Fitted) -> float:
    """Seconds of SciPy's least_squares for as many resamples, one call each from the same start with our Jacobian."""
    problem, rng = fitted.problem, np.random.default_rng(0)
    n = problem.targets.shape[1]
    draws = rng.integers(0, n, size=(SCIPY_RESAMPLES, n))

    def loop() -> None:
        for rows in draws:
            inputs, targets = problem.inputs[:, rows], problem.targets[0, rows]
            least_squares(
                lambda t, u=inputs, z=targets: problem.model(t[None], u)[0][0] - z,
                fitted.theta,
                jac=lambda t, u=inputs: problem.model(t[None], u)[1][0],
                method="lm",
            )

    return seconds(loop) * RESAMPLES / SCIPY_RESAMPLES


def scipy_joint(fitted: Fitted) -> float:
    """The same for the joint law's Huber loss: BFGS with the gradient, as the published fits were made."""
    problem, rng, delta = fitted.problem, np.random.default_rng(0), fitted.settings.huber or 1e-3
    n = problem.targets.shape[1]

    def objective(theta: Floats, inputs: Floats, targets: Floats) -> tuple[float, Floats]:
        values, jacobian = problem.model(theta[None], inputs)
        residual = targets - values[0]
        inside = np.abs(residual) <= delta
        loss = np.where(inside, residual**2 / 2, delta * (np.abs(residual) - delta / 2)).sum()
        return float(loss), -jacobian[0].T @ np.clip(residual, -delta, delta)

    def loop() -> None:
        for rows in rng.integers(0, n, size=(SCIPY_RESAMPLES, n)):
            data = problem.inputs[:, rows], problem.targets[0, rows]
            minimize(objective, fitted.theta, args=data, jac=True, method="BFGS")

    return seconds(loop, 1) * RESAMPLES / SCIPY_RESAMPLES


def row(
    name: str, unit: str, ours: float, peer: float | None, peer_name: str, goal: float, met: bool
) -> dict[str, Any]:
    ratio = ours / peer if peer else None
    return {"name": name, "unit": unit, "ours": ours, "peer": peer, "peer_name": peer_name, "ratio": ratio,
            "goal": goal, "met": bool(met)}  # fmt: skip


def extrapolation(folder: Path) -> list[dict[str, Any]]:
    """Errors and coverage over the 92 curves."""
    scored = [(task, predict(task)) for task in tasks(folder)]
    peers = pd.read_csv(folder / "baselines_92.csv").set_index(["domain", "task", "model"])
    vision = [(t, o) for t, o in scored if t.domain == "IC"]
    ours = np.array([o.rmse for _, o in vision])

    def peer(name: str, subset: list[tuple[CurveTask, CurveScore]]) -> Floats:
        return np.array([peers.loc[(t.domain, t.task, t.model), name] for t, _ in subset], dtype=float)

    m4 = peer("M4", vision)
    wins = int(np.sum(ours <= m4))
    rows = [
        row("vision, 72 curves: mean RMSE", "log loss", ours.mean(), m4.mean(), "M4", 0.0268, ours.mean() <= 0.0268),
        row("vision: mean RMSE", "log loss", ours.mean(), peer("BNSL_author_script", vision).mean(), "BNSL", 0.0268,
            ours.mean() <= 0.0268),
        row("vision: at least as good as M4", "curves of 72", wins, None, "M4", 52, wins >= 52),
        row("vision: worst curve", "log loss", ours.max(), m4.max(), "M4", 0.10, ours.max() <= 0.10),
    ]  # fmt: skip
    for domain in ("BB", "LM", "NMT"):
        subset = [(t, o) for t, o in scored if t.domain == domain]
        mean, best = np.mean([o.rmse for _, o in subset]), peer("M4", subset).mean()
        rows.append(row(f"language, {domain}: mean RMSE", "log loss", mean, best, "M4", best, mean <= best))
    covered = coverage(scored)
    print({dataset: round(share, 3) for dataset, share in covered.items()}, file=sys.stderr)
    on_vision = float(np.mean([covered[t.dataset] for t, _ in vision]))
    everywhere = float(np.mean([covered[t.dataset] for t, _ in scored]))
    outcomes = [o for _, o in scored]
    print({c: round(quantile(outcomes, c), 3) for c in CONFIDENCES}, "calibrated on all", file=sys.stderr)
    resampled, spread_ = (float(np.mean([getattr(o, name) for o in outcomes])) for name in ("resampled", "spread"))
    print({"resampled and differing laws": round(spread_, 3)}, file=sys.stderr)
    bootstrap_only = float(np.mean([o.resampled for _, o in vision]))
    return [
        *rows,
        row("90% intervals, vision, leave one set out", "coverage", on_vision, bootstrap_only, "bootstrap of M2", 0.85,
            on_vision >= 0.85),
        row("90% intervals, all, leave one set out", "coverage", everywhere, resampled, "bootstrap of M2", 0.85,
            everywhere >= 0.85),
    ]  # fmt: skip


def joint(folder: Path) -> list[dict[str, Any]]:
    """The optimum of the joint law from every start."""
    points, law = chinchilla(folder), named_law("joint")
    coordinates = Coordinates.of(LOSS, "log", points.x, points.y)
    problem = problem_of(law, points, coordinates, Settings(Belief(strength=0.0), huber=1e-3))
    starts = law.starts(problem.inputs[0], problem.targets[0])
    objective = polish(problem, solve(problem, starts).theta).objective / 2
    worst, published = float(objective.max()), 1.018274019e-3
    return [
        row(f"Chinchilla, worst of {len(starts)} starts", "sum-Huber", worst, published, "goal", published,
            worst <= published)
    ]  # fmt: skip


def speed(folder: Path, curves: list[CurveTask]) -> list[dict[str, Any]]:
    """1,000 refits of one curve and of the joint law, compared with SciPy's loop."""
    task = max((t for t in curves if t.domain == "IC"), key=lambda t: len(t.train))
    single = fit_law(named_law("power_offset"), task.train, LOSS)
    points = chinchilla(folder)
    both = fit_law(named_law("joint"), points, LOSS, Settings(huber=1e-3))
    rows = []
    for name, fitted, data, goal, peer, peer_name in (
        ("one curve", single, task.train, 0.1, scipy_curve(single), "scipy least_squares loop"),
        ("joint law", both, points, 0.6, scipy_joint(both), "scipy BFGS loop"),
    ):
        ours = seconds(lambda f=fitted, d=data: bootstrap(f, d, RESAMPLES))
        rows.append(row(f"1,000 bootstrap refits, {name}", "s", ours, peer, peer_name, goal, ours < goal))
        rows.append(row(f"speed-up, {name}", "times", peer / ours, None, peer_name, 10, peer / ours >= 10))
    return rows


def vision_tables(folder: Path) -> list[dict[str, Any]]:
    """The 72 vision curves in one call of the command line: laws, intervals, parameters, checklist."""
    arguments = ["--x", "Seen Examples", "--y", "Loss", "--group", "Task", "Model", "--train-where", "Training == 1"]
    begin = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        fit.main([str(folder / "benchmark.vision.csv"), *arguments, "--json"])
    took = time.perf_counter() - begin
    return [row("72 vision curves by the command line, everything", "s", took, None, "", 30, took < 30)]


def line(entry: dict[str, Any]) -> str:
    peer = f"  {entry['peer_name']} {entry['peer']:.4g}" if entry["peer"] else ""
    verdict = "met" if entry["met"] else "NOT met"
    return f"{entry['name']:<48}{entry['ours']:>14.6g} {entry['unit']:<14} goal {entry['goal']:<12.6g}{verdict}{peer}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("SCALING_TEST_DATA", "../shared/data")) / "scaling_laws"
    parser.add_argument("--data", type=Path, default=default, help="folder of the benchmark's tables")
    parser.add_argument("--iso-flop", type=Path, help="table of published iso-FLOP runs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not (options.data / "benchmark.vision.csv").exists():
        print(f"error: no benchmark.vision.csv in {options.data}; name the folder with --data", file=sys.stderr)
        return 2
    rows = [*joint(options.data), *speed(options.data, tasks(options.data)), *extrapolation(options.data)]
    rows += vision_tables(options.data)
    if options.iso_flop:
        from benchmarks import iso_flop

        rows += iso_flop.rows(options.iso_flop)
    else:
        print("no published iso-FLOP runs: name their table with --iso-flop", file=sys.stderr)
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print("\n".join(map(line, rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
