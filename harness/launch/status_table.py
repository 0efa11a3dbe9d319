"""The statuses of a study's cells as text and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime

from analysis.figures.text_table import text_table
from analysis.forecast.outlook import Outlook
from harness.launch.cell_status import CellStatus
from harness.recipe.schema import Recipe
from harness.storage.health.sessions import Spent
from harness.storage.health.slow_nodes import read_slow_nodes

LEFT = ("cell", "stage", "state", "reason")  # columns aligned to the left


def table(rows: Sequence[CellStatus]) -> str:
    """The statuses as text, and a count of each state."""
    own = [row for row in rows if not row.orphan]
    counts, with_axes = Counter(row.state for row in own), any(row.axes for row in rows)
    outlooks = any(row.outlook for row in rows)
    total = f"{len(own)} cells: " + ", ".join(f"{count} {state}" for state, count in counts.most_common())
    total += (
        f"; {len(rows) - len(own)} live jobs of cells that the recipe does not have" if len(rows) > len(own) else ""
    )
    hours = sum((row.spent for row in rows if row.spent), Spent())
    shown = [_texts(row, axes=with_axes, outlooks=outlooks, goodput=hours.goodput is not None) for row in rows]
    silence = [f"SLURM does not answer; as of {_clock(row.as_of)}" for row in rows[:1] if row.as_of]
    return "\n".join(filter(None, [*silence, text_table(shown, LEFT), total, hours.in_words]))


def _clock(as_of: str) -> str:
    """A time of today as `12:31`, of another day with its date."""
    at = datetime.fromisoformat(as_of)
    return f"{at:%H:%M}" if at.date() == datetime.now().astimezone().date() else f"{at:%Y-%m-%d %H:%M}"


def _texts(row: CellStatus, *, axes: bool, outlooks: bool, goodput: bool) -> dict[str, str]:
    """A cell's text by column."""
    return {
        "cell": row.cell,
        **({"axes": row.axes} if axes else {}),
        "stage": row.stage,
        "state": row.state,
        "step": f"{row.step:,}/{row.steps:,}" if row.step is not None else "",
        "crops/s": f"{row.crops_per_second:,.0f}" if row.crops_per_second is not None else "",
        "ETA": _duration(row.eta_seconds) if row.eta_seconds is not None else "",
        **({"final loss": _final_loss(row.outlook)} if outlooks else {}),
        **({"goodput": _share(row.spent)} if goodput else {}),
        "restarts": str(row.restarts or ""),
        "reason": "; ".join(filter(None, [row.reason, _doubt(row.outlook)])),
    }


def _share(spent: Spent | None) -> str:
    return "" if spent is None or spent.goodput is None else f"{spent.goodput:.0%}"


def _final_loss(seen: Outlook | None) -> str:
    """The median and 90% interval of the final loss."""
    return "" if seen is None or seen.final is None else f"{seen.final:.4g} [{seen.low:.4g}, {seen.high:.4g}]"


def _doubt(seen: Outlook | None) -> str:
    """The verdict with its evidence, where the run is in doubt."""
    doubtful = seen is not None and seen.verdict in ("diverging", "cannot reach the frontier")
    return f"{seen.verdict}: {seen.evidence}" if doubtful and seen is not None else ""


def slow_nodes(recipe: Recipe) -> list[str]:
    """A line for each node that a run found slow, and what to do about it."""
    excluded = recipe.launch.slurm.exclude_slow
    cure = "later submissions leave it out" if excluded else "launch.slurm.exclude_slow=true leaves it out from now on"
    return [
        f"{slow.text} ({slow.cell}, {datetime.fromtimestamp(slow.time):%Y-%m-%d %H:%M}); {cure}"
        for slow in read_slow_nodes(recipe.output)
    ]


def as_json(rows: Sequence[CellStatus]) -> str:
    """The statuses as a JSON list."""
    return json.dumps([asdict(row) for row in rows], indent=1)


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
