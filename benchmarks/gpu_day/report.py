"""The figures of the day as rows of JSON, and as a Markdown table for the README."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.gpu_day.day import Entry, Found, Section, Store
from benchmarks.train_step import MFU_GOALS, Measurement, rows


def all_rows(found: dict[str, Found], on_gpu: bool) -> list[dict[str, Any]]:
    """Every figure as {name, unit, ours, peer, peer_name, ratio, goal, met}."""
    figures = [asdict(row) for one in found.values() for row in one.rows]
    steps = _steps(found)
    ours = {step.model for step in steps if step.name.startswith("ours")}
    return figures + rows([step for step in steps if step.model in ours], on_gpu)


def markdown(found: dict[str, Found], sections: list[Section], store: Store) -> str:
    """Two tables, what the device is, profiles, and what is missing or failed."""
    device = found["device"].text if "device" in found else "not measured"
    parts = [f"Measured on {device}.", _step_table(_steps(found)), _figures(found)]
    parts += [f"```\n{one.text}\n```" for name, one in found.items() if name.startswith("profile")]
    missing = [_why(section.name, store.read(section.name)) for section in sections if section.name not in found]
    parts += ["Missing:\n\n" + "\n".join(f"- {line}" for line in missing)] if missing else []
    return "\n\n".join(parts) + "\n"


def _steps(found: dict[str, Found]) -> list[Measurement]:
    return [step for one in found.values() for step in one.steps]


def _step_table(steps: list[Measurement]) -> str:
    lines = ["| network | step | batch | crops/s | ms | of peak | goal | of one product | memory, GB |",
             "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for step in steps:
        speed, goal = step.speed, MFU_GOALS.get(step.model.rstrip("+")) if step.name.startswith("ours") else None
        shown = [
            step.model, step.name, f"{speed.batch}", f"{speed.crops_per_second:,.1f}", f"{speed.step_ms:,.1f}",
            _share(step.of_peak), _share(goal), _share(step.of_matmul), f"{speed.peak_memory_gb:.1f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)


def _figures(found: dict[str, Found]) -> str:
    lines = ["| | unit | ours | peer | | ratio | goal | met |", "|---|---|---|---|---|---|---|---|"]
    for row in (row for one in found.values() for row in one.rows):
        met = {True: "yes", False: "no", None: "-"}[row.met]
        shown = [row.name, row.unit, _number(row.ours), _number(row.peer), row.peer_name or "", _number(row.ratio),
                 _number(row.goal), met]  # fmt: skip
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _number(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.3g}"


def _why(name: str, entry: Entry | None) -> str:
    return f"{name}: not run yet" if entry is None else f"{name}: {entry.error} (attempt {entry.attempts})"
