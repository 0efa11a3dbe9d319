"""The grid: a recipe's cells and their ids.

A grid cell is one run of the study. Its id hashes its identity, all that changes its result and nothing else: model,
data, seed, optimiser, schedule, precision. Paths, machines, workers and engines are not part of it, so the same study
has the same ids wherever and however it runs. Pure functions.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import JsonValue

from harness.recipe.axes import VARIANT, Point, at_point, points
from harness.recipe.data import Assay, Build, Stream
from harness.recipe.fields import per_name
from harness.recipe.models import Architecture, DenseNetSection, ImagenetSection, ProfilesSection
from harness.recipe.optimiser import Optimiser
from harness.recipe.schema import EarlyStopping, Recipe, Train

ID_VERSION = 1
PIXEL_STATISTICS = "pixel_statistics"
Kind = Literal["trained", "untrained", "pretrained", "profiles", "pixel_statistics"]

# Recipe fields that change no result, and so no id: where and how something is done.
BUILD_NOT_IDENTITY = {"root", "output", "workers", "on_error", "codec", "chunk"}
ASSAY_NOT_IDENTITY = {"output"}


@dataclass(frozen=True)
class Training:
    """How a cell trains, resolved to its model and dataset; crops are counted from the shards when it runs."""

    epochs: int
    batch: int
    learning_rate: float
    optimiser: Optimiser
    early_stopping: EarlyStopping | None
    settings: Train  # schedule, precision, validations; its per-name fields are resolved above

    def identity(self) -> dict[str, JsonValue]:
        """The settings that change a result. Of the divergence monitor's settings, only skipping updates does."""
        train = self.settings
        left_out = {"epochs", "batch", "learning_rate", "skip_limit", "optimiser", "optimisers", "early_stopping"}
        left_out |= set() if train.nonfinite == "skip" else {"nonfinite"}
        left_out |= set() if train.spike == "skip" else {"spike", "spike_factor"}
        early = self.early_stopping
        settings = {
            **train.model_dump(mode="json", exclude=left_out),
            "optimiser": self.optimiser.identity(),
            "schedule": train.schedule.identity(),
            "early_stopping": None if early is None else early.model_dump(mode="json"),
        }
        return {
            "epochs": self.epochs,
            "batch": self.batch,
            "learning_rate": self.learning_rate,
            "settings": settings,
        }


@dataclass(frozen=True)
class TrainingData:
    """Which images a cell sees and in what order, never where they are stored."""

    dataset: str
    fraction: float
    stream: Stream | None  # None: in random order
    channels: dict[str, str] | None  # the study's names of the set's channels, where they differ
    build: Build | None  # how the recipe prepares the shards, if it does
    assay: Assay | None  # which demo assay they are built from, if they are

    def identity(self) -> dict[str, JsonValue]:
        """The dataset's name and fraction, its order, and how its shards are rendered and split."""
        identity: dict[str, JsonValue] = {"dataset": self.dataset, "fraction": self.fraction}
        if self.stream is not None:
            identity["stream"] = self.stream.model_dump(mode="json")
        if self.channels:
            identity["channels"] = dict(self.channels)
        if self.build is not None:
            identity["build"] = self.build.model_dump(mode="json", exclude=BUILD_NOT_IDENTITY, exclude_none=True)
        if self.assay is not None:
            identity["assay"] = self.assay.model_dump(mode="json", exclude=ASSAY_NOT_IDENTITY)
        return identity


@dataclass(frozen=True)
class Cell:
    """One run of the study: a trained model, an untrained one, or a baseline without training: a network whose weights
    come from disk, profiles measured with other software, or pixel statistics."""

    kind: Kind
    model: str
    architecture: Architecture | None
    dataset: str | None
    data: TrainingData | None
    training: Training | None
    seed: int
    point: Point = field(default=Point(), compare=False)  # where the cell is on the grid's axes; its id says what it is
    overlay: Recipe | None = field(default=None, compare=False, repr=False)  # the recipe there; None without axes
    id: str = field(init=False)

    def __post_init__(self) -> None:
        parts = [self.model, self.dataset or self.kind, f"s{self.seed}", fingerprint(self.identity())[:8]]
        object.__setattr__(self, "id", "-".join(dict.fromkeys(parts)))

    def identity(self) -> dict[str, JsonValue]:
        """All that changes the cell's result, as the JSON that its id hashes."""
        return {
            "version": ID_VERSION,
            "kind": self.kind,
            "model": self.model,
            "architecture": self.architecture.identity() if self.architecture else None,
            "dataset": self.dataset,
            "data": self.data.identity() if self.data else None,
            "training": self.training.identity() if self.training else None,
            "seed": self.seed,
        }

    def labels(self) -> dict[str, JsonValue]:
        """What names the cell in tables: model, size, patch, dataset, seed, and its place on the grid's axes."""
        model = self.architecture.model if self.architecture else None
        return {
            "model": self.model,
            "size": model.size if model else None,
            "patch": model.patch_size if model else None,
            "dataset": self.dataset,
            "seed": self.seed,
            **{name: _scalar(value) for name, value in self.point.coordinates().items()},
        }

    def recipe(self, study: Recipe) -> Recipe:
        """The recipe at the cell's point of the axes."""
        return self.overlay or study

    @property
    def network_kind(self) -> str | None:
        """The kind of the cell's network (`recipe/models.py`); None without a network."""
        return self.architecture.model.kind if self.architecture else None

    @property
    def is_classifier(self) -> bool:
        """Whether the cell's network is trained on labels."""
        return self.architecture is not None and self.architecture.model.is_classifier


def _scalar(value: JsonValue) -> JsonValue:
    """A value that a cell of a table can hold."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def fingerprint(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    """SHA-256 of the canonical JSON of `value`: equal for equal values, whatever the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def cells(recipe: Recipe) -> list[Cell]:
    """Every cell of the grid: baselines first, then models × datasets × seeds in the recipe's order, at each point of
    the axes. A baseline that is the same at several points is one cell.

    Raises:
        ValueError: an axis changes no cell.
    """
    if not (recipe.grid.axes or recipe.grid.variants):
        return _cells(recipe, Point())
    at_points = [cell for point in points(recipe.grid) for cell in _cells(recipe, point)]
    _check_axes(recipe, at_points)
    grid = _merged(at_points)
    return [cell for cell in grid if cell.kind != "trained"] + [cell for cell in grid if cell.kind == "trained"]


def _cells(study: Recipe, point: Point) -> list[Cell]:
    """The cells at a point."""
    recipe = at_point(study, point)
    grid, models = recipe.grid, recipe.trained_models
    baselines = [_pixel_statistics()] if grid.pixel_statistics and recipe.embed is not None else []
    baselines += [_fixed(recipe, model) for model in grid.models if model not in models]
    if grid.untrained:
        baselines += [_untrained(recipe, model, seed) for seed, model in itertools.product(grid.seeds, models)]
    trained = [
        _trained(recipe, model, dataset, seed)
        for seed, dataset, model in itertools.product(grid.seeds, grid.datasets, models)
        if not _is_excluded(study, point, model, dataset, seed)
    ]
    if not point.coordinates():
        return baselines + trained
    return [replace(cell, point=point, overlay=recipe) for cell in baselines + trained]


def _is_excluded(recipe: Recipe, point: Point, model: str, dataset: str, seed: int) -> bool:
    at: dict[str, JsonValue] = {"model": model, "dataset": dataset, "seed": seed, **point.coordinates()}
    return any(all(at[name] == value for name, value in excluded.items()) for excluded in recipe.grid.exclude)


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
    first, places = group[0], [cell.point.coordinates() for cell in group]
    kept = {name: value for name, value in places[0].items() if all(place[name] == value for place in places)}
    values = tuple((name, kept.get(name)) for name, _ in first.point.values)
    variant = first.point.variant if VARIANT in kept else None
    return replace(first, point=Point(variant, values))


def _pixel_statistics() -> Cell:
    return Cell("pixel_statistics", PIXEL_STATISTICS, None, None, None, None, 0)


def _fixed(recipe: Recipe, model: str) -> Cell:
    architecture = _architecture(recipe, model)
    return Cell("pretrained" if architecture else "profiles", model, architecture, None, None, None, 0)


def _untrained(recipe: Recipe, model: str, seed: int) -> Cell:
    return Cell("untrained", model, _architecture(recipe, model), None, None, None, seed)


def _trained(recipe: Recipe, model: str, dataset: str, seed: int) -> Cell:
    train = recipe.train
    training = Training(
        epochs=per_name(train.epochs, dataset),
        batch=per_name(train.batch, dataset),
        learning_rate=per_name(train.learning_rate, model),
        optimiser=train.optimisers.get(model, train.optimiser),
        early_stopping=recipe.early_stopping_of(dataset),
        settings=train,
    )
    return Cell("trained", model, _architecture(recipe, model), dataset, _data(recipe, dataset), training, seed)


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
