"""Saved work that cannot be loaded is never mistaken for none: the run refuses, and loses no file.

Covers `lost`, and `collective` with one rank; tests/distributed/test_lost.py has two.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_run import SmallRun, flip_bit, train

from harness.checkpoint import lost
from harness.checkpoint.checkpoints import CheckpointError, Progress, discard
from harness.storage.checksums import read_checksummed, write_checksummed

ROWS = "".join(f'{{"kind": "train", "step": {step}, "loss": 1.0}}\n' for step in (1, 2, 3))


def trained(cell: Path) -> Path:
    """A cell that has saved steps 1 to 3, and its log."""
    train(cell, 3)
    (cell / "train.jsonl").write_text(ROWS)
    return cell / "checkpoints"


def files(cell: Path) -> dict[str, bytes]:
    """Every file of a cell, by its path; a link counts as where it leads."""
    return {
        str(path.relative_to(cell)): str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        for path in cell.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def damage_all(checkpoints: Path) -> None:
    for folder in checkpoints.glob("step-*"):
        flip_bit(folder / "__0_0.distcp")


def keep_pointers_only(checkpoints: Path) -> None:
    for folder in checkpoints.glob("step-*"):
        shutil.rmtree(folder)


def empty(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints)
    checkpoints.mkdir()


def other_settings(checkpoints: Path) -> None:
    for facts in checkpoints.glob("*/checkpoint.json"):
        write_checksummed(facts, {**read_checksummed(facts), "fingerprint": "other"})


def other_format(checkpoints: Path) -> None:
    for facts in checkpoints.glob("*/checkpoint.json"):
        write_checksummed(facts, {**read_checksummed(facts), "format": 7})


LOSSES: dict[str, tuple[Callable[[Path], None], str]] = {
    "all damaged": (damage_all, "checkpoint step-000000003 is damaged: __0_0.distcp"),
    "only the pointers left": (keep_pointers_only, "latest is there, but no checkpoint"),
    "the folder removed": (shutil.rmtree, "train.jsonl has steps up to 3, and the folder checkpoints is gone"),
    "the folder emptied": (empty, "train.jsonl has steps up to 3, and last_save.json says that they were saved"),
    "other settings": (other_settings, "made with other settings or data"),
    "another format": (other_format, "written in format 7, this version reads format 1"),
}


@pytest.mark.parametrize(("lose", "why"), LOSSES.values(), ids=LOSSES)
def test_lost_work_is_refused_and_every_file_kept(tmp_path: Path, lose: Callable[[Path], None], why: str) -> None:
    lose(trained(tmp_path))
    before = files(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        SmallRun().resume(tmp_path)
    assert why in str(caught.value)
    assert "launch.restart_lost=true" in str(caught.value)
    assert files(tmp_path) == before


@pytest.mark.parametrize(("lose", "why"), LOSSES.values(), ids=LOSSES)
def test_a_restart_moves_what_is_left_aside(tmp_path: Path, lose: Callable[[Path], None], why: str) -> None:
    lose(trained(tmp_path))
    before = files(tmp_path)
    run, fresh = SmallRun(), SmallRun()
    (note,) = run.resume(tmp_path, restart_lost=True)
    assert why in note
    assert f"starting again from step 0, what was there is in {tmp_path / 'lost-1'}" in note
    assert run.progress == Progress()
    assert not run.optimiser.state
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), fresh.model.parameters(), strict=True))
    assert files(tmp_path / "lost-1") == before
    assert not (tmp_path / "train.jsonl").exists()
    assert SmallRun().resume(tmp_path) == []  # the restarted run, killed before its first save


def test_the_damage_of_every_checkpoint_is_named(tmp_path: Path) -> None:
    damage_all(trained(tmp_path))
    with pytest.raises(CheckpointError) as caught:
        SmallRun().resume(tmp_path)
    for step in (1, 2, 3):
        assert f"checkpoint step-00000000{step} is damaged: __0_0.distcp is damaged" in str(caught.value)


def test_a_second_restart_does_not_touch_what_the_first_moved(tmp_path: Path) -> None:
    for number in (1, 2):
        damage_all(trained(tmp_path))
        SmallRun().resume(tmp_path, restart_lost=True)
        assert len(list((tmp_path / f"lost-{number}" / "checkpoints").glob("step-*"))) == 3


def test_partial_saves_are_kept_for_salvage(tmp_path: Path) -> None:
    checkpoints = trained(tmp_path)
    shutil.copytree(checkpoints / "step-000000003", checkpoints / ".step-000000004.partial")
    damage_all(checkpoints)
    with pytest.raises(CheckpointError):
        SmallRun().resume(tmp_path)
    assert (checkpoints / ".step-000000004.partial" / "__0_0.distcp").exists()


def test_a_save_killed_between_its_two_renames_loses_nothing(tmp_path: Path) -> None:
    """The checkpoint to be replaced has been renamed, the new one has not yet its name."""
    train(tmp_path, 1)
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "step-000000001").rename(checkpoints / ".step-000000001.replaced.partial")
    run = SmallRun()
    assert run.resume(tmp_path) == []
    assert run.progress.step == 1


def test_a_run_that_ended_before_its_first_save_starts_at_0(tmp_path: Path) -> None:
    assert SmallRun().resume(tmp_path) == []  # makes the folder
    (tmp_path / "train.jsonl").write_text(ROWS)
    (tmp_path / "checkpoints" / ".step-000000003.partial").mkdir()
    run = SmallRun()
    assert run.resume(tmp_path) == []
    assert run.progress == Progress()


def test_a_finished_run_can_be_trained_again(tmp_path: Path) -> None:
    trained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    discard(tmp_path)
    run = SmallRun()
    assert run.resume(tmp_path) == []
    assert run.progress == Progress()


def test_an_older_good_checkpoint_is_used_with_a_note(tmp_path: Path) -> None:
    checkpoints = trained(tmp_path)
    flip_bit(checkpoints / "step-000000003" / "__0_0.distcp")
    run = SmallRun()
    notes = run.resume(tmp_path, restart_lost=True)
    assert notes[1:] == ["going on from step 2"]
    assert run.progress.step == 2
    assert not (tmp_path / "lost-1").exists()


def replace_with_file(checkpoints: Path) -> None:
    checkpoints.rename(checkpoints.with_name("elsewhere"))
    checkpoints.write_text("")


def replace_with_dead_link(checkpoints: Path) -> None:
    checkpoints.rename(checkpoints.with_name("elsewhere"))
    checkpoints.symlink_to("not-mounted")


def replace_with_loop(checkpoints: Path) -> None:
    checkpoints.rename(checkpoints.with_name("elsewhere"))
    checkpoints.symlink_to("checkpoints")


@pytest.mark.parametrize("restart_lost", [False, True])
@pytest.mark.parametrize("change", [replace_with_file, replace_with_dead_link, replace_with_loop])
def test_a_folder_that_cannot_be_read_is_not_an_empty_one(
    tmp_path: Path, change: Callable[[Path], None], restart_lost: bool
) -> None:
    change(trained(tmp_path))
    before = files(tmp_path)
    with pytest.raises(CheckpointError, match=r"checkpoints: (cannot be read|a link to )"):
        SmallRun().resume(tmp_path, restart_lost=restart_lost)
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", ["checkpoint.json", "__0_0.distcp", "latest"])
def test_an_error_of_the_disk_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A file that cannot be read now may be readable tomorrow: falling back would lose its steps."""
    trained(tmp_path)
    real_open, real_bytes = Path.open, Path.read_bytes

    def failing(real: Callable[..., object]) -> Callable[..., object]:
        def read(path: Path, *arguments: object, **options: object) -> object:
            if path.name == name:
                raise OSError(5, "Input/output error", str(path))
            return real(path, *arguments, **options)

        return read

    monkeypatch.setattr(Path, "open", failing(real_open))
    monkeypatch.setattr(Path, "read_bytes", failing(real_bytes))
    with pytest.raises(CheckpointError, match=rf"{name}: cannot be read: Input/output error"):
        SmallRun().resume(tmp_path)


def test_a_folder_without_permission_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(lost.Path, "iterdir", refuse)
    with pytest.raises(CheckpointError, match="checkpoints: cannot be read: Permission denied"):
        SmallRun().resume(tmp_path)
