"""The last job of a submission: resubmit what failed for a transient reason, and draw the report."""

from __future__ import annotations

import os

from harness.grid.cells import cells
from harness.launch.slurm.submit import submit
from harness.recipe.schema import Recipe
from harness.stages import missing as stages


def report_and_resume(recipe_json: str) -> None:
    """Draw the report, and submit again what failed for a reason that passes: a study ends with no one watching."""
    from harness.report.write import report

    recipe = Recipe.model_validate_json(recipe_json, strict=False)
    work_items = [stages.missing_stages(recipe, cell) for cell in cells(recipe)]
    for name in [name for name in os.environ if name.startswith("SLURM_") and name != "SLURM_CONF"]:
        del os.environ[name]  # what this job was given is not what the next shall ask for
    submission = submit(recipe, work_items, report_and_resume)
    print(f"submitted {len(submission.entries)} arrays, held back {len(submission.held)} cells", flush=True)
    report(recipe)
