"""Covers `submitter`: what is submitted where a limit on the number of jobs leaves no place for all.

tests/slurm/test_limits.py does so on a real SLURM, over several rounds; test_executor.py has those without limits.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from slurm_stubs import Stubs, stubs

from harness.grid.cells import cells
from harness.launch.slurm import submit as submit_module
from harness.launch.slurm.arrays import submitter
from harness.launch.slurm.book.submissions import Submissions
from harness.launch.slurm.commands import LimitError, SlurmError
from harness.launch.slurm.submit import SubmitResult, submit
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.stages.missing import CellWork
from harness.storage.ledger import Stage

__all__ = ["stubs"]

STAGES: tuple[Stage, ...] = ("train", "embed", "evaluate")
NAME = "QOSMaxSubmitJobPerUserLimit"
LIMITED = """\
tasks=$(/usr/bin/sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
tasks=$((${{tasks:-0}} + 1))
used=$(/bin/cat {folder}/used)
if [ $((used + tasks)) -gt {limit} ]; then
  echo "sbatch: error: {name}" >&2
  echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, ...)" >&2
  exit 1
fi
echo $((used + tasks)) > {folder}/used
take "$1"
echo "$id"
"""


@pytest.fixture
def recipe(tiny_recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """One model with eight seeds: eight cells, so arrays of eight and 25 jobs in all."""
    monkeypatch.setattr(submit_module, "snapshot", lambda output: output / "code")
    monkeypatch.setattr(submitter, "PAUSES", (0.0,))
    grid = ["grid.models=[vit_s16]", "grid.datasets=[one]", "grid.seeds=[0,1,2,3,4,5,6,7]", "grid.untrained=false"]
    return load(tiny_recipe_file, "laptop", ["launch.executor=slurm", "grid.pixel_statistics=false", *grid])


def limited(stubs: Stubs, limit: int, used: int = 0) -> None:
    """A cluster that takes no more jobs than `limit`, `used` of which others have taken."""
    (stubs.folder / "used").write_text(f"{used}\n")
    stubs.cluster(LIMITED.format(folder=stubs.folder, limit=limit, name=NAME))
    stubs.script("scancel", f"echo $(($(/bin/cat {stubs.folder}/used) - $#)) > {stubs.folder}/used")


def run(recipe: Recipe) -> SubmitResult:
    return submit(recipe, [CellWork(cell, dict.fromkeys(STAGES, "f"), STAGES) for cell in cells(recipe)], print)


@pytest.mark.parametrize(
    ("limit", "trained", "embedded", "evaluated", "waiting"),
    [
        (25, [8], [8], [8], 0),
        (24, [8], [8], [8], 1),  # the report job takes the place of the last evaluation
        (17, [8], [8], [], 8),
        (16, [8], [8], [], 8),
        (8, [8], [], [], 8),
        (7, [4, 2], [], [], 8),  # it takes that of a single training
        (4, [4], [], [], 8),
        (3, [2], [], [], 8),
    ],
)
def test_what_fits_is_submitted_and_the_rest_is_counted(
    recipe: Recipe,
    stubs: Stubs,
    limit: int,
    trained: list[int],
    embedded: list[int],
    evaluated: list[int],
    waiting: int,
) -> None:
    limited(stubs, limit)
    result = run(recipe)
    sizes = {stage: [len(entry.cells) for entry in result.entries if entry.stage == stage] for stage in STAGES}
    assert sizes == {"train": trained, "embed": embedded, "evaluate": evaluated}
    assert [entry.stage for entry in result.entries].count("report") == 1
    assert (result.limit, result.waiting) == (NAME if waiting else None, waiting)
    assert int((stubs.folder / "used").read_text()) <= limit
    tasks = Counter((cell, entry.stage) for entry in Submissions(recipe.output).entries for cell in entry.cells)
    assert max(tasks.values()) == 1
    named = {line.split("|")[1] for line in (stubs.folder / "names").read_text().splitlines()}
    assert named == {entry.name for entry in Submissions(recipe.output).entries}, "no refused array is left in the book"
    folders = {path.name for path in (recipe.output / "jobs").iterdir() if path.is_dir()}
    assert folders == named
    words = f"{waiting} cells wait for a place ({NAME}); the report job submits the rest"
    assert (words in result.lines()) == bool(waiting)


def test_without_a_place_for_one_job_nothing_is_submitted_and_the_limit_is_named(recipe: Recipe, stubs: Stubs) -> None:
    limited(stubs, 10, used=10)
    with pytest.raises(LimitError, match=rf"(?s){NAME} leaves no place for any job; nothing was submitted: .*qos"):
        run(recipe)
    assert Submissions(recipe.output).entries == []


def test_with_one_place_a_cell_trains_without_a_report_job(recipe: Recipe, stubs: Stubs) -> None:
    limited(stubs, 10, used=9)
    result = run(recipe)
    assert [(entry.stage, len(entry.cells)) for entry in result.entries] == [("train", 1)]
    assert stubs.calls("scancel") == []
    (words,) = [line for line in result.lines() if "wait for a place" in line]
    assert words.endswith("there is no report job, so that only run again submits the rest")
    again = run(recipe)
    assert (again.entries, again.limit, again.waiting) == ((), NAME, 8)


def test_a_refusal_for_a_job_s_size_or_time_is_no_limit_on_jobs(recipe: Recipe, stubs: Stubs) -> None:
    words = "sbatch: error: AssocMaxWallDurationPerJobLimit\nsbatch: error: Job violates accounting/QOS policy"
    stubs.cluster(f'echo "{words}" >&2; exit 1')
    with pytest.raises(SlurmError) as caught:
        run(recipe)
    assert not isinstance(caught.value, LimitError)
