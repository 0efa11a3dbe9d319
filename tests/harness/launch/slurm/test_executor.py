"""Covers `executor`, and `submit` with it: whatever sbatch answers, each array is submitted once, and none is lost."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slurm_stubs import Stubs
from submitit.core.utils import DelayedSubmission

from harness.grid.cells import cells
from harness.launch.slurm import executor
from harness.launch.slurm import submit as submit_module
from harness.launch.slurm.book.submissions import Submissions
from harness.launch.slurm.commands import NoAnswerError, SlurmError
from harness.launch.slurm.executor import NamedExecutor, job_number
from harness.launch.slurm.submit import SubmitResult, submit
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.stages.missing import CellWork
from harness.storage.ledger import Stage

STAGES: tuple[Stage, ...] = ("train", "embed", "evaluate")

REFUSED = 'echo "sbatch: error: Job violates policy" >&2; exit 1'
LOST = 'echo "sbatch: error: Socket timed out" >&2; exit 1'

ANSWERS = {
    "Submitted batch job 4711": "4711",
    "Submitted batch job 4711 on cluster nautilus": "4711",
    "4711": "4711",
    "4711;nautilus": "4711",
    "4711\r\n": "4711",
    "Node hours left: 1234\nsbatch: job class 3\nSubmitted batch job 4711\nSee https://hpc.example/12": "4711",
    "Welcome\n\n  4711  \nYou have 17 jobs": "4711",
    'Your job 4711 ("train") has been submitted': "4711",
    "sbatch: job id 4711": "4711",
    "Submitted batch job 4711\nSubmitted batch job 4711": "4711",
    "Submitted batch job 4711\nSubmitted batch job 4712": None,
    "4711\n4712": None,
    "submitted": None,
    "": None,
}


@pytest.mark.parametrize(("answer", "number"), ANSWERS.items())
def test_the_id_is_found_in_any_answer(answer: str, number: str | None) -> None:
    assert job_number(answer) == number


@given(
    number=st.integers(1, 10**11).map(str),
    form=st.sampled_from(["Submitted batch job {}", "Submitted batch job {} on cluster x", "{}", "{};x", "  {} "]),
    noise=st.lists(st.text(st.characters(exclude_categories=["Nd", "Cs"]), max_size=20), max_size=4),
    before=st.integers(0, 4),
)
def test_the_id_is_found_among_any_lines(number: str, form: str, noise: list[str], before: int) -> None:
    assert job_number("\n".join([*noise[:before], form.format(number), *noise[before:]])) == number


@pytest.fixture
def recipe(tiny_recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The tiny study; its jobs would find no copy of the code, which takes long to make."""
    monkeypatch.setattr(submit_module, "snapshot", lambda output: output / "code")
    return load(tiny_recipe_file, "laptop", ["launch.executor=slurm"])


def run(recipe: Recipe) -> SubmitResult:
    """Submit everything of the cells with a trained network."""
    trained = [cell for cell in cells(recipe) if cell.kind == "trained"]
    return submit(recipe, [CellWork(cell, dict.fromkeys(STAGES, "f"), STAGES) for cell in trained], print)


def names(stubs: Stubs) -> Counter[str]:
    """How often each name is in the queue."""
    return Counter(line.split("|")[1] for line in (stubs.folder / "names").read_text().splitlines())


def submissions(stubs: Stubs) -> int:
    return sum(not call.startswith("--test-only") for call in stubs.calls("sbatch"))


TAKEN = {
    "as SLURM answers": 'echo "Submitted batch job $id"',
    "a number": 'echo "$id"',
    "a number and a cluster": 'echo "$id;nautilus"',
    "among banners": 'echo "Your job budget: 12"; echo "Submitted batch job $id on cluster x"; echo "Have 3 nice days"',
    "without an id": 'echo "Thank you for your submission"',
    "nothing": ":",
    "an error": 'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv" >&2; exit 1',
    "an error of the wrapper": 'echo "wrapper: cannot write accounting.csv" >&2; exit 3',
    "an error without status": 'echo "sbatch: error: Batch job submission failed: Connection refused" >&2',
}


@pytest.mark.parametrize("answer", TAKEN.values(), ids=TAKEN)
def test_what_slurm_takes_is_submitted_once_whatever_sbatch_says(recipe: Recipe, stubs: Stubs, answer: str) -> None:
    stubs.cluster(f'take "$1"; {answer}')
    entries = run(recipe).entries
    assert {entry.name: entry.array for entry in entries} == {
        line.split("|")[1]: line.split("|")[0] for line in (stubs.folder / "names").read_text().splitlines()
    }
    assert set(names(stubs).values()) == {1}
    assert submissions(stubs) == len(entries)
    assert tuple(Submissions(recipe.output).entries) == entries
    assert run(recipe).entries == (), "everything is queued"


def test_what_an_sbatch_has_submitted_that_hangs_is_found(
    tmp_path: Path, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "SBATCH_SECONDS", 0.3)
    stubs.script("sbatch", "/bin/sleep 60")
    stubs.answer("squeue", "ARRAY_JOB_ID|NAME\n4711|study-train-0\n")
    assert executor.sbatch(tmp_path / "submission.sh", "study-train-0") == "4711"
    assert len(stubs.calls("sbatch")) == 1


def test_what_slurm_refuses_is_an_error_in_its_words(recipe: Recipe, stubs: Stubs) -> None:
    stubs.cluster(f'echo "Welcome" >&2; {REFUSED}')
    with pytest.raises(SlurmError) as caught:
        run(recipe)
    first, second = str(caught.value).splitlines()
    assert first == "sbatch: error: Job violates policy"
    assert second.startswith("SLURM has not taken the jobs ")
    assert submissions(stubs) == 1


def test_an_array_that_slurm_takes_late_is_adopted_by_the_next_call(recipe: Recipe, stubs: Stubs) -> None:
    """It comes into the queue after all looks for it, and before the next call."""
    pending = stubs.folder / "pending"
    hides = f'take "$1"; /bin/mv {stubs.folder}/names {pending}; : > {stubs.folder}/names'
    stubs.cluster(f"{hides}; {LOST}")
    with pytest.raises(NoAnswerError, match=r"Socket timed out\nsqueue does not list these jobs\nwhether SLURM took "):
        run(recipe)
    assert submissions(stubs) == 1
    assert len([call for call in stubs.calls("squeue") if "--name" in call]) == 3
    pending.rename(stubs.folder / "names")
    late = names(stubs)
    stubs.cluster('take "$1"; echo "$id"')
    entries = run(recipe).entries
    assert not late.keys() & {entry.name for entry in entries}
    assert set(names(stubs).values()) == {1}
    stored = Submissions(recipe.output).entries
    tasks = [(cell, entry.stage) for entry in stored for cell in entry.cells]
    assert len(tasks) == len(set(tasks)), "nothing is submitted twice"
    assert all(entry.array for entry in stored)


def test_no_answer_of_squeue_after_one_of_sbatch_loses_nothing(recipe: Recipe, stubs: Stubs) -> None:
    stubs.cluster(f'take "$1"; {LOST}')
    squeue = (stubs.folder / "squeue").read_text()
    stubs.script(
        "squeue",
        'case "$*" in *%o*) echo "ARRAY_JOB_ID|NAME|COMMAND"; exit 0 ;; esac\n'
        'echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1',
    )
    with pytest.raises(
        NoAnswerError, match=r"sbatch: error: Socket timed out\nslurm_load_jobs error: (.|\n)* not known"
    ):
        run(recipe)
    (stubs.folder / "squeue").write_text(squeue)
    stubs.cluster('take "$1"; echo "$id"')
    run(recipe)
    assert set(names(stubs).values()) == {1}


def test_a_report_whose_submission_failed_is_submitted_by_the_next_call(recipe: Recipe, stubs: Stubs) -> None:
    stubs.cluster(f'case "$1" in *-report-*) {REFUSED};; esac; take "$1"; echo $id')
    with pytest.raises(SlurmError, match="Job violates policy"):
        run(recipe)
    stubs.cluster('take "$1"; echo "$id"')
    assert [entry.stage for entry in run(recipe).entries] == ["report"]
    assert run(recipe).entries == ()


def test_a_report_job_of_an_earlier_version_is_replaced(recipe: Recipe, stubs: Stubs) -> None:
    """It could not read the submissions file, once that is converted."""
    stubs.cluster('take "$1"; echo "$id"')
    entries = run(recipe).entries
    earlier = [{name: value for name, value in asdict(entry).items() if name != "user"} for entry in entries]
    book = Submissions(recipe.output).path
    book.with_suffix(".json").write_text(json.dumps({"version": 1, "entries": earlier}))
    book.unlink()
    assert [entry.stage for entry in run(recipe).entries] == ["report"]
    assert stubs.calls("scancel") == [str(entries[-1].array)]
    assert run(recipe).entries == ()


def test_a_report_that_other_overrides_wait_for_is_not_replaced(
    tiny_recipe_file: Path, recipe: Recipe, stubs: Stubs
) -> None:
    """Its job submits failed cells of its recipe again; a recipe with all of these cells does so too."""
    stubs.cluster('take "$1"; echo "$id"')
    reports = []
    for override in ("grid.datasets=[one]", "grid.datasets=[two]", "grid.seeds=[0, 1]"):
        entries = run(load(tiny_recipe_file, "laptop", ["launch.executor=slurm", override])).entries
        reports += [str(entry.array) for entry in entries if entry.stage == "report"]
    assert stubs.calls("scancel") == [" ".join(reports[:2])]


def test_a_cluster_without_arrays_gets_single_jobs(recipe: Recipe, stubs: Stubs) -> None:
    stubs.cluster('take "$1"; echo "$id"')
    stubs.answer("scontrol", "MaxArraySize = 0\n")
    assert max(len(entry.cells) for entry in run(recipe).entries) == 1


FOLDERS = ["plain", "a b", "it's", 'say "x"', "$(touch stolen)", "`id`", "a;b", "a&b|c>d", "-rf", "*", "é中"]


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("count", [1, 3])
def test_each_task_of_an_array_finds_its_call(tmp_path: Path, stubs: Stubs, name: str, count: int) -> None:
    """bash runs the script as SLURM would; submitit's process looks for the call under the job's name."""
    stubs.answer("sbatch", "4711\n")
    submitter = NamedExecutor(folder=tmp_path / name)
    submitter.update_parameters(job_name="x", time=5)
    jobs = submitter.map_array(int, [str(10 + index) for index in range(count)])
    assert [job.job_id for job in jobs] == (["4711"] if count == 1 else [f"4711_{index}" for index in range(count)])
    script = (tmp_path / name / "submission.sh").read_text()
    setup = script.split("# setup\n")[1].split("\n\n")[0]
    for job, expected in zip(jobs, range(10, 10 + count), strict=True):
        array, _, task = job.job_id.partition("_")
        variables = {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": task} if task else {}
        environment = {"PATH": os.defpath, "SLURM_JOB_ID": str(int(array) + 1) if task else array, **variables}
        for _ in range(2):  # SLURM may start it again
            subprocess.run(["/bin/bash", "-euc", setup], env=environment, cwd=tmp_path, check=True)
        call = job.paths.submitted_pickle
        assert call.is_symlink()
        assert DelayedSubmission.load(call).args == (str(expected),)
    assert [path.name for path in tmp_path.iterdir()] == [name]
