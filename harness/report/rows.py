"""The values of ledger rows and logs that a report is made of, checked before anything is drawn from them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from analysis.recall.relationship_recall import VERSIONS
from harness.grid.cell import Cell
from harness.grid.cell_folder import CELLS, TRAIN_LOG, cell_folder
from harness.recipe.schema import Recipe
from harness.storage import ledger
from harness.storage.kept.remembered import Remembered
from harness.storage.ledger import RECALL_PROTOCOL, LedgerError, LedgerRow, Stage
from harness.storage.train_log import scan_log
from harness.train.schedule import RunSchedule

DIGITS = 9  # of a version
LARGEST = 2**63 - 1
Counted = Annotated[int, Field(ge=0, le=LARGEST)]


def _writable(text: str) -> str:
    """The text; ValueError if UTF-8 cannot hold it, as half of a surrogate pair."""
    text.encode()
    return text


Source = Annotated[str, AfterValidator(_writable)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]


class _Values(BaseModel):
    """Numbers of the right type, finite and in range; further values are another reader's."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False, extra="ignore")


class Stopped(_Values):
    """Why `launch.stop_when` ended a run: how probably it was to end above the frontier, with what was known of it."""

    probability: Share
    share: Share  # of its schedule that was done
    evidence: str


class SpentHours(_Values):
    """What the hours of all ranks of a training were spent on, over all of its starts."""

    hours: Seconds
    useful: Seconds
    starting: Seconds
    saving: Seconds
    lost: Seconds
    failures: Counted


class TrainValues(_Values):
    """What training a cell left. A row of an early version lacks what is None."""

    crops: Counted
    steps: PositiveInt | None = None
    planned_steps: PositiveInt | None = None
    annealed: bool | None = None
    wells: Counted | None = None  # images to train on, each seen crops / wells times
    validation_loss: float | None = None
    stopped: Stopped | None = None
    stage_seconds: Seconds = 0.0
    train_seconds: Seconds = 0.0
    spent: SpentHours | None = None


class EmbedValues(_Values):
    """What embedding a cell's wells took."""

    stage_seconds: Seconds


class Recall(_Values):
    """The recall of one relationship source."""

    recall: Share
    recall_low: Share | None
    recall_high: Share | None
    chance: Share
    pairs: Counted


class Placebo(_Values):
    """What a placebo recalls of a source."""

    recall: Share
    recall_low: Share
    recall_high: Share
    chance: Share


class EvaluateValues(_Values):
    """The recall of a cell by relationship source."""

    protocol: str | None = None
    correction: str | None = None
    genes: Counted
    recall: Annotated[dict[Source, Recall], Field(min_length=1)]
    placebos: dict[Source, dict[Source, Placebo]] = {}
    stage_seconds: Seconds = 0.0


class Validation(_Values):
    """A validation in a training log."""

    kind: Literal["validation"]
    crops: Counted
    validation_loss: float


Values = TrainValues | EmbedValues | EvaluateValues
KINDS: dict[Stage, type[Values]] = {"train": TrainValues, "embed": EmbedValues, "evaluate": EvaluateValues}


def train_values(recipe: Recipe, cell: Cell) -> TrainValues | None:
    """The values of a cell's training; None while it is not trained, or if its row is left out."""
    return cast("TrainValues | None", stage_values(recipe, cell, "train"))


def evaluate_values(recipe: Recipe, cell: Cell) -> EvaluateValues | None:
    """The values of a cell's evaluation; None while it is not evaluated, or if its row is left out."""
    return cast("EvaluateValues | None", stage_values(recipe, cell, "evaluate"))


def stage_values(recipe: Recipe, cell: Cell, stage: Stage) -> Values | None:
    """The values of any stage; None while it is not done, or if its row is left out."""
    try:
        return checked_values(recipe, cell, stage)
    except LedgerError:
        return None


def checked_values(recipe: Recipe, cell: Cell, stage: Stage) -> Values | None:
    """The values of a stage; None while it is not done.

    Raises:
        LedgerError: the row is damaged, of a later version, holds other than the stage's values, or, of a trained
            cell's evaluation, has no training to place it by.
    """
    row = ledger.read(recipe.output, cell.id, stage)
    if row is None:
        return None
    values = _values(recipe.output, row, stage)
    reason = _misfit(recipe, cell, values)
    if reason:
        raise LedgerError(ledger.row_path(recipe.output, cell.id, stage), reason)
    return values


def _values(output: Path, row: LedgerRow, stage: Stage) -> Values:
    """The values of a row, validated once for each row that was read.

    Raises:
        LedgerError: they are not the stage's.
    """
    key = str(output), row.cell, stage
    before = _VALIDATED.get(key)
    if before is not None and before[0] is row:
        return before[1]
    try:
        values = KINDS[stage].model_validate(row.values)
    except ValidationError as error:
        raise LedgerError(ledger.row_path(output, row.cell, stage), _reason(error)) from error
    _VALIDATED[key] = row, values
    return values


_VALIDATED: dict[tuple[str, str, Stage], tuple[LedgerRow, Values]] = {}


def _reason(error: ValidationError) -> str:
    """The first of the values that are wrong, by its place, and how many more there are."""
    first, *others = error.errors()
    field = ".".join(map(str, ("values", *first["loc"])))
    more = f" (and {len(others)} more)" if others else ""
    return f"{field}: {first['msg'][:1].lower()}{first['msg'][1:]}{more}"


def _misfit(recipe: Recipe, cell: Cell, values: Values) -> str:
    """Why values that are valid alone cannot be this cell's; empty if they can."""
    if isinstance(values, TrainValues):
        if cell.training is not None and values.crops == 0:
            return "values.crops: a trained cell has seen none"
        if values.steps and values.planned_steps and values.steps > values.planned_steps:
            return f"values.steps: {values.steps} of {values.planned_steps} planned"
    if isinstance(values, EvaluateValues):
        if values.protocol is not None and not _is_readable(values.protocol):
            return f"values.protocol: {values.protocol} was written by another version"
        if cell.training is not None and train_values(recipe, cell) is None:
            return "the cell has no usable row of training, so its compute is not known"
    return ""


def _is_readable(protocol: str) -> bool:
    """Whether an evaluation's row has this version's layout and recall, or earlier ones."""
    known = dict(text.split("/") for text in (RECALL_PROTOCOL, *VERSIONS.values()))
    parts = protocol.split("/")
    later = [
        name
        for name, number in pairwise(parts)
        if name in known and number.isdecimal() and (len(number) > DIGITS or int(number) > int(known[name]))
    ]
    return parts[0] == RECALL_PROTOCOL.partition("/")[0] and not later


def is_open(recipe: Recipe, cell: Cell) -> bool:
    """Whether a cell is still to be trained; a segment that is not evaluated, only where one that starts from it is."""
    if train_values(recipe, cell) is not None:
        return False
    return cell.is_point or any(is_open(recipe, heir) for heir in cell.heirs)


def annealed(cell: Cell, values: TrainValues) -> bool | None:
    """Whether a trained cell's learning rate had reached its end; None for an old row that does not say."""
    if values.annealed is not None or cell.training is None:
        return values.annealed
    if values.steps is None or values.planned_steps is None:
        return None
    schedule = cell.training.settings.schedule  # without branches: rows of those say it
    return RunSchedule(schedule, values.planned_steps, values.planned_steps).is_annealed(values.steps)


def validations(recipe: Recipe, cell: Cell) -> tuple[list[Validation], str]:
    """The validations in a cell's log that can be drawn, and what is wrong with the rest of it; empty if nothing is."""
    path = f"{recipe.output}/{CELLS}/{cell.id}/{TRAIN_LOG}"
    try:
        return _LOGS.read(path, lambda: _validations(*scan_log(Path(path))))
    except FileNotFoundError:
        return [], ""
    except OSError as error:
        return [], f"cannot be read ({error.strerror})"


def _validations(rows: list[dict[str, Any]], problems: list[str]) -> tuple[list[Validation], str]:
    entries, torn = [row for row in rows if row.get("kind") == "validation"], len(problems)
    usable = []
    for entry in entries:
        try:
            usable.append(Validation.model_validate(entry))
        except ValidationError:
            continue
    unusable = len(entries) - len(usable)
    reasons = [f"{torn} damaged lines"] if torn else []
    reasons += [f"{unusable} validations without a finite loss and a number of crops"] if unusable else []
    return usable, ", ".join(reasons)


_LOGS: Remembered[tuple[list[Validation], str]] = Remembered()


def log_path(recipe: Recipe, cell: Cell) -> Path:
    """The path of a cell's training log."""
    return cell_folder(recipe, cell) / TRAIN_LOG
