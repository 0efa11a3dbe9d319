"""The checklist of a fit: what to check before trusting it. Published fits went wrong on each of these items.

A warning says that something may be wrong with the fit or with how the table was read. A note says what is unusual
about the points where intervals allow for it: curves with it are missed as seldom as others (`benchmarks.checklist`).

Legend: n points, d inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from analysis.arrays import Floats
from analysis.fitting.estimate import Average, Points
from analysis.fitting.intervals import Rolling, Scale
from analysis.fitting.least_squares import solve, without_each
from analysis.fitting.parameters import Parameter
from analysis.laws.metric import Metric

Verdict = Literal["ok", "note", "warn", "info"]
DECAYS = (
    "these are checkpoints under a learning rate that decays, as the table says or as the curve falls ever faster at "
    "its end: the gain of the decay ends with it. Intervals are wider; finished runs of several lengths would tell"
)
DIFFERENT = 0.05  # p below which two slopes are said to differ
CONFOUNDED = 0.9  # correlation of log factors above which they cannot be separated
OUTLIER = 4.0  # robust deviations
SUSPECTS = 12  # points for which a complete leave-one-out refit is run
LARGE_ROLLING = 5.0  # times the noise
FAR = 2.0  # times the fitted range, in logs


@dataclass(frozen=True)
class Check:
    """One item of the checklist."""

    check: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class Influence:
    """The point whose absence moves the prediction most."""

    row: int  # index in the points as given
    place: tuple[float, ...]  # its inputs
    shift: float  # of the law at the target, in its space
    share: float  # of the interval's half width

    @property
    def x(self) -> float:
        return self.place[0]


@dataclass(frozen=True)
class TwoFactors:
    """The effect of each factor with both in the fit: slopes of the metric per decade, with 95% half widths."""

    names: tuple[str, str]
    slopes: tuple[float, float]
    half_widths: tuple[float, float]
    correlation: float  # of the logs
    r2_one: float  # of the product of both, which is compute
    r2_two: float
    p_equal: float  # of slopes that differ as much by chance: Student's t of their difference

    @property
    def one_sided(self) -> str | None:
        """The factor that carries the trend alone, if the slopes differ, its own interval excludes 0, the other's not.

        That one slope is significant and the other is not does not make them different (Gelman and Stern 2006).
        """
        moved = [abs(slope) > half for slope, half in zip(self.slopes, self.half_widths, strict=True)]
        return self.names[moved.index(True)] if sum(moved) == 1 and self.p_equal < DIFFERENT else None

    @property
    def verdict(self) -> str:
        """Which factor carries the trend, in words."""
        if self.one_sided:
            return f"the trend is carried by {self.one_sided} alone (the slopes differ, p = {self.p_equal:.2g})"
        if self.p_equal < DIFFERENT:
            return f"the slopes of both factors differ (p = {self.p_equal:.2g})"
        return f"which factor carries the trend cannot be told: the slopes may be equal (p = {self.p_equal:.2g})"


def influence(law: Average, points: Points, target: Floats, half_width: float) -> Influence:
    """The point whose absence moves the target's prediction most: the candidates of one step, refitted."""
    ordered, n = points.order, len(points)
    baseline = law.log_or_linear(target[None])[0]
    stepped = np.zeros(n)
    for member, share in zip(law.members, law.shares, strict=True):
        stepped += share * member.log_or_linear(target[None], without_each(member.problem, member.theta))[:, 0]
    suspects = np.argsort(-np.abs(np.nan_to_num(stepped - baseline, posinf=np.inf, neginf=-np.inf)))[:SUSPECTS]
    moved = np.zeros(len(suspects))
    for member, share in zip(law.members, law.shares, strict=True):
        problem = member.problem
        weights = problem.weights * (np.arange(n) != suspects[:, None])
        without = replace(problem, weights=weights)
        theta = solve(
            without, np.repeat(member.theta[None], len(suspects), axis=0), iterations=30, tolerance=1e-5
        ).theta
        moved += share * member.log_or_linear(target[None], theta)[:, 0]
    shift = moved - baseline
    worst = int(np.argmax(np.abs(shift)))
    row = int(ordered[suspects[worst]])
    ratio = abs(shift[worst]) / half_width if half_width > 0 else 0.0
    return Influence(row, tuple(map(float, points.x[row])), float(shift[worst]), float(ratio))


def two_factors(names: Sequence[str], factors: Floats, z: Floats) -> TwoFactors | None:
    """Regress the fitted quantity z (n,) on the logs of two factors (n, 2), and on their product alone.

    None where there are too few points or a factor never varies.
    """
    from scipy.stats import t

    n = len(z)
    logs = np.log10(factors)
    if n < 5 or (np.ptp(logs, axis=0) < 1e-9).any():
        return None
    design = np.column_stack([np.ones(n), logs])
    together = np.column_stack([np.ones(n), logs.sum(axis=1)])
    coefficients, left_two = _least_squares(design, z)
    left_one = _least_squares(together, z)[1]
    total = float(np.sum((z - z.mean()) ** 2)) or 1.0
    covariance = np.linalg.pinv(design.T @ design) * left_two / (n - 3)
    half = t.ppf(0.975, n - 3) * np.sqrt(np.diag(covariance))
    gap = coefficients[1] - coefficients[2]
    error = np.sqrt(max(covariance[1, 1] + covariance[2, 2] - 2 * covariance[1, 2], 0.0))
    p_equal = float(2 * t.sf(abs(gap) / error, n - 3)) if error > 0 else float(gap == 0)
    return TwoFactors(
        (names[0], names[1]),
        (float(coefficients[1]), float(coefficients[2])),
        (float(half[1]), float(half[2])),
        float(np.corrcoef(logs.T)[0, 1]),
        1 - left_one / total,
        1 - left_two / total,
        p_equal,
    )


def _least_squares(design: Floats, z: Floats) -> tuple[Floats, float]:
    coefficients = np.linalg.lstsq(design, z, rcond=None)[0]
    return np.asarray(coefficients), float(np.sum((z - design @ coefficients) ** 2))


def checklist(
    law: Average,
    points: Points,
    *,
    scale: Scale,
    rolling: Rolling,
    influential: Influence,
    parameters: Sequence[Parameter],
    factors: TwoFactors | None,
    target: Floats,
    notes: Sequence[str] = (),
    metric_note: str | None = None,
    architectures: str | None = None,
    cannot_tell: Sequence[str] = (),
) -> list[Check]:
    """Every item, in the order in which it is read."""
    metric = law.metric
    return [
        _count(points),
        Check(
            "convention",
            "info",
            f"a {metric.kind}, fitted as {metric.describe_space(law.space)} ({law.space} space); "
            "compute is counted as in the column",
        ),
        _converged(law),
        _rolling(rolling, scale, law.space),
        *([Check("schedule", "warn", DECAYS)] if rolling.kind == "decaying" else []),
        _influence(influential),
        _factors(factors),
        *_identified(parameters),
        _reach(points, target),
        *_residuals(law, points, metric),
        *([Check("architectures", "info", architectures)] if architectures else []),
        *(Check("interval", "warn", sentence) for sentence in cannot_tell),
        *([Check("metric", "warn", metric_note)] if metric_note else []),
        *(Check("rows left out", "warn", note) for note in notes),
    ]


def _count(points: Points) -> Check:
    n, places = len(points), len(np.unique(points.x, axis=0))
    decades = np.ptp(np.log10(points.x), axis=0)
    each = " and ".join(f"{span:.2f}" for span in decades)
    detail = f"{n} points at {places} distinct x over {each} decades"
    few = n < 6 or decades.min() < 0.5
    said = "; few points or a short range, for which intervals are wider" if few else ""
    return Check("n", "note" if few else "ok", detail + said)


def _converged(law: Average) -> Check:
    certificates = [member.certificate for member in law.members]
    arrived = sum(certificate.converged for certificate in certificates)
    agree = min(certificate.agreeing / certificate.starts for certificate in certificates)
    residual = float(law.shares @ [certificate.residual for certificate in certificates])
    detail = (
        f"{arrived} of {len(certificates)} fits at a minimum; at least {agree:.0%} of starts reached the best; "
        f"effective loss (rms residual) {residual:.3g}"
    )
    return Check("convergence", "ok" if arrived == len(certificates) else "warn", detail)


def _rolling(rolling: Rolling, scale: Scale, space: str) -> Check:
    if not rolling.origins:
        return Check("rolling origin", "note", "too few points to hold the last ones out; intervals are wider instead")
    detail = f"rms error {rolling.error:.3g} ({space}) over {rolling.origins} origins; noise {scale.residual:.3g}"
    far = rolling.error > LARGE_ROLLING * scale.residual
    said = "; far more than noise, which widens intervals" if far else ""
    return Check("rolling origin", "note" if far else "ok", detail + said)


def _influence(influential: Influence) -> Check:
    moved = f"{influential.shift:+.3g} ({influential.share:.0%} of ±)"
    place = ", ".join(f"{x:.4g}" for x in influential.place)
    detail = f"without the point at x = {place} the target moves by {moved}"
    return Check("leave-one-out influence", "note" if influential.share > 0.5 else "ok", detail)


def _factors(factors: TwoFactors | None) -> Check:
    if factors is None:
        return Check("two factors", "info", "not checked: no two factors that both vary were given (--factors)")
    parts = [
        f"{name} {slope:+.3g} ± {half:.2g}"
        for name, slope, half in zip(factors.names, factors.slopes, factors.half_widths, strict=True)
    ]
    detail = f"per decade: {', '.join(parts)}; R² {factors.r2_two:.2f} (their product alone {factors.r2_one:.2f})"
    if abs(factors.correlation) > CONFOUNDED:
        detail += f"; logs correlate {factors.correlation:.2f}: they cannot be separated"
        return Check("two factors", "warn", detail)
    return Check("two factors", "warn" if factors.one_sided else "ok", f"{detail}; {factors.verdict}")


def _identified(parameters: Sequence[Parameter]) -> list[Check]:
    unidentified = [parameter for parameter in parameters if not parameter.identified]
    if not unidentified:
        return [Check("identifiability", "ok", "every parameter is bounded on both sides by its profile")]
    names = ", ".join(f"{parameter.name} in [{parameter.low:.3g}, {parameter.high:.3g}]" for parameter in unidentified)
    detail = f"not identified by these points, only bounded: {names}; predictions do not rest on one parameter"
    return [Check("identifiability", "note", detail)]


def _reach(points: Points, target: Floats) -> Check:
    spanned = np.log(points.x.max(axis=0) / points.x.min(axis=0))
    beyond = np.log(target / points.x.max(axis=0))
    share = float(np.max(beyond / np.maximum(spanned, 1e-9)))
    detail = f"the farthest target is {np.log10(np.exp(max(float(beyond.max()), 0))):.2f} decades beyond the points"
    return Check("extrapolation", "warn" if share > FAR else "ok", detail)


def _residuals(law: Average, points: Points, metric: Metric) -> list[Check]:
    ordered = points.subset(points.order)
    residual = metric.to_space(ordered.y, law.space) - law.log_or_linear(ordered.x)
    deviation = 1.4826 * float(np.median(np.abs(residual - np.median(residual)))) or 1e-12
    outliers = int(np.sum(np.abs(residual - np.median(residual)) > OUTLIER * deviation)) if len(points) > 5 else 0
    checks = [Check("outliers", "note" if outliers else "ok", f"{outliers} points beyond {OUTLIER:g} deviations")]
    if len(points) >= 8:
        lag = float(np.corrcoef(residual[1:], residual[:-1])[0, 1]) if residual.std() > 1e-12 else 0.0
        correlated = lag > 0.5
        detail = f"residuals of neighbours correlate {lag:.2f}"
        if correlated:
            detail += ": there are fewer independent points, which intervals of parameters allow for, or another form"
        checks.append(Check("independence", "note" if correlated else "ok", detail))
    repeats = len(points) - len(np.unique(points.x, axis=0))
    if repeats and not points.runs and repeats > len(points) // 3:
        checks.append(Check("repeats", "warn", f"{repeats} points share their x with others: several curves? --group"))
    return checks
