"""The automatic laws: an average over forms, tails and beliefs instead of a pick, and how its settings were chosen.

Two averages differ in what they believe before data. `learning_curve` is for examples seen; `auto` is for anything
else, such as compute or parameters, and believes little, no more than the points' own noise allows. Forms, shares and
beliefs of `learning_curve` were chosen on the 72 vision curves of Alabdulmohsin et al. (2022) among 4,896 averages of
M2, M4, soft_start and BNSL over tail weights and beliefs. What the choice made on three of the data sets does on the
fourth is in docs/laws.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from analysis.arrays import Floats
from analysis.fitting.estimate import JOINT_HUBER, Average, Points, Settings, average, fit_beliefs
from analysis.laws.beliefs import WEAK, Belief
from analysis.laws.catalogue import Law, named_law
from analysis.laws.metric import Metric


@dataclass(frozen=True)
class Experience:
    """What is believed of a kind of x, and of how many times the points' own noise variance the belief may weigh."""

    belief: Belief
    noises: float


EXPERIENCE = {
    # exponents about .5, as measured on learning curves
    "learning_curve": Experience(Belief(plateau=(-0.7, 0.7), exponent=(-0.7, 0.3)), 100.0),
    # exponents of .03 to .7 (two deviations): compute .05 and .15, parameters .08 and .35 (Kaplan 2020, Hoffmann 2022)
    "auto": Experience(Belief(plateau=(-0.7, 0.7), exponent=(-1.9, 0.8)), 3.0),
}
EXAMPLES_SEEN = re.compile(
    r"example|sample|image|token|crop|well|sentence|step|epoch|shot|seen|iter|update|fraction|n_?train|"
    r"(data|train).*(size|points)",
    re.I,
)
STRENGTHS = (5e-4, 2e-3)  # residual variances that the belief is weighed against, at most
# law, weight of the side that is extrapolated, share of the average
MEMBERS = (("power_offset", 2.0, 2), ("bnsl", 0.5, 1), ("bnsl", 2.0, 1), ("m4", 1.0, 2))
SCORE_MEMBERS = (("log_linear", 1.0, 1), ("saturating", 1.0, 1))
FEWEST = 3  # distinct x that any law needs; below, nothing is left to judge it by
FEW = 6  # points below which forms with many parameters say nothing of their own
WIDE = 10.0  # a positive score that grows so many fold is fitted as a power law
LEAST_STRENGTH = 1e-7
CHI2_MEDIAN = 0.4549  # of chi² with one degree of freedom


def noise_variance(points: Points, metric: Metric) -> float:
    """Variance of the log metric about lines and parabolas through neighbours: noise without a law.

    The lesser of the two medians: a parabola is not fooled by a bend, a line not by points at one x.
    """
    ordered = points.subset(points.order)
    u, z = np.log(ordered.x[:, 0]), metric.to_space(ordered.y, "log")
    return min(_about_neighbours(u, z, 3), _about_neighbours(u, z, 4))


def _about_neighbours(u: Floats, z: Floats, window: int) -> float:
    """The variance that divided differences over windows of neighbours see; infinite for too few points."""
    if len(u) < FEW - 1:
        return float("inf")
    places = np.lib.stride_tricks.sliding_window_view(u, window) + 1e-9 * np.arange(window)  # never two at one place
    apart = places[:, :, None] - places[:, None, :] + np.eye(window)
    weights = 1 / apart.prod(axis=2)
    weights = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    gap = np.sum(weights * np.lib.stride_tricks.sliding_window_view(z, window), axis=1)
    return float(np.median(gap**2) / CHI2_MEDIAN)


def average_for(x: str) -> str:
    """Which of the two averages a column's name calls for."""
    return "learning_curve" if EXAMPLES_SEEN.search(x) else "auto"


@dataclass(frozen=True)
class MemberSpec:
    """One law of an average, under several beliefs, each with the same share."""

    law: Law
    settings: Settings
    beliefs: tuple[Belief, ...]
    share: float


def members(metric: Metric, points: Points, name: str = "auto") -> list[MemberSpec]:
    """What a law's name stands for.

    A named law is fitted as itself, evenly weighted with next to no belief; joint laws by Huber's loss.
    """
    inputs = points.x.shape[1]
    if name in EXPERIENCE and inputs > 1:
        name = "joint" if inputs == 2 else "data_constrained"
    if name in EXPERIENCE and metric.kind == "score" and points.y.min() > 0 and np.ptp(np.log(points.y)) > np.log(WIDE):
        name = "power_law"
    if name not in EXPERIENCE:
        law = named_law(name)
        return [MemberSpec(law, Settings(huber=JOINT_HUBER if law.inputs > 1 else None), (WEAK,), 1.0)]
    experience = EXPERIENCE[name]
    if metric.kind == "score":
        linear = (replace(experience.belief, strength=1e-3),)
        return [MemberSpec(named_law(law), Settings(tail=tail), linear, share) for law, tail, share in SCORE_MEMBERS]
    chosen = MEMBERS if len(points) >= FEW else MEMBERS[:1]
    most = max(experience.noises * noise_variance(points, metric), LEAST_STRENGTH)
    beliefs = tuple(replace(experience.belief, strength=min(strength, most)) for strength in STRENGTHS)
    return [MemberSpec(named_law(law), Settings(tail=tail), beliefs, share) for law, tail, share in chosen]


def fit(points: Points, metric: Metric, law: str = "auto", *, rough: bool = False) -> Average:
    """Fit a law by name, or one of the averages; `rough` for fits that only tell how far off such fits are.

    Raises:
        ValueError: fewer than 3 distinct x, an unknown law, or a law of other inputs.
    """
    places = len(np.unique(points.x, axis=0)) if len(points) else 0
    chosen = members(metric, points, law) if places >= FEWEST else []
    needed = len(chosen[0].law.parameters) if chosen and points.x.shape[1] > 1 else FEWEST
    if places < needed:
        raise ValueError(f"{len(points)} points at {places} distinct x; this needs at least {needed}")
    still = np.flatnonzero(np.ptp(points.x, axis=0) == 0)
    if still.size:
        which = ("first", "second", "third")[still[0]]
        raise ValueError(f"the {which} input has one value at all {len(points)} points: fit the others without it")
    fitted = [fit_beliefs(one.law, points, metric, one.settings, one.beliefs, rough=rough) for one in chosen]
    shares = [one.share for one in chosen for _ in one.beliefs]
    return average([one for of in fitted for one in of], shares)
