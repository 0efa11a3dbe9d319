"""Covers `cell` and `cells`: a grid cell's id depends on what changes its result, and on nothing else."""

import itertools
import json
from pathlib import Path

import pytest

from harness.grid.cell import Cell
from harness.grid.cells import cells
from harness.recipe.load import load
from harness.recipe.schema import Recipe

RECIPES = Path(__file__).parents[3] / "recipes"
SCALING = RECIPES / "scaling.yaml"
LAPTOP = ["grid.models=[vit_s16]"]


def test_the_ids_of_all_recipes_are_unchanged() -> None:
    """`ids.json` holds the ids of all recipes in all profiles under ID_VERSION 1: studies on disk have them.

    Those of RxRx1, RxRx1-2M and RxRx3 under slurm are of runs without early stopping, as in supplement A.2.
    """
    stored = json.loads((Path(__file__).parent / "ids.json").read_text())
    assert set(stored) == {path.name for path in RECIPES.glob("*.yaml")}
    for name, profiles in stored.items():
        for profile, known in profiles.items():
            assert [cell.id for cell in cells(load(RECIPES / name, profile))] == known, (name, profile)


def ids(*overrides: str, profile: str = "laptop") -> set[str]:
    return {cell.id for cell in cells(load(SCALING, profile, [*LAPTOP, *overrides]))}


@pytest.mark.parametrize(
    "override",
    [
        "output=/other",
        "launch.parallel=7",
        "launch.device=cuda",
        "launch.loader_workers=3",
        "launch.checkpoint_minutes=1",
        "launch.checkpoint_keep=5",
        "launch.checkpoint_best=true",
        "train.nonfinite=stop",
        "train.spike=stop",
        "train.spike_factor=5",  # skips nothing
        "train.skip_limit=3",
        "launch.nodes=3",
        "hardware.mfu=0.5",
        "embed.batch=7",
        "evaluate.tails=[0.1, 0.9]",
        "fit.convention=mae_train",
        "prepare.build.0.workers=1",
        "prepare.build.0.on_error=quarantine",
        "prepare.build.0.unlabelled=null",
        "prepare.build.0.codec=trial",
        "prepare.build.0.chunk=128",
        "prepare.build.0.eight_bit=null",
        "prepare.build.0.curation=null",
        "datasets.unused={shards: x}",
        "models.vit_l16.depth=9",  # not in this grid
    ],
)
def test_what_changes_no_training_leaves_every_id(override: str) -> None:
    assert ids(override) == ids()


@pytest.mark.parametrize(
    "override",
    [
        "models.vit_s16.depth=9",
        "models.vit_s16.fourier_weight=0.01",
        "mae.mask_ratio=0.5",
        "train.epochs=3",
        "train.batch=24",
        "train.learning_rate=1e-5",
        "train.optimiser.betas=[0.9, 0.99]",
        "train.schedule.warmup=0.2",
        "train.early_stopping={patience: 2}",
        "train.precision=bf16",
        "train.nonfinite=skip",
        "train.spike=skip",
        "prepare.assay.seed=5",
        "prepare.build.0.seed=5",
        "prepare.build.0.eight_bit=shift",
        "prepare.build.0.curation={min_wells: 2}",
        "grid.seeds=[5, 6]",
    ],
)
def test_what_changes_training_changes_every_trained_id(override: str) -> None:
    def trained(names: set[str]) -> set[str]:
        return {name for name in names if "untrained" not in name and "pixel" not in name}

    assert trained(ids(override)).isdisjoint(trained(ids()))


def test_early_stopping_by_dataset_changes_the_ids_of_its_datasets_only() -> None:
    first, second, third = load(SCALING, "laptop").grid.datasets
    both = ids(f"train.early_stopping={{{first}: {{patience: 2}}, {second}: null}}")
    assert {name for name in both ^ ids() if f"-{first}-" not in name} == set()
    assert {name for name in both if f"-{first}-" in name}.isdisjoint(ids())
    assert ids(f"train.early_stopping={{{first}: null}}") == ids()  # the default: no dataset stops early
    every = f"{{{', '.join(f'{name}: {{patience: 2}}' for name in (first, second, third))}}}"
    assert ids(f"train.early_stopping={every}") == ids("train.early_stopping={patience: 2}")  # one meaning, one id


def test_the_stream_order_and_each_of_its_fields_change_the_ids_of_its_dataset_only() -> None:
    first, *others = load(SCALING, "laptop").grid.datasets
    stream = f"datasets.{first}.order=stream"
    lanes = f"datasets.{first}.stream.lanes"
    variants = [
        ids(stream, f"{lanes}=1"),
        ids(stream, f"{lanes}=2"),
        ids(stream, f"{lanes}=1", f"datasets.{first}.stream.crops=3"),
        ids(stream, f"{lanes}=1", f"datasets.{first}.stream.block=3"),
        ids(),
    ]
    of_first = [{name for name in variant if f"-{first}-" in name} for variant in variants]
    assert all(left.isdisjoint(right) for left, right in itertools.combinations(of_first, 2))
    assert len({frozenset(variant - changed) for variant, changed in zip(variants, of_first, strict=True)}) == 1
    assert others
    assert ids(f"{lanes}=1") == ids()  # the random order does not use it


def test_moving_the_shards_changes_no_id(tmp_path: Path) -> None:
    moved = [
        f"prepare.assay.output={tmp_path}/images",
        f"prepare.build.0.root={tmp_path}/images",
        f"prepare.build.0.output={tmp_path}/shards",
        f"embed.shards={tmp_path}/shards",
        *(f"datasets.{name}.shards={tmp_path}/shards" for name in load(SCALING, "laptop").grid.datasets),
    ]
    assert ids(*moved) == ids()


def test_the_grid_is_the_product_less_what_is_excluded_plus_baselines() -> None:
    recipe = load(SCALING, "slurm", ["grid.exclude=[{model: vit_s8, dataset: rpi_93m}]"])
    grid = cells(recipe)
    assert len(grid) == 7 * 5 - 1 + 7 + 1
    assert len({cell.id for cell in grid}) == len(grid)
    assert not [c for c in grid if (c.model, c.dataset) == ("vit_s8", "rpi_93m")]


@pytest.mark.parametrize("profile", ["laptop", "slurm"])
def test_ids_survive_the_json_that_is_passed_to_a_job(profile: str) -> None:
    recipe = load(SCALING, profile)
    again = Recipe.model_validate_json(recipe.model_dump_json(), strict=False)
    assert [cell.id for cell in cells(again)] == [cell.id for cell in cells(recipe)]


def test_an_id_is_stable_over_time() -> None:
    """A changed id orphans every finished cell of every user: change it only with ID_VERSION."""
    recipe = load(SCALING, "slurm", ["grid.models=[vit_l8_plus]", "grid.datasets=[rpi_93m]"])
    assert [cell.id for cell in cells(recipe)] == [
        "pixel_statistics-s0-3b90d801",
        "vit_l8_plus-untrained-s0-3da5bffc",
        "vit_l8_plus-rpi_93m-s0-8e7900bd",
    ]


AXES = "grid.axes={mae.mask_ratio: [0.5, 0.75], train.learning_rate: [1e-3, 2e-3]}"


def grid_of(*overrides: str) -> list[Cell]:
    return cells(load(SCALING, "laptop", ["grid.models=[vit_s8, vit_l8]", "grid.seeds=[0]", *overrides]))


def test_a_cell_on_an_axis_is_the_cell_of_a_recipe_with_that_value() -> None:
    """Its id says what it is, not how it was written down."""
    by_axis = {cell.id for cell in grid_of("grid.axes={mae.mask_ratio: [0.5, 0.75]}") if cell.kind == "trained"}
    one_by_one = [grid_of(f"mae.mask_ratio={ratio}") for ratio in (0.5, 0.75)]
    assert by_axis == {cell.id for grid in one_by_one for cell in grid if cell.kind == "trained"}
    variant = grid_of("grid.variants={small: {train.batch: 4, train.epochs: 3}}")
    assert {c.id for c in variant} == {c.id for c in grid_of("train.batch=4", "train.epochs=3")}


def test_a_baseline_is_one_cell_at_all_points_where_it_is_the_same() -> None:
    grid = grid_of(AXES)
    untrained = [cell for cell in grid if cell.kind == "untrained"]
    assert [cell.labels()["mae.mask_ratio"] for cell in untrained] == [0.5, 0.5, 0.75, 0.75]
    assert {cell.labels()["train.learning_rate"] for cell in untrained} == {None}
    assert sum(cell.kind == "pixel_statistics" for cell in grid) == 1
    trained = [cell for cell in grid if cell.kind == "trained"]
    assert len(trained) == len({cell.id for cell in grid} - {cell.id for cell in untrained}) - 1 == 2 * 3 * 4


def test_cells_are_excluded_by_any_axis() -> None:
    everything = len(grid_of(AXES))
    assert len(grid_of(AXES, "grid.exclude=[{mae.mask_ratio: 0.5, train.learning_rate: 2e-3}]")) == everything - 6
    assert len(grid_of(AXES, "grid.exclude=[{model: vit_l8}]")) == everything - 12
    assert len(grid_of(AXES, "grid.exclude=[{mae.mask_ratio: 0.5, model: vit_l8, dataset: one_experiment}]")) == (
        everything - 2
    )


def test_a_cell_s_recipe_is_that_of_its_point() -> None:
    study = load(SCALING, "laptop", [AXES])
    for cell in cells(study):
        there = cell.recipe(study)
        if cell.training is not None:
            place = cell.labels()
            assert there.mae.mask_ratio == place["mae.mask_ratio"] == cell.architecture.mae.mask_ratio
            assert there.train.learning_rate == place["train.learning_rate"] == cell.training.learning_rate
    assert all(cell.recipe(study) is study for cell in cells(load(SCALING, "laptop")) if cell.overlay is None)


def test_an_axis_that_changes_no_result_is_refused() -> None:
    with pytest.raises(ValueError, match=r"grid\.axes\.train\.skip_limit: changes no result"):
        grid_of("grid.axes={train.skip_limit: [1, 2]}")
    with pytest.raises(ValueError, match=r"grid\.variants: changes no result"):
        grid_of("grid.variants={a: {}, b: {train.skip_limit: 1}}")


def test_values_that_are_lists_are_text_in_tables() -> None:
    grid = grid_of("grid.axes={train.optimiser.betas: [[0.9, 0.95], [0.9, 0.99]]}")
    assert {cell.labels()["train.optimiser.betas"] for cell in grid if cell.kind == "trained"} == {
        "[0.9, 0.95]", "[0.9, 0.99]"
    }  # fmt: skip
