"""Covers `job_states`: the parsing of what SLURM 22.05 printed."""

from __future__ import annotations

import pytest

from harness.launch.slurm import job_states
from harness.launch.slurm.commands import SlurmError
from harness.launch.slurm.job_states import UNKNOWN, JobState, states


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What squeue and sacct print; a command that is absent fails."""
    printed: dict[str, str] = {"squeue": ""}

    def ask(command: str, *_: str) -> str:
        if command not in printed:
            raise SlurmError("Slurm accounting storage is disabled")
        return printed[command]

    monkeypatch.setattr(job_states, "ask", ask)
    return printed


def test_an_array_cancelled_before_it_began_is_cancelled_in_every_task(slurm: dict[str, str]) -> None:
    slurm["squeue"] = "6|6_N/A|CANCELLED|None\n"
    assert states(["6_0", "6_1"]) == dict.fromkeys(["6_0", "6_1"], JobState("CANCELLED", "None"))


def test_tasks_in_brackets_are_all_that_have_no_row_of_their_own(slurm: dict[str, str]) -> None:
    slurm["sacct"] = "6_0|COMPLETED\n6_[1-9%2]|CANCELLED by 1000\n7|NODE_FAIL\n"
    assert states(["6_0", "6_4", "7", "8"]) == {
        "6_0": JobState("COMPLETED"),
        "6_4": JobState("CANCELLED"),
        "7": JobState("NODE_FAIL"),
        "8": UNKNOWN,
    }


def test_accounting_that_has_a_job_as_live_which_squeue_lacks_is_stale(slurm: dict[str, str]) -> None:
    slurm["sacct"] = "9|RUNNING\n10|PENDING\n"
    assert states(["9", "10"]) == {"9": UNKNOWN, "10": UNKNOWN}


def test_without_accounting_only_squeue_is_used(slurm: dict[str, str]) -> None:
    slurm["squeue"] = "9|9_3|RUNNING|None\n12|9_4|PENDING|Resources\n"
    current = states(["9_3", "9_4", "9_5"])
    assert [state.phase for state in current.values()] == ["running", "queued", "unknown"]
