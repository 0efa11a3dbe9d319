"""Covers `schedules`: what of a schedule decides a run's result, its trunk's, or neither."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from harness.recipe.schedules import OneCycleCosine, Schedule, WarmupStableDecay, ends

STABLE = WarmupStableDecay(name="warmup_stable_decay", ends=[0.3, 1.0], decay=0.1)
READ: TypeAdapter[OneCycleCosine | WarmupStableDecay] = TypeAdapter(Schedule)


def test_a_schedule_without_a_name_is_the_one_cycle_cosine() -> None:
    assert READ.validate_python({"warmup": 0.2}) == OneCycleCosine(warmup=0.2)
    assert READ.validate_python({"name": "warmup_stable_decay"}) == WarmupStableDecay(name="warmup_stable_decay")
    with pytest.raises(ValidationError, match="one_cycle_cosine"):
        READ.validate_python({"name": "constant"})


def test_ends_decide_no_result_and_the_decay_not_the_trunks() -> None:
    linear = STABLE.model_copy(update={"shape": "linear", "ends": [0.5]})
    assert linear.identity() != STABLE.identity()
    assert linear.trunk_identity() == STABLE.trunk_identity()
    assert STABLE.model_copy(update={"ends": [0.5]}).identity() == STABLE.identity()
    assert STABLE.model_copy(update={"warmup": 0.1}).trunk_identity() != STABLE.trunk_identity()
    cosine = OneCycleCosine()
    assert cosine.trunk_identity() == cosine.identity()


def test_decays_begin_at_the_same_number_however_it_comes_about() -> None:
    """0.3 × 0.9 is 0.27000000000000002 in binary, and 0.27 is another number."""
    assert STABLE.stable_until(0.3) == 0.27
    assert ends(STABLE) == [0.3, 1.0]
    assert ends(OneCycleCosine()) == [1.0]
