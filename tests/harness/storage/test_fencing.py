"""Only the newest start of a stage may write results; an older start that still runs is refused. Covers `fencing`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from harness.checkpoint.checkpoints import CheckpointError, Checkpoints, Progress
from harness.distributed.preemption import RunControl, StopFlag
from harness.distributed.ranks import Ranks
from harness.grid.cells import cells
from harness.grid.stage_run import StageRun
from harness.recipe.schema import Recipe
from harness.stages.run import record
from harness.storage import ledger
from harness.storage.fencing import Fence, Fenced, Start, Unfenced
from harness.storage.train_log import read_log
from harness.train.metrics import MetricsLogger

starts = st.builds(
    Start, st.integers(1, 3), st.integers(0, 2), st.builds("{}_{}".format, st.integers(8, 11), st.integers(8, 11))
)


def test_a_restart_takes_over_and_the_older_start_is_refused(tmp_path: Path) -> None:
    older = Fence(tmp_path, "train", Start(1, 0, "7_0"))
    older.check()
    newer = Fence(tmp_path, "train", Start(1, 1, "7_0"))
    newer.check()
    with pytest.raises(Fenced, match="taken over from"):
        older.check()


def test_an_older_start_cannot_take_the_stage_back(tmp_path: Path) -> None:
    Fence(tmp_path, "train", Start(2, 0, "10_0"))
    with pytest.raises(Fenced):
        Fence(tmp_path, "train", Start(1, 5, "9_0"))


@pytest.mark.parametrize(("earlier", "later"), [("9_0", "10_0"), ("9_9", "9_10"), ("9", "10"), ("", "9")])
def test_of_two_jobs_of_one_attempt_only_the_later_may_write(tmp_path: Path, earlier: str, later: str) -> None:
    """As after a loss of the submissions file: both are attempt 1 and were never restarted."""
    first = Fence(tmp_path, "train", Start(1, 0, earlier))
    second = Fence(tmp_path, "train", Start(1, 0, later))
    with pytest.raises(Fenced, match=rf"job {later} \(attempt 1, restart 0\) has taken over from job {earlier} "):
        first.check()
    second.check()
    with pytest.raises(Fenced, match="has taken over stage train"):
        Fence(tmp_path, "train", Start(1, 0, earlier))
    Fence(tmp_path, "train", Start(1, 0, later)).check()  # the same job, whose process was started again


@given(starts, starts)
def test_one_of_two_different_starts_is_newer(one: Start, other: Start) -> None:
    assert one.is_newer_than(other) + other.is_newer_than(one) == (one != other)


def test_stages_do_not_fence_one_another(tmp_path: Path) -> None:
    training = Fence(tmp_path, "train", Start(3, 0, "12_0"))
    Fence(tmp_path, "embed", Start(1, 0, "13_0")).check()
    training.check()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fence-embed.json", "fence-train.json"]


class Linear:
    """A minimal engine to checkpoint."""

    def __init__(self) -> None:
        self.model = nn.Linear(2, 2)

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])


def test_an_older_start_cannot_publish_a_checkpoint(tmp_path: Path) -> None:
    fence = Fence(tmp_path, "train", Start(1, 0, "7_0"))
    checkpoints = Checkpoints(tmp_path, "print", Ranks(0, 1, torch.device("cpu")), fence=fence)
    checkpoints.save_now(Linear(), Progress(step=1))
    latest = (tmp_path / "checkpoints" / "latest").read_bytes()
    Fence(tmp_path, "train", Start(1, 1, "7_0"))
    with pytest.raises(CheckpointError, match="taken over"):
        checkpoints.save_now(Linear(), Progress(step=2))
    checkpoints.close()
    assert (tmp_path / "checkpoints" / "latest").read_bytes() == latest


def test_an_older_start_cannot_write_the_log(tmp_path: Path) -> None:
    log = MetricsLogger(tmp_path, "cell", 10, 0, 8, fence=Fence(tmp_path, "train", Start(1, 0, "7_0")))
    log.write({"kind": "train", "step": 1})
    Fence(tmp_path, "train", Start(1, 1, "7_0"))
    with pytest.raises(Fenced):
        log.write({"kind": "train", "step": 2})
    log.close()
    assert [row["step"] for row in read_log(tmp_path / "train.jsonl")] == [1]


def test_an_older_start_cannot_record_a_ledger_row(tmp_path: Path, tiny_recipe: Recipe) -> None:
    run = StageRun(tiny_recipe, cells(tiny_recipe)[0], tmp_path, "print")
    control = RunControl(StopFlag(), Fence(tmp_path, "embed", Start(1, 0, "7_0")))
    Fence(tmp_path, "embed", Start(2, 0, "8_0"))
    with pytest.raises(Fenced):
        record(run, "embed", {}, control)
    assert ledger.read(tiny_recipe.output, run.cell.id, "embed") is None
    record(run, "embed", {}, None)  # a local job has no fence: it locks its cell
    assert ledger.read(tiny_recipe.output, run.cell.id, "embed") is not None


def test_a_process_without_fencing_is_never_refused(tmp_path: Path) -> None:
    newer = Fence(tmp_path, "train", Start(9, 9, "9_9"))
    with pytest.raises(Fenced):
        Fence(tmp_path, "train", Start(1, 0, "1_0")).check()
    Unfenced().check()
    newer.check()  # and it has not written a token of its own


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"7", b'{"attempt": "9", "restart": 0, "job": "1"}', b'{"attempt": 9, "restart": -1, "job": "1"}',
        b'{"attempt": 9, "restart": 0, "job": 1}', b'{"attempt": true, "restart": 0}', b"\xff\xfe", b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_file_that_is_no_token_fences_no_one_out_and_is_not_ones_own(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fence-train.json"
    path.write_bytes(content)
    fence = Fence(tmp_path, "train", Start(1, 0, "7_0"))
    fence.check()
    path.write_bytes(content)
    with pytest.raises(Fenced):
        fence.check()


def test_a_token_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "fence-train.json").symlink_to("fence-train.json")  # a loop: the system refuses to follow it
    with pytest.raises(Fenced, match="cannot be read"):
        Fence(tmp_path, "train", Start(1, 0, "7_0"))
