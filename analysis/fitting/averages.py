"""Automatic laws: averages over forms, tail weights and beliefs (priors), and how their settings were chosen.

Two averages differ in their beliefs. `learning_curve` is for examples seen; `auto` is for anything else, such as
compute or parameters, and its beliefs are weak, no stronger than the points' own noise allows. Forms, shares and
beliefs of `learning_curve` were chosen on the 72 vision curves of Alabdulmohsin et al. (2022) among 4,896 averages of
M2, M4, soft_start and BNSL over tail weights and beliefs. docs/laws.md reports how a choice made on three of the data
sets does on the fourth.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np

from analysis.arrays import Floats
from analysis.fitting.estimate import JOINT_HUBER, Average, Fitted, Points, Settings, average, fit_beliefs
from analysis.laws.beliefs import WEAK, Belief
from analysis.laws.catalogue import Law, named_law
from analysis.laws.metric import Metric


@dataclass(frozen=True)
class Experience:
    """The belief for a kind of x, and its largest strength as a multiple of the points' noise variance."""

    belief: Belief
    noises: float


EXPERIENCE = {
    # exponents about 0.5, as measured on learning curves
    "learning_curve": Experience(Belief(plateau=(-0.7, 0.7), exponent=(-0.7, 0.3)), 100.0),
    # exponents of 0.03 to 0.7 (two deviations): compute 0.05, 0.15; parameters 0.08, 0.35 (Kaplan 2020, Hoffmann 2022)
    "auto": Experience(Belief(plateau=(-0.7, 0.7), exponent=(-1.9, 0.8)), 3.0),
}
EXAMPLES_SEEN = re.compile(
    r"example|sample|image|token|crop|well|sentence|step|epoch|shot|seen|iter|update|fraction|n_?train|"
    r"(data|train).*(size|points)",
    re.I,
)
# for bending laws alone: wider than any published law, at most as strong as the noise of points
BENDING, MODEST = ("m4", "bnsl", "soft_start"), Belief(plateau=(-1.5, 1.5), exponent=(-1.5, 1.0), strength=1e-2)
# for joint laws of two inputs by squares: exponents about a third, and its largest strength in variances of the points
JOINT_INPUTS, REPEAT_INPUTS, JOINT_NOISES, JOINT_BELIEF = 2, 3, 30.0, Belief(plateau=(-0.7, 0.7), strength=1e-3)
REPEAT_MEMBERS = ("data_constrained", "overfitting")  # where unique data and data seen are told apart
STRENGTHS = (5e-4, 2e-3)  # largest residual variances that the belief is weighed against
# law, weight of the side that is extrapolated, share of the average
MEMBERS = (("power_offset", 2.0, 2), ("bnsl", 0.5, 1), ("bnsl", 2.0, 1), ("m4", 1.0, 2))
# the average for shares: the same, and its belief; None: as strong as the noise (`MODEST`)
SHARE_MEMBERS: tuple[tuple[str, float, float, Belief | None], ...] = (
    ("power_law", 0.25, 1.0, WEAK),
    ("logit_linear", 0.25, 0.5, WEAK),
    ("power_offset", 0.0, 0.3, None),
    ("m4", 0.25, 0.3, Belief(plateau=(-0.7, 0.7), exponent=(-1.9, 0.8), strength=2e-3)),
)
LINE, SPARE = 2, 2  # parameters of a line; degrees of freedom that any other law must leave
FLOOR = 1e-7  # variance below which residuals say nothing about which law is right
SCORE_MEMBERS = (("log_linear", 1.0, 1), ("saturating", 1.0, 1))
FEWEST = 3  # distinct x that any law needs; with fewer no residuals are left to judge it by
MOST_TIED = 4.0  # weight of one exponent for both inputs, beside two fits with two
MOSTLY = 0.5  # of the points: more of them cannot be partial passes
LEAST_DECADES = 0.2  # of every input; over less, no exponent is seen
FEW = 6  # with fewer points, forms with many parameters are left out
WIDE = 10.0  # a positive score that grows by more than this factor is fitted as a power law
LEAST_STRENGTH = 1e-7
CHI2_MEDIAN = 0.4549  # of chi² with one degree of freedom


def noise_variance(points: Points, metric: Metric) -> float:
    """Variance of the log metric about lines and parabolas through neighbours: noise without a law.

    The smaller of the two medians: parabolas follow a bend, lines allow several points at one x.
    """
    ordered = points.subset(points.order)
    u, z = np.log(ordered.x[:, 0]), metric.to_space(ordered.y, "log")
    return min(_about_neighbours(u, z, 3), _about_neighbours(u, z, 4))


def _about_neighbours(u: Floats, z: Floats, window: int) -> float:
    """The variance that divided differences over windows of neighbours see; infinite for too few points."""
    if len(u) < FEW - 1:
        return float("inf")
    places = np.lib.stride_tricks.sliding_window_view(u, window) + 1e-9 * np.arange(window)  # all distinct
    apart = places[:, :, None] - places[:, None, :] + np.eye(window)
    weights = 1 / apart.prod(axis=2)
    weights = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    gap = np.sum(weights * np.lib.stride_tricks.sliding_window_view(z, window), axis=1)
    return float(np.median(gap**2) / CHI2_MEDIAN)


def average_for(x: str) -> str:
    """Name of the average that fits a column of this name."""
    return "learning_curve" if EXAMPLES_SEEN.search(x) else "auto"


@dataclass(frozen=True)
class MemberSpec:
    """One law of an average, under several beliefs, each with the same share."""

    law: Law
    settings: Settings
    beliefs: tuple[Belief, ...]
    share: float


def form_for(points: Points, metric: Metric, name: str) -> str:
    """The form that an average's name stands for: itself, or a law for several inputs or for a score that grows widely.

    All points of a curve decide it once. What is fitted to a part of them takes the answer as its name.
    """
    if name not in EXPERIENCE or points.x.shape[1] > 1:
        return name
    wide = metric.kind == "score" and len(points) > 0 and points.y.min() > 0
    return "power_law" if wide and np.ptp(np.log(points.y)) > np.log(WIDE) else name


def _share_members(metric: Metric, points: Points) -> list[MemberSpec]:
    """Straight lines, and laws with a ceiling where there are points to spare; no logit of a share of 0."""
    specs = []
    for name, tail, share, belief in SHARE_MEMBERS:
        law = named_law(name)
        lacks = len(law.parameters) > LINE and len(points) < len(law.parameters) + SPARE
        if lacks or (law.space == "logit" and points.y.min() <= 0):
            continue
        specs.append(MemberSpec(law, Settings(tail=tail), (belief or _modest(points, metric),), share))
    return specs


def _modest(points: Points, metric: Metric) -> Belief:
    strength = np.clip(noise_variance(points, metric), WEAK.strength, MODEST.strength)
    return replace(MODEST, strength=float(strength))


def _joint(huber: Fitted, points: Points, metric: Metric, *, rough: bool) -> Average:
    """The average for size and data: Huber's fit, one by squares with a belief, and one with a single exponent.

    The belief is at most as strong as a multiple of the variance about Huber's fit, so that exact points are followed.
    The single exponent counts as far as the points speak for it against two, and at most two thirds.
    """
    belief = (_joint_belief(huber),)
    squares, tied = (
        fit_beliefs(named_law(name), points, metric, Settings(), belief, rough=rough)[0]
        for name in ("joint", "joint_tied")
    )
    odds = float(np.exp(min(evidence(tied) - evidence(squares), np.log(MOST_TIED))))
    return average([huber, squares, tied], [1.0, 1.0, odds])


def _joint_belief(first: Fitted) -> Belief:
    """Of joint laws by squares: at most as strong as a multiple of the variance about a first fit."""
    strength = float(np.clip(JOINT_NOISES * first.residual**2, LEAST_STRENGTH, JOINT_BELIEF.strength))
    return replace(JOINT_BELIEF, strength=strength)


def _repeats(points: Points, metric: Metric, *, rough: bool) -> Average:
    """The average for size, unique data and data seen: repeats that lose value, and repeats that hurt.

    Each counts as far as the points speak for it. The first is the one that counts most: its parameters are reported.
    """
    laws = [named_law(name) for name in REPEAT_MEMBERS]
    able = [law for law in laws if len(points) >= len(law.parameters) + SPARE] or laws[:1]
    fits = []
    for law in able:
        first = fit_beliefs(law, points, metric, Settings(), (WEAK,), rough=rough)[0]
        fits += fit_beliefs(law, points, metric, Settings(), (_joint_belief(first),), rough=rough)
    odds = np.array([evidence(fitted) for fitted in fits])
    order = np.argsort(-odds, kind="stable")
    return average([fits[i] for i in order], np.exp(odds[order] - odds.max()))


def evidence(fitted: Fitted) -> float:
    """How much the points speak for a law: its likelihood less Schwarz's penalty for its parameters, as a logarithm.

    So a ceiling counts as far as the points identify it (weights as in Burnham and Anderson 2002, section 6.4).
    """
    n = fitted.problem.targets.shape[1]
    return float(-0.5 * (n * np.log(fitted.residual**2 + FLOOR) + len(fitted.theta) * np.log(n)))


def _alone(law: Law, points: Points, metric: Metric) -> Belief:
    """The belief of a law that is fitted by itself: very weak, and as strong as the noise for a law that can bend.

    Such a law has five or six parameters, and through a few noisy points it falls at the last of them without limit.
    """
    return _modest(points, metric) if law.name in BENDING else WEAK


def members(metric: Metric, points: Points, name: str = "auto") -> list[MemberSpec]:
    """The laws that a name stands for.

    A named law is fitted by itself, with even weights and a very weak belief; joint laws with Huber's loss.
    """
    name = form_for(points, metric, name)
    if name not in EXPERIENCE:
        law = named_law(name)
        settings = Settings(huber=JOINT_HUBER if law.inputs > 1 else None)
        return [MemberSpec(law, settings, (_alone(law, points, metric),), 1.0)]
    if points.x.shape[1] == JOINT_INPUTS:
        return [MemberSpec(named_law("joint"), Settings(huber=JOINT_HUBER), (WEAK,), 1.0)]
    if points.x.shape[1] == REPEAT_INPUTS:
        return [MemberSpec(named_law(REPEAT_MEMBERS[0]), Settings(), (WEAK,), 1.0)]
    experience = EXPERIENCE[name]
    if metric.kind == "score":
        linear = (replace(experience.belief, strength=1e-3),)
        return [MemberSpec(named_law(law), Settings(tail=tail), linear, share) for law, tail, share in SCORE_MEMBERS]
    if metric.kind == "share" and name == "auto":
        return _share_members(metric, points)
    forms = MEMBERS if len(points) >= FEW else MEMBERS[:1]
    most = max(experience.noises * noise_variance(points, metric), LEAST_STRENGTH)
    beliefs = tuple(replace(experience.belief, strength=min(strength, most)) for strength in STRENGTHS)
    return [MemberSpec(named_law(law), Settings(tail=tail), beliefs, share) for law, tail, share in forms]


def _check_ranges(points: Points) -> None:
    if points.x.shape[1] == REPEAT_INPUTS and np.mean(points.x[:, 1] > points.x[:, 2]) > MOSTLY:
        raise ValueError(
            "most points have more unique data than data seen: the inputs are model size, unique data, data seen, in "
            "this order"
        )
    decades = np.ptp(np.log10(points.x), axis=0)
    short = int(np.argmin(decades))
    which = ("first", "second", "third")[short]
    if decades[short] == 0 and len(decades) > 1:
        raise ValueError(f"the {which} input has one value at all {len(points)} points: fit the others without it")
    if decades[short] < LEAST_DECADES:
        where = f"the {which} input" if len(decades) > 1 else "x"
        raise ValueError(
            f"not enough to tell: {where} spans {decades[short]:.2g} decades at {len(points)} points; "
            f"{LEAST_DECADES:g} decades (a factor of {10**LEAST_DECADES:.2g}) would be"
        )


def fit(points: Points, metric: Metric, law: str = "auto", *, rough: bool = False) -> Average:
    """Fit a law by name, or one of the averages; `rough` for fits that only measure the error of such fits.

    Raises:
        ValueError: not enough to tell (fewer than 3 distinct x, or less than 0.2 decades of them), an unknown law, or a
            law with another number of inputs.
    """
    places = len(np.unique(points.x, axis=0)) if len(points) else 0
    specs = members(metric, points, law) if places >= FEWEST else []
    needed = len(specs[0].law.parameters) if specs and points.x.shape[1] > 1 else FEWEST
    if places < needed:
        few = f"{len(points)} points at {places} distinct x; this needs at least {needed}"
        raise ValueError(f"{few} over {LEAST_DECADES:g} decades: not enough to tell")
    _check_ranges(points)
    if points.x.shape[1] == REPEAT_INPUTS and law in EXPERIENCE:
        return _repeats(points, metric, rough=rough)
    fits = [fit_beliefs(spec.law, points, metric, spec.settings, spec.beliefs, rough=rough) for spec in specs]
    if points.x.shape[1] == JOINT_INPUTS and law in EXPERIENCE:
        return _joint(fits[0][0], points, metric, rough=rough)
    shares = np.array([spec.share for spec in specs for _ in spec.beliefs])
    together = average([fitted for of_law in fits for fitted in of_law], shares)
    if metric.kind != "share" or len(specs) == 1 or form_for(points, metric, law) != "auto":
        return together
    odds = np.array([evidence(member) for member in together.members])
    return average(together.members, shares * np.exp(odds - odds.max()))
