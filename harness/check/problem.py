"""A problem of a recipe: the field, what is wrong with it, and what would be right."""

from __future__ import annotations

import re
from dataclasses import dataclass

OTHER_FIELD = re.compile(r"((?:datasets|embed|mae|train|launch)\.[\w.]+)(: | is | has )")
"""How the texts of checks that know better begin: with the field that is to be changed."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with one field of a recipe.

    Attributes:
        field: dotted, as in `evaluate.control.value`.
        is_warning: the study runs, though probably not as it was meant.
    """

    field: str
    text: str
    is_warning: bool = False

    def __str__(self) -> str:
        return f"{self.field}: {self.text}"


def at(field: str, error: Exception | str, is_warning: bool = False) -> Problem:
    """A problem from a message, which may begin with the field that it is about."""
    text = str(error)
    if begins := OTHER_FIELD.match(text):
        return Problem(begins[1], text[begins.start(2) :].removeprefix(":").strip(), is_warning)
    return Problem(field, text, is_warning)
