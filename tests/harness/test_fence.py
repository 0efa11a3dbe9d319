"""A cell belongs to its newest start: an older one that still lives can make nothing count."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.fence import Fence, Fenced, Start


def test_a_restart_takes_over_and_the_zombie_is_told(tmp_path: Path) -> None:
    zombie = Fence(tmp_path, "train", Start(1, 0, "7_0"))
    zombie.check()
    successor = Fence(tmp_path, "train", Start(1, 1, "7_0"))
    successor.check()
    with pytest.raises(Fenced, match="taken over from"):
        zombie.check()


def test_a_zombie_cannot_take_the_cell_back(tmp_path: Path) -> None:
    Fence(tmp_path, "train", Start(2, 0, "10_0"))
    with pytest.raises(Fenced):
        Fence(tmp_path, "train", Start(1, 5, "9_0"))


def test_stages_do_not_fence_one_another(tmp_path: Path) -> None:
    training = Fence(tmp_path, "train", Start(3, 0, "12_0"))
    Fence(tmp_path, "embed", Start(1, 0, "13_0")).check()
    training.check()
