"""The learning-rate sweep of `tune`: at which model, data set and length, over which rates, as a recipe of its own.

Pure functions. `launch/tune.py` runs the sweep and reads it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from analysis.compute.flops import flops_per_crop
from harness.grid.cell import Cell
from harness.grid.cells import cells
from harness.models.architecture import cost_of
from harness.plan.cost import training_images
from harness.recipe.axes import problems_of_axes
from harness.recipe.fields import per_name
from harness.recipe.models import VitSection
from harness.recipe.schema import Recipe

WIDTHS, DEPTHS = (32, 1024), (1, 24)  # at which activations were measured to keep their size, or rates compared
ENOUGH_STEPS = 2000
DIGITS = 3  # of a rate
RATE = "train.learning_rate"
MUP = "mup"


@dataclass(frozen=True)
class Design:
    """One size of the sweep."""

    model: str
    dataset: str
    epochs: int
    steps: int
    own_rate: float  # the recipe's
    notes: tuple[str, ...]  # what is not as it should be


@dataclass(frozen=True)
class Spread:
    """The rates of a first sweep around a centre."""

    rates: int = 5
    octaves: float = 4.0  # from the lowest to the highest

    def __post_init__(self) -> None:
        if not 3 <= self.rates <= 25:
            raise ValueError(f"--rates {self.rates}: a sweep has 3 to 25 rates")
        if not 0.5 <= self.octaves <= 20:
            raise ValueError(f"--octaves {self.octaves:g}: the rates of a sweep span 0.5 to 20 octaves")

    @property
    def step(self) -> float:
        """Octaves between neighbouring rates."""
        return self.octaves / (self.rates - 1)

    def around(self, centre: float) -> list[float]:
        """The rates, lowest first."""
        middle = (self.rates - 1) / 2
        return [moved(centre, (place - middle) * self.step) for place in range(self.rates)]


def moved(rate: float, octaves: float) -> float:
    """A rate so many octaves away, to three digits."""
    return float(f"{rate * 2.0**octaves:.{DIGITS}g}")


def parametrisation(recipe: Recipe) -> str:
    """How initial values and rates follow a model's size."""
    return str(getattr(recipe.mae, "parametrisation", "standard"))


def designs(recipe: Recipe) -> list[Design]:
    """The sizes of a sweep, the representative one first, then by cost.

    Representative is the model that costs least to train of the kind that most of the grid's trained models are of,
    and, of those, of a width and depth that docs/parametrisation.md has measured. It trains on the smallest of the
    grid's data sets whose epochs fill `ENOUGH_STEPS`, for as many epochs as that takes; where none does, on that with
    most steps.

    Raises:
        ValueError: the grid trains no model that reconstructs, or the size of its data sets is not known.
    """
    by_model = {cell.model: cell for cell in _without_axes(recipe) if cell.kind == "trained" and not cell.is_classifier}
    if not by_model:
        raise ValueError("the grid trains no model that reconstructs, so there is no learning rate to tune")
    kind = Counter(cell.network_kind for cell in by_model.values()).most_common(1)[0][0]
    family = sorted((cell for cell in by_model.values() if cell.network_kind == kind), key=_cost)
    inside = [cell for cell in family if _transfers(cell)]
    ordered = inside + [cell for cell in family if cell not in inside]
    return [_design(recipe, cell, cell in inside) for cell in ordered]


def _without_axes(recipe: Recipe) -> list[Cell]:
    """The cells of the recipe itself, whatever its axes are."""
    return cells(recipe.model_copy(update={"grid": recipe.grid.model_copy(update=NO_AXES)}))


NO_AXES: dict[str, Any] = {"axes": {}, "variants": {}, "exclude": []}


def _cost(cell: Cell) -> float:
    assert cell.architecture is not None
    return flops_per_crop("mae_train", cost_of(cell.architecture))


def _transfers(cell: Cell) -> bool:
    """Whether a model's width and depth are in the measured range; a network without these has no such range."""
    model = cell.architecture.model if cell.architecture else None
    if not isinstance(model, VitSection):
        return True
    return WIDTHS[0] <= model.width <= WIDTHS[1] and DEPTHS[0] <= model.depth <= DEPTHS[1]


def _design(recipe: Recipe, cell: Cell, transfers: bool) -> Design:
    train = recipe.train
    lengths = {
        name: per_name(train.epochs, name) * training_images(recipe, name) // per_name(train.batch, name)
        for name in recipe.grid.datasets
    }
    long_enough = [name for name in lengths if lengths[name] >= ENOUGH_STEPS]
    dataset = min(long_enough, key=lambda name: training_images(recipe, name)) if long_enough else max(
        lengths, key=lambda name: lengths[name]
    )  # fmt: skip
    images, batch, epochs = training_images(recipe, dataset), per_name(train.batch, dataset), per_name(
        train.epochs, dataset
    )  # fmt: skip
    epochs = min(epochs, -(-ENOUGH_STEPS * batch // images))
    notes = [] if transfers else [
        f"no model is {WIDTHS[0]} to {WIDTHS[1]} wide and {DEPTHS[0]} to {DEPTHS[1]} blocks deep, the range that "
        "docs/parametrisation.md has measured"
    ]  # fmt: skip
    if not long_enough:
        notes.append(f"{lengths[dataset]:,} steps are fewer than {ENOUGH_STEPS:,}: no data set of the grid fills them")
    own = per_name(train.learning_rate, cell.model)
    return Design(cell.model, dataset, epochs, epochs * images // batch, own, tuple(notes))


def derived(
    recipe: Recipe, design: Design, rates: Sequence[float], without: Sequence[float] = (), seeds: int = 1
) -> Recipe:
    """The sweep as a recipe: one model and data set, without embedding and evaluation, at each of the rates.

    Args:
        recipe: the study.
        design: the size.
        rates: of the sweep.
        without: those of them that are not run, as they are known to diverge.
        seeds: how many, from the recipe's first on.

    Raises:
        ValueError: a rate that no recipe can have; the message names the field.
    """
    tree = recipe.model_dump()
    tree["output"] = folder(recipe, design)
    tree["embed"] = tree["evaluate"] = None
    tree["launch"]["stop_when"] = None  # a parabola needs the ends of all runs
    tree["train"] |= {"epochs": {design.dataset: design.epochs}, "early_stopping": None}
    tree["train"] |= {"snapshots": [], "start_from": {}}
    tree["train"]["schedule"] |= {"ends": [1.0]} if "ends" in tree["train"]["schedule"] else {}
    tree["grid"] |= {
        "models": [design.model],
        "datasets": [design.dataset],
        "seeds": [recipe.grid.seeds[0] + n for n in range(seeds)],
    }
    tree["grid"] |= NO_AXES | {"axes": {RATE: sorted(rates)}, "untrained": False, "pixel_statistics": False}
    tree["grid"]["exclude"] = [{RATE: rate} for rate in without]
    try:
        sweep = type(recipe).model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    problems = sweep.inconsistencies() or problems_of_axes(sweep)
    if problems:
        raise ValueError("; ".join(f"{'.'.join(map(str, place))}: {text}" for place, text in problems))
    return sweep


def folder(recipe: Recipe, design: Design) -> Path:
    """Where the sweep of a size is kept."""
    return recipe.output / "tune" / design.model
