"""Catalogue of laws: every form that a metric may follow as compute grows, by name, with its priors and starts.

A law is a form (`forms`, `joint_forms`, `repeat_forms`) in a space: `log` of the metric (of 1 - r where r is bounded
by 1), `linear` or `logit`. Inputs are centred and metrics measured from their best value, so neither unit nor scale
matters.

Legend: K starts, n points, d inputs, p parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Literal

import numpy as np

from analysis.arrays import Floats
from analysis.laws import forms, joint_forms, repeat_forms
from analysis.laws.beliefs import Belief, Prior
from analysis.laws.forms import Model

Space = Literal["log", "linear", "logit"]
FLAT = 9.0  # a deviation so wide that the data decide
PLATEAUS = (-3.0, -0.7, -0.15)  # starts of log E, measured from the best value seen
EXPONENTS = (0.15, 0.4, 0.9)


@dataclass(frozen=True)
class Law:
    """A named form with its parameters, prior and starts, all in unit-free coordinates."""

    name: str
    equation: str
    space: Space
    form: Model
    parameters: tuple[str, ...]  # of theta
    starts: Callable[[Floats, Floats], Floats]  # u (n, d), z (n,) -> (K, p)
    believed: Callable[[Belief], tuple[list[float], list[float]]]  # means and deviations
    inputs: int = 1
    shared: tuple[int, ...] = ()  # inputs that count the same quantity, and so have one reference
    bends: bool = False  # whether it may rise again: beyond the points it is then at most the highest of them

    capped: Callable[[float], Model] | None = None  # its form where values are at most this, if it has an upper plateau

    def prior(self, belief: Belief) -> Prior:
        mean, deviation = self.believed(belief)
        return Prior(np.array([mean]), np.array([deviation]), np.array([[belief.strength]]))


def _tail(z: Floats) -> float:
    """The level of the last points, which are the ones at the largest x."""
    return float(z[-max(3, len(z) // 10) :].mean())


def _gap(z: Floats, plateau: float) -> float:
    """log of the distance of the last points above a plateau."""
    return float(np.log(max(np.exp(_tail(z)) - np.exp(plateau), 1e-4)))


def _line_starts(u: Floats, z: Floats) -> Floats:
    slope = np.polyfit(u[:, 0], z, 1)[0] if np.ptp(u[:, 0]) > 0 else 0.0
    return np.array([[z.mean(), slope]])


def _offset_starts(u: Floats, z: Floats) -> Floats:
    last = u[-1, 0]
    return np.array([[a, _gap(z, a) + c * last, np.log(c)] for a in PLATEAUS for c in EXPONENTS])


def _saturating_starts(u: Floats, z: Floats) -> Floats:
    last = u[-1, 0]
    return np.array([[_tail(z) + c * last, np.log(c), g - last] for g in PLATEAUS for c in EXPONENTS])


def _plateau_starts(u: Floats, z: Floats) -> Floats:
    last, rows = u[-1, 0], []
    for a in PLATEAUS:
        for c in EXPONENTS:
            for alpha in (0.3, 1.0):
                span = np.exp(z.max()) * (1 + 0.2 * alpha) - np.exp(a)
                share = np.clip((np.exp(_tail(z)) - np.exp(a)) / span, 1e-4, 0.99)
                level = np.log(share) - alpha * np.log1p(-share) + c * last
                rows.append([a, np.log(span), level, np.log(c), np.log(alpha)])
    return np.array(rows)


def _breaks(u: Floats) -> Floats:
    return np.asarray(u[0, 0] + np.array([0.25, 0.6]) * (u[-1, 0] - u[0, 0]))


def _soft_starts(u: Floats, z: Floats) -> Floats:
    return np.array(
        [
            [a, _gap(z, a) + c * forms.softplus(u[-1, 0] - d), np.log(c), d, 0.0]
            for a in PLATEAUS
            for c in EXPONENTS
            for d in _breaks(u)
        ]
    )


def _broken_starts(u: Floats, z: Floats) -> Floats:
    return np.array(
        [
            [a, _gap(z, a) + c * forms.softplus(u[-1, 0] - d), np.log(0.1), d, -0.3, c]
            for a in PLATEAUS
            for c in EXPONENTS
            for d in _breaks(u)
        ]
    )


def _ceiling_starts(u: Floats, z: Floats) -> Floats:
    span = max(float(np.ptp(z)), 1e-9)
    return np.array(
        [
            [z[-3:].mean() + rise * span, np.log(rise * span) + c * u[-1, 0], np.log(c)]
            for rise in (0.05, 0.3, 1.0)
            for c in EXPONENTS
        ]
    )


def _exponent_belief(belief: Belief) -> tuple[float, float]:
    """The exponent itself, where its logarithm has the belief's mean and deviation."""
    mean = float(np.exp(belief.exponent[0]))
    return mean, mean * belief.exponent[1]


def _broken_belief(belief: Belief) -> tuple[list[float], list[float]]:
    mean, deviation = _exponent_belief(belief)
    (a, a_sd) = belief.plateau
    return [a, 0.0, -2.0, -3.0, 0.0, mean], [a_sd, FLAT, 0.7, 3.0, 0.7, deviation]


def _line_belief(_: Belief) -> tuple[list[float], list[float]]:
    return [0.0, 0.0], [np.inf, np.inf]  # ordinary least squares


def _single(name: str, equation: str, form: Model, parameters: str, starts: Callable[[Floats, Floats], Floats],
            believed: Callable[[Belief], tuple[list[float], list[float]]], space: Space = "log") -> Law:  # fmt: skip
    return Law(name, equation, space, form, tuple(parameters.split()), starts, believed)


LAWS: Mapping[str, Law] = MappingProxyType(
    {
        law.name: law
        for law in (
            _single("log_linear", "y = a + b log10 x", forms.line, "a b", _line_starts, _line_belief, "linear"),
            _single("logit_linear", "logit y = a + b log10 x", forms.line, "a b", _line_starts, _line_belief, "logit"),
            _single("power_law", "y = B x^-c", forms.line, "B c", _line_starts, _line_belief),
            _single(
                "power_offset", "y = E + B x^-c", forms.power_offset, "E B c", _offset_starts,
                lambda b: ([b.plateau[0], 0.0, b.exponent[0]], [b.plateau[1], FLAT, b.exponent[1]]),
            ),
            _single(
                "m3", "y = B (1/x + g)^c", forms.saturating_data, "B c g", _saturating_starts,
                lambda b: ([0.0, b.exponent[0], -1.0], [FLAT, b.exponent[1], 3.0]),
            ),
            replace(
                _single(
                    "m4", "(y - E) / (E0 - y)^alpha = B x^-c", forms.two_plateaus, "E span B c alpha", _plateau_starts,
                    lambda b: (
                        [b.plateau[0], 0.5, 0.0, b.exponent[0], 0.0], [b.plateau[1], 1.5, FLAT, b.exponent[1], 0.7]
                    ),
                ), capped=lambda highest: partial(forms.two_plateaus, highest=highest),
            ),
            _single(
                "soft_start", "y = E + B (1 + (x/d)^(1/f))^(-c f)", forms.soft_start, "E B c d f", _soft_starts,
                lambda b: (
                    [b.plateau[0], 0.0, b.exponent[0], -3.0, 0.0], [b.plateau[1], FLAT, b.exponent[1], 3.0, 0.7]
                ),
            ),
            replace(
                _single(
                    "bnsl", "y = E + B x^-c0 (1 + (x/d)^(1/f))^(-c1 f)", forms.broken, "E B c0 d f c1",
                    _broken_starts, _broken_belief,
                ), bends=True,
            ),
            _single(
                "saturating", "y = C - B x^-c", forms.ceiling, "C B c", _ceiling_starts,
                lambda b: ([1.0, 0.0, b.exponent[0]], [3.0, FLAT, 2 * b.exponent[1]]), "linear",
            ),
            Law(
                "joint", "y = E + A N^-alpha + B D^-beta", "log", joint_forms.additive, joint_forms.PARAMETERS,
                joint_forms.starts, joint_forms.believed, inputs=2,
            ),
            Law(
                "joint_tied", "y = E + A N^-alpha + B D^-alpha", "log", joint_forms.tied, joint_forms.PARAMETERS[:4],
                joint_forms.tied_starts, joint_forms.tied_believed, inputs=2,
            ),
            Law(
                "data_constrained", "y = E + A N^-alpha + B D'^-beta, D' = U + U R (1 - exp(-(D/U - 1)/R))", "log",
                repeat_forms.repeated, repeat_forms.FADING,
                repeat_forms.repeated_starts, repeat_forms.repeated_believed, inputs=3, shared=(1, 2),
            ),
            Law(
                "overfitting",
                "y = E + A N^-alpha + B D^-beta + P (N/U)^kappa / (1 + ((D/U - 1)/H)^-delta)", "log",
                repeat_forms.overfitting, repeat_forms.OVERFITTING,
                repeat_forms.overfitting_starts, repeat_forms.overfitting_believed, inputs=3, shared=(1, 2), bends=True,
            ),
        )
    }
)  # fmt: skip

ALIASES: Mapping[str, str] = MappingProxyType(
    {"m1": "power_law", "m2": "power_offset", "power": "power_law", "chinchilla": "joint", "logit": "logit_linear",
     "broken": "bnsl", "linear": "log_linear", "power_law_offset": "power_offset"}
)  # fmt: skip


def named_law(name: str) -> Law:
    """The law of that name, in any case and with - for _.

    Raises:
        ValueError: it is unknown; the message lists the known names.
    """
    key = name.strip().lower().replace("-", "_").replace(" ", "_")
    key = ALIASES.get(key, key)
    if key not in LAWS:
        raise ValueError(f"unknown law {name!r}; known are auto, {', '.join(LAWS)} (also {', '.join(ALIASES)})")
    return LAWS[key]
