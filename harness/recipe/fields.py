"""Field types of the recipe's schema: bounded numbers, names, paths, and sections that refuse unknown fields.

Every number has an upper bound, far above what any study needs. So a slip such as a batch of 10**15 is an error of its
line, and not a plan of nonsense or an exhausted memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainValidator,
    WithJsonSchema,
)

Number = TypeVar("Number", int, float)
FieldPath = tuple[str | int, ...]
Fraction = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
PositiveInt = Annotated[int, Field(gt=0, le=1_000_000)]
PositiveFloat = Annotated[float, Field(gt=0, le=1e9)]
Batch = Annotated[int, Field(gt=0, le=16_777_216)]
Images = Annotated[int, Field(gt=0, le=1_000_000_000_000)]
UpTo100k = Annotated[int, Field(gt=0, le=100_000)]  # nodes, processes, threads, jobs
Seed = Annotated[int, Field(ge=0, le=4_294_967_295)]
Rate = Annotated[float, Field(gt=0, le=1_000)]

MOST_NAMES = 200  # models or datasets of a study
MOST_PATH, MOST_PART = 4_096, 255  # bytes of a path and of a file name, as Linux has them
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=64)]
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=64)]


def _printable(text: str) -> str:
    found = CONTROL.search(text)
    if found:
        raise ValueError(f"must not hold the control character {found[0]!r}")
    return text


def _path_text(value: Any) -> Any:  # noqa: ANN401  (any YAML value)
    """Refuse a path that no system has, or that would end a line where it is written into a script."""
    if isinstance(value, str | Path):
        text = _printable(str(value))
        if not text:
            raise ValueError("should be a path")
        if len(text.encode()) > MOST_PATH or any(len(part.encode()) > MOST_PART for part in Path(text).parts):
            raise ValueError(f"is longer than a path can be ({MOST_PATH} bytes, {MOST_PART} for each part)")
    return value


Text = Annotated[str, Field(max_length=256), AfterValidator(_printable)]
ChannelMap = Annotated[dict[Text, Text], Field(max_length=1000)]  # the study's name of a channel: the set's
PathText = Annotated[str, Field(min_length=1, max_length=MOST_PATH), AfterValidator(_path_text)]  # or a URL
YamlPath = Annotated[Path, Field(strict=False), BeforeValidator(_path_text)]


def unusable_by_slurm(path: Path) -> str | None:
    """What in the path of jobs' logs and code would not arrive as it is; None if all of it does."""
    found = re.search(r"[%\\:]", str(path)) or CONTROL.search(str(path))
    if found is None:
        return None
    return f"{str(path)!r} holds {found[0]!r}: SLURM replaces % and \\ in the paths of logs, PYTHONPATH is split at :"


class Section(BaseModel):
    """A part of a recipe: frozen, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def without_nulls(entries: Any) -> Any:  # noqa: ANN401  (any YAML value)
    """In a mapping by name, `name: null` in a profile removes the entry."""
    return {k: v for k, v in entries.items() if v is not None} if isinstance(entries, dict) else entries


Entries = BeforeValidator(without_nulls)


def _place(value: object) -> Path | str:
    if isinstance(value, Path):
        return Path(_path_text(value))
    if not isinstance(value, str) or not value:
        raise ValueError("should be a folder's path, or a URL such as s3://bucket/set")
    _path_text(value)
    return value if "://" in value else Path(value)


ShardPlace = Annotated[
    Path | str, PlainValidator(_place), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MOST_PATH})
]
Pair = Annotated[tuple[Probability, Probability], Field(strict=False)]

AxisPath = Annotated[str, Field(pattern=r"^[a-z_]+(\.[A-Za-z0-9_]+)+$", max_length=200)]
AxisValues = Annotated[list[JsonValue], Field(min_length=1, max_length=1000)]
Variant = Annotated[dict[AxisPath, JsonValue], Field(max_length=100)]
Variants = Annotated[dict[Name, Variant], Field(max_length=100)]

# A value for all cells, or one for each model or dataset by name.
EpochsPerName = Annotated[PositiveInt | dict[Name, PositiveInt], Entries]
BatchPerName = Annotated[Batch | dict[Name, Batch], Entries]
NodesPerName = Annotated[UpTo100k | dict[Name, UpTo100k], Entries]
SharePerName = Annotated[Fraction | dict[Name, Fraction], Entries]
RatePerName = Annotated[Rate | dict[Name, Rate], Entries]


def default_of(section: type[BaseModel], field: str) -> Any:  # noqa: ANN401  (the field's type)
    """The default of a recipe's field, for code that has it too: a default is stated once."""
    return section.model_fields[field].default


def at_default(section: Section, names: Iterable[str]) -> set[str]:
    """The fields of these names that have their default value."""
    return {name for name in names if getattr(section, name) == default_of(type(section), name)}


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def canonical_json(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    """The JSON of a value: the same text for equal values, whatever the order of keys."""
    return _CANONICAL.encode(value)


def per_name(values: Number | dict[str, Number], name: str) -> Number:
    """The value for `name` of a field that holds one value for all or one for each."""
    return values[name] if isinstance(values, dict) else values
