"""A fit's result as text for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

MARKS = {"ok": " ok ", "note": "note", "warn": "WARN", "info": " -- "}


def text(result: Mapping[str, Any]) -> str:
    """What `python -m analysis.fit` prints without --json."""
    lines = [f"{result['y']} against {', '.join(result['x'])}: {result['metric']['meaning']}"]
    for group in result["groups"]:
        lines += ["", *_group(group, result["confidence"])]
    summary = result["summary"]
    if "mean_rmse_log" in summary:
        logs, coverage = number(summary["mean_rmse_log"]), number(summary["mean_coverage"])
        lines += ["", f"rows held out, mean over groups: rmse of the log {logs}, coverage {coverage}"]
    return "\n".join(lines)


def _group(group: Mapping[str, Any], confidence: float) -> list[str]:
    if "error" in group:
        return [f"== {group['group']} ({group['n_train']} points): {group['error']}"]
    members = ", ".join(dict.fromkeys(member["law"] for member in group["members"]))
    lines = [f"== {group['group']} ({group['n_train']} points), law {group['law']}: {members}"]
    lines.append(f"   {group['metric']['meaning']}; fitted as {group['fitted_as']}")
    lines.append(f"   parameters of {group['parameters_of']}, {confidence:.0%} intervals")
    for name, parameter in group["parameters"].items():
        state = "" if parameter["identified"] else "  not identified: a range, no estimate"
        value = number(parameter["value"]) if parameter["identified"] else "?"
        lines.append(f"     {name:<6}{value:>12}  {_interval(parameter)} {parameter['method']}{state}")
    for prediction in group["predictions"]:
        place = ", ".join(number(x) for x in _sequence(prediction["x"]))
        doubt = "  cannot tell" if prediction["cannot_tell"] else ""
        whose = f" (a run of {prediction['run_of']})" if prediction["run_of"] else ""
        lines.append(f"   at {place}{whose}: {number(prediction['y'])} {_interval(prediction)}{doubt}")
    lines += _frontier(group["frontier"]) if "frontier" in group else []
    lines += _repeats(group["repeats"]) if "repeats" in group else []
    score = group["held_out"]
    if score:
        logs, coverage = number(score["rmse_log"]), number(score["coverage"])
        lines.append(f"   {score['n']} rows held out: rmse of the log {logs}, coverage {coverage}")
    lines += [f"   [{MARKS[check['verdict']]}] {check['check']}: {check['detail']}" for check in group["checklist"]]
    return lines


def _interval(row: Mapping[str, Any]) -> str:
    return f"[{number(row['low'])}, {number(row['high'])}]"


def _frontier(frontier: Mapping[str, Any]) -> list[str]:
    """How a joint law splits compute."""

    def power(exponent: Mapping[str, float]) -> str:
        return f"C^{exponent['value']:.3f} [{exponent['low']:.3f}, {exponent['high']:.3f}]"

    repeats = ", if no data were repeated" if frontier["data_never_repeated"] else ""
    if not frontier["asked"]:  # that compute is a multiple of N D is the reader's to say
        return [f"   --frontier-at C says how to split a compute of {frontier['flops_per_unit']:g} N D{repeats}"]
    size, data = power(frontier["size_exponent"]), power(frontier["data_exponent"])
    lines = [f"   best split of C = {frontier['flops_per_unit']:g} N D{repeats}: N as {size}, D as {data}"]
    if frontier["unidentified"]:
        lines.append(f"     not reliable: {' and '.join(frontier['unidentified'])} not identified by these points")
    if frontier["iso_flop_size_exponent"]:
        lines.append(f"     iso-FLOP parabolas, without a law: N as {power(frontier['iso_flop_size_exponent'])}")
    lines += [f"     [WARN] {warning}" for warning in frontier["warnings"]]
    for at in frontier["at"]:
        size = f"N {number(at['size'])} [{number(at['size_low'])}, {number(at['size_high'])}]"
        lines.append(f"     at C {number(at['compute'])}: {size}, D {number(at['data'])}, predicted {number(at['y'])}")
    return lines


def _repeats(repeats: Mapping[str, Any]) -> list[str]:
    """How often to show the data, and splits of compute where unique data are limited."""
    lines = [
        f"   repeats, size {number(one['size'])} on {number(one['unique'])} unique: {one['in_words']}"
        for one in repeats["epochs"]
    ]
    for at in repeats["splits"]:
        size = f"N {number(at['size'])} [{number(at['size_low'])}, {number(at['size_high'])}]"
        lines.append(
            f"   at C {number(at['compute'])} with {number(at['unique'])} unique: {size}, "
            f"{number(at['epochs'])} epochs, predicted {number(at['y'])}"
        )
    return lines


def number(value: float | None) -> str:
    """Four digits, or an infinity sign for what is unbounded."""
    return "∞" if value is None else f"{value:.4g}"


def _sequence(value: float | Sequence[float]) -> Sequence[float]:
    return value if isinstance(value, list) else [value]  # type: ignore[list-item]
