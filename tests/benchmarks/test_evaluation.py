"""The evaluation benchmark keeps its rows when interrupted, and reports a stopped peer as a bound."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import evaluation
from benchmarks.evaluation import Job, main, merged, rows, table

JOBS = """

def fast():
    held = bytearray(100_000_000)
    return lambda: [1.0, 2.0, held[0]]


def endless():
    held = bytearray(300_000_000)

    def work():
        while True:
            held[0] ^= 1

    return work


def absent():
    import a_package_that_nobody_has
"""


@pytest.fixture(autouse=True)
def drawn_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's runner with test jobs."""
    real = Path(evaluation.__file__).with_name("evaluation_jobs.py").read_text()
    folder = tmp_path / "root" / "benchmarks"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "evaluation_jobs.py").write_text(real + JOBS)
    monkeypatch.setattr(evaluation, "ROOT", tmp_path / "root")


def test_a_peer_stopped_at_the_limit_is_a_lower_bound() -> None:
    seconds, memory = rows(Job("thing", "fast", "endless", "peer", faster=2, smaller=1e6), sys.executable, 0.3)
    assert (seconds["peer"], seconds["peer_stopped"], seconds["met"]) == (0.3, True, True)
    assert memory["peer"] == pytest.approx(0.3, abs=0.1)  # GB, measured where it was stopped
    assert memory["met"] is None, "a bound below the goal does not show that it is missed"
    assert "not shown" in table([memory])
    assert ">0.3" in table([seconds])


def test_a_missing_peer_is_reported() -> None:
    (row, _) = rows(Job("thing", "fast", "absent", "peer", faster=2), sys.executable, 1)
    assert row["peer"] is None
    assert row["met"] is None
    assert "missing: No module named 'a_package_that_nobody_has'" in row["peer_name"]


def test_a_peer_that_finishes_is_compared() -> None:
    (row, _) = rows(Job("thing", "fast", "fast", "peer", faster=1e9), sys.executable, 60)
    assert (row["largest_difference"], row["peer_stopped"], row["met"]) == (0, False, False)


def test_jobs_are_saved_as_they_finish_and_replace_their_earlier_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "found.json"
    monkeypatch.setattr(evaluation, "JOBS", {name: Job(name, "fast", None, "none") for name in ("one", "two")})
    assert main(["--jobs", "two", "--save", str(path)], lambda _: None) == 0
    assert main(["--jobs", "one", "--save", str(path)], lambda _: None) == 0
    names = [row["name"] for row in json.loads(path.read_text())]
    assert names == ["one: time", "one: memory", "two: time", "two: memory"]
    (first, *rest) = merged(path, [{"name": "one: time", "ours": 7}])
    assert (first["ours"], len(rest)) == (7, 3)
    monkeypatch.setattr(evaluation, "measured", lambda *_: (_ for _ in ()).throw(RuntimeError("cut short")))
    with pytest.raises(RuntimeError, match="cut short"):
        main(["--jobs", "one", "--save", str(path)], lambda _: None)
    assert [row["name"] for row in json.loads(path.read_text())] == names
