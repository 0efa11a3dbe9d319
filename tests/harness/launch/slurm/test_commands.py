"""Covers `commands`: when a question is asked again, what is an error, and what sinfo and scontrol print."""

from __future__ import annotations

import math
import time

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slurm_stubs import Stubs

from harness.launch.slurm import commands
from harness.launch.slurm.commands import NoAnswerError, SlurmError, ask, run_once

SLOW = [
    "slurm_load_jobs error: Socket timed out on send/recv operation",
    "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
    "squeue: error: slurm_receive_msg: Zero Bytes were transmitted or received",
    "slurm_load_jobs error: Resource temporarily unavailable",
    "slurm_load_jobs error: Transport endpoint is not connected",
    "squeue: error: Slurm backup controller in standby mode",
    "squeue: error: Munge encode failed: Failed to access \"munge.socket.2\": No such file or directory",
]  # fmt: skip


def failing_first(stubs: Stubs, times: int, message: str, then: str, status: int = 1) -> None:
    """squeue fails so often with this message, and prints `then` afterwards."""
    calls = stubs.folder / "calls-squeue"
    stubs.script(
        "squeue",
        f'[ $(/usr/bin/wc -l < {calls}) -gt {times} ] && echo "{then}" && exit 0\n'
        f"/bin/cat >&2 <<'END'\n{message}\nEND\nexit {status}",
    )


@pytest.mark.parametrize("message", SLOW)
@pytest.mark.parametrize("status", [0, 1])
def test_a_question_is_asked_again_while_slurm_cannot_be_reached(
    stubs: Stubs, message: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_first(stubs, 2, message, "answer", status)
    assert ask("squeue", "--me", is_record=str.strip) == "answer\n"
    assert stubs.calls("squeue") == ["--me"] * 3
    assert capsys.readouterr().err.count(f"note: {message}; asking again in ") == 2


def test_the_number_of_questions_is_limited(stubs: Stubs) -> None:
    failing_first(stubs, 100, SLOW[0], "answer")
    with pytest.raises(NoAnswerError, match=r"Socket timed out .*\(asked 4 times\)"):
        ask("squeue")
    assert len(stubs.calls("squeue")) == 4


def test_the_time_of_all_questions_is_limited(stubs: Stubs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "PAUSES", (1000.0,))
    failing_first(stubs, 100, SLOW[0], "answer")
    with pytest.raises(NoAnswerError, match="asked 1 times"):
        ask("squeue")


def test_a_command_that_hangs_is_ended_with_what_it_started(stubs: Stubs) -> None:
    """Else a wrapper's sbatch would go on in the background and submit later."""
    stubs.script("squeue", f"/bin/sleep 60 & echo $! > {stubs.folder}/child; wait")
    with pytest.raises(NoAnswerError, match="squeue does not answer within 1 s"):
        run_once("squeue", seconds=0.6)
    child = int((stubs.folder / "child").read_text())
    end = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("messages", "shown"),
    [
        ("squeue: error: Invalid user: nobody\n", "squeue: error: Invalid user: nobody"),
        ("Welcome to Nautilus\nsqueue: error: Invalid user\n", "squeue: error: Invalid user"),
        ("\x1b[31mInvalid job id specified for job 7\x1b[0m\r\n", "Invalid job id specified for job 7"),
        ("", "squeue failed with exit status 3 and says nothing"),
    ],
)
def test_other_errors_are_final_and_in_slurms_words(stubs: Stubs, messages: str, shown: str) -> None:
    stubs.answer("squeue", messages=messages, status=3)
    with pytest.raises(SlurmError) as caught:
        ask("squeue")
    assert str(caught.value) == shown
    assert len(stubs.calls("squeue")) == 1


def test_a_machine_of_no_cluster_is_named(stubs: Stubs) -> None:
    """As SLURM 22.05 says it where it is installed and there is no slurm.conf."""
    said = "squeue: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host\n"
    said += "squeue: fatal: Could not establish a configuration source\n"
    stubs.answer("squeue", messages=said, status=1)
    with pytest.raises(
        SlurmError, match=r"^squeue is installed here and finds no configuration of a cluster; ask from "
    ):
        ask("squeue")


def test_a_command_that_cannot_be_run_is_named(stubs: Stubs) -> None:
    with pytest.raises(SlurmError, match="squeue is not installed here"):
        ask("squeue")
    (stubs.folder / "squeue").mkdir()
    with pytest.raises(SlurmError, match="squeue cannot be run here: "):
        ask("squeue")


ENDED = [
    "scancel: error: Kill job error on job id 5: Invalid job id specified",
    "scancel: error: Kill job error on job id 5_1: Job/step already completing or completed",
    "Job has already finished for job 5",
    "Invalid job id specified for job 5",
    "slurm_update error: Job/step already completing or completed",
    "Welcome to Nautilus\n1_0-3: Job is pending execution",
]


@pytest.mark.parametrize("message", ENDED)
def test_that_a_job_has_ended_meanwhile_is_no_error(stubs: Stubs, message: str) -> None:
    for name in ("scancel", "scontrol"):
        stubs.answer(name, messages=message + "\n", status=1)
    commands.cancel(["5"])
    commands.throttle("5", 2)
    commands.requeue("5")
    assert len(stubs.calls("scancel") + stubs.calls("scontrol")) == 3


def test_other_errors_of_a_cancellation_are_errors(stubs: Stubs) -> None:
    refused = "scancel: error: Kill job error on job id 6: Access/permission denied"
    stubs.answer("scancel", messages=f"{ENDED[0]}\n{refused}\n", status=1)
    with pytest.raises(SlurmError, match="Access/permission denied"):
        commands.cancel(["5", "6"])


def test_warnings_of_a_command_that_succeeds_are_ignored(stubs: Stubs) -> None:
    for name in ("scontrol", "sbatch"):
        stubs.answer(name, messages=f"{name}: error: _parse_next_key: unrecognized key: Foo\n")
    commands.throttle("5", 2)
    assert commands.refusal(["--partition=gpu"]) is None


def test_a_refusal_is_told_without_banners_and_no_answer_is_no_refusal(stubs: Stubs) -> None:
    words = "sbatch: error: invalid partition specified: foo\nallocation failure: Invalid partition name specified"
    stubs.answer("sbatch", "Memory of your home: 93%\n", f"Please mind the time limit.\n{words}\n", 1)
    assert commands.refusal([]) == words
    stubs.answer("sbatch", messages="allocation failure: Unable to contact slurm controller\n", status=1)
    with pytest.raises(NoAnswerError):
        commands.refusal([])


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [
        ("1-02:03:30", 1563.5), ("1-02:03", 1563), ("1-12", 2160), ("1-00", 1440), ("7-00:00:00", 10080),
        ("02:00:00", 120), ("05:30", 5.5), ("30:00", 30), ("30", 30), ("90", 90),
        ("infinite", math.inf), ("UNLIMITED", math.inf), ("n/a", math.inf),
        ("idle", None), ("", None), ("-3", None), ("1:2:3:4", None),
    ],
)  # fmt: skip
def test_time_limits_are_parsed_as_slurm_writes_them(limit: str, minutes: float | None) -> None:
    assert commands._minutes(limit) == minutes


@given(st.integers(0, 99), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_a_time_limit_in_any_form_has_its_length(days: int, hours: int, minutes: int, seconds: int) -> None:
    whole = days * 1440 + hours * 60 + minutes
    assert commands._minutes(f"{days}-{hours:02d}:{minutes:02d}:{seconds:02d}") == pytest.approx(whole + seconds / 60)
    assert commands._minutes(f"{days}-{hours}:{minutes:02d}") == whole
    assert commands._minutes(f"{days}-{hours:02d}") == whole - minutes
    assert commands._minutes(f"{days * 24 + hours}:{minutes:02d}:00") == whole
    assert commands._minutes(f"{whole}:{seconds:02d}") == pytest.approx(whole + seconds / 60)
    assert commands._minutes(str(whole)) == whole


def test_the_limit_of_a_partition_is_found_among_other_lines(stubs: Stubs) -> None:
    lines = [
        "Welcome to Nautilus", "CLUSTER: nautilus", "PARTITION TIMELIMIT", "", "gpu 12:00:00", "main* 1-00:00:00",
        "gpu 2-00", "debug 30", "long infinite", "odd soon",
    ]  # fmt: skip
    stubs.answer("sinfo", "\r\n".join(lines) + "\r\n")
    limits = {name: commands.longest_minutes(name) for name in ("gpu", "debug", "long", "odd", "debug,gpu", "none")}
    assert limits == {"gpu": 2880, "debug": 30, "long": math.inf, "odd": math.inf, "debug,gpu": 2880, "none": math.inf}
    assert commands.longest_minutes(None) == commands.longest_minutes("main") == 1440
    stubs.answer("sinfo", "gpu 1-00:00:00\n")
    assert commands.longest_minutes(None) == math.inf, "no partition is the default one"


CONFIG = {
    "MaxArraySize            = 101\n": 101,
    "\tMaxArraySize=5001\r\n": 5001,
    "Welcome\nMaxArraySize = 77 (changed)\nMaxArraySizeOld = 3\n": 77,
    "MaxArraySize = (null)\n": 1001,
    "MaxArraySize = \n": 1001,
    "MaxJobCount = 10000\n": 1001,
    "": 1001,
}


@pytest.mark.parametrize(("printed", "size"), CONFIG.items())
def test_the_largest_array_is_read_or_slurms_default(stubs: Stubs, printed: str, size: int) -> None:
    stubs.answer("scontrol", printed)
    assert commands.max_array_size() == size
