"""The grid: a recipe's cells. Pure functions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import JsonValue

from harness.grid.cell import Cell, Training, TrainingData
from harness.grid.states import starts_first, trajectory, with_heirs, with_shared_trunks
from harness.recipe.axes import END, VARIANT, Point, at_point, points
from harness.recipe.fields import per_name
from harness.recipe.models import Architecture, DenseNetSection, ImagenetSection, ProfilesSection
from harness.recipe.schedules import ends
from harness.recipe.schema import Recipe

PIXEL_STATISTICS = "pixel_statistics"


def cells(recipe: Recipe) -> list[Cell]:
    """Every cell of the grid: baselines first, then models × datasets × seeds in the recipe's order, at each point of
    the axes, and a cell after the one that it starts from. A cell that is the same at several points is one cell.

    Raises:
        ValueError: an axis changes no cell, or `train.start_from` names no cell.
    """
    if not (recipe.grid.axes or recipe.grid.variants):
        return with_heirs(_cells(recipe, Point()))
    at_points = [cell for point in points(recipe.grid) for cell in _cells(recipe, point)]
    _check_axes(recipe, at_points)
    grid = _merged(at_points)
    grid = [cell for cell in grid if not cell.training] + [cell for cell in grid if cell.training]
    return with_heirs(with_shared_trunks(grid))


def _cells(study: Recipe, point: Point) -> list[Cell]:
    """The cells at a point."""
    recipe = at_point(study, point)
    grid, models = recipe.grid, recipe.trained_models
    baselines = [_pixel_statistics()] if grid.pixel_statistics and recipe.embed is not None else []
    baselines += [_fixed(recipe, model) for model in grid.models if model not in models]
    if grid.untrained:
        baselines += [_untrained(recipe, model, seed) for seed, model in itertools.product(grid.seeds, models)]
    trained: list[Cell] = []
    for dataset in sorted(grid.datasets, key=lambda name: _starts_before(recipe, name)):
        of_models = [_trained(recipe, model, dataset) for model in models]  # seeds share what they have in common
        for seed, first in itertools.product(grid.seeds, of_models):
            trained += _run(study, point, recipe, replace(first, seed=seed), trained)
    trained = starts_first(sorted(trained, key=lambda cell: grid.seeds.index(cell.seed)))
    if not point.coordinates():
        return baselines + trained
    return [cell.linked(point=point, overlay=recipe) for cell in baselines + trained]


def _run(study: Recipe, point: Point, recipe: Recipe, run: Cell, others: Sequence[Cell]) -> list[Cell]:
    """The cells of a whole run: itself, or its segments and branches, less what is excluded."""
    assert run.dataset is not None
    kept = [end for end in ends(recipe.train.schedule) if not _is_excluded(study, point, run, end)]
    start_from = recipe.train.start_from.get(run.dataset)
    if kept and start_from is not None:
        start = _start(run, start_from, others)
        run = replace(run, start=start, continues=start.id)
    return trajectory(run, kept, recipe.train.snapshots)


def _start(run: Cell, name: str, others: Sequence[Cell]) -> Cell:
    """The cell whose final state a run begins with: on the dataset of that name, or of that id or the beginning of one.

    Raises:
        ValueError: there is none, or more than one.
    """
    finals = [cell for cell in others if cell.kind == "trained"]
    same = [cell for cell in finals if (cell.dataset, cell.model, cell.seed) == (name, run.model, run.seed)]
    matching = same[-1:] or [cell for cell in finals if cell.id.startswith(name)]  # the last: of the largest end
    if len(matching) == 1 and matching[0].model != run.model:
        raise ValueError(
            f"train.start_from.{run.dataset}: {matching[0].id} is of the model {matching[0].model}, and {run.model} "
            f"cannot start from it; give the name of a dataset, {run.dataset}'s cells then start from their own model's"
        )
    if len(matching) != 1:
        count, known = "more than one" if matching else "no", ", ".join(cell.id for cell in finals[:5])
        raise ValueError(
            f"train.start_from.{run.dataset}: {name!r} is {count} cell that {run.model} with seed {run.seed} can start "
            f"from; known: {known or 'none'}"
        )
    return matching[0]


def _starts_before(recipe: Recipe, dataset: str) -> int:
    """How many others the cells on a dataset come after, because they start from them.

    Raises:
        ValueError: they start from themselves.
    """
    starts, chain = recipe.train.start_from, [dataset]
    while (start := starts.get(chain[-1])) is not None:
        if start in chain:
            raise ValueError(f"train.start_from: {' starts from '.join([*chain, start])}")
        if start not in recipe.grid.datasets:
            return len(recipe.grid.datasets) + len(chain)  # a cell by its id: after the datasets
        chain.append(start)
    return len(chain) - 1


def _is_excluded(study: Recipe, point: Point, run: Cell, end: float) -> bool:
    if not study.grid.exclude:
        return False
    at: dict[str, JsonValue] = {"model": run.model, "dataset": run.dataset, "seed": run.seed, END: end}
    at |= point.coordinates()
    return any(all(at[name] == value for name, value in excluded.items()) for excluded in study.grid.exclude)


def _check_axes(recipe: Recipe, at_points: Sequence[Cell]) -> None:
    """Raise ValueError for an axis along which all cells have one id: two values would be one result."""
    trained = [cell for cell in at_points if cell.kind == "trained"]
    axes = [(name, f"grid.axes.{name}") for name, values in recipe.grid.axes.items() if len(values) > 1]
    axes += [(VARIANT, "grid.variants")] if len(recipe.grid.variants) > 1 else []
    for name, place in axes:
        values_of: dict[str, set[str]] = {}
        for cell in trained:
            values_of.setdefault(cell.id, set()).add(repr(cell.point.coordinates()[name]))
        if trained and all(len(values) > 1 for values in values_of.values()):
            raise ValueError(f"{place}: changes no result of any cell, so its values would be one cell")


def _merged(at_points: Sequence[Cell]) -> list[Cell]:
    """One cell of each id, on those axes only along which it is one cell and no other."""
    same: dict[str, list[Cell]] = {}
    for cell in at_points:
        same.setdefault(cell.id, []).append(cell)
    return [_merge(group) for group in same.values()]


def _merge(group: Sequence[Cell]) -> Cell:
    if len(group) == 1:
        return group[0]
    first, places = group[0], [cell.point.coordinates() for cell in group]
    kept = {name: value for name, value in places[0].items() if all(place[name] == value for place in places)}
    values = tuple((name, kept.get(name)) for name, _ in first.point.values)
    variant = first.point.variant if VARIANT in kept else None
    return first.linked(point=Point(variant, values), is_snapshot=any(cell.is_snapshot for cell in group))


def _pixel_statistics() -> Cell:
    return Cell("pixel_statistics", PIXEL_STATISTICS, None, None, None, None, 0)


def _fixed(recipe: Recipe, model: str) -> Cell:
    architecture = _architecture(recipe, model)
    return Cell("pretrained" if architecture else "profiles", model, architecture, None, None, None, 0)


def _untrained(recipe: Recipe, model: str, seed: int) -> Cell:
    return Cell("untrained", model, _architecture(recipe, model), None, None, None, seed)


def _trained(recipe: Recipe, model: str, dataset: str) -> Cell:
    """The run of a model on a dataset, with the seed 0."""
    train = recipe.train
    training = Training(
        epochs=per_name(train.epochs, dataset),
        batch=per_name(train.batch, dataset),
        learning_rate=per_name(train.learning_rate, model),
        optimiser=train.optimisers.get(model, train.optimiser),
        early_stopping=recipe.early_stopping_of(dataset),
        settings=train,
    )
    return Cell("trained", model, _architecture(recipe, model), dataset, _data(recipe, dataset), training, 0)


def _architecture(recipe: Recipe, name: str) -> Architecture | None:
    model = recipe.models[name]
    return None if isinstance(model, ProfilesSection) else Architecture(model, recipe.mae)


def _data(recipe: Recipe, name: str) -> TrainingData:
    dataset = recipe.datasets[name]
    stream = dataset.stream if dataset.order == "stream" else None
    build = next((build for build in recipe.prepare.build if build.output == dataset.shards), None)
    assay = recipe.prepare.assay
    if assay is not None and (build is None or assay.output != Path(build.root)):
        assay = None
    return TrainingData(name, dataset.fraction, stream, dataset.channels, build, assay)


def find_cell(recipe: Recipe, name: str) -> Cell:
    """The cell of that id, or the only one whose id starts with it.

    Raises:
        ValueError: there is none, or more than one.
    """
    grid = cells(recipe)
    matching = [cell for cell in grid if cell.id == name] or [cell for cell in grid if cell.id.startswith(name)]
    if len(matching) != 1:
        examples = ", ".join(cell.id for cell in matching[:5]) or "see status"
        raise ValueError(f"{name!r} names {len(matching) or 'no'} cells of this recipe: {examples}")
    return matching[0]


def weights_path(recipe: Recipe, cell: Cell) -> Path | None:
    """The file of a cell's weights, initial or final, if the recipe names one."""
    model = recipe.models.get(cell.model)
    return model.weights.path if isinstance(model, DenseNetSection | ImagenetSection) and model.weights else None
