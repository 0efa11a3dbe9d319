"""HTML building blocks of the page's sections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape


def text(value: object) -> str:
    """The value escaped for use in elements and attributes."""
    return escape(str(value), quote=True)


def number(value: float | None, digits: str = ".3f") -> str:
    """A table cell that sorts by its number; empty for None."""
    if value is None:
        return '<td class="number" data-value=""></td>'
    return f'<td class="number" data-value="{value!r}">{value:{digits}}</td>'


def table(head: Sequence[str], rows: Iterable[str]) -> str:
    """A table of rows (`<tr>`) that scrolls sideways where the screen is narrow."""
    names = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    return f'<div class="table"><table><thead><tr>{names}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def by_convention(first: str, content: Mapping[str, str]) -> str:
    """One block per convention, of which the script shows one; without a script `first` is shown."""
    return "".join(
        f'<div data-convention="{text(name)}"{"" if name == first else " hidden"}>{html}</div>'
        for name, html in content.items()
    )
