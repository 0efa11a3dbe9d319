"""A run resumes from its newest complete checkpoint; damage is detected.

Covers `checkpoints` and `rng`; `test_lost` and `test_restore` are about checkpoints that cannot be loaded.
tests/distributed/test_resume.py resumes with another number of ranks, and tests/distributed/test_kill.py after a kill.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_run import SmallRun, flip_bit, train, truncate
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from harness.checkpoint.checkpoints import CheckpointError, Checkpoints, Progress, discard
from harness.storage.checksums import read_checksummed, write_checksummed


def folders(cell: Path) -> list[str]:
    return sorted(path.name for path in (cell / "checkpoints").iterdir())


@pytest.mark.parametrize("optimiser", ["adamw", "lion", "muon"])
def test_a_resumed_run_continues_with_the_same_numbers(tmp_path: Path, optimiser: str) -> None:
    first, resumed = SmallRun(optimiser), SmallRun(optimiser)
    checkpoints = first.checkpoints(tmp_path)
    for _ in range(3):
        first.step()
    first.progress.best_loss, first.progress.validation = 0.1 + 0.2, {"validation_loss": 1 / 3}
    checkpoints.save(first, first.progress)
    losses = [first.step() for _ in range(5)]  # during the save, which must hold the state before these steps
    checkpoints.close()
    for _ in range(2):
        resumed.step()
    assert resumed.resume(tmp_path) == []
    assert (resumed.progress.step, resumed.progress.best_loss) == (3, 0.1 + 0.2)
    assert resumed.progress.validation == {"validation_loss": 1 / 3}
    assert [resumed.step() for _ in range(5)] == losses
    assert torch.equal(first.sum, resumed.sum)
    state = first.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in resumed.model.state_dict().items())


def test_a_run_without_checkpoints_starts_at_step_0_without_notes(tmp_path: Path) -> None:
    run = SmallRun()
    assert run.resume(tmp_path) == []
    assert run.progress == Progress()
    assert not run.optimiser.state


def test_the_last_k_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    run = SmallRun()
    checkpoints = run.checkpoints(tmp_path, keep=2)
    for step in range(1, 7):
        run.step()
        checkpoints.save(run, run.progress, best=step == 2)
    checkpoints.wait()
    names = ["best", "latest", "step-000000002", "step-000000005", "step-000000006"]
    assert folders(tmp_path) == names
    checkpoints.close()
    discard(tmp_path)
    assert folders(tmp_path) == ["best", "step-000000002"]


def test_a_finished_run_leaves_no_checkpoints(tmp_path: Path) -> None:
    run = SmallRun()
    run.step()
    checkpoints = run.checkpoints(tmp_path)
    checkpoints.save(run, run.progress)
    checkpoints.close()
    discard(tmp_path)
    assert not (tmp_path / "checkpoints").exists()


FILES = {"tensors": "__0_0.distcp", "metadata": ".metadata", "facts": "checkpoint.json"}
DAMAGES: dict[str, Callable[[Path], None]] = {"flipped": flip_bit, "truncated": truncate, "missing": Path.unlink}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_used(tmp_path: Path, kind: str, damage: str) -> None:
    train(tmp_path, 3)
    DAMAGES[damage](tmp_path / "checkpoints" / "step-000000003" / FILES[kind])
    run = SmallRun()
    notes = run.resume(tmp_path)
    assert run.progress.step == 2
    assert notes[0].startswith(f"checkpoint step-000000003 is damaged: {FILES[kind]}")
    assert notes[1:] == ["going on from step 2"]


def damage_pointer(pointer: Path, how: str) -> None:
    match how:
        case "missing":
            pointer.unlink()
        case "garbage":
            pointer.write_bytes(os.urandom(64))
        case "flipped":
            flip_bit(pointer)
        case "to a missing folder":
            shutil.rmtree(pointer.parent / "step-000000003")
        case "to another place":
            write_checksummed(pointer, {"checkpoint": "../../outside"})


@pytest.mark.parametrize(
    ("how", "step", "note"),
    [
        ("missing", 3, "latest cannot be read"),
        ("garbage", 3, "latest is damaged"),
        ("flipped", 3, "latest is damaged"),
        ("to a missing folder", 2, "latest names step-000000003, which does not exist"),
        ("to another place", 3, "latest names ../../outside, which does not exist"),
    ],
)
def test_a_damaged_pointer_is_reported_and_the_newest_complete_checkpoint_used(
    tmp_path: Path, how: str, step: int, note: str
) -> None:
    train(tmp_path, 3)
    damage_pointer(tmp_path / "checkpoints" / "latest", how)
    run = SmallRun()
    notes = run.resume(tmp_path)
    assert run.progress.step == step
    assert notes[0].startswith(note)


def test_after_a_fallback_the_damaged_step_is_saved_again(tmp_path: Path) -> None:
    train(tmp_path, 3)
    flip_bit(tmp_path / "checkpoints" / "step-000000003" / "__0_0.distcp")
    run = SmallRun()
    checkpoints = run.checkpoints(tmp_path)
    run.progress, _ = checkpoints.resume(run)
    run.step()
    checkpoints.save_now(run, run.progress)
    checkpoints.close()
    resumed = SmallRun()
    assert resumed.resume(tmp_path) == []
    assert resumed.progress.step == 3


def test_the_folder_of_a_killed_save_is_deleted_and_not_used(tmp_path: Path) -> None:
    train(tmp_path, 2)
    partial = tmp_path / "checkpoints" / ".step-000000003.partial"
    shutil.copytree(tmp_path / "checkpoints" / "step-000000002", partial)
    run = SmallRun()
    assert run.resume(tmp_path) == []
    assert run.progress.step == 2
    assert not partial.exists()


def test_another_fingerprint_or_format_is_refused(tmp_path: Path) -> None:
    train(tmp_path, 2)
    run = SmallRun()
    with pytest.raises(CheckpointError, match="made with other settings or data; remove"):
        run.checkpoints(tmp_path, fingerprint="other").resume(run)
    facts = tmp_path / "checkpoints" / "step-000000002" / "checkpoint.json"
    write_checksummed(facts, {**read_checksummed(facts), "format": 0})
    with pytest.raises(CheckpointError, match="written in format 0, this version reads format 1"):
        run.checkpoints(tmp_path).resume(run)


def test_a_complete_checkpoint_of_another_model_is_an_error(tmp_path: Path) -> None:
    train(tmp_path, 2)
    run = SmallRun()
    run.model[2] = nn.Linear(8, 3)
    with pytest.raises(CheckpointError, match="complete, but it does not fit this run"):
        run.checkpoints(tmp_path).resume(run)


def saved_once(folder: Path) -> tuple[SmallRun, Checkpoints]:
    """A run of one step, and its checkpoints, which have that step."""
    run = SmallRun()
    checkpoints = run.checkpoints(folder)
    run.step()
    checkpoints.save_now(run, run.progress)
    return run, checkpoints


def test_a_failed_save_is_reported_and_the_previous_checkpoint_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, checkpoints = saved_once(tmp_path)

    def fail(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.checkpoint.checkpoints.write_checksummed", fail)
    run.step()
    checkpoints.save(run, run.progress)
    checkpoints.wait()
    assert "the checkpoint of step 2 could not be written" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match=r"step 2 could not be written: .*No space left"):
        checkpoints.save_now(run, run.progress)
    checkpoints.close()
    monkeypatch.undo()
    resumed = SmallRun()
    assert resumed.resume(tmp_path) == []
    assert resumed.progress.step == 1


def test_a_disk_that_is_full_while_tensors_are_written_does_not_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch reports it with an exception that is no `Exception`."""
    run, checkpoints = saved_once(tmp_path)

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileSystemWriter, "write_data", fail)
    run.step()
    checkpoints.save(run, run.progress)
    checkpoints.wait()
    assert "the checkpoint of step 2 could not be written: [Errno 28] No space left" in capsys.readouterr().err
    checkpoints.close()
    resumed = SmallRun()
    assert resumed.resume(tmp_path) == []
    assert resumed.progress.step == 1
