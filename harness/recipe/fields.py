"""Field types of the recipe's schema: bounded numbers, names, and sections that refuse unknown fields."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
    WithJsonSchema,
)

Number = TypeVar("Number", int, float)
FieldPath = tuple[str | int, ...]
Fraction = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class Section(BaseModel):
    """A part of a recipe: frozen, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def without_nulls(entries: Any) -> Any:  # noqa: ANN401  (any YAML value)
    """In a mapping by name, `name: null` in a profile removes the entry."""
    return {k: v for k, v in entries.items() if v is not None} if isinstance(entries, dict) else entries


Entries = BeforeValidator(without_nulls)
YamlPath = Annotated[Path, Field(strict=False)]


def _place(value: object) -> Path | str:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value:
        raise ValueError("should be a folder's path, or a URL such as s3://bucket/set")
    return value if "://" in value else Path(value)


ShardPlace = Annotated[Path | str, PlainValidator(_place), WithJsonSchema({"type": "string", "minLength": 1})]
Pair = Annotated[tuple[float, float], Field(strict=False)]

# A value for all cells, or one for each model or dataset by name.
PerName = Annotated[PositiveInt | dict[Name, PositiveInt], Entries]
SharePerName = Annotated[Fraction | dict[Name, Fraction], Entries]
RatePerName = Annotated[PositiveFloat | dict[Name, PositiveFloat], Entries]


def default_of(section: type[BaseModel], field: str) -> Any:  # noqa: ANN401  (the field's type)
    """The default of a recipe's field, for code that has it too: a default is stated once."""
    return section.model_fields[field].default


def at_default(section: Section, names: Iterable[str]) -> set[str]:
    """The fields of these names that have their default value."""
    return {name for name in names if getattr(section, name) == default_of(type(section), name)}


def per_name(values: Number | dict[str, Number], name: str) -> Number:
    """The value for `name` of a field that holds one value for all or one for each."""
    return values[name] if isinstance(values, dict) else values
