"""What SLURM's answers mean, in the words that SLURM 22.05 printed."""

from __future__ import annotations

import pytest

from harness.launch.slurm import job_states as room
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

    monkeypatch.setattr(room, "ask", ask)
    return printed


def test_an_array_cancelled_before_it_began_is_cancelled_in_every_element(slurm: dict[str, str]) -> None:
    slurm["squeue"] = "6|6_N/A|CANCELLED|None\n"
    assert states(["6_0", "6_1"]) == dict.fromkeys(["6_0", "6_1"], JobState("CANCELLED", "None"))


def test_elements_in_brackets_are_every_element_that_has_no_row_of_its_own(slurm: dict[str, str]) -> None:
    slurm["sacct"] = "6_0|COMPLETED\n6_[1-9%2]|CANCELLED by 1000\n7|NODE_FAIL\n"
    found = states(["6_0", "6_4", "7", "8"])
    assert found == {
        "6_0": JobState("COMPLETED"),
        "6_4": JobState("CANCELLED"),
        "7": JobState("NODE_FAIL"),
        "8": UNKNOWN,
    }


def test_accounting_that_calls_a_forgotten_job_live_is_stale(slurm: dict[str, str]) -> None:
    slurm["sacct"] = "9|RUNNING\n10|PENDING\n"
    assert states(["9", "10"]) == {"9": UNKNOWN, "10": UNKNOWN}


def test_without_accounting_the_queue_alone_tells(slurm: dict[str, str]) -> None:
    slurm["squeue"] = "9|9_3|RUNNING|None\n12|9_4|PENDING|Resources\n"
    found = states(["9_3", "9_4", "9_5"])
    assert [one.phase for one in found.values()] == ["running", "queued", "unknown"]
