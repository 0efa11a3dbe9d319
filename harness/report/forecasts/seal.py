"""Sealed forecasts: files that cannot be altered, removed or replaced without notice.

    <output>/forecasts/0001-<SHA-256>.json   a forecast: its content, and the SHA-256 of that
    <output>/forecasts/last.json             how many there are, and the seal of the last

The seal of a forecast is the SHA-256 of its content, which holds the seal of the forecast before. A file has one form
only, so that any changed byte is noticed. Who owns the folder can still write all of it anew: a seal that was published
(the command prints it, the report shows it) proves when a forecast was made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from harness.recipe.schema import Recipe
from harness.report.stamp import FORECASTS
from harness.storage.atomic import write_atomic
from harness.storage.json_files import read_json
from harness.storage.locks import locked

LAST = "last.json"
Seal = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SealError(ValueError):
    """A sealed forecast that is not as it was written; the message names the file and the field."""

    def __init__(self, path: Path, place: str, reason: str) -> None:
        super().__init__(path, place, reason)
        self.path, self.place, self.reason = path, place, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.place}: {self.reason}; restore the file from a copy"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Predicted(_Strict):
    """A metric of a cell: a value with its interval, or why it cannot be told."""

    metric: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    law: str = ""
    points: Annotated[int, Field(ge=0)] = 0  # finished cells behind the law
    cannot_tell: str | None = None


class CellForecast(_Strict):
    """What is expected of a cell.

    Attributes:
        compute: planned, in the recipe's convention; None where it cannot be told, as of a cell that is not trained.
        crops: planned; None likewise.
        steps_seen: of its training, when the forecast was made.
        steps: of all its training, as its log says; None before it began.
    """

    cell: str
    compute: float | None
    crops: Annotated[int, Field(ge=1)] | None
    steps_seen: Annotated[int, Field(ge=0)]
    steps: Annotated[int, Field(ge=0)] | None
    is_trained: bool
    predicted: tuple[Predicted, ...]


class Forecast(_Strict):
    """The content of a sealed forecast."""

    version: Literal[1] = 1
    number: Annotated[int, Field(ge=1)]
    previous: Seal | None
    time: str  # UTC, ISO 8601
    confidence: Annotated[float, Field(gt=0, lt=1)]
    convention: str
    recipe: dict[str, JsonValue]  # resolved
    ledger: str  # digest of the rows that laws were fitted to
    rows: Annotated[int, Field(ge=0)]  # how many
    code: str  # digest of the sources
    packages: dict[str, str]
    cells: tuple[CellForecast, ...]


@dataclass(frozen=True)
class Sealed:
    """A forecast with its seal."""

    path: Path
    seal: str
    forecast: Forecast


def read_all(recipe: Recipe) -> list[Sealed]:
    """Every sealed forecast of a study in order, verified.

    Raises:
        SealError: one of them was altered, removed, replaced or added.
    """
    folder = recipe.output / FORECASTS
    paths = sorted(path for path in folder.glob("*.json") if path.name != LAST)
    found: list[Sealed] = []
    for number, path in enumerate(paths, 1):
        sealed = _read(path)
        previous = found[-1].seal if found else None
        if sealed.forecast.number != number:
            lost = folder / f"{number:04d}-*.json"
            raise SealError(lost, "number", f"forecast {number} is missing: the next here is {sealed.forecast.number}")
        if sealed.forecast.previous != previous:
            reason = f"is {sealed.forecast.previous}, the forecast before has {previous}: one of the two was replaced"
            raise SealError(path, "previous", reason)
        found.append(sealed)
    _check_last(folder, found)
    return found


def write(recipe: Recipe, make: Callable[[int, str | None], Forecast]) -> Sealed:
    """Seal a new forecast, which `make` is given the number and the previous seal for.

    Raises:
        SealError: an earlier forecast is not as it was written; nothing is added.
    """
    folder = recipe.output / FORECASTS
    with _alone(folder):
        before = read_all(recipe)
        forecast = make(len(before) + 1, before[-1].seal if before else None)
        content = forecast.model_dump(mode="json")
        seal = _hash(content)
        path = folder / f"{forecast.number:04d}-{seal}.json"
        sealed = Sealed(path, seal, forecast)
        write_atomic(path, lambda file: file.write(_text({"sha256": seal, "forecast": content})))
        write_atomic(folder / LAST, lambda file: file.write(_text(_last([*before, sealed]))))
    return sealed


def _read(path: Path) -> Sealed:
    """Read a forecast, and verify it alone.

    Raises:
        SealError: it is not as it was written.
    """
    value = _parsed(path)
    if set(value) != {"sha256", "forecast"}:
        raise SealError(path, "file", f"should hold sha256 and forecast, holds {', '.join(value) or 'nothing'}")
    seal = _hash(value["forecast"])
    if value["sha256"] != seal:
        raise SealError(path, "sha256", f"the content has {seal}: it was altered after it was sealed")
    if path.name.partition("-")[2] != f"{seal}.json":
        raise SealError(path, "name", f"does not end in the seal of the content, {seal}")
    try:
        forecast = Forecast.model_validate_json(json.dumps(value["forecast"]))
    except ValidationError as error:
        first = error.errors()[0]
        raise SealError(path, ".".join(map(str, ("forecast", *first["loc"]))), first["msg"]) from error
    if not path.name.startswith(f"{forecast.number:04d}-"):
        raise SealError(path, "name", f"does not begin with the number of the forecast, {forecast.number:04d}")
    return Sealed(path, seal, forecast)


def _check_last(folder: Path, found: list[Sealed]) -> None:
    path = folder / LAST
    if not path.exists():
        if found:
            raise SealError(path, "file", f"is missing, and there are {len(found)} forecasts")
        return
    value, states = _parsed(path), [_last(found), *([_last(found[:-1])] if found else [])]
    if value in states:  # the one before the last: a process ended between the two files that it wrote
        return
    name = "count" if value.get("count") != len(found) else "sha256"
    reason = f"is {value.get(name)}, the forecasts here say {states[0][name]}: one was removed or replaced"
    raise SealError(path, name, reason)


def _last(found: list[Sealed]) -> dict[str, Any]:
    """The content of the file that names the last forecast."""
    return {"count": len(found), "sha256": found[-1].seal if found else None}


def _parsed(path: Path) -> dict[str, Any]:
    """A file's JSON object; its bytes must be those that it is written as.

    Raises:
        SealError: they are not.
    """
    try:
        value, content = read_json(path), path.read_bytes()
    except (ValueError, OSError) as error:
        raise SealError(path, "file", str(error)) from error
    if not isinstance(value, dict):
        raise SealError(path, "file", f"should be a JSON object, is {type(value).__name__}")
    if _text(value) != content:
        raise SealError(path, "file", "has other bytes than it was written with")
    return value


def _text(value: dict[str, Any]) -> bytes:
    """The only form of a file."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _hash(content: Any) -> str:  # noqa: ANN401  (any JSON value)
    return sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that two forecasts do not follow the same one."""
    with locked(folder / ".lock", "another forecast"):
        yield
