"""The command line: `python -m harness.sweep recipes/scaling.yaml` plans, runs and reports a complete study.

Running it again runs what is missing and repeats nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.check import command as checking
from harness.check.problem import Problem
from harness.grid.cell import Cell
from harness.grid.cells import cells, find_cell
from harness.launch import owner, status
from harness.launch.watch import watch
from harness.plan.fit import check_fit
from harness.recipe.errors import RecipeError
from harness.recipe.load import default_profile, json_schema, load, to_yaml
from harness.recipe.schema import Recipe
from harness.report import plan_command
from harness.stages import missing as stages
from harness.stages.missing import CellWork, StageError
from harness.stages.tasks import missing_tasks
from harness.storage.ledger import LedgerError
from harness.storage.ledger_cache import kept_rows
from harness.storage.locks import locked

VERBS = {
    "run": "run what is missing of the study, then draw the report (the default verb)",
    "init": "write a first recipe for the SHARDS named, with this machine's defaults (--output recipe.yaml)",
    "check": "look for mistakes in recipe, shards, tables and machine, and run nothing; run does so too (--json)",
    "plan": "print the cost of every cell, and run nothing",
    "status": "print the state of every cell, and where the loss of running ones will end (--watch, --json)",
    "logs": "print the first failure of a CELL, or the log of one of its ranks (--rank)",
    "resume": "submit again what is missing, failed or cancelled; --force: permanent failures too",
    "cancel": "cancel the study's jobs, or those of the CELLs named, until resume (--orphans)",
    "report": "draw plots and tables from the current ledger, and print the best learning rates",
    "forecast": "predict the CELLs named, or all that are not done, and seal the prediction (--json)",
    "frontier": "print the best model size over a life of --screens of --wells, from the runs that are finished",
    "tune": "sweep the learning rate of the smallest model, and print the lines to paste (--rates, --each, --dry-run)",
}
EXAMPLES = """examples:
  python -m harness.sweep init shards/mine --output mine.yaml
  python -m harness.sweep recipes/scaling.yaml
  python -m harness.sweep check recipes/scaling.yaml --profile laptop
  python -m harness.sweep plan recipes/scaling.yaml --profile slurm
  python -m harness.sweep recipes/scaling.yaml 'grid.models=[vit_s16]' train.epochs=2
  python -m harness.sweep status recipes/scaling.yaml --watch
  python -m harness.sweep tune recipes/scaling.yaml --profile laptop --dry-run
  python -m harness.sweep logs recipes/scaling.yaml vit_l8-rxrx3-s0 --rank 3
"""
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
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] not in {*VERBS, "-h", "--help", "--json-schema", "--fields"}:
        words.insert(0, "run")
    options = _parser().parse_intermixed_args(words)
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
    try:
        return _act(options)
    except (RecipeError, StageError, LedgerError, ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    verbs = "\n".join(f"  {name:<10}{meaning}" for name, meaning in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="python -m harness.sweep",
        description=f"Run a scaling study from a recipe.\n\nverbs:\n{verbs}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=VERBS, nargs="?", default="run", metavar="verb")
    parser.add_argument("recipe", type=Path, nargs="?", help="a YAML file such as recipes/scaling.yaml")
    words = "fields that override the recipe and its profile; logs, cancel, forecast: cells, by id or its beginning"
    parser.add_argument("words", nargs="*", metavar="field=value|cell", help=words)
    parser.add_argument("--profile", help="a profile of the recipe; default: slurm where sbatch answers, else laptop")
    parser.add_argument("--print-recipe", action="store_true", help="show the resolved recipe and stop")
    parser.add_argument("--watch", action="store_true", help="status, run: refresh until nothing is queued or running")
    parser.add_argument("--json", action="store_true", help="check, plan, status, frontier, forecast: print JSON")
    parser.add_argument("--next", type=int, metavar="K", help="plan: propose K runs to do next, from what is evaluated")
    parser.add_argument(
        "--budget",
        type=float,
        default=math.inf,
        metavar="GPU_HOURS",
        help="plan --next: limit for all K together; frontier: what is best for a life of this cost",
    )
    parser.add_argument(
        "--power", type=float, nargs="?", const=0.01, metavar="SLOPE",
        help="plan: which difference in recall the study can tell, and what a slope needs (default 0.01 per decade)",
    )  # fmt: skip
    parser.add_argument("--target", type=float, metavar="FLOPS", help="plan --next: where recall is to be predicted")
    parser.add_argument(
        "--measure-memory", action="store_true", help="plan: also by torch's memory tracker over fake ranks"
    )
    parser.add_argument("--screens", type=int, default=10, help="frontier: screens that a model embeds (default 10)")
    parser.add_argument(
        "--wells", type=float, help="frontier: wells of a screen; default: those that the recipe embeds"
    )
    parser.add_argument("--recall", type=float, help="frontier: mean recall that is wanted; default: the best run's")
    parser.add_argument("--loss", type=float, help="frontier: validation loss that is wanted; default: the best run's")
    help_force = "resume: also what failed for a permanent reason; run: also what `check` refuses, or does not fit"
    parser.add_argument("--force", action="store_true", help=help_force)
    help_orphans = "cancel: only live jobs of cells that the recipe no longer has, after an edit"
    parser.add_argument("--orphans", action="store_true", help=help_orphans)
    parser.add_argument("--rank", type=int, help="logs: the log of this rank")
    parser.add_argument("--rates", type=int, default=5, help="tune: learning rates of the first sweep (default 5)")
    parser.add_argument("--octaves", type=float, default=4.0, help="tune: from its lowest to its highest (default 4)")
    parser.add_argument("--each", action="store_true", help="tune: every size of the grid, not the smallest alone")
    parser.add_argument("--dry-run", action="store_true", help="tune: print what the sweep would cost, and run nothing")
    parser.add_argument("--output", type=Path, help="init: the recipe to write; default: named after the shards")
    parser.add_argument("--json-schema", action="store_true", help="print the recipe's JSON schema and stop")
    parser.add_argument("--fields", action="store_true", help="print the page of all fields, docs/recipe.md, and stop")
    return parser


def _act(options: argparse.Namespace) -> int:
    if options.recipe is None:
        raise RecipeError("no recipe given; try python -m harness.sweep recipes/scaling.yaml")
    if options.verb == "init":
        return _init(options)
    profile, why = (options.profile, "as requested") if options.profile else default_profile()
    overrides = [word for word in options.words if "=" in word]
    recipe = load(options.recipe, profile, overrides)
    if options.print_recipe:
        print(to_yaml(recipe), end="")
        return 0
    if not options.json:
        print(f"profile {profile}: {why}", flush=True)
    named = _named_cells(recipe, options.verb, [word for word in options.words if "=" not in word])
    if options.verb in CLAIMING:
        owner.claim(recipe.output, recipe.name, options.recipe)
    elif options.verb in WRITING:
        owner.check(recipe.output, options.recipe)
    with kept_rows(recipe.output, write=options.verb == "status"):
        return ACTIONS[options.verb](recipe, options, named)


def _init(options: argparse.Namespace) -> int:
    from harness.authoring.command import init
    from harness.authoring.draft import Machine
    from harness.check.machine import cores, gpus

    return init(options.recipe, options.output, Machine(cores(), gpus()))


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
        owner.check(recipe.output, options.recipe)
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
    rows = status.statuses(recipe)
    lines = [status.as_json(rows)] if options.json else [status.table(rows), *status.slow_nodes(recipe)]
    print(*lines, sep="\n")
    return 1 if any(row.as_of for row in rows) else 0


def _logs(recipe: Recipe, options: argparse.Namespace, named: Sequence[Cell]) -> int:
    from harness.launch.slurm.logs import read_logs

    print(read_logs(recipe, named[0], options.rank))
    return 0


def _cancel(recipe: Recipe, options: argparse.Namespace, named: Sequence[Cell]) -> int:
    from harness.launch.slurm.cancel import cancel, cancel_orphans

    grid = [cell.id for cell in cells(recipe)]
    if options.orphans and named:
        raise RecipeError("cancel takes cells or --orphans, not both")
    result = cancel_orphans(recipe, grid) if options.orphans else cancel(recipe, grid, [c.id for c in named] or None)
    print(f"cancelled {result.jobs} jobs; what is cancelled stays so until resume submits it again")
    return 0


def _counts(work_items: Sequence[CellWork]) -> str:
    left = sum(1 for work in work_items if work.missing)
    return f"{len(work_items)} cells: {len(work_items) - left} done, {left} to do"


def _run(recipe: Recipe, options: argparse.Namespace, named: Sequence[Cell]) -> int:
    from harness.data.prepare import prepare
    from harness.launch.progress import run_with_progress
    from harness.launch.slurm.book.evidence import refuse_jobs

    if recipe.launch.executor == "slurm":
        prepare(recipe)
        checking.before_run(recipe, force=options.force)
        return _submit(recipe, options)
    with locked(recipe.output / owner.SWEEP_LOCK, f"another sweep of {recipe.output}", wait=False):
        prepare(recipe)
        checking.before_run(recipe, force=options.force)
        work_items = stages.missing_of_all(recipe, cells(recipe))
        refuse_jobs(
            recipe.output, [(work.cell.id, task) for work in work_items for task in missing_tasks(recipe, work)]
        )
        print(
            _counts(work_items) + ("" if any(work.missing for work in work_items) else "; nothing to run"), flush=True
        )
        missing = [work.cell for work in work_items if work.missing]
        check_fit(recipe, [(work.cell, work.missing) for work in work_items if work.missing], force=options.force)
        failed = run_with_progress(recipe, missing)
        status_of_report = _draw(recipe)
    if failed:
        print(f"{failed} of {len(missing)} cells failed; the same command tries them again", file=sys.stderr)
    return 1 if failed else status_of_report


def _submit(recipe: Recipe, options: argparse.Namespace) -> int:
    from harness.launch.slurm.options import warnings
    from harness.launch.slurm.report_job import report_and_resume
    from harness.launch.slurm.submit import submit

    for warning in warnings(recipe):
        print(f"warning: {warning}", file=sys.stderr)
    work_items = stages.missing_of_all(recipe, cells(recipe))
    check_fit(recipe, [(work.cell, work.missing) for work in work_items if work.missing], force=options.force)
    submission = submit(recipe, work_items, report_and_resume, options.force, resume=options.verb == "resume")
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
