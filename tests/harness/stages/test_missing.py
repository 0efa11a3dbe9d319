"""Covers `missing`: which stages of a grid cell are not done, and what changes their fingerprints.

tests/harness/test_baselines.py covers weights and profiles, tests/harness/data/test_shard_sets.py remote shards.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from harness.data import shard_sets
from harness.data.prepare import prepare
from harness.grid.cell import Cell
from harness.grid.cells import cells
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.stages.missing import StageError, missing_of_all, missing_stages, stages_of
from harness.storage import ledger
from harness.storage.ledger import LedgerRow, Stage


def prepared(path: Path, *overrides: str) -> tuple[Recipe, Cell]:
    """The tiny study with its shards, and a trained cell of it."""
    recipe = load(path, "laptop", list(overrides))
    prepare(recipe)
    return recipe, next(cell for cell in cells(recipe) if cell.kind == "trained")


def finish(recipe: Recipe, cell: Cell, *stages: Stage) -> None:
    """Record stages as done under the current settings."""
    fingerprints = missing_stages(recipe, cell).fingerprints
    for stage in stages:
        ledger.record(recipe.output, LedgerRow(cell.id, stage, fingerprints[stage], {}))


def test_stages_depend_on_the_kind_of_cell(tiny_recipe_file: Path) -> None:
    recipe = load(tiny_recipe_file, "laptop")
    stages = {cell.kind: stages_of(recipe, cell) for cell in cells(recipe)}
    assert stages == {
        "trained": ("train", "embed", "evaluate"),
        "untrained": ("train", "embed", "evaluate"),
        "pixel_statistics": ("embed", "evaluate"),
    }


def test_recorded_stages_are_not_missing(tiny_recipe_file: Path) -> None:
    recipe, cell = prepared(tiny_recipe_file)
    assert missing_stages(recipe, cell).missing == ("train", "embed", "evaluate")
    finish(recipe, cell, "train")
    assert missing_stages(recipe, cell).missing == ("embed", "evaluate")
    finish(recipe, cell, "embed", "evaluate")
    assert missing_stages(recipe, cell).missing == ()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("launch.parallel=5", ()),
        ("evaluate.tails=[0.1, 0.9]", ("evaluate",)),
        ("embed.pool=class", ("embed", "evaluate")),
    ],
)
def test_a_changed_setting_makes_its_stage_and_the_later_ones_missing(
    tiny_recipe_file: Path, override: str, expected: tuple[str, ...]
) -> None:
    recipe, cell = prepared(tiny_recipe_file)
    finish(recipe, cell, "train", "embed", "evaluate")
    changed, same = prepared(tiny_recipe_file, override)
    assert same.id == cell.id
    assert missing_stages(changed, same).missing == expected


def test_a_cell_trained_on_other_shards_is_refused(tiny_recipe_file: Path) -> None:
    recipe, cell = prepared(tiny_recipe_file)
    ledger.record(recipe.output, LedgerRow(cell.id, "train", "of other shards", {}))
    with pytest.raises(StageError, match=f"cell {cell.id} was trained on other shards than those at"):
        missing_stages(recipe, cell)


def test_missing_shards_are_named(tiny_recipe_file: Path) -> None:
    recipe = load(tiny_recipe_file, "laptop", ["embed.shards=/nowhere"])
    cell = next(cell for cell in cells(recipe) if cell.kind == "pixel_statistics")
    with pytest.raises(StageError, match=r"/nowhere: no shards here \(no manifest\.json\)"):
        missing_stages(recipe, cell)


def test_a_classifier_that_continues_one_of_other_classes_is_refused_before_anything_is_trained(
    tiny_recipe_file: Path,
) -> None:
    """Both sets have the same genes; of its wells, which are all different, `one` has half."""
    net = "models.net={{kind: vit_classifier, width: 16, depth: 1, heads: 2, patch: 8, label: {}}}"
    continued = ["grid.models=[net]", "grid.datasets=[one, two]", "train.start_from={two: one}"]
    for label, text in (("gene", ""), ("key", "net has 32 classes there and 16 on one")):
        recipe = load(tiny_recipe_file, "laptop", [net.format(label), *continued])
        prepare(recipe)
        *_, cell = cells(recipe)
        assert (cell.dataset, cell.kind) == ("two", "trained")
        with pytest.raises(StageError, match=text) if text else nullcontext():
            assert missing_stages(recipe, cell).missing == ("train", "embed", "evaluate")


def test_a_manifest_is_parsed_once_for_all_cells_and_stages_and_again_when_it_changes(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Path(str(tiny_recipe.datasets["one"].shards)) / "manifest.json"
    before, parsed = manifest.stat(), list[int]()
    os.utime(manifest, ns=(before.st_atime_ns, before.st_mtime_ns - 3600 * 10**9))
    facts = shard_sets._facts

    def counted(text: bytes) -> shard_sets.ManifestFacts:
        parsed.append(len(text))
        return facts(text)

    monkeypatch.setattr(shard_sets, "_facts", counted)
    works = missing_of_all(tiny_recipe, cells(tiny_recipe))
    missing_of_all(tiny_recipe, cells(tiny_recipe))
    assert len(parsed) <= 1  # another test of this process may have read the set before
    assert [work.fingerprints for work in works] == [
        missing_stages(tiny_recipe, cell).fingerprints for cell in cells(tiny_recipe)
    ]
    os.utime(manifest, ns=(before.st_atime_ns, before.st_mtime_ns - 7200 * 10**9))
    parsed.clear()
    missing_of_all(tiny_recipe, cells(tiny_recipe))
    assert len(parsed) == 1
