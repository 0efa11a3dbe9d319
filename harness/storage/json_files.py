"""Read JSON that another process wrote: from regular files of a bounded size, with finite numbers, or with an error."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

MOST_BYTES = 64 << 20


def read_json(path: Path) -> Any:  # noqa: ANN401  (any JSON value)
    """Read a JSON file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not JSON, holds NaN, infinity or a key twice, is nested too deeply or too large, or cannot be
            read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is not a regular file")
        if status.st_size > MOST_BYTES:
            raise ValueError(f"has {status.st_size} bytes, the limit is {MOST_BYTES}")
        return parse_json(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error


def parse_json(text: bytes | str) -> Any:  # noqa: ANN401  (any JSON value)
    """Parse JSON text.

    Raises:
        ValueError: it is not JSON, holds a number that is not finite or a key twice, or is nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_number(value: object, lowest: float = -math.inf, highest: float = math.inf) -> TypeGuard[int | float]:
    """Whether `value` is a number (not a boolean) from `lowest` to `highest`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value <= highest


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a finite number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text[:20])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object; ValueError if it has a key twice, of which one value would be lost."""
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key is given twice")
    return value
