"""What the command line of `harness.sweep` takes: a verb, a recipe or a study's output, and options."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Sequence
from pathlib import Path

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


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line, whose verb is `run` where it names none.

    Raises:
        ValueError: the first word is neither a verb nor a file, but close to a verb.
    """
    words = list(words)
    if not words or words[0] not in {*VERBS, "-h", "--help", "--json-schema", "--fields"}:
        if words and not words[0].startswith("-") and not Path(words[0]).exists():
            _suggest(words[0])
        words.insert(0, "run")
    return _parser().parse_intermixed_args(words)


def _suggest(word: str) -> None:
    """Raise ValueError if a word is close to a verb."""
    if close := difflib.get_close_matches(word, VERBS, n=1):
        raise ValueError(f"{word!r} is no verb and no file; did you mean {close[0]}?")


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
    parser.add_argument("--wide", action="store_true", help="plan: every column, on lines of any length")
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
