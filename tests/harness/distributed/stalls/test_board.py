"""Whom a stalled step waits for, from what ranks told each other."""

from dataclasses import replace

from harness.distributed.stalls.board import Late, Place, who_is_late

FOUR = [Place(10, "step", 7, f"node{rank // 2}", 100 + rank) for rank in range(4)]
BEATEN = [replace(place, beat=13) for place in FOUR]


def test_a_rank_without_a_beat_is_not_answering():
    after = [*BEATEN[:3], FOUR[3]]
    assert who_is_late(FOUR, after) == Late(
        0, "rank 3 (node1, pid 103) is not answering; 3 wait in phase step of step 7"
    )


def test_the_first_rank_that_answers_speaks():
    after = [FOUR[0], FOUR[1], *BEATEN[2:]]
    assert who_is_late(FOUR, after) == Late(
        2, "ranks 0 (node0, pid 100), 1 (node0, pid 101) are not answering; 2 wait in phase step of step 7"
    )


def test_a_rank_that_never_wrote_is_named():
    assert "rank 1 (never heard of) is not answering" in who_is_late(FOUR, [BEATEN[0], None, *BEATEN[2:]]).text


def test_of_ranks_that_answer_the_one_behind_is_named():
    late = replace(BEATEN[1], phase="data")
    found = who_is_late(FOUR, [BEATEN[0], late, *BEATEN[2:]])
    assert found == Late(
        0, "rank 1 (node0, pid 101) is still in phase data of step 7; 3 wait in phase step of step 7"
    )  # fmt: skip


def test_an_earlier_step_is_behind_whatever_its_phase():
    early = replace(BEATEN[2], phase="save", step=6)
    assert (
        "rank 2 (node1, pid 102) is still in phase save of step 6"
        in who_is_late(FOUR, [*BEATEN[:2], early, BEATEN[3]]).text
    )


def test_where_all_are_at_the_same_place_no_one_is_blamed():
    assert who_is_late(FOUR, BEATEN) == Late(0, "all 4 ranks answer, 4 wait in phase step of step 7")


def test_a_message_names_at_most_eight_ranks():
    many = [Place(1, "step", 7, "node", rank) for rank in range(256)]
    text = who_is_late(many, [replace(many[0], beat=2), *many[1:]]).text
    assert "8 (node, pid 8) and 247 more are not answering; 1 waits in phase step of step 7" in text
