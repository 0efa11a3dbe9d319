"""Jobs that know nothing of one another share a cell's wells: each well once, in any order, whoever dies on the way."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.embed.cell import embed_cell
from harness.embed.parts import JobShare, discard_parts, open_embedding
from harness.grid.cell_folder import EMBEDDINGS, cell_folder
from harness.grid.cells import Cell, cells
from harness.grid.stage_run import StageRun
from harness.launch import status
from harness.launch.slurm.job_chains import HeldBack, JobChain, decide
from harness.launch.slurm.job_states import JobState
from harness.launch.slurm.submissions import Submitted
from harness.recipe.schema import Recipe
from harness.stages import missing as stages
from harness.stages import shared_embedding as shared_embedding
from harness.stages.run import run_stage
from harness.stages.shared_embedding import run_task
from harness.stages.tasks import pending_tasks, read_task, task_name
from harness.storage import ledger
from harness.storage.embeddings import read_embeddings

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["harness.embed.cell", "shards.loader.batches", "pandas", "pyarrow.parquet"])
JOINS = "joins.txt"  # a line for each time that parts were put together


def shared(recipe: Recipe, count: int, wells: int = 5) -> Recipe:
    launch = recipe.launch.model_copy(update={"embed_jobs": count, "embed_part_wells": wells})
    return recipe.model_copy(update={"launch": launch})


@pytest.fixture
def trained(tiny_recipe: Recipe) -> tuple[Recipe, Cell]:
    """The tiny study for three elements, and a cell of it that only has to be embedded and evaluated."""
    recipe = shared(tiny_recipe, 3)
    cell = next(cell for cell in cells(recipe) if cell.kind == "untrained")
    run_stage(recipe, cell, "train")
    return recipe, cell


def alone(recipe: Recipe, cell: Cell) -> bytes:
    """The file of embeddings that one process leaves; nothing else of it stays."""
    folder = cell_folder(recipe, cell)
    embed_cell(
        open_embedding(StageRun(recipe, cell, folder, stages.missing_stages(recipe, cell).fingerprints["embed"]))
    )
    whole = (folder / EMBEDDINGS).read_bytes()
    (folder / EMBEDDINGS).unlink()
    discard_parts(folder)
    return whole


def element_process(recipe_json: str, cell_id: str, task: str, die_at_write: int = 0) -> None:
    """An element as a process; at its `die_at_write`-th file it kills itself, the file written and not yet named."""
    recipe = Recipe.model_validate_json(recipe_json, strict=False)
    cell = next(cell for cell in cells(recipe) if cell.id == cell_id)
    fsync, join, written = os.fsync, shared_embedding.join_parts, []

    def dying(descriptor: int) -> None:
        fsync(descriptor)
        written.append(descriptor)
        if len(written) == die_at_write:
            os.kill(os.getpid(), signal.SIGKILL)

    def noted(*arguments: object) -> object:
        with (recipe.output / JOINS).open("a") as file:
            file.write(f"{task}\n")
        return join(*arguments)  # type: ignore[arg-type]

    os.fsync = dying
    shared_embedding.join_parts = noted  # type: ignore[assignment]
    run_task(recipe, cell, task)


def start(recipe: Recipe, cell: Cell, number: int, die_at_write: int = 0) -> Callable[[], int | None]:
    """Start an element's process; call what this returns to wait for its exit code."""
    task = task_name("embed", JobShare(number, recipe.launch.embed_jobs))
    work = (recipe.model_dump_json(), cell.id, task, die_at_write)
    process = CONTEXT.Process(target=element_process, args=work)
    process.start()

    def exit_code() -> int | None:
        process.join(60)
        return process.exitcode

    return exit_code


@pytest.mark.slow
def test_elements_in_any_order_and_one_killed_leave_the_file_of_one_process(trained: tuple[Recipe, Cell]) -> None:
    """Bit for bit: which wells make a part, and so a batch, does not depend on who embeds them."""
    recipe, cell = trained
    folder, expected = cell_folder(recipe, cell), alone(recipe, cell)
    assert start(recipe, cell, 1, die_at_write=2)() == -signal.SIGKILL
    assert [path.name for path in folder.glob("embedding-*/*.parquet")] == ["000001.parquet"]
    assert len(list(folder.glob("embedding-*/.*.tmp"))) == 1, "it died within a write"
    assert start(recipe, cell, 2)() == 0
    assert pending_tasks(recipe, stages.missing_stages(recipe, cell))["embed"] == ("embed.0-of-3", "embed.1-of-3")
    assert not (folder / EMBEDDINGS).exists()
    ended = [start(recipe, cell, number) for number in (1, 0)]  # at one time
    assert [code() for code in ended] == [0, 0]
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
    assert (folder / EMBEDDINGS).stat().st_mtime_ns == before, "one that comes late does nothing"


def test_another_number_of_elements_goes_on_from_the_parts_there_are(trained: tuple[Recipe, Cell]) -> None:
    recipe, cell = trained
    folder, expected = cell_folder(recipe, cell), alone(recipe, cell)
    run_task(recipe, cell, "embed.0-of-3")
    there = {path: path.stat().st_ino for path in folder.glob("embedding-*/*.parquet")}
    assert len(there) == 4  # of 10: 0, 3, 6, 9
    run_task(shared(recipe, 2), cell, "embed.0-of-2")
    assert {path: path.stat().st_ino for path in there} == there
    run_task(shared(recipe, 2), cell, "embed.1-of-2")
    assert (folder / EMBEDDINGS).read_bytes() == expected


def test_evaluation_puts_together_what_the_last_elements_did_not(
    trained: tuple[Recipe, Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On some file systems the last two may each miss the other's last part, though both were written."""
    recipe, cell = trained
    run_task(recipe, cell, "embed.0-of-3")
    with pytest.raises(stages.StageError, match="is not embedded completely"):
        run_task(recipe, cell, "evaluate")
    with monkeypatch.context() as patched:
        patched.setattr(shared_embedding, "finish", lambda *_: False)
        run_task(recipe, cell, "embed.1-of-3")
        run_task(recipe, cell, "embed.2-of-3")
    assert pending_tasks(recipe, stages.missing_stages(recipe, cell))["embed"] == ()
    run_task(recipe, cell, "evaluate")
    assert stages.missing_stages(recipe, cell).missing == ()


def test_a_damaged_part_is_named_removed_and_embedded_again(trained: tuple[Recipe, Cell]) -> None:
    recipe, cell = trained
    folder, expected = cell_folder(recipe, cell), alone(recipe, cell)
    run_task(recipe, cell, "embed.0-of-3")
    run_task(recipe, cell, "embed.1-of-3")
    (parts,) = folder.glob("embedding-*")
    damaged, other = parts / "000003.parquet", parts / "000004.parquet"
    damaged.write_bytes(other.read_bytes())  # whole, but of other wells
    with pytest.raises(ValueError, match=r"000003.parquet: damaged, and removed: it holds 5 wells that are not"):
        run_task(recipe, cell, "embed.2-of-3")
    assert len(pending_tasks(recipe, stages.missing_stages(recipe, cell))["embed"]) == 3
    for number in range(3):
        run_task(recipe, cell, f"embed.{number}-of-3")
    assert (folder / EMBEDDINGS).read_bytes() == expected


def test_more_elements_than_parts_leave_some_with_nothing_to_do(trained: tuple[Recipe, Cell]) -> None:
    recipe = shared(trained[0], 3, wells=40)
    for number in (2, 0, 1):
        run_task(recipe, trained[1], f"embed.{number}-of-3")
    assert len(read_embeddings(cell_folder(recipe, trained[1]) / EMBEDDINGS)[0]) == 48


def test_a_piece_has_a_name_that_is_read_back() -> None:
    assert task_name("train") == "train"
    assert read_task(task_name("embed", JobShare(3, 8))) == ("embed", JobShare(3, 8))
    for wrong in ("embed.8-of-8", "bake", "embed.x-of-3", "embed.3"):
        with pytest.raises(ValueError, match=r"no stage, nor an element|is not one of"):
            read_task(wrong)


class Submissions:
    """What the book and SLURM say of one cell's pieces."""

    def __init__(self, **states: str) -> None:
        names = {name.replace("_of_", "-of-").replace("embed_", "embed."): state for name, state in states.items()}
        self.jobs = {task: Submitted(str(number), 1, Path()) for number, task in enumerate(names)}
        self.known = {self.jobs[task].job: JobState(state) for task, state in names.items()}

    def decide(self, recipe: Recipe, cell: Cell) -> JobChain | HeldBack | None:
        return decide(recipe, stages.missing_stages(recipe, cell), self.jobs, self.known, False)


def test_only_the_elements_that_are_lost_are_submitted_again(trained: tuple[Recipe, Cell]) -> None:
    """One done, one running, one lost: evaluation then waits for the two."""
    recipe, cell = trained
    run_task(recipe, cell, "embed.0-of-3")
    states = {"embed_0_of_3": "COMPLETED", "embed_1_of_3": "RUNNING", "embed_2_of_3": "NODE_FAIL"}
    waiting = Submissions(**states, evaluate="PENDING")
    found = waiting.decide(recipe, cell)
    assert isinstance(found, JobChain)
    assert found.tasks == (("embed.2-of-3",), ("evaluate",))
    assert (found.after, found.beside, found.replaced) == ((), ("1",), ("3",))
    alive = Submissions(**states | {"embed_2_of_3": "PENDING"}, evaluate="PENDING")
    assert alive.decide(recipe, cell) is None


def test_another_number_of_elements_takes_the_place_of_those_that_run(trained: tuple[Recipe, Cell]) -> None:
    recipe, cell = trained
    running = Submissions(embed_0_of_3="RUNNING", embed_1_of_3="RUNNING", embed_2_of_3="PENDING", evaluate="PENDING")
    found = running.decide(shared(recipe, 2), cell)
    assert isinstance(found, JobChain)
    assert found.tasks == (("embed.0-of-2", "embed.1-of-2"), ("evaluate",))
    assert found.replaced == ("0", "1", "2", "3")


def test_an_element_that_puts_parts_together_is_left_to_it(
    trained: tuple[Recipe, Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, cell = trained
    with monkeypatch.context() as patched:
        patched.setattr(shared_embedding, "finish", lambda *_: False)
        for number in range(3):
            run_task(recipe, cell, f"embed.{number}-of-3")
    states = {"embed_0_of_3": "COMPLETED", "embed_1_of_3": "COMPLETED", "embed_2_of_3": "RUNNING"}
    assert Submissions(**states, evaluate="PENDING").decide(recipe, cell) is None
    dead = Submissions(**states | {"embed_2_of_3": "NODE_FAIL"}, evaluate="CANCELLED").decide(recipe, cell)
    assert isinstance(dead, JobChain)
    assert dead.tasks == (("embed.0-of-3",), ("evaluate",))


def test_status_counts_the_elements_that_are_done_and_tells_of_the_one_worst_off(
    trained: tuple[Recipe, Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, cell = trained

    def shown(**states: str) -> tuple[object, ...]:
        given = Submissions(**states)
        latest = {(cell.id, task): job for task, job in given.jobs.items()}
        monkeypatch.setattr(status.Submissions, "latest", lambda submissions: latest)
        monkeypatch.setattr(status, "states", lambda jobs: given.known)
        one = next(one for one in status.statuses(recipe) if one.cell == cell.id)
        return one.stage, one.state, one.step, one.steps, one.reason

    run_task(recipe, cell, "embed.1-of-3")
    running = {"embed_0_of_3": "RUNNING", "embed_1_of_3": "COMPLETED", "embed_2_of_3": "PENDING"}
    assert shown(**running) == ("embed", "running", 1, 3, "")
    lost = running | {"embed_2_of_3": "NODE_FAIL"}
    assert shown(**lost) == ("embed", "failed", 1, 3, "a node failed")
    with monkeypatch.context() as patched:
        patched.setattr(shared_embedding, "finish", lambda *_: False)
        run_task(recipe, cell, "embed.0-of-3")
        run_task(recipe, cell, "embed.2-of-3")
    together = running | {"embed_2_of_3": "COMPLETED"}
    assert shown(**together) == ("embed", "running", 3, 3, "its parts are to be put together")
    run_task(recipe, cell, "evaluate")
    assert shown(evaluate="COMPLETED")[1] == "done"
