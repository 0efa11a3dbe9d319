"""The grid: a recipe's cells, each named by what changes its result and by nothing else.

A cell's id hashes its science: model, data, seed, optimiser, schedule, precision. Paths, machines, workers and
engines are not part of it, so the same study has the same ids wherever and however it runs. Pure functions.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.recipe.fields import per_name
from harness.recipe.models import DEFAULT_KIND, DenseNet, Imagenet, Profiles, architecture
from harness.recipe.schema import Recipe, Train

ID_VERSION = 1
PIXEL_STATISTICS = "pixel_statistics"
Kind = Literal["trained", "untrained", "pretrained", "profiles", "pixel_statistics"]


@dataclass(frozen=True)
class Training:
    """How a cell trains, resolved to its model and dataset; crops are counted from the shards when it runs."""

    epochs: int
    batch: int
    learning_rate: float
    settings: dict[str, Any]  # optimiser, schedule, early stopping, precision, validations


@dataclass(frozen=True)
class Cell:
    """One run of the study: a trained model, an untrained one, or a baseline that no training touches: a network whose
    weights come from disk, profiles measured elsewhere, or pixel statistics."""

    kind: Kind
    model: str
    architecture: dict[str, Any] | None  # the model's fields and those of `Mae` that it heeds
    dataset: str | None
    data: dict[str, Any] | None  # what decides which images are seen, never where they lie
    training: Training | None
    seed: int
    id: str = field(init=False)

    def __post_init__(self) -> None:
        science = {name: value for name, value in vars(self).items() if name != "training"}
        science |= {"version": ID_VERSION, "training": asdict(self.training) if self.training else None}
        parts = [self.model, self.dataset or self.kind, f"s{self.seed}", fingerprint(science)[:8]]
        object.__setattr__(self, "id", "-".join(dict.fromkeys(parts)))


def fingerprint(science: Any) -> str:  # noqa: ANN401  (any JSON value)
    """SHA-256 of the canonical JSON of `science`: equal for equal values, whatever the order of keys."""
    return hashlib.sha256(json.dumps(science, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def cells(recipe: Recipe) -> list[Cell]:
    """Every cell of the grid: baselines first, then models × datasets × seeds from cheap to dear."""
    grid, models = recipe.grid, recipe.trained_models
    found = [_pixel_statistics(recipe)] if grid.pixel_statistics and recipe.embed is not None else []
    found += [_fixed(recipe, model) for model in grid.models if model not in models]
    if grid.untrained:
        found += [_untrained(recipe, model, seed) for seed, model in itertools.product(grid.seeds, models)]
    excluded = {(pair.model, pair.dataset) for pair in grid.exclude}
    found += [
        _trained(recipe, model, dataset, seed)
        for seed, dataset, model in itertools.product(grid.seeds, grid.datasets, models)
        if (model, dataset) not in excluded
    ]
    return found


def _pixel_statistics(recipe: Recipe) -> Cell:
    return Cell("pixel_statistics", PIXEL_STATISTICS, None, None, None, None, 0)


def _fixed(recipe: Recipe, model: str) -> Cell:
    chosen = recipe.models[model]
    if isinstance(chosen, Profiles):
        return Cell("profiles", model, None, None, None, None, 0)
    return Cell("pretrained", model, architecture(chosen, recipe.mae), None, None, None, 0)


def _untrained(recipe: Recipe, model: str, seed: int) -> Cell:
    return Cell("untrained", model, architecture(recipe.models[model], recipe.mae), None, None, None, seed)


def _trained(recipe: Recipe, model: str, dataset: str, seed: int) -> Cell:
    train = recipe.train
    training = Training(
        epochs=per_name(train.epochs, dataset),
        batch=per_name(train.batch, dataset),
        learning_rate=per_name(train.learning_rate, model),
        settings=_settings(train, model),
    )
    network = architecture(recipe.models[model], recipe.mae)
    return Cell("trained", model, network, dataset, _data(recipe, dataset), training, seed)


def _settings(train: Train, model: str) -> dict[str, Any]:
    """All that `Training` has no field for. Of what guards a run, only leave to skip updates changes a result."""
    elsewhere = {"epochs", "batch", "learning_rate", "skip_limit", "optimiser", "optimisers"}
    elsewhere |= set() if train.nonfinite == "skip" else {"nonfinite"}
    elsewhere |= set() if train.spike == "skip" else {"spike", "spike_factor"}
    optimiser = train.optimisers.get(model, train.optimiser)
    return {**train.model_dump(mode="json", exclude=elsewhere), "optimiser": optimiser.science()}


def _data(recipe: Recipe, dataset: str) -> dict[str, Any]:
    """Which images and in what order: the dataset's name and fraction, how prepared shards are rendered and split."""
    chosen = recipe.datasets[dataset]
    science: dict[str, Any] = {"dataset": dataset, "fraction": chosen.fraction}
    if chosen.order == "stream":
        science["stream"] = chosen.stream.model_dump(mode="json")
    made = [build for build in recipe.prepare.build if build.output == chosen.shards]
    if made:
        elsewhere = {"root", "output", "workers", "on_error", "codec", "chunk"}
        science["build"] = made[0].model_dump(mode="json", exclude=elsewhere, exclude_none=True)
        assay = recipe.prepare.assay
        if assay is not None and assay.output == Path(made[0].root):
            science["assay"] = assay.model_dump(mode="json", exclude={"output"})
    return science


def model_kind(cell: Cell) -> str | None:
    """Which kind of network a cell has (`recipe_models.py`); None for one that has none."""
    return None if cell.architecture is None else str(cell.architecture.get("kind", DEFAULT_KIND))


def find_cell(recipe: Recipe, name: str) -> Cell:
    """The cell of that id, or the only one whose id starts with it.

    Raises:
        ValueError: there is none, or more than one.
    """
    found = cells(recipe)
    matching = [cell for cell in found if cell.id == name] or [cell for cell in found if cell.id.startswith(name)]
    if len(matching) != 1:
        several = ", ".join(cell.id for cell in matching or found)
        raise ValueError(f"{name!r} names {len(matching)} cells of this recipe; choose one of: {several}")
    return matching[0]


def weights_path(recipe: Recipe, cell: Cell) -> Path | None:
    """The file that a cell's weights begin with, or that holds them, if there is one."""
    model = recipe.models.get(cell.model)
    return model.weights.path if isinstance(model, DenseNet | Imagenet) and model.weights else None
