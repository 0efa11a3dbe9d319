"""A fit's result as text for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

MARKS = {"ok": " ok ", "warn": "WARN", "info": " -- "}


def text(found: Mapping[str, Any]) -> str:
    """What `python -m analysis.fit` prints without --json."""
    lines = [f"{found['y']} against {', '.join(found['x'])}: {found['metric']['meaning']}"]
    for group in found["groups"]:
        lines += ["", *_group(group, found["confidence"])]
    summary = found["summary"]
    if "mean_rmse_log" in summary:
        logs, coverage = number(summary["mean_rmse_log"]), number(summary["mean_coverage"])
        lines += ["", f"rows held out, mean over groups: rmse of the log {logs}, coverage {coverage}"]
    return "\n".join(lines)


def _group(group: Mapping[str, Any], confidence: float) -> list[str]:
    if "error" in group:
        return [f"== {group['group']} ({group['n_train']} points): {group['error']}"]
    members = ", ".join(dict.fromkeys(member["law"] for member in group["members"]))
    lines = [f"== {group['group']} ({group['n_train']} points), law {group['law']}: {members}"]
    lines.append(f"   parameters of {group['parameters_of']}, {confidence:.0%} intervals")
    for name, one in group["parameters"].items():
        state = "" if one["identified"] else "  not identified: a range, no estimate"
        value = number(one["value"]) if one["identified"] else "?"
        lines.append(f"     {name:<6}{value:>12}  [{number(one['low'])}, {number(one['high'])}] {one['method']}{state}")
    for one in group["predictions"]:
        place = ", ".join(number(x) for x in _sequence(one["x"]))
        lines.append(f"   at {place}: {number(one['y'])} [{number(one['low'])}, {number(one['high'])}]")
    lines += _frontier(group["frontier"]) if "frontier" in group else []
    score = group["held_out"]
    if score:
        logs, coverage = number(score["rmse_log"]), number(score["coverage"])
        lines.append(f"   {score['n']} rows held out: rmse of the log {logs}, coverage {coverage}")
    return lines + [f"   [{MARKS[one['verdict']]}] {one['check']}: {one['detail']}" for one in group["checklist"]]


def _frontier(found: Mapping[str, Any]) -> list[str]:
    """How compute would be split."""

    def power(one: Mapping[str, float]) -> str:
        return f"C^{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"

    repeats = ", were no data repeated" if found["data_never_repeated"] else ""
    lines = [f"   best split of C = {found['flops_per_unit']:g} N D{repeats}: N as {power(found['size_exponent'])}, "
             f"D as {power(found['data_exponent'])}"]  # fmt: skip
    if found["unidentified"]:
        lines.append(f"     not to be believed: {' and '.join(found['unidentified'])} not identified by these points")
    if found["iso_flop_size_exponent"]:
        lines.append(f"     iso-FLOP parabolas, without a law: N as {power(found['iso_flop_size_exponent'])}")
    for at in found["at"]:
        size = f"N {number(at['size'])} [{number(at['size_low'])}, {number(at['size_high'])}]"
        lines.append(f"     at C {number(at['compute'])}: {size}, D {number(at['data'])}, predicted {number(at['y'])}")
    return lines


def number(value: float | None) -> str:
    """Four digits, or an infinity sign for what is unbounded."""
    return "∞" if value is None else f"{value:.4g}"


def _sequence(value: float | Sequence[float]) -> Sequence[float]:
    return value if isinstance(value, list) else [value]  # type: ignore[list-item]
