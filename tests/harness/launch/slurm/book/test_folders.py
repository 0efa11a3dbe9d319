"""Covers `folders`: what an array is for is read from its calls, as data, whatever the files hold."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from slurm_stubs import Stubs

from harness.launch.slurm.book.folders import UNKNOWN_THROTTLE, recipe_of_report, unrecorded_arrays
from harness.launch.slurm.executor import NamedExecutor
from harness.launch.slurm.job import run_task
from harness.launch.slurm.report_job import report_and_resume
from harness.storage.locks import user_name

SHARE = "study-embed.3-of-8-0123abcd"


@pytest.fixture
def jobs(tmp_path: Path, stubs: Stubs) -> Path:
    """Folders as `submit` leaves them: an array of two, an array of one, a report, and those that are not submitted."""
    stubs.answer("sbatch", "4711\n")
    for name, cells in (("study-train-0123abcd", ["a", "b"]), (SHARE, ["a"])):
        executor = NamedExecutor(folder=tmp_path / name)
        executor.update_parameters(job_name=name, time=5)
        task, count = name.split("-", 1)[1][:-9], len(cells)
        executor.map_array(run_task, ["{}"] * count, cells, [task] * count, list(range(3, 3 + count)))
    executor = NamedExecutor(folder=tmp_path / "study-report-0123abcd")
    executor.update_parameters(job_name="study-report-0123abcd", time=5)
    executor.submit(report_and_resume, "{}")
    (tmp_path / "20261127-120000-17").mkdir()
    (tmp_path / "study-train-ffffffff").mkdir()  # a writer that died before it wrote the script
    return tmp_path


def test_arrays_are_read_from_their_folders(jobs: Path) -> None:
    read = {array.name: array for array in unrecorded_arrays(jobs, ())}
    assert read.keys() == {"study-train-0123abcd", SHARE, "study-report-0123abcd"}
    train, share, report = (read[name] for name in ("study-train-0123abcd", SHARE, "study-report-0123abcd"))
    assert (train.stage, train.cells, train.attempts) == ("train", ("a", "b"), (3, 4))
    assert (share.stage, share.cells, share.attempts) == ("embed.3-of-8", ("a",), (3,))
    assert (report.stage, report.cells, report.attempts) == ("report", (), ())
    assert (train.array, train.folder, train.user) == (None, str(jobs / train.name), user_name())
    assert train.throttle == UNKNOWN_THROTTLE
    assert [array.name for array in unrecorded_arrays(jobs, read.keys() - {SHARE})] == [SHARE]


class Command:
    """Runs a command when it is unpickled by any other reader."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_nothing_in_a_pickle_is_run(jobs: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (jobs / SHARE / "0.pkl").write_bytes(pickle.dumps(Command(marker)))
    assert SHARE not in {array.name for array in unrecorded_arrays(jobs, ())}
    assert not marker.exists()


ODD = [
    b"", b"\x80\x05", b"\xff" * 100, pickle.dumps(7), pickle.dumps({"args": ("{}", "a", "train", 1)}), b"(" * 100_000,
    b"\x80\x05X\xff\xff\xff\xff", pickle.dumps(None),
]  # fmt: skip


@pytest.mark.parametrize("content", ODD, ids=range(len(ODD)))
def test_a_folder_whose_calls_cannot_be_read_is_left_out(jobs: Path, content: bytes) -> None:
    (jobs / SHARE / "0.pkl").write_bytes(content)
    assert len(list(unrecorded_arrays(jobs, ()))) == 2


def test_the_recipe_of_a_report_job_is_read(jobs: Path) -> None:
    assert recipe_of_report(jobs / "study-report-0123abcd") == "{}"
    assert recipe_of_report(jobs / SHARE) is None
    assert recipe_of_report(jobs / "none") is None


def test_without_jobs_there_are_no_arrays(tmp_path: Path) -> None:
    assert list(unrecorded_arrays(tmp_path / "none", ())) == []
