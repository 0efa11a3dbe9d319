"""A checkpoint counts once it is whole, any damage to it is found, and the one before it takes its place."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from harness.checkpoint.checkpoints import CheckpointError, Checkpoints, Progress, discard
from harness.checkpoint.tensors import MetadataUnpickler
from harness.distributed.optimiser import build_optimiser
from harness.distributed.ranks import Ranks
from harness.storage.checksums import Damaged, read_checksummed, write_checksummed

ALONE = Ranks(0, 1, torch.device("cpu"))


class Small:
    """A model that learns random numbers drawn from all three global generators, so that these must be restored."""

    def __init__(self, optimiser: str = "adamw") -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        self.optimiser = build_optimiser(
            self.model, optimiser, peak=0.01, betas=(0.9, 0.95), weight_decay=0.1  # type: ignore[arg-type]
        )  # fmt: skip
        self.progress = Progress()
        self.sum = torch.zeros(1)

    def checkpoints(self, folder: Path, keep: int = 2, fingerprint: str = "print") -> Checkpoints:
        return Checkpoints(folder, fingerprint, ALONE, {"sum": self.sum}, keep=keep)

    def step(self) -> float:
        shift = float(np.random.normal()) + random.gauss(0, 1)
        loss = (self.model(torch.randn(16, 4) + shift) - shift).square().mean()
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.sum += loss.detach()
        self.progress.step += 1
        return loss.item()

    def state(self) -> dict[str, Any]:
        model, optimiser = get_state_dict(self.model, self.optimiser)
        return {"model": model, "optimiser": optimiser}

    def load(self, state: dict[str, Any]) -> None:
        set_state_dict(
            self.model, self.optimiser, model_state_dict=state["model"], optim_state_dict=state["optimiser"]
        )  # fmt: skip

    def resume(self, folder: Path) -> list[str]:
        held = self.checkpoints(folder)
        self.progress, notes = held.resume(self)
        held.close()
        return notes


def trained(folder: Path, steps: int, keep: int = 3, every: int = 1) -> Small:
    small = Small()
    held = small.checkpoints(folder, keep=keep)
    for _ in range(steps):
        small.step()
        if small.progress.step % every == 0:
            held.save(small, small.progress)
    held.close()
    return small


def folders(cell: Path) -> list[str]:
    return sorted(path.name for path in (cell / "checkpoints").iterdir())


@pytest.mark.parametrize("optimiser", ["adamw", "lion"])
def test_what_follows_a_save_is_the_same_after_a_resume(tmp_path: Path, optimiser: str) -> None:
    first, again = Small(optimiser), Small(optimiser)
    held = first.checkpoints(tmp_path)
    for _ in range(3):
        first.step()
    first.progress.best_loss, first.progress.validation = 0.1 + 0.2, {"validation_loss": 1 / 3}
    held.save(first, first.progress)
    after = [first.step() for _ in range(5)]  # while the save may be under way: it must hold the state before them
    held.close()
    for _ in range(2):
        again.step()
    assert again.resume(tmp_path) == []
    assert (again.progress.step, again.progress.best_loss) == (3, 0.1 + 0.2)
    assert again.progress.validation == {"validation_loss": 1 / 3}
    assert [again.step() for _ in range(5)] == after
    assert torch.equal(first.sum, again.sum)
    state = first.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.model.state_dict().items())


def test_nothing_saved_means_step_0_without_a_word(tmp_path: Path) -> None:
    small = Small()
    assert small.resume(tmp_path) == []
    assert small.progress == Progress()
    assert not small.optimiser.state


def test_the_last_k_are_kept_and_the_best(tmp_path: Path) -> None:
    small = Small()
    held = small.checkpoints(tmp_path, keep=2)
    for step in range(1, 7):
        small.step()
        held.save(small, small.progress, best=step == 2)
    held.wait()
    names = ["best", "latest", "step-000000002", "step-000000005", "step-000000006"]
    assert folders(tmp_path) == names
    held.close()
    discard(tmp_path)
    assert folders(tmp_path) == ["best", "step-000000002"]


def test_a_finished_run_leaves_no_checkpoints(tmp_path: Path) -> None:
    small = Small()
    small.step()
    held = small.checkpoints(tmp_path)
    held.save(small, small.progress)
    held.close()
    discard(tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


KINDS = {"tensors": "__0_0.distcp", "metadata": ".metadata", "seal": "checkpoint.json"}
DAMAGES: dict[str, Callable[[Path], None]] = {"flipped": flip, "truncated": truncate, "missing": Path.unlink}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path: Path, kind: str, damage: str) -> None:
    trained(tmp_path, 3)
    DAMAGES[damage](tmp_path / "checkpoints" / "step-000000003" / KINDS[kind])
    small = Small()
    notes = small.resume(tmp_path)
    assert small.progress.step == 2
    assert notes[0].startswith(f"checkpoint step-000000003 is damaged: {KINDS[kind]}")
    assert notes[1:] == ["going on from step 2"]


def damage_pointer(pointer: Path, how: str) -> None:
    match how:
        case "missing":
            pointer.unlink()
        case "garbage":
            pointer.write_bytes(os.urandom(64))
        case "flipped":
            flip(pointer)
        case "to nothing":
            shutil.rmtree(pointer.parent / "step-000000003")
        case "to anywhere":
            write_checksummed(pointer, {"checkpoint": "../../elsewhere"})


@pytest.mark.parametrize(
    ("how", "step", "note"),
    [
        ("missing", 3, "latest cannot be read"),
        ("garbage", 3, "latest is not what was written"),
        ("flipped", 3, "latest is not what was written"),
        ("to nothing", 2, "latest names step-000000003, which is not there"),
        ("to anywhere", 3, "latest names ../../elsewhere, which is not there"),
    ],
)
def test_a_damaged_pointer_is_said_and_the_newest_whole_checkpoint_used(
    tmp_path: Path, how: str, step: int, note: str
) -> None:
    trained(tmp_path, 3)
    damage_pointer(tmp_path / "checkpoints" / "latest", how)
    small = Small()
    notes = small.resume(tmp_path)
    assert small.progress.step == step
    assert notes[0].startswith(note)


def test_with_no_whole_checkpoint_left_the_run_starts_anew_and_says_so(tmp_path: Path) -> None:
    trained(tmp_path, 3)
    for folder in (tmp_path / "checkpoints").glob("step-*"):
        flip(folder / "__0_0.distcp")
    small, fresh = Small(), Small()
    notes = small.resume(tmp_path)
    assert len(notes) == 4
    assert notes[-1] == "no whole checkpoint is left: starting anew"
    assert small.progress == Progress()
    assert not small.optimiser.state
    assert all(torch.equal(a, b) for a, b in zip(small.model.parameters(), fresh.model.parameters(), strict=True))


def test_after_a_fall_back_the_damaged_step_is_written_again(tmp_path: Path) -> None:
    trained(tmp_path, 3)
    flip(tmp_path / "checkpoints" / "step-000000003" / "__0_0.distcp")
    small = Small()
    held = small.checkpoints(tmp_path)
    small.progress, _ = held.resume(small)
    small.step()
    held.save_now(small, small.progress)
    held.close()
    again = Small()
    assert again.resume(tmp_path) == []
    assert again.progress.step == 3


def test_what_a_killed_save_left_is_cleared_and_does_not_count(tmp_path: Path) -> None:
    trained(tmp_path, 2)
    left = tmp_path / "checkpoints" / ".step-000000003.partial"
    shutil.copytree(tmp_path / "checkpoints" / "step-000000002", left)
    small = Small()
    assert small.resume(tmp_path) == []
    assert small.progress.step == 2
    assert not left.exists()


def test_another_fingerprint_or_format_is_refused(tmp_path: Path) -> None:
    trained(tmp_path, 2)
    small = Small()
    with pytest.raises(CheckpointError, match="made with other settings or data; remove"):
        small.checkpoints(tmp_path, fingerprint="other").resume(small)
    seal = tmp_path / "checkpoints" / "step-000000002" / "checkpoint.json"
    write_checksummed(seal, {**read_checksummed(seal), "format": 0})
    with pytest.raises(CheckpointError, match="written in format 0, this version reads format 1"):
        small.checkpoints(tmp_path).resume(small)


def test_a_whole_checkpoint_of_another_model_is_an_error_and_not_a_new_start(tmp_path: Path) -> None:
    trained(tmp_path, 2)
    small = Small()
    small.model[2] = nn.Linear(8, 3)
    with pytest.raises(CheckpointError, match="whole, but it does not fit this run"):
        small.checkpoints(tmp_path).resume(small)


def test_a_save_that_fails_is_said_and_the_one_before_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Small()
    held = small.checkpoints(tmp_path)
    small.step()
    held.save_now(small, small.progress)

    def full(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.checkpoint.checkpoints.write_checksummed", full)
    small.step()
    held.save(small, small.progress)
    held.wait()
    assert "the checkpoint of step 2 could not be written" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match=r"step 2 could not be written: .*No space left"):
        held.save_now(small, small.progress)
    held.close()
    monkeypatch.undo()
    again = Small()
    assert again.resume(tmp_path) == []
    assert again.progress.step == 1


def test_metadata_that_names_anything_but_tensors_is_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "evil"
    path.write_bytes(pickle.dumps(os.system))
    with path.open("rb") as file, pytest.raises(pickle.UnpicklingError, match=r"posix\.system"):
        MetadataUnpickler(file).load()


def test_a_seal_says_how_a_file_differs(tmp_path: Path) -> None:
    path = tmp_path / "seal.json"
    write_checksummed(path, {"a": [1, 2.5, None]})
    assert read_checksummed(path) == {"a": [1, 2.5, None]}
    path.write_text(json.dumps({"value": {"a": 2}, "sha256": json.loads(path.read_text())["sha256"]}))
    with pytest.raises(Damaged, match="its checksum differs"):
        read_checksummed(path)
