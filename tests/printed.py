"""Printed tables, read back: each cell by the head that it stands under."""

from __future__ import annotations

import re


def read_table(text: str, first: str) -> list[dict[str, str]]:
    """The rows under the line that begins with the head `first`, while they have as many cells as there are heads."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(first))
    heads, rows = _split(lines[start]), []
    for line in lines[start + 1 :]:
        if len(_split(line)) != len(heads):
            break
        rows.append(dict(zip(heads, _split(line), strict=True)))
    return rows


def _split(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())
