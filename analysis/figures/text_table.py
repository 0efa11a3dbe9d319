"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

GAP = "  "


def text_table(rows: Sequence[Mapping[str, str]], left: Collection[str] = ()) -> str:
    """Rows under their heads; a column is as wide as its longest entry, so heads and cells cannot disagree.

    Args:
        rows: the text of each cell by its head; every row has the same heads in the same order.
        left: heads of the columns that are aligned to the left; the others are aligned to the right.

    Raises:
        ValueError: a row has other heads than the first one.
    """
    heads = list(rows[0]) if rows else []
    for row in rows:
        if list(row) != heads:
            raise ValueError(f"a row has {', '.join(row)} under the heads {', '.join(heads)}")
    widths = {head: max(len(head), *(len(row[head]) for row in rows)) for head in heads}
    lines = [{head: head for head in heads}, *rows] if rows else []
    return "\n".join(
        GAP.join(f"{line[head]:{'<' if head in left else '>'}{widths[head]}}" for head in heads).rstrip()
        for line in lines
    )


def counted(count: int, one: str, many: str = "") -> str:
    """A count with its noun: `1 model`, `2 models`."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
