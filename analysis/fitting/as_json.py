"""A fit's result as data for JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from analysis.fitting.checklist import Verdict
from analysis.fitting.estimate import Fitted
from analysis.fitting.fit_curve import FittedCurve
from analysis.fitting.parameters import Parameter, natural


def as_json(result: FittedCurve, group: str) -> dict[str, Any]:
    """One group's result as data for JSON."""
    law = result.law
    return {
        "group": group,
        "n_train": len(result.points),
        "law": result.name,
        "metric": asdict(law.metric) | {"meaning": law.metric.describe},
        "space": law.space,
        "fitted_as": law.metric.describe_space(law.space),
        "members": [_member(member, float(share)) for member, share in zip(law.members, law.shares, strict=True)],
        "parameters_of": result.parameters_of,
        "parameters": {parameter.name: _parameter(parameter) for parameter in result.parameters},
        "predictions": [
            asdict(prediction) | {"x": prediction.x[0] if len(prediction.x) == 1 else list(prediction.x)}
            for prediction in result.predictions
        ],
        "architectures": asdict(result.scatter) if result.scatter else None,
        "held_out": asdict(result.held_out) if result.held_out else None,
        "checklist": [asdict(check) for check in result.checks],
        "warnings": _of(result, "warn"),
        "notes": _of(result, "note"),
    }


def _of(result: FittedCurve, verdict: Verdict) -> list[str]:
    return [f"{check.check}: {check.detail}" for check in result.checks if check.verdict == verdict]


def _parameter(parameter: Parameter) -> dict[str, Any]:
    """A parameter that the points do not identify has a range and no value."""
    return {
        "value": parameter.value if parameter.identified else None, "low": parameter.low, "high": parameter.high,
        "method": parameter.method, "identified": parameter.identified,
    }  # fmt: skip


def _member(member: Fitted, share: float) -> dict[str, Any]:
    values = natural(member.law.name, member.theta[None], member.coordinates)
    settings = member.settings
    return {
        "law": member.law.name, "share": share, "tail": settings.tail, "prior_strength": settings.belief.strength,
        "huber": settings.huber, "parameters": {name: float(value[0]) for name, value in values.items()},
        "certificate": asdict(member.certificate),
    }  # fmt: skip
