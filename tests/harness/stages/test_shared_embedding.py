"""Covers `shared_embedding` and `tasks`, and what `launch/slurm/job_chains` and `launch/status` do with job shares.

Jobs that do not communicate share a grid cell's wells: each well is embedded once, in any order of jobs, also if one is
killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.data.channels import set_channels
from harness.embed.cell import embed_cell
from harness.embed.parts import JobShare, discard_parts, open_embedding
from harness.grid.cell import Cell
from harness.grid.cell_folder import EMBEDDINGS, cell_folder
from harness.grid.cells import cells
from harness.grid.stage_run import StageRun
from harness.launch import status
from harness.launch.slurm.book.entries import Submitted
from harness.launch.slurm.job_chains import HeldBack, JobChain, decide
from harness.launch.slurm.job_states import JobState
from harness.recipe.schema import Recipe
from harness.stages import shared_embedding
from harness.stages.missing import StageError, missing_stages
from harness.stages.run import run_stage
from harness.stages.shared_embedding import run_task
from harness.stages.tasks import pending_tasks, read_task, task_name
from harness.storage import ledger
from harness.storage.embeddings import read_embeddings

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["harness.embed.cell", "shards.loader.batches", "pandas", "pyarrow.parquet"])
JOINS = "joins.txt"  # a line for each time that parts were joined


def shared(recipe: Recipe, count: int, wells: int = 5) -> Recipe:
    launch = recipe.launch.model_copy(update={"embed_jobs": count, "embed_part_wells": wells})
    return recipe.model_copy(update={"launch": launch})


@pytest.fixture
def trained(tiny_recipe: Recipe) -> tuple[Recipe, Cell]:
    """The tiny study with three job shares, and a cell of it that only has to be embedded and evaluated."""
    recipe = shared(tiny_recipe, 3)
    cell = next(cell for cell in cells(recipe) if cell.kind == "untrained")
    run_stage(recipe, cell, "train")
    return recipe, cell


def embedded_by_one_process(recipe: Recipe, cell: Cell) -> bytes:
    """The bytes of the embeddings that one process writes; its files are removed."""
    folder = cell_folder(recipe, cell)
    embed_cell(open_embedding(StageRun(recipe, cell, folder, missing_stages(recipe, cell).fingerprints["embed"])))
    content = (folder / EMBEDDINGS).read_bytes()
    (folder / EMBEDDINGS).unlink()
    discard_parts(folder)
    return content


def share_process(recipe_json: str, cell_id: str, task: str, die_at_write: int = 0) -> None:
    """Run one job share; kill the process at its `die_at_write`-th file, which is written but not yet renamed."""
    recipe = Recipe.model_validate_json(recipe_json, strict=False)
    cell = next(cell for cell in cells(recipe) if cell.id == cell_id)
    fsync, join, written = os.fsync, shared_embedding.join_parts, []

    def dying(descriptor: int) -> None:
        fsync(descriptor)
        written.append(descriptor)
        if len(written) == die_at_write:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted_join(*arguments: object) -> object:
        with (recipe.output / JOINS).open("a") as file:
            file.write(f"{task}\n")
        return join(*arguments)  # type: ignore[arg-type]

    os.fsync = dying
    shared_embedding.join_parts = counted_join  # type: ignore[assignment]
    run_task(recipe, cell, task)


def start(recipe: Recipe, cell: Cell, number: int, die_at_write: int = 0) -> Callable[[], int | None]:
    """Start a job share's process; the returned function waits for it and returns its exit code."""
    task = task_name("embed", JobShare(number, recipe.launch.embed_jobs))
    work = (recipe.model_dump_json(), cell.id, task, die_at_write)
    process = CONTEXT.Process(target=share_process, args=work)
    process.start()

    def exit_code() -> int | None:
        process.join(60)
        return process.exitcode

    return exit_code


@pytest.mark.slow
def test_shares_in_any_order_with_one_killed_write_the_file_of_one_process(trained: tuple[Recipe, Cell]) -> None:
    """Bit for bit: the wells of a part, and so of a batch, do not depend on the job that embeds them."""
    recipe, cell = trained
    folder, expected = cell_folder(recipe, cell), embedded_by_one_process(recipe, cell)
    assert start(recipe, cell, 1, die_at_write=2)() == -signal.SIGKILL
    assert [path.name for path in folder.glob("embedding-*/*.parquet")] == ["000001.parquet"]
    assert len(list(folder.glob("embedding-*/.*.tmp"))) == 1, "it was killed during a write"
    assert start(recipe, cell, 2)() == 0
    assert pending_tasks(recipe, missing_stages(recipe, cell))["embed"] == ("embed.0-of-3", "embed.1-of-3")
    assert not (folder / EMBEDDINGS).exists()
    exit_codes = [start(recipe, cell, number) for number in (1, 0)]  # at the same time
    assert [exit_code() for exit_code in exit_codes] == [0, 0]
    if ledger.read(recipe.output, cell.id, "embed") is None:  # neither saw the other's last part
        assert shared_embedding.finish(recipe, cell, wait=True)
    assert (folder / EMBEDDINGS).read_bytes() == expected
    assert len((recipe.output / JOINS).read_text().splitlines()) <= 1
    row = ledger.read(recipe.output, cell.id, "embed")
    assert row is not None
    assert (row.values["wells"], row.values["crops"], row.values["elements"]) == (48, 48, 3)
    assert not list(folder.glob("embedding-*"))
    assert not list((recipe.output / "ledger" / cell.id).glob("embed.*-of-*"))
    before = (folder / EMBEDDINGS).stat().st_mtime_ns
    run_task(recipe, cell, "embed.0-of-3")
    assert (folder / EMBEDDINGS).stat().st_mtime_ns == before, "a job that starts late does nothing"


@pytest.mark.slow
def test_another_number_of_shares_resumes_from_existing_parts(trained: tuple[Recipe, Cell]) -> None:
    recipe, cell = trained
    folder, expected = cell_folder(recipe, cell), embedded_by_one_process(recipe, cell)
    run_task(recipe, cell, "embed.0-of-3")
    inodes = {path: path.stat().st_ino for path in folder.glob("embedding-*/*.parquet")}
    assert len(inodes) == 4  # of 10: 0, 3, 6, 9
    run_task(shared(recipe, 2), cell, "embed.0-of-2")
    assert {path: path.stat().st_ino for path in inodes} == inodes
    run_task(shared(recipe, 2), cell, "embed.1-of-2")
    assert (folder / EMBEDDINGS).read_bytes() == expected
    row = ledger.read(recipe.output, cell.id, "embed")
    assert row is not None
    assert row.values["channels"] == list(set_channels(recipe, recipe.embed)), "as the row of one process"


def test_evaluation_joins_parts_that_the_last_shares_did_not(
    trained: tuple[Recipe, Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On some file systems each of the last two may not see the other's last part, though both were written."""
    recipe, cell = trained
    run_task(recipe, cell, "embed.0-of-3")
    with pytest.raises(StageError, match="is not embedded completely"):
        run_task(recipe, cell, "evaluate")
    with monkeypatch.context() as patched:
        patched.setattr(shared_embedding, "finish", lambda *_: False)
        run_task(recipe, cell, "embed.1-of-3")
        run_task(recipe, cell, "embed.2-of-3")
    assert pending_tasks(recipe, missing_stages(recipe, cell))["embed"] == ()
    run_task(recipe, cell, "evaluate")
    assert missing_stages(recipe, cell).missing == ()


def test_a_damaged_part_is_named_removed_and_embedded_again(trained: tuple[Recipe, Cell]) -> None:
    recipe, cell = trained
    folder, expected = cell_folder(recipe, cell), embedded_by_one_process(recipe, cell)
    run_task(recipe, cell, "embed.0-of-3")
    run_task(recipe, cell, "embed.1-of-3")
    (parts,) = folder.glob("embedding-*")
    damaged, other = parts / "000003.parquet", parts / "000004.parquet"
    damaged.write_bytes(other.read_bytes())  # complete, but of other wells
    with pytest.raises(ValueError, match=r"000003.parquet: damaged, and removed: it holds 5 wells that are not"):
        run_task(recipe, cell, "embed.2-of-3")
    assert len(pending_tasks(recipe, missing_stages(recipe, cell))["embed"]) == 3
    for number in range(3):
        run_task(recipe, cell, f"embed.{number}-of-3")
    assert (folder / EMBEDDINGS).read_bytes() == expected


def test_with_more_shares_than_parts_some_do_nothing(trained: tuple[Recipe, Cell]) -> None:
    recipe = shared(trained[0], 3, wells=40)
    for number in (2, 0, 1):
        run_task(recipe, trained[1], f"embed.{number}-of-3")
    assert len(read_embeddings(cell_folder(recipe, trained[1]) / EMBEDDINGS)[0]) == 48


def test_task_names_are_parsed_back() -> None:
    assert task_name("train") == "train"
    assert read_task(task_name("embed", JobShare(3, 8))) == ("embed", JobShare(3, 8))
    for name in ("embed.8-of-8", "bake", "embed.x-of-3", "embed.3"):
        with pytest.raises(ValueError, match=r"neither a stage nor a job share|is not one of"):
            read_task(name)


class FakeSubmissions:
    """The submissions of one cell's tasks, and the states of their jobs."""

    def __init__(self, **states: str) -> None:
        names = {name.replace("_of_", "-of-").replace("embed_", "embed."): state for name, state in states.items()}
        self.jobs = {task: Submitted(str(number), 1, Path()) for number, task in enumerate(names)}
        self.known = {self.jobs[task].job: JobState(state) for task, state in names.items()}

    def decide(self, recipe: Recipe, cell: Cell) -> JobChain | HeldBack | None:
        return decide(recipe, missing_stages(recipe, cell), self.jobs, self.known, False)


def test_only_lost_shares_are_submitted_again(trained: tuple[Recipe, Cell]) -> None:
    """One is done, one running, one lost: evaluation then waits for the last two."""
    recipe, cell = trained
    run_task(recipe, cell, "embed.0-of-3")
    states = {"embed_0_of_3": "COMPLETED", "embed_1_of_3": "RUNNING", "embed_2_of_3": "NODE_FAIL"}
    waiting = FakeSubmissions(**states, evaluate="PENDING")
    chain = waiting.decide(recipe, cell)
    assert isinstance(chain, JobChain)
    assert chain.tasks == (("embed.2-of-3",), ("evaluate",))
    assert (chain.after, chain.concurrent, chain.replaced) == ((), ("1",), ("3",))
    alive = FakeSubmissions(**states | {"embed_2_of_3": "PENDING"}, evaluate="PENDING")
    assert alive.decide(recipe, cell) is None


def test_another_number_of_shares_replaces_the_running_ones(trained: tuple[Recipe, Cell]) -> None:
    recipe, cell = trained
    states = {"embed_0_of_3": "RUNNING", "embed_1_of_3": "RUNNING", "embed_2_of_3": "PENDING"}
    chain = FakeSubmissions(**states, evaluate="PENDING").decide(shared(recipe, 2), cell)
    assert isinstance(chain, JobChain)
    assert chain.tasks == (("embed.0-of-2", "embed.1-of-2"), ("evaluate",))
    assert chain.replaced == ("0", "1", "2", "3")


def test_a_live_share_that_joins_the_parts_is_not_replaced(
    trained: tuple[Recipe, Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, cell = trained
    with monkeypatch.context() as patched:
        patched.setattr(shared_embedding, "finish", lambda *_: False)
        for number in range(3):
            run_task(recipe, cell, f"embed.{number}-of-3")
    states = {"embed_0_of_3": "COMPLETED", "embed_1_of_3": "COMPLETED", "embed_2_of_3": "RUNNING"}
    assert FakeSubmissions(**states, evaluate="PENDING").decide(recipe, cell) is None
    dead = FakeSubmissions(**states | {"embed_2_of_3": "NODE_FAIL"}, evaluate="CANCELLED").decide(recipe, cell)
    assert isinstance(dead, JobChain)
    assert dead.tasks == (("embed.0-of-3",), ("evaluate",))


def test_status_counts_finished_shares_and_shows_the_worst_one(
    trained: tuple[Recipe, Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, cell = trained

    def shown(**states: str) -> tuple[object, ...]:
        fake = FakeSubmissions(**states)
        latest = {(cell.id, task): job for task, job in fake.jobs.items()}
        monkeypatch.setattr(status.Submissions, "latest", lambda submissions: latest)
        monkeypatch.setattr(status, "known_states", lambda *_: fake.known)
        row = next(row for row in status.statuses(recipe) if row.cell == cell.id)
        return row.stage, row.state, row.step, row.steps, row.reason

    run_task(recipe, cell, "embed.1-of-3")
    running = {"embed_0_of_3": "RUNNING", "embed_1_of_3": "COMPLETED", "embed_2_of_3": "PENDING"}
    assert shown(**running) == ("embed", "running", 1, 3, "")
    lost = running | {"embed_2_of_3": "NODE_FAIL"}
    assert shown(**lost) == ("embed", "failed", 1, 3, "a node failed")
    with monkeypatch.context() as patched:
        patched.setattr(shared_embedding, "finish", lambda *_: False)
        run_task(recipe, cell, "embed.0-of-3")
        run_task(recipe, cell, "embed.2-of-3")
    joining = running | {"embed_2_of_3": "COMPLETED"}
    assert shown(**joining) == ("embed", "running", 3, 3, "its parts are to be joined")
    run_task(recipe, cell, "evaluate")
    assert shown(evaluate="COMPLETED")[1] == "done"
