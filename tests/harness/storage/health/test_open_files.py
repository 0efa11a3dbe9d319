"""The limit of open files is raised, and what is left of it for shards follows from the number of ranks."""

from __future__ import annotations

import resource

import pytest

from harness.storage.health import open_files
from harness.storage.health.open_files import open_shards_limit, raise_limit


class Limits:
    """A process's limits of open files; the hard one may be refused."""

    def __init__(self, soft: int, hard: int, refuses: bool = False) -> None:
        self.now, self.refuses = (soft, hard), refuses

    def get(self, which: int) -> tuple[int, int]:
        assert which == resource.RLIMIT_NOFILE
        return self.now

    def set(self, which: int, limits: tuple[int, int]) -> None:
        if self.refuses:
            raise ValueError("not allowed to raise maximum limit")
        self.now = limits


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch):
    def limit(soft: int, hard: int, refuses: bool = False) -> Limits:
        limits = Limits(soft, hard, refuses)
        monkeypatch.setattr(open_files.resource, "getrlimit", limits.get)
        monkeypatch.setattr(open_files.resource, "setrlimit", limits.set)
        return limits

    return limit


def test_the_soft_limit_becomes_the_hard_one(limited) -> None:
    limits = limited(1024, 4096)
    assert raise_limit() == 4096
    assert limits.now == (4096, 4096)
    limited(1024, 4096, refuses=True)
    assert raise_limit() == 1024


def test_the_limit_is_the_real_one_of_this_process() -> None:
    assert raise_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.mark.parametrize(
    ("hard", "world", "wanted", "open_shards"),
    [
        (4096, 256, 256, 256),  # 128 + 1,024 + 512 fit
        (1536, 256, 256, 192),  # 1,536 - 128 - 1,024 = 384, for two descriptors each
        (1024, 8, 256, 256),
        (resource.RLIM_INFINITY, 256, 256, 256),
    ],
)
def test_shards_get_what_the_ranks_leave(
    limited, capsys: pytest.CaptureFixture[str], hard: int, world: int, wanted: int, open_shards: int
) -> None:
    limited(1024, hard)
    assert open_shards_limit(wanted, world=world) == open_shards
    said = capsys.readouterr().err
    assert ("leave 192 of the 256 shards" in said) == (open_shards < wanted)


def test_too_few_files_for_the_ranks_are_refused_with_what_to_raise(limited) -> None:
    limited(1024, 1024)
    with pytest.raises(OSError, match=r"256 ranks needs 1,168 open files, and this process may have 1,024: raise"):
        open_shards_limit(256, world=256)


def test_shards_in_the_hands_of_threads_leave_fewer(limited) -> None:
    """9 × 16 held ones take 288 descriptors, which were enough for 144 that are kept."""
    limited(1024, 1536)
    assert open_shards_limit(256, 144, 256) == 192 - 144


def test_the_number_of_ranks_is_the_jobs(limited, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(1024, 1536)
    monkeypatch.setenv("WORLD_SIZE", "256")
    assert open_shards_limit(256) == 192
