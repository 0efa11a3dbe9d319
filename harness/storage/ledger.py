"""Read and write the ledger of finished stages: one row per grid cell and stage, each a small JSON file.

Rows are written atomically to `<output>/ledger/<cell id>/<stage>.json`. While jobs share a stage, there is also
`embed.3-of-8.json` for each finished share. A row exists only when its stage is done. Its `fingerprint` identifies the
settings, so only stages whose settings changed are run again. `table` reads the rows as a DataFrame, also while the
sweep runs. Needs no torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.storage.atomic import write_json

if TYPE_CHECKING:
    import pandas as pd

Stage = Literal["train", "embed", "evaluate"]
STAGES: tuple[Stage, ...] = ("train", "embed", "evaluate")
FIELDS: dict[str, type] = {"cell": str, "stage": str, "fingerprint": str, "values": dict}  # of a row


class LedgerError(ValueError):
    """A row that cannot be used; the message names its file and says why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}; remove it and run again"


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
        LedgerError: the file exists but is not a row, not the row of this stage of this cell, or has fields of a later
            version.
    """
    path = row_path(output, cell, stage)
    try:
        value = json.loads(
            path.read_text(encoding="utf-8"), parse_constant=_finite, parse_float=_finite, object_pairs_hook=_once
        )
        row = _row(value)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerError(path, f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise LedgerError(path, f"not a ledger row ({error})") from error
    if (row.cell, row.stage) != (cell, stage):
        raise LedgerError(path, f"the row of another stage: {row.stage} of {row.cell}")
    return row


def _row(value: object) -> LedgerRow:
    """The row that a file's JSON holds.

    Raises:
        ValueError: it is not an object with exactly a row's fields, each of its type.
    """
    if not isinstance(value, dict):
        raise ValueError(f"a row is a JSON object, this is {type(value).__name__}")
    unknown = [name for name in value if name not in FIELDS]
    if unknown:
        raise ValueError(f"unknown field {unknown[0]}: written by another version")
    for name, kind in FIELDS.items():
        if name not in value:
            raise ValueError(f"{name} is missing")
        if not isinstance(value[name], kind):
            raise ValueError(f"{name} should be {kind.__name__}, this is {type(value[name]).__name__}")
    return LedgerRow(value["cell"], value["stage"], value["fingerprint"], _current_names(value["values"]))


def _finite(text: str) -> float:
    """The number; ValueError for NaN and infinity, which no row is written with."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object; ValueError if it has a key twice, of which one value would be lost."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key is given twice")
    return value


def _current_names(values: dict[str, Any]) -> dict[str, Any]:
    """Rename old keys in a row's values: version 1 of a recall wrote low and high for recall_low and recall_high."""
    recalls = values.get("recall")
    if isinstance(recalls, dict):
        for recall in (recall for recall in recalls.values() if isinstance(recall, dict)):
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
