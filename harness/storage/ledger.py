"""Read and write the ledger of finished stages: one row per grid cell and stage, each a small JSON file.

Rows are written atomically to `<output>/ledger/<cell id>/<stage>.json`. While jobs share a stage, there is also
`embed.3-of-8.json` for each finished share. A row exists only when its stage is done. Its `fingerprint` identifies the
settings, so only stages whose settings changed are run again. `table` reads the rows as a DataFrame, also while the
sweep runs. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.storage.atomic import write_json
from harness.storage.json_files import is_number, read_json
from harness.storage.kept.remembered import Remembered

if TYPE_CHECKING:
    import pandas as pd

Stage = Literal["train", "embed", "evaluate"]
STAGES: tuple[Stage, ...] = ("train", "embed", "evaluate")
RECALL_PROTOCOL = "relationship_recall/3"  # of an evaluation's row; with another, the cell is evaluated again
"""Version 1 called the ends of the interval low and high; version 2 had an interval over genes alone, no placebos."""
_KEPT: ContextVar[Remembered[LedgerRow] | None] = ContextVar("rows that are kept", default=None)
FIELDS: dict[str, type] = {"cell": str, "stage": str, "fingerprint": str, "values": dict}  # of a row
NUMBERS = {
    "crops", "steps", "planned_steps", "wells", "parameters", "train_seconds", "stage_seconds", "validation_loss",
    "mean_predictor_loss", "best_validation_loss", "ranks", "elements", "crops_per_second",
}  # fmt: skip
NO_VALUE = {"best_validation_loss", "crops_per_second"}  # null where there was nothing to measure


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

    @property
    def stopped(self) -> float | None:
        """Of a training that `launch.stop_when` ended: how probably it was out of reach. None for any other row."""
        stopped = self.values.get("stopped")
        return None if stopped is None else float(stopped["probability"])


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
    kept = _KEPT.get()
    try:
        if kept is None:
            return _read(output, cell, stage)
        return kept.read(f"{output}/ledger/{cell}/{stage}.json", lambda: _read(output, cell, stage))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LedgerError(row_path(output, cell, stage), f"cannot be read: {error.strerror}") from error


def _read(output: Path, cell: str, stage: str) -> LedgerRow:
    path = row_path(output, cell, stage)
    try:
        row = row_of(read_json(path))
    except ValueError as error:
        raise LedgerError(path, f"not a ledger row ({error})") from error
    if (row.cell, row.stage) != (cell, stage):
        raise LedgerError(path, f"the row of another stage: {row.stage[:40]} of {row.cell[:80]}")
    return row


@contextmanager
def kept(rows: Remembered[LedgerRow]) -> Iterator[None]:
    """Until the end of this context, read no file again that is the same as when it was read before."""
    token = _KEPT.set(rows)
    try:
        yield
    finally:
        _KEPT.reset(token)


def row_of(value: object) -> LedgerRow:
    """Check the content of a row's file.

    Raises:
        ValueError: it is not one that `record` can have written; the message names the field.
    """
    if not isinstance(value, dict):
        raise ValueError(f"a row is a JSON object, this is {type(value).__name__}")
    unknown = [name for name in value if name not in FIELDS]
    if unknown:
        raise ValueError(f"unknown field {unknown[0][:40]}: written by another version")
    for name, kind in FIELDS.items():
        if name not in value:
            raise ValueError(f"{name} is missing")
        if not isinstance(value[name], kind):
            raise ValueError(f"{name} should be {kind.__name__}, this is {type(value[name]).__name__}")
    values = value["values"]
    for name in NUMBERS & values.keys():
        if not is_number(values[name]) and not (values[name] is None and name in NO_VALUE):
            raise ValueError(f"values.{name} is {str(values[name])[:40]}, not a number")
    stopped = values.get("stopped")
    if stopped is not None and not (isinstance(stopped, dict) and is_number(stopped.get("probability"), 0, 1)):
        raise ValueError("values.stopped has no probability between 0 and 1")
    _check_recalls(values.get("recall", {}))
    return LedgerRow(value["cell"], value["stage"], value["fingerprint"], _current_names(values))


def _check_recalls(recalls: Any) -> None:  # noqa: ANN401  (any JSON value)
    if not isinstance(recalls, dict):
        raise ValueError("values.recall is not a mapping")
    for name, recall in recalls.items():
        if not isinstance(recall, dict) or not is_number(recall.get("recall")):
            raise ValueError(f"values.recall.{name[:80]} has no number called recall")


def _current_names(values: dict[str, Any]) -> dict[str, Any]:
    """Rename old keys in a row's values: version 1 of a recall wrote low and high for recall_low and recall_high."""
    for recall in values.get("recall", {}).values():
        for old in ("low", "high"):
            if old in recall:
                recall[f"recall_{old}"] = recall.pop(old)
    return values


def scan(output: Path, stage: Stage) -> tuple[list[LedgerRow], list[LedgerError]]:
    """Return the rows of a stage in order of cell id, and an error for each file that is not one."""
    found: list[LedgerRow] = []
    damaged: list[LedgerError] = []
    for path in sorted(output.glob(f"ledger/*/{stage}.json")):
        try:
            row = read(output, path.parent.name, stage)
        except LedgerError as error:
            damaged.append(error)
            continue
        found += [row] if row is not None else []
    return found, damaged


def rows(output: Path, stage: Stage) -> Iterator[LedgerRow]:
    """Iterate over the rows of a stage, in order of cell id.

    Raises:
        LedgerError: one of them cannot be read; `scan` returns the others as well.
    """
    found, damaged = scan(output, stage)
    if damaged:
        raise damaged[0]
    yield from found


def cells_outside(output: Path, grid: Collection[str]) -> list[str]:
    """The cells that have rows in a ledger and are not in the grid: of a recipe before an edit, or of another one."""
    return sorted(folder.name for folder in output.glob("ledger/*") if folder.name not in grid)


def table(output: Path, stage: Stage) -> pd.DataFrame:
    """Return a stage's rows as a DataFrame; nested keys are joined with dots."""
    import pandas as pd

    return pd.json_normalize([{"cell": r.cell, "fingerprint": r.fingerprint, **r.values} for r in rows(output, stage)])
