"""`python -m harness.sweep tune RECIPE`: sweep the learning rate, read its optimum, and print the lines to paste.

The sweep is a study of its own below `<output>/tune`, which runs as any study does, locally or on SLURM. Its next rates
follow from the results alone, so the same command resumes it, and says the result again once it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import TYPE_CHECKING

from harness.grid.cell import Cell
from harness.grid.cells import cells
from harness.plan.cost import plan_cells
from harness.plan.table import table
from harness.plan.tuning import MUP, Design, Spread, derived, designs, folder, moved, parametrisation
from harness.recipe.fields import per_name
from harness.recipe.load import to_yaml
from harness.recipe.schema import Recipe
from harness.report.comparisons.rates import diverged, lines, rate_sweeps
from harness.report.rows import train_values
from harness.storage.atomic import write_atomic

if TYPE_CHECKING:
    from analysis.design.rates.table import Sweep

RECIPE = "recipe.yaml"  # of a sweep, in its output
MOST_EXTENSIONS = 4
BEYOND = 2  # rates that an extension adds beyond the edge
SAME = 1e-6  # of two rates
Run = Callable[[Recipe], int]


@dataclass(frozen=True)
class Reading:
    """What the sweep of a size says so far."""

    design: Design
    rates: tuple[float, ...]
    sweep: Sweep
    open: int  # cells that are neither trained nor known to diverge

    @property
    def best(self) -> float | None:
        reading = self.sweep.reading
        return reading.rate if reading and not self.open else None


def plan(recipe: Recipe, spread: Spread, each: bool) -> str:
    """What the first sweep of each size would cost; extensions come on top."""
    parts = []
    for design in _sizes(recipe, each):
        sweep = derived(recipe, design, spread.around(design.own_rate))
        parts += [*_about(design), table(sweep, plan_cells(sweep, cells(sweep)))]
    most = f"up to {MOST_EXTENSIONS} extensions by at most {BEYOND} rates each, if the best rate lies at an edge"
    return "\n".join([*parts, f"and {most}"])


def tune(recipe: Recipe, spread: Spread, each: bool, run: Run) -> int:
    """Sweep, read, print; `run` runs what is missing of a recipe. Exit status 1 if a rate is not found.

    Raises:
        ValueError: there is nothing to tune, or the sweep cannot be made.
    """
    found: dict[str, float] = {}
    centre = None
    for design in _sizes(recipe, each):
        print("\n".join(_about(design)), flush=True)
        reading = _swept(recipe, design, spread, centre or design.own_rate, run)
        if reading.open:
            print(f"{reading.open} cells are not trained yet; the same command goes on from there")
            return 0 if recipe.launch.executor == "slurm" else 1
        print("\n".join(lines([reading.sweep])))
        print(f"plots and tables: {folder(recipe, design) / 'report' / 'report.html'}")
        if reading.best is None:
            print(f"no learning rate is proposed: after {len(reading.rates)} rates the sweep shows no optimum")
            return 1
        centre = found[design.model] = moved(reading.best, 0)
    print("\n".join(advice(recipe, found)))
    return 0


def _sizes(recipe: Recipe, each: bool) -> list[Design]:
    found = designs(recipe)
    return found if each else found[:1]


def _about(design: Design) -> list[str]:
    """Where the sweep is done."""
    first = (
        f"learning rates of {design.model} on {design.dataset}, {design.epochs} epochs of {design.steps:,} steps in all"
    )
    return [first, *(f"warning: {note}" for note in design.notes)]


def _swept(recipe: Recipe, design: Design, spread: Spread, centre: float, run: Run) -> Reading:
    """Run the sweep, and extend it while its best rate lies at an edge, at most so many times."""
    rates, seeds = spread.around(centre), 1
    for _ in range(MOST_EXTENSIONS):
        reading = _measured(recipe, design, rates, seeds, run)
        if reading.open or reading.best is not None:
            return reading
        more = further(reading.sweep, spread.step)
        seeds += not more
        added = f"rates {', '.join(f'{rate:g}' for rate in more)}" if more else "another seed"
        print(f"{reading.sweep.text}\nextended by {added}", flush=True)
        rates = sorted({*rates, *more})
    return _measured(recipe, design, rates, seeds, run)


def _measured(recipe: Recipe, design: Design, rates: Sequence[float], seeds: int, run: Run) -> Reading:
    """What the sweep says, once what is missing has run; a rate that diverged is not run again."""
    reading = _read(recipe, design, rates, seeds)
    if reading.open:
        sweep = derived(recipe, design, rates, seeds=seeds)
        lost = [_rate(cell) for cell in cells(sweep) if diverged(sweep, cell) and train_values(sweep, cell) is None]
        _write_recipe(sweep)
        run(derived(recipe, design, rates, lost, seeds))
        reading = _read(recipe, design, rates, seeds)
    return reading


def _write_recipe(sweep: Recipe) -> None:
    """The sweep's own recipe, by which `status`, `logs` and `cancel` find its cells."""
    text = f"{to_yaml(sweep)}profiles: {{laptop: {{}}, slurm: {{}}}}\n"
    path = sweep.output / RECIPE
    write_atomic(path, lambda file: file.write(text.encode()))
    print(f"the sweep is a study of its own: status, logs and cancel take {path}", flush=True)


def _read(recipe: Recipe, design: Design, rates: Sequence[float], seeds: int) -> Reading:
    sweep = derived(recipe, design, rates, seeds=seeds)
    grid = cells(sweep)
    still_open = sum(train_values(sweep, cell) is None and not diverged(sweep, cell) for cell in grid)
    return Reading(design, tuple(rates), rate_sweeps(sweep, grid)[0], still_open)


def _rate(cell: Cell) -> float:
    assert cell.training is not None
    return cell.training.learning_rate


def further(sweep: Sweep, step: float) -> list[float]:
    """The rates that a finished sweep lacks: beyond an edge, or between the best and one that diverged.

    None if it has an optimum, or if only noise hides it: then another seed tells, and closer rates would not.

    Args:
        sweep: what was measured.
        step: octaves between the rates of the first sweep.
    """
    reading = sweep.reading
    if reading is None:  # fewer than 3 rates did not diverge
        return [moved(float(sweep.rate.min()), -step * place) for place in (1, BEYOND)]
    if reading.rate is not None:
        return []
    if reading.edge in ("lowest", "highest"):
        side = -step if reading.edge == "lowest" else step
        return [moved(reading.best_run, side * place) for place in (1, BEYOND)]
    if reading.edge is None:
        return []
    apart = [float(rate) for rate in sweep.rate if not isclose(rate, reading.best_run, rel_tol=SAME)]
    beside = [max((rate for rate in apart if rate < reading.best_run), default=None),
              min((rate for rate in apart if rate > reading.best_run), default=None)]  # fmt: skip
    return [moved((reading.best_run * rate) ** 0.5, 0) for rate in beside if rate is not None]


def advice(recipe: Recipe, found: Mapping[str, float]) -> list[str]:
    """The result for a terminal: whether it transfers, and the lines to paste into the recipe.

    Args:
        recipe: the study.
        found: the best rate of each model that was swept.
    """
    return ["", *_transfer(recipe, found), "", "in the recipe, in place of train.learning_rate:", paste(recipe, found)]


def _transfer(recipe: Recipe, found: Mapping[str, float]) -> Iterator[str]:
    names = " and ".join(found)
    others = [name for name in recipe.trained_models if name not in found]
    if parametrisation(recipe) == MUP:
        yield (
            "under mae.parametrisation mup this learning rate is meant for every size of the grid; "
            "docs/parametrisation.md says how far that is measured, and --each sweeps every size"
        )
        if any(recipe.train.optimisers.get(name, recipe.train.optimiser).name == "muon" for name in found):
            yield "with muon the best rate moved by more than an octave in miniature: check it at another size"
    elif others:
        yield (
            f"under mae.parametrisation standard a rate does not transfer to other sizes: this is the rate of {names} "
            f"alone. --each sweeps {', '.join(others)} too"
        )


def paste(recipe: Recipe, found: Mapping[str, float]) -> str:
    """YAML of `train.learning_rate` with the rates that were found; those of other models stay as they are."""
    import yaml

    own = recipe.train.learning_rate
    by_model = {name: per_name(own, name) for name in recipe.trained_models} | dict(found)
    one = parametrisation(recipe) == MUP or len(set(by_model.values())) == 1
    rates = next(iter(found.values())) if one else by_model
    return yaml.safe_dump({"train": {"learning_rate": rates}}, sort_keys=False).rstrip()
