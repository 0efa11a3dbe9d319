"""Read and write the ledger of finished stages: one row per grid cell and stage, each a small JSON file.

Rows are written atomically to `<output>/ledger/<cell id>/<stage>.json`. While jobs share a stage, there is also
`embed.3-of-8.json` for each finished share. A row exists only when its stage is done. Its `fingerprint` identifies the
settings, so only stages whose settings changed are run again. `table` reads the rows as a DataFrame, also while the
sweep runs. Needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.storage.atomic import write_json

if TYPE_CHECKING:
    import pandas as pd

Stage = Literal["train", "embed", "evaluate"]
STAGES: tuple[Stage, ...] = ("train", "embed", "evaluate")


class LedgerError(ValueError):
    """A row that cannot be read; the message names its file."""


@dataclass(frozen=True)
class LedgerRow:
    """A finished stage, or one job's finished share of it (`harness.stages.shared_embedding`)."""

    cell: str
    stage: str
    fingerprint: str
    values: dict[str, Any]


def row_path(output: Path, cell: str, stage: str) -> Path:
    """Return the path of a stage's row."""
    return output / "ledger" / cell / f"{stage}.json"


def record(output: Path, row: LedgerRow) -> None:
    """Write the row of a finished stage."""
    value = {"cell": row.cell, "stage": row.stage, "fingerprint": row.fingerprint, "values": row.values}
    write_json(row_path(output, row.cell, row.stage), value)


def read(output: Path, cell: str, stage: str) -> LedgerRow | None:
    """Read the row of a stage; None while the stage is not done.

    Raises:
        LedgerError: the file exists but is not a row.
    """
    path = row_path(output, cell, stage)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return LedgerRow(value["cell"], value["stage"], value["fingerprint"], _current_names(dict(value["values"])))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"{path}: not a ledger row ({error}); remove it and run again") from error


def _current_names(values: dict[str, Any]) -> dict[str, Any]:
    """Rename old keys in a row's values: version 1 of a recall wrote low and high for recall_low and recall_high."""
    recalls = values.get("recall")
    if isinstance(recalls, dict):
        for recall in recalls.values():
            for old in ("low", "high"):
                if old in recall:
                    recall[f"recall_{old}"] = recall.pop(old)
    return values


def rows(output: Path, stage: Stage) -> Iterator[LedgerRow]:
    """Iterate over the rows of a stage, in order of cell id."""
    for path in sorted(output.glob(f"ledger/*/{stage}.json")):
        row = read(output, path.parent.name, stage)
        if row is not None:
            yield row


def table(output: Path, stage: Stage) -> pd.DataFrame:
    """Return a stage's rows as a DataFrame; nested keys are joined with dots."""
    import pandas as pd

    return pd.json_normalize([{"cell": r.cell, "fingerprint": r.fingerprint, **r.values} for r in rows(output, stage)])
