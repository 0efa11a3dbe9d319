"""What a first recipe needs to know of a shard set: channels, pixels, experiments, controls and genes. No torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.recipe.errors import RecipeError
from shards.format.manifest import PixelRange, Split

if TYPE_CHECKING:
    from shards.reader.shard_set import ShardSet

CONTROL_COLUMNS = ("treatment", "perturbation_type", "gene")
CONTROLS = (
    "empty_control", "empty", "crispr_control", "negcon", "negative_control", "dmso", "untreated", "mock",
    "non-targeting", "non_targeting", "nontargeting", "scramble", "control", "vehicle",
)  # fmt: skip
"""What public releases and most laboratories call a negative control, the surest first; compared without case."""
GENE = "gene"
MOST_SHOWN = 5


@dataclass(frozen=True)
class Control:
    """Wells that are taken for negative controls, by their value in a column."""

    column: str
    value: str
    wells: int


@dataclass(frozen=True)
class SetFacts:
    """What a set holds.

    Attributes:
        side: pixels of the shortest side of any image.
        treatments: the commonest values of the column `treatment`, with the number of wells.
        genes: different genes, but for the control's name.
    """

    place: Path
    channels: tuple[str, ...]
    pixel_type: str
    pixel_ranges: dict[str, PixelRange]
    wells: dict[Split, int]
    experiments: dict[Split, tuple[str, ...]]
    side: int
    control: Control | None
    treatments: tuple[tuple[str, int], ...]
    genes: int


def read_facts(place: Path) -> SetFacts:
    """Open a set and read its table.

    Raises:
        RecipeError: nothing can be trained on it.
        ShardError: it is no set, or damaged.
    """
    from shards.reader.shard_set import ShardSet

    shards = ShardSet.open(place)
    manifest = shards.manifest
    for split in ("train", "validation"):
        if not manifest.wells[split]:
            cure = "build it with --validation-experiments A,B, or with a --validation-fraction between 0 and 1"
            raise RecipeError(f"{place}: has no {split} wells, and training needs both splits: {cure}")
    counts = {name: _counts(shards, name) for name in CONTROL_COLUMNS if name in shards.table.columns}
    control = _control(counts)
    genes = set(counts.get(GENE, ())) - {""} - ({control.value} if control else set())
    return SetFacts(
        place, manifest.channels, manifest.pixel_type, manifest.pixel_ranges, manifest.wells, manifest.experiments,
        int(shards.shapes.min()), control, _commonest(counts.get("treatment", Counter())), len(genes),
    )  # fmt: skip


def _counts(shards: ShardSet, column: str) -> Counter[str]:
    return Counter(shards.table.frame([column])[column].fillna("").astype(str).tolist())


def _commonest(counts: Counter[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:MOST_SHOWN])


def _control(counts: dict[str, Counter[str]]) -> Control | None:
    """The surest name of a control in the first column that has one."""
    for column, values in counts.items():
        by_name = {value.strip().lower(): value for value in values}
        known = next((by_name[name] for name in CONTROLS if name in by_name), None)
        if known is not None:
            return Control(column, known, values[known])
    return None
