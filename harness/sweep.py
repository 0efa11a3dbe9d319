"""The command line: `python -m harness.sweep recipes/scaling.yaml` plans, runs and reports a complete study.

Running it again runs what is missing and repeats nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from analysis.figures.text_table import counted
from harness.check import command as checking
from harness.check.problem import Problem
from harness.grid.cell import Cell
from harness.grid.cells import cells, find_cell
from harness.launch import owner, status
from harness.launch.arguments import parse
from harness.launch.owner import keep_recipe
from harness.launch.status_table import as_json, slow_nodes, table
from harness.launch.watch import watch
from harness.plan.fit import check_fit
from harness.recipe.errors import RecipeError
from harness.recipe.load import default_profile, json_schema, load, load_kept, to_yaml
from harness.recipe.schema import Recipe
from harness.report import plan_command
from harness.stages import missing as stages
from harness.stages.missing import CellWork, StageError
from harness.stages.tasks import missing_tasks
from harness.storage.ledger import LedgerError
from harness.storage.ledger_cache import kept_rows
from harness.storage.locks import holder, locked

OF_CELLS = ("logs", "cancel", "forecast")
CLAIMING = ("run", "resume")  # an output belongs to the recipe that was first run
BRIEF = ("plan", "status")
GARBAGE = 200_000  # objects that are kept before Python looks for garbage: the cells of a large study are none
WRITING = ("cancel", "report", "forecast")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, act, and return the exit status.

    0 done, 1 cells failed, `check` or `plan` found a problem, a damaged file is left out of the report, or SLURM does
    not answer `status`, 2 invalid request, 130 interrupted.
    """
    try:
        status = _act(parse(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (RecipeError, StageError, LedgerError, ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes from here", file=sys.stderr)
        return 130
    return status


def _act(options: argparse.Namespace) -> int:
    if options.verb in BRIEF:
        gc.freeze()
        gc.set_threshold(GARBAGE)
    if options.json_schema:
        print(json.dumps(json_schema(), indent=1))
        return 0
    if options.fields:
        from harness.authoring.reference import page

        print(page(), end="")
        return 0
    if options.verb == "init":
        return _init(options)
    recipe, source = _load(options)
    if options.print_recipe:
        print(to_yaml(recipe), end="")
        return 0
    if not options.json:
        print(source, flush=True)
    named = _named_cells(recipe, options.verb, [word for word in options.words if "=" not in word])
    path = _recipe_path(recipe, options)
    if options.verb in CLAIMING:
        owner.claim(recipe.output, recipe.name, path)
    elif options.verb in WRITING:
        owner.check(recipe.output, path)
    with kept_rows(recipe.output, write=options.verb == "status"):
        return ACTIONS[options.verb](recipe, options, named)


def _init(options: argparse.Namespace) -> int:
    from harness.authoring.command import init
    from harness.authoring.draft import Machine
    from harness.check.machine import cores, gpus

    if options.recipe is None:
        raise RecipeError("init takes a shard set: python -m harness.sweep init shards/mine")
    return init(options.recipe, options.output, Machine(cores(), gpus()))


def _load(options: argparse.Namespace) -> tuple[Recipe, str]:
    """The recipe, and which one it is in words."""
    if options.recipe is None:
        raise RecipeError("no recipe given; try python -m harness.sweep recipes/scaling.yaml")
    overrides = [word for word in options.words if "=" in word]
    if options.recipe.is_dir():
        if options.profile:
            raise RecipeError(f"--profile is of a recipe; that in {options.recipe} is resolved already")
        return load_kept(options.recipe, overrides), f"{options.recipe}: the recipe as it was run last"
    profile, why = (options.profile, "as requested") if options.profile else default_profile()
    return load(options.recipe, profile, overrides), f"profile {profile}: {why}"


def _recipe_path(recipe: Recipe, options: argparse.Namespace) -> Path:
    """The recipe that was named, or that the output which was named belongs to."""
    return owner.recipe_of(recipe.output) if options.recipe.is_dir() else Path(options.recipe)


def _named_cells(recipe: Recipe, verb: str, words: Sequence[str]) -> list[Cell]:
    """The cells that the words name.

    Raises:
        RecipeError: the verb takes no cells, or another number of them.
        ValueError: a word names no cell, or several.
    """
    if words and verb not in OF_CELLS:
        raise RecipeError(f"{words[0]!r} is not of the form field=value; only {', '.join(OF_CELLS)} take cells")
    if verb == "logs" and len(words) != 1:
        raise RecipeError("logs takes one cell: python -m harness.sweep logs RECIPE CELL")
    return [find_cell(recipe, word) for word in words]


def _check(recipe: Recipe, options: argparse.Namespace, named: Sequence[Cell]) -> int:
    return checking.report(recipe, _of_another(recipe, options), json=options.json)


def _of_another(recipe: Recipe, options: argparse.Namespace) -> list[Problem]:
    """That the output belongs to another recipe, if it does."""
    try:
        owner.check(recipe.output, _recipe_path(recipe, options))
    except owner.OwnerError as error:
        return [Problem("output", str(error))]
    return []


def _plan(recipe: Recipe, options: argparse.Namespace, named: Sequence[Cell]) -> int:
    status = plan_command.plan(recipe, options)
    if options.next or options.power is not None:
        return status
    return max(status, checking.before_plan(recipe, _of_another(recipe, options)))


def _frontier(recipe: Recipe, options: argparse.Namespace, named: Sequence[Cell]) -> int:
    return plan_command.frontier(recipe, options)


def _status(recipe: Recipe, options: argparse.Namespace, named: Sequence[Cell]) -> int:
    if options.watch:
        return watch(recipe)
    try:
        rows = status.statuses(recipe)
    except StageError:
        if (sweep := holder(recipe.output / owner.SWEEP_LOCK)) is None:
            raise
        print(f"no cell has begun: the sweep is preparing the shards ({sweep})")
        return 0
    lines = [as_json(rows)] if options.json else [table(rows), *slow_nodes(recipe)]
    print(*lines, sep="\n")
    return 1 if any(row.as_of for row in rows) else 0


def _logs(recipe: Recipe, options: argparse.Namespace, named: Sequence[Cell]) -> int:
    from harness.launch.local.logs import read_local_log
    from harness.launch.slurm.logs import has_jobs, read_logs

    here = read_local_log(recipe.output, named[0].id) if options.rank is None else None
    on_cluster = read_logs(recipe, named[0], options.rank) if here is None or has_jobs(recipe, named[0]) else None
    print(*filter(None, [here, on_cluster]), sep="\n")
    return 0


def _cancel(recipe: Recipe, options: argparse.Namespace, named: Sequence[Cell]) -> int:
    from harness.launch.local.cancel import wait_for_sweep
    from harness.launch.slurm.cancel import cancel, cancel_orphans

    grid = [cell.id for cell in cells(recipe)]
    if options.orphans and named:
        raise RecipeError("cancel takes cells or --orphans, not both")
    result = cancel_orphans(recipe, grid) if options.orphans else cancel(recipe, grid, [c.id for c in named] or None)
    here = 0 if options.orphans else wait_for_sweep(recipe.output, [c.id for c in named] or grid)
    at_home = f"{counted(here, 'cell')} of the sweep on this machine"
    ended = f"{result.jobs} jobs" if result.jobs or not here else at_home
    print(f"cancelled {ended}; what is cancelled stays so until resume")
    return 0


def _counts(work_items: Sequence[CellWork]) -> str:
    left = sum(1 for work in work_items if work.missing)
    return f"{len(work_items)} cells: {len(work_items) - left} done, {left} to do"


def _run(recipe: Recipe, options: argparse.Namespace, named: Sequence[Cell]) -> int:
    from harness.launch.local.cancel import not_cancelled
    from harness.launch.local.progress import run_with_progress
    from harness.launch.slurm.book.evidence import refuse_jobs

    if recipe.launch.executor == "slurm":
        with locked(recipe.output / "prepare.lock", f"another command that prepares {recipe.output}"):
            _prepare(recipe, force=options.force)
        return _submit(recipe, options)
    with locked(recipe.output / owner.SWEEP_LOCK, f"another sweep of {recipe.output}", wait=False):
        _prepare(recipe, force=options.force)
        work_items = stages.missing_of_all(recipe, cells(recipe))
        refuse_jobs(
            recipe.output, [(work.cell.id, task) for work in work_items for task in missing_tasks(recipe, work)]
        )
        print(
            _counts(work_items) + ("" if any(work.missing for work in work_items) else "; nothing to run"), flush=True
        )
        to_do = not_cancelled(recipe.output, [work for work in work_items if work.missing], options.verb == "resume")
        missing = [work.cell for work in to_do]
        check_fit(recipe, [(work.cell, work.missing) for work in to_do], force=options.force)
        failed = run_with_progress(recipe, missing)
        status_of_report = _draw(recipe)
    if failed:
        print(f"{failed} of {len(missing)} cells failed; the same command tries them again", file=sys.stderr)
    return 1 if failed else status_of_report


def _prepare(recipe: Recipe, *, force: bool) -> None:
    """Check the study, keep its recipe, make what it lacks, and check that too.

    Raises:
        RecipeError: something keeps the study from running, and `force` is not set.
    """
    from harness.data.prepare import prepare

    unseen = checking.before_run(recipe, force=force)
    if recipe.launch.executor == "local":  # on SLURM, once jobs are submitted
        keep_recipe(recipe)
    prepare(recipe)
    if unseen:
        checking.before_run(recipe, force=force)


def _submit(recipe: Recipe, options: argparse.Namespace) -> int:
    from harness.launch.slurm.options import warnings
    from harness.launch.slurm.report_job import report_and_resume
    from harness.launch.slurm.submit import submit

    for warning in warnings(recipe):
        print(f"warning: {warning}", file=sys.stderr)
    work_items = stages.missing_of_all(recipe, cells(recipe))
    check_fit(recipe, [(work.cell, work.missing) for work in work_items if work.missing], force=options.force)
    submission = submit(recipe, work_items, report_and_resume, options.force, resume=options.verb == "resume")
    keep_recipe(recipe)
    print("\n".join([_counts(work_items), *submission.lines()]))
    is_waiting = bool(submission.entries or submission.held or submission.limit)
    if not is_waiting and any(work.missing for work in work_items):
        print("every missing cell is already queued or running")
    if not any(work.missing for work in work_items):
        return _draw(recipe)
    if options.watch:
        return watch(recipe)
    print("jobs run without this command: status shows them, cancel ends them, run again submits what is left")
    return 0


def _report(recipe: Recipe, options: argparse.Namespace, named: Sequence[Cell]) -> int:
    return _draw(recipe)


def _draw(recipe: Recipe) -> int:
    """Draw the report; exit status 1 if something is wrong with a file that it leaves out."""
    from harness.report.comparisons import rates
    from harness.report.forecasts import score
    from harness.report.write import has_faults, report

    for path in report(recipe):
        print(f"wrote {path}")
    grid = cells(recipe)
    for line in [*rates.lines(rates.rate_sweeps(recipe, grid)), *score.lines(recipe, grid)]:
        print(line)
    return 1 if has_faults(recipe) else 0


def _forecast(recipe: Recipe, options: argparse.Namespace, named: Sequence[Cell]) -> int:
    from harness.report.forecasts import command

    sealed = command.seal_forecast(recipe, named)
    print(command.as_json(sealed) if options.json else command.text(sealed))
    return 0


def _tune(recipe: Recipe, options: argparse.Namespace, named: Sequence[Cell]) -> int:
    from harness.data.prepare import prepare
    from harness.launch import tune
    from harness.plan.tuning import Spread

    def run(sweep: Recipe) -> int:
        owner.claim(sweep.output, sweep.name, sweep.output / tune.RECIPE)
        return _run(sweep, options, ())

    spread = Spread(options.rates, options.octaves)
    if options.dry_run:
        print(tune.plan(recipe, spread, options.each))
        return 0
    prepare(recipe)
    return tune.tune(recipe, spread, options.each, run)


ACTIONS: dict[str, Callable[[Recipe, argparse.Namespace, Sequence[Cell]], int]] = {
    "run": _run,
    "check": _check,
    "plan": _plan,
    "status": _status,
    "logs": _logs,
    "resume": _run,
    "cancel": _cancel,
    "report": _report,
    "forecast": _forecast,
    "frontier": _frontier,
    "tune": _tune,
}


if __name__ == "__main__":
    sys.exit(main())
