"""`check`, and the same check before a study is planned, run or submitted."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from harness.check.checks import Findings, check
from harness.check.problem import Problem
from harness.recipe.errors import RecipeError
from harness.recipe.schema import Recipe


def report(recipe: Recipe, known: Sequence[Problem], *, json: bool) -> int:
    """Print all findings; exit status 1 if something keeps the study from running."""
    findings = check(recipe, known=known)
    print(findings.as_json() if json else findings.text())
    return 1 if findings.errors else 0


def before_run(recipe: Recipe, *, force: bool = False) -> Sequence[str]:
    """Check everything; print the warnings, and return the sets that are to be built and could not be looked at.

    Raises:
        RecipeError: something keeps the study from running, and `force` is not set.
    """
    findings = check(recipe, fit=False)  # which the run asks, of what it is about to start
    _warn(findings.problems if force else findings.warnings)
    if findings.errors and not force:
        lines = "\n".join(f"  {problem}" for problem in findings.errors)
        raise RecipeError(f"nothing was started (--force starts it all the same):\n{lines}")
    return findings.unseen


def before_plan(recipe: Recipe, known: Sequence[Problem]) -> int:
    """Print what manifests and the machine say against a study, as far as they are here; the exit status."""
    findings: Findings = check(recipe, known=known, needs_data=False, tables=False, fit=False)
    _warn(findings.problems)
    return 1 if findings.errors else 0


def _warn(problems: Sequence[Problem]) -> None:
    for problem in problems:
        print(f"{'warning' if problem.is_warning else 'problem'}: {problem}", file=sys.stderr)
