"""The last job of a submission: resubmit what failed for a transient reason, and draw the report."""

from __future__ import annotations

import os
import time

from harness.grid.cells import cells
from harness.launch.slurm.commands import LimitError, NoAnswerError
from harness.launch.slurm.submit import SubmitResult, submit
from harness.recipe.schema import Recipe
from harness.stages.missing import missing_of_all

PAUSES = (60.0, 240.0)  # seconds; nobody waits for this job, and a controller restarts within minutes


def report_and_resume(recipe_json: str) -> None:
    """Submit again what failed for a transient reason, and draw the report, so that a study finishes unattended."""
    from harness.report.write import report

    recipe = Recipe.model_validate_json(recipe_json, strict=False)
    for name in [name for name in os.environ if name.startswith("SLURM_") and name != "SLURM_CONF"]:
        del os.environ[name]  # sbatch would take this job's resources as defaults for the next
    try:
        submission = _resume(recipe)
        print(f"submitted {len(submission.entries)} arrays, held back {len(submission.held)} cells", flush=True)
        if submission.limit is not None:
            print(f"{submission.waiting} cells wait for a place: {submission.limit}", flush=True)
        for job in submission.orphans:
            print(f"live, but not in this recipe: {job}", flush=True)
    finally:
        report(recipe)  # also if a damaged row stops the submission: the report leaves it out and names it


def _resume(recipe: Recipe) -> SubmitResult:
    """Submit what is missing; again after a pause while SLURM does not answer or has no place for a job.

    Nothing is submitted twice.
    """
    pauses = iter(PAUSES)
    while True:
        try:
            return submit(recipe, missing_of_all(recipe, cells(recipe)), report_and_resume)
        except (LimitError, NoAnswerError) as error:
            pause = next(pauses, None)
            if pause is None:
                raise
            print(f"{error}\ntrying again in {pause:g} s", flush=True)
        time.sleep(pause)
