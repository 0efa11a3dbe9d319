"""What all sub-commands print of their input: which columns were read, and what was left out."""

from __future__ import annotations

from typing import Any


def show_features(result: dict[str, Any], kind: str = "features") -> None:
    """How many columns were taken for features, and which columns of numbers were not."""
    for label, count, first in (
        (kind, result["features"], result["first_features"]),
        ("not features, though numbers", result["not_features"], result["first_not_features"]),
    ):
        if count:
            print(f"{label}: {count} ({', '.join(first)}{', ...' if count > len(first) else ''})")


def show_excluded(counts: dict[str, int]) -> None:
    left_out = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count)
    if left_out:
        print(f"left out: {left_out}")
