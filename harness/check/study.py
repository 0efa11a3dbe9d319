"""A study as the checks see it: its recipe, its cells, and the sets of images that it reads. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from harness.data.shard_sets import ManifestFacts, ShardLocation, manifest_of
from harness.grid.cell import Cell
from harness.grid.cells import cells
from harness.recipe.data import Dataset
from harness.recipe.schema import Embed, Recipe


@dataclass(frozen=True)
class Study:
    """A recipe and its grid.

    Attributes:
        needs_data: whether what the recipe names must be on this machine; a plan does without.
    """

    recipe: Recipe
    needs_data: bool = True
    _manifests: dict[ShardLocation, ManifestFacts | None] = field(default_factory=dict, repr=False)

    @cached_property
    def grid(self) -> list[Cell]:
        """Every cell."""
        return cells(self.recipe)

    @cached_property
    def distinct(self) -> list[Cell]:
        """The first cell of each model, dataset and point of the axes: the others differ in what no check looks at."""
        first: dict[tuple[object, ...], Cell] = {}
        for cell in self.grid:
            first.setdefault((cell.kind, cell.model, cell.dataset, cell.point), cell)
        return list(first.values())

    @cached_property
    def sets(self) -> dict[str, Dataset | Embed]:
        """The sections that name sets of images, by their dotted path: the grid's datasets, and `embed`."""
        recipe = self.recipe
        used = {f"datasets.{name}": recipe.datasets[name] for name in recipe.grid.datasets}
        return {**used, **({"embed": recipe.embed} if recipe.embed is not None else {})}

    def manifest(self, place: ShardLocation) -> ManifestFacts | None:
        """The manifest of a set that is there and has one that can be read."""
        if place not in self._manifests:
            try:
                self._manifests[place] = manifest_of(self.recipe, place)
            except (OSError, ValueError):
                self._manifests[place] = None
        return self._manifests[place]

    def is_to_be_built(self, place: ShardLocation) -> bool:
        """Whether the recipe's `prepare` builds the set at `place`, and has not done so yet."""
        return self.manifest(place) is None and any(build.output == place for build in self.recipe.prepare.build)

    @property
    def to_be_built(self) -> list[str]:
        """The sets that a run builds before its first cell, so that they cannot be looked at yet."""
        return sorted({str(section.shards) for section in self.sets.values() if self.is_to_be_built(section.shards)})

    def read(self) -> Iterator[tuple[str, Dataset | Embed, ManifestFacts]]:
        """The sections whose set is there, with the section's path and the set's manifest."""
        for path, section in self.sets.items():
            manifest = self.manifest(section.shards)
            if manifest is not None:
                yield path, section, manifest
