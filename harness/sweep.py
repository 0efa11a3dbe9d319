"""The command line: `python -m harness.sweep recipes/scaling.yaml` plans, runs, and reports a whole study.

Running it again finishes what is missing and repeats nothing.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness import stages
from harness.grid import Cell, cells
from harness.ledger import LedgerError
from harness.plan import plan_cells, table
from harness.recipe import Recipe
from harness.recipe_file import RecipeError, json_schema, load, to_yaml
from harness.stages import StageError, Work

VERBS = {
    "run": "do what is missing of the study, then draw the report (the verb when none is given)",
    "plan": "say what every cell costs, and run nothing",
    "status": "say what is done and what is missing",
    "report": "draw plots and tables from the ledger as it stands",
}
EXAMPLES = """examples:
  python -m harness.sweep recipes/scaling.yaml
  python -m harness.sweep plan recipes/scaling.yaml --profile slurm
  python -m harness.sweep recipes/scaling.yaml 'grid.models=[vit_s16]' train.epochs=2
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, act, and return the exit status: 0 done, 1 cells failed, 2 not usable as asked, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in {*VERBS, "-h", "--help", "--json-schema"}:
        given.insert(0, "run")
    options = _parser().parse_intermixed_args(given)
    if options.json_schema:
        print(json.dumps(json_schema(), indent=1))
        return 0
    try:
        return _act(options)
    except (RecipeError, StageError, LedgerError, ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    verbs = "\n".join(f"  {name:<8}{meaning}" for name, meaning in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="python -m harness.sweep",
        description=f"Run a scaling study from a recipe.\n\nverbs:\n{verbs}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=VERBS, nargs="?", default="run", metavar="verb")
    parser.add_argument("recipe", type=Path, nargs="?", help="a YAML file such as recipes/scaling.yaml")
    parser.add_argument("overrides", nargs="*", metavar="field=value", help="on top of the recipe and its profile")
    parser.add_argument("--profile", help="a profile of the recipe; default: slurm where sbatch answers, else laptop")
    parser.add_argument("--print-recipe", action="store_true", help="show the resolved recipe and stop")
    parser.add_argument("--json-schema", action="store_true", help="print the recipe's JSON schema and stop")
    return parser


def _act(options: argparse.Namespace) -> int:
    if options.recipe is None:
        raise RecipeError("no recipe given; try python -m harness.sweep recipes/scaling.yaml")
    profile, why = (options.profile, "as asked") if options.profile else default_profile()
    recipe = load(options.recipe, profile, options.overrides)
    if options.print_recipe:
        print(to_yaml(recipe), end="")
        return 0
    print(f"profile {profile}: {why}", flush=True)
    return {"run": _run, "plan": _plan, "status": _status, "report": _report}[options.verb](recipe)


def default_profile() -> tuple[str, str]:
    """`slurm` where `sbatch` answers, else `laptop`; and why."""
    if shutil.which("sbatch") is None:
        return "laptop", "there is no sbatch here"
    try:
        answer = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return "laptop", f"sbatch does not answer ({error})"
    return "slurm", f"sbatch answers ({answer.stdout.strip()})"


def _plan(recipe: Recipe) -> int:
    print(table(recipe, plan_cells(recipe, cells(recipe))))
    return 0


def _status(recipe: Recipe) -> int:
    works = [stages.todo(recipe, cell) for cell in cells(recipe)]
    for work in works:
        print(f"{work.cell.id:<44}{'missing ' + ', '.join(work.missing) if work.missing else 'done'}")
    print(_counts(works))
    return 0


def _counts(works: Sequence[Work]) -> str:
    left = sum(1 for work in works if work.missing)
    return f"{len(works)} cells: {len(works) - left} done, {left} to do"


def _run(recipe: Recipe) -> int:
    from harness.prepare import prepare

    with _only_sweep(recipe.output):
        prepare(recipe)
        works = [stages.todo(recipe, cell) for cell in cells(recipe)]
        print(_counts(works) + ("" if any(work.missing for work in works) else "; nothing to run"), flush=True)
        missing = [work.cell for work in works if work.missing]
        if recipe.launch.executor == "slurm":
            return _submit(recipe, missing)
        failed = _run_local(recipe, missing)
        _report(recipe)
    if failed:
        print(f"{failed} of {len(missing)} cells failed; the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


def _run_local(recipe: Recipe, missing: Sequence[Cell]) -> int:
    """Run cells here, dear ones first so that none of them starts last, and count those that failed."""
    from harness.launch import run_local
    from harness.watch import Watch

    if not missing:
        return 0
    plans = plan_cells(recipe, missing)
    cost = {plan.cell.id: plan.flops["mae_train"] for plan in plans}
    watch = Watch(recipe, missing, plans)
    failed = 0
    try:
        for outcome in run_local(recipe, sorted(missing, key=lambda cell: -cost.get(cell.id, 0.0)), watch):
            watch.ended(outcome)
            failed += outcome.error is not None
    finally:
        watch.close()
    return failed


def _submit(recipe: Recipe, missing: Sequence[Cell]) -> int:
    from harness.launch import submit_slurm

    submitted = submit_slurm(recipe, missing)
    for array, group in submitted.items():
        print(f"submitted job array {array}: {len(group)} cells ({', '.join(sorted({c.model for c in group}))})")
    if missing and not submitted:
        print("every missing cell is already queued or running")
    print("the same command shows progress, submits what is left, and `report` draws what is done")
    return 0


def _report(recipe: Recipe) -> int:
    from harness.report import report

    for path in report(recipe):
        print(f"wrote {path}")
    return 0


@contextmanager
def _only_sweep(output: Path) -> Iterator[None]:
    """Hold the study's lock; the system frees it however this process ends.

    Raises:
        RuntimeError: another sweep of the same output runs on this machine.
    """
    output.mkdir(parents=True, exist_ok=True)
    with (output / "sweep.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"another sweep of {output} is running") from None
        yield


if __name__ == "__main__":
    sys.exit(main())
