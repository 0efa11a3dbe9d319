"""Covers `job_states`: what squeue and sacct print, among what sites and wrappers add to it, is parsed or refused."""

from __future__ import annotations

from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slurm_stubs import Stubs

from harness.launch.slurm import commands
from harness.launch.slurm.commands import NoAnswerError, SlurmError
from harness.launch.slurm.job_states import NAMES, REPLACED, UNKNOWN, JobState, find, states
from harness.storage.locks import user_name

HEADER = "JOBID|ARRAY_JOB_ID_ARRAY_TASK_ID|STATE|REASON\n"
RECORD = "101|100_0|RUNNING|None\n"
RUNNING = JobState("RUNNING", "None")


@pytest.fixture
def slurm(stubs: Stubs) -> Stubs:
    """An empty queue, and no accounting."""
    stubs.answer("squeue", HEADER)
    stubs.answer("sacct", messages="Slurm accounting storage is disabled\n", status=1)
    return stubs


def test_an_array_cancelled_before_it_began_is_cancelled_in_every_task(slurm: Stubs) -> None:
    slurm.answer("squeue", "6|6_N/A|CANCELLED|None\n")
    assert states(["6_0", "6_1"]) == dict.fromkeys(["6_0", "6_1"], JobState("CANCELLED", "None"))


def test_tasks_in_brackets_are_those_that_are_listed_and_have_no_row_of_their_own(slurm: Stubs) -> None:
    slurm.answer("sacct", "6_0|COMPLETED\n6_[1,3-9:2%2]|CANCELLED by 1000\n7|NODE_FAIL\n")
    assert states(["6_0", "6_1", "6_4", "6_5", "6_10", "7", "8"]) == {
        "6_0": JobState("COMPLETED"),
        "6_1": JobState("CANCELLED"),
        "6_4": UNKNOWN,
        "6_5": JobState("CANCELLED"),
        "6_10": UNKNOWN,
        "7": JobState("NODE_FAIL"),
        "8": UNKNOWN,
    }


@pytest.mark.parametrize(
    ("squeue", "sacct", "by_somebody"),
    [
        ("6|6_N/A|CANCELLED|None\n", "", True),
        ("6|6_N/A|CANCELLED|JobHeldUser\n", "", True),
        ("6|6_N/A|CANCELLED|Dependency\n", "", True),
        ("6|6_N/A|CANCELLED|DependencyNeverSatisfied\n", "", False),
        ("", "6|CANCELLED by 0\n", True),
        ("", "6|CANCELLED\n", False),
        ("", "6|FAILED\n", False),
    ],
)  # as SLURM 22.05 prints them
def test_what_somebody_cancelled_is_told_from_what_slurm_cancelled(
    slurm: Stubs, squeue: str, sacct: str, by_somebody: bool
) -> None:
    slurm.answer("squeue", HEADER + squeue)
    slurm.answer("sacct", sacct)
    assert states(["6"])["6"].was_cancelled == by_somebody


def test_what_was_recorded_holds_for_jobs_that_squeue_does_not_list_and_for_replaced_ones(slurm: Stubs) -> None:
    ended = {"5": JobState("FAILED", "x"), "6": JobState("CANCELLED", REPLACED), "7": JobState("FAILED")}
    ended["8"] = JobState("NODE_FAIL")
    squeue = "6|6_N/A|CANCELLED|None\n7|7_N/A|PENDING|BeginTime\n8|8_N/A|OUT_OF_MEMORY|None\n"
    slurm.answer("squeue", HEADER + squeue)
    newer = {"7": JobState("PENDING", "BeginTime"), "8": JobState("OUT_OF_MEMORY", "None")}
    assert states(["5", "6", "7", "8"], ended) == ended | newer
    assert slurm.calls("sacct") == []


def test_squeue_is_asked_for_other_users_jobs_by_name(slurm: Stubs) -> None:
    states(["5"], users={"bob", "alice"})
    find(["x"], {"alice"})
    asked = [call.split()[0] for call in slurm.calls("squeue")]
    assert asked == [
        f"--user={','.join(sorted({'alice', 'bob', user_name()}))}",
        f"--user={','.join(sorted({'alice', user_name()}))}",
    ]


@pytest.mark.parametrize("tasks", ["[5-9,...]", "[5-9,1", "[0,2,4...]"])
def test_a_list_of_tasks_that_is_cut_short_may_hold_for_any(slurm: Stubs, tasks: str) -> None:
    slurm.answer("squeue", f"6|6_{tasks}|PENDING|Priority\n6|6_1|FAILED|None\n")
    assert states(["6_77", "6_1"]) == {"6_77": JobState("PENDING", "Priority"), "6_1": JobState("FAILED", "None")}


def test_accounting_that_does_not_say_that_a_job_ended_is_stale(slurm: Stubs) -> None:
    slurm.answer("sacct", "9|RUNNING\n10|PENDING\n11|NEVER_HEARD_OF\n12|\n")
    assert states(["9", "10", "11", "12"]) == dict.fromkeys(["9", "10", "11", "12"], UNKNOWN)


def test_without_accounting_only_squeue_is_used(slurm: Stubs) -> None:
    slurm.answer("squeue", "9|9_3|RUNNING|None\n12|9_4|PENDING|Resources\n")
    current = states(["9_3", "9_4", "9_5"])
    assert [state.phase for state in current.values()] == ["running", "queued", "unknown"]
    assert len(slurm.calls("sacct")) == 1, "an error that will not pass is not asked about again"


def test_users_own_filters_of_squeue_do_not_hide_jobs(slurm: Stubs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_PARTITION", "gpu")
    slurm.script("squeue", f'[ -n "$SQUEUE_PARTITION" ] || printf "{RECORD}"')
    assert states(["100_0"]) == {"100_0": RUNNING}


AROUND = {
    "a banner before": "Welcome. Maintenance on Monday.\n" + RECORD,
    "a banner after": RECORD + "Your quota is 93% full\n",
    "a box": "+-----+\n| 1 | 2 | 3 |\n| Welcome | to | Nautilus |\n+-----+\n" + RECORD,
    "a cluster's name": "CLUSTER: nautilus\n" + RECORD,
    "blank lines": "\n  \n" + RECORD + "\n",
    "a header": HEADER + RECORD,
    "carriage returns": (HEADER + RECORD).replace("\n", "\r\n"),
    "a progress line": "loading...\r" + RECORD,
    "colours": "\x1b[1;31m" + RECORD.strip() + "\x1b[0m\n",
    "a terminal's title": "\x1b]0;login01\x07" + RECORD,
    "a byte order mark": "\ufeff" + RECORD,
    "spaces": " 101 | 100_0 | RUNNING  | None \n",
    "no reason": "101|100_0|RUNNING\n",
}


@pytest.mark.parametrize("printed", AROUND.values(), ids=AROUND)
def test_text_around_records_is_skipped(slurm: Stubs, printed: str) -> None:
    slurm.answer("squeue", printed)
    assert states(["100_0", "200"]) == {"100_0": JobState("RUNNING", "None" * ("None" in printed)), "200": UNKNOWN}


def test_a_banner_in_another_encoding_is_skipped(slurm: Stubs) -> None:
    slurm.answer("squeue", "Für Fragen: Müller\n".encode("latin-1") + RECORD.encode())
    assert states(["100_0"]) == {"100_0": RUNNING}


def test_an_empty_queue_is_empty_whatever_is_printed_around_it(slurm: Stubs) -> None:
    for printed in ("", "\n", HEADER, "Welcome to Nautilus\nCLUSTER: nautilus\n" + HEADER):
        slurm.answer("squeue", printed, messages="please save energy\n")
        assert states(["100_0"]) == {"100_0": UNKNOWN}


@pytest.mark.parametrize(
    ("printed", "messages"),
    [
        ("Nautilus is down for maintenance\n", ""),
        ("", "slurm_load_jobs error: Invalid user id\n"),
        ("slurm_load_jobs error: Access denied\n", ""),
        ("Welcome\n", "squeue: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host\n"),
    ],
)
def test_text_without_a_record_is_no_empty_queue(slurm: Stubs, printed: str, messages: str) -> None:
    """Exit status 0 says little: wrappers lose it."""
    slurm.answer("squeue", printed, messages)
    with pytest.raises(SlurmError) as caught:
        states(["100_0"])
    assert (messages or printed).strip() in str(caught.value)
    assert len(slurm.calls("squeue")) == 1


def test_complaints_beside_records_are_ignored(slurm: Stubs) -> None:
    slurm.answer("squeue", RECORD, messages="squeue: error: _parse_next_key: unrecognized key: Foo\n")
    assert states(["100_0"]) == {"100_0": RUNNING}


@pytest.mark.parametrize("state", ["HIBERNATING", "", "UNKNOWN", "?", "RE+", "COMPLET+", "(null)"])
def test_a_state_that_is_not_known_is_live_while_squeue_lists_it(slurm: Stubs, state: str) -> None:
    slurm.answer("squeue", f"101|100_0|{state}|None\n")
    current = states(["100_0"])["100_0"]
    assert current.is_live
    assert current != UNKNOWN


STATES = {
    "CANCELLED+": "CANCELLED", "CANCELLED by 1000": "CANCELLED", "OUT_OF_ME+": "OUT_OF_MEMORY",
    "NODE_FAI+": "NODE_FAIL", "PD": "PENDING", "CG": "COMPLETING", "running": "RUNNING", "TIMEOUT ": "TIMEOUT",
}  # fmt: skip


@pytest.mark.parametrize(("printed", "state"), STATES.items())
def test_short_and_cut_states_are_recognised(slurm: Stubs, printed: str, state: str) -> None:
    slurm.answer("squeue", f"101|100_0|{printed}|None\n")
    assert states(["100_0"])["100_0"].state == state


def test_a_reason_may_hold_the_separator(slurm: Stubs) -> None:
    slurm.answer("squeue", "101|100_0|PENDING|held: a|b|c\n")
    assert states(["100_0"]) == {"100_0": JobState("PENDING", "held: a|b|c")}


def test_ids_of_all_forms_are_read(slurm: Stubs) -> None:
    slurm.answer(
        "squeue", "7|7_N/A|RUNNING|None\n8|8_4294967294|RUNNING|None\n9|9+0_N/A|RUNNING|None\n4|4_|RUNNING|None\n"
    )
    slurm.answer("sacct", "123.batch|FAILED\n123+0|COMPLETED\n123.extern|COMPLETED\n5;nautilus|TIMEOUT\n6_1.0|FAILED\n")
    current = states(["7", "8", "9", "4", "123", "5", "6_1"])
    assert [state.state for state in current.values()] == ["RUNNING"] * 4 + ["COMPLETED", "TIMEOUT", "UNKNOWN"]


def test_of_two_records_of_a_job_the_live_one_counts(slurm: Stubs) -> None:
    """A federation lists a job that was revoked on one cluster and runs on another."""
    for lines in (
        ["5|5_N/A|REVOKED|None\n", "5|5_N/A|RUNNING|None\n"],
        ["5|5_N/A|RUNNING|None\n", "5|5_N/A|REVOKED|None\n"],
    ):
        slurm.answer("squeue", "".join(lines))
        assert states(["5"]) == {"5": RUNNING}


def test_a_slow_accounting_is_waited_for_and_then_done_without(
    slurm: Stubs, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.answer("sacct", messages="sacct: error: Problem talking to the database: Connection refused\n", status=1)
    assert states(["5"]) == {"5": UNKNOWN}
    assert len(slurm.calls("sacct")) == 4
    assert "how jobs ended that squeue no longer lists is not known" in capsys.readouterr().err


def test_jobs_are_found_by_name_in_the_queue_and_then_in_accounting(slurm: Stubs) -> None:
    slurm.answer("squeue", "Welcome\nARRAY_JOB_ID|NAME\n31|queued\n31|queued\n32|other-queued\n")
    slurm.answer("sacct", "40_0|ended\n40_1|ended\n40.batch|batch\n")
    assert find(["queued", "ended", "never"]) == {"queued": "31", "ended": "40"}
    assert "--name=ended,never,queued" in slurm.calls("squeue")[0]
    slurm.answer("squeue", "3 nodes are down\n")
    with pytest.raises(SlurmError, match="3 nodes are down"):
        find(["queued"])


def test_a_squeue_that_cannot_be_reached_finds_nothing_out(slurm: Stubs) -> None:
    slurm.answer("squeue", messages="slurm_load_jobs error: Unable to contact slurm controller\n", status=1)
    for question in (lambda: find(["a"]), lambda: states(["5"])):
        with pytest.raises(NoAnswerError, match="Unable to contact"):
            question()


NOISE = st.one_of(
    st.sampled_from(
        ["", "   ", "CLUSTER: nautilus", HEADER.strip(), "| Welcome | to | the | cluster |", "123", "4711;nautilus",
         "squeue: warning: slow", "101.batch|100_0.batch|FAILED|None", "\x1b[2K", "-|-|-|-"]
    ),
    st.text(st.characters(blacklist_characters="|", blacklist_categories=["Cs"])),
)  # fmt: skip


@given(
    jobs=st.dictionaries(
        st.tuples(st.integers(1, 999), st.none() | st.integers(0, 99)),
        st.tuples(st.sampled_from(sorted(NAMES)), st.sampled_from(["None", "Resources", "a|b"])),
        min_size=1,
        max_size=6,
    ),
    noise=st.lists(NOISE, max_size=8),
    colour=st.booleans(),
    end=st.sampled_from(["\n", "\r\n"]),
    order=st.randoms(use_true_random=False),
)
def test_records_among_any_lines_give_the_same_states(jobs, noise, colour, end, order) -> None:
    ids = {f"{a}" if t is None else f"{a}_{t}": JobState(*state) for (a, t), state in jobs.items()}
    records = [
        f"{number}|{job if '_' in job else job + '_N/A'}|{state.state}|{state.reason}"
        for number, (job, state) in enumerate(ids.items(), 1000)
    ]
    lines = [f"\x1b[32m{line}\x1b[0m" if colour else line for line in records] + noise
    order.shuffle(lines)
    with patch.object(commands, "_run", return_value=(0, end.join(lines), "")):
        assert states(list(ids)) == ids
