"""Covers `build_set` and `write`: what a build keeps, replaces or refuses of one before it or beside it."""

import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shard_files import built, digests

from shards.builder import build_set
from shards.builder.lock import locked
from shards.errors import BuildError, ShardError
from shards.format.source import LocalFolder
from shards.format.writer import ShardWriter
from shards.images.decode import read_well
from shards.layouts.registry import read_layout
from shards.reader.shard_set import ShardSet
from shards.verify import verify


def test_only_what_is_missing_is_built_again(screen, tmp_path):
    root, output = screen(), tmp_path / "out"
    built(root, output)
    before = digests(output)
    kept = {path.name: path.stat().st_mtime_ns for path in output.glob("*.tar")}
    (output / "manifest.json").unlink()
    (output / "train-000001.tar").unlink()
    (output / ".train-000001.tar.otherhost.1.tmp").write_text("of another machine, which may still be writing")
    built(root, output)
    again = digests(output)
    again.pop(".train-000001.tar.otherhost.1.tmp")
    assert again == before
    changed = {path.name for path in output.glob("*.tar") if path.stat().st_mtime_ns != kept[path.name]}
    assert changed == {"train-000001.tar"}


def test_a_changed_image_is_built_again(screen, tmp_path):
    root, output = screen(), tmp_path / "out"
    index = list(built(root, output).wells["key"]).index("gene-001_1_B03")
    plate = root / "gene-001" / "Plate1"
    (plate / "B03_s1_w1.png").write_bytes((plate / "B04_s1_w1.png").read_bytes())
    shards = built(root, output)
    expected = read_well([f"{plate}/{'B04' if c == 1 else 'B03'}_s1_w{c}.png" for c in range(1, 7)])
    assert np.array_equal(shards.read_well(index), expected)


def test_a_changed_image_is_built_again_also_if_its_time_was_set_back(screen, tmp_path):
    root, output = screen(), tmp_path / "out"
    path = root / "gene-001" / "Plate1" / "B03_s1_w1.png"

    def rewrite(value: int) -> None:
        with path.open("wb") as file:  # of the same size for every value
            np.save(file, np.full((16, 16), value, np.uint8))
        os.utime(path, ns=(0, 1_000_000_000))

    rewrite(1)
    shards = built(root, output)
    index = list(shards.wells["key"]).index("gene-001_1_B03")
    assert (shards.read_well(index)[0] == 1).all()
    rewrite(2)
    assert (built(root, output).read_well(index)[0] == 2).all()


def test_an_image_that_changes_after_it_was_read_is_read_by_the_next_build(screen, tmp_path, monkeypatch):
    """The record has the state of the file whose pixels the shard has, not that of when the shard was finished."""
    root, output = screen(experiments=1), tmp_path / "out"
    path = root / "gene-001" / "Plate1" / "B03_s1_w1.png"
    add = ShardWriter.add

    def change_then_add(self, key, image, metadata):
        if key == "gene-001_1_B03":
            Image.fromarray(np.full((16, 16), 7, np.uint8)).save(path)
        return add(self, key, image, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "add", change_then_add)
        first = built(root, output, validation_fraction=0, wells_per_shard=9)
    index = list(first.wells["key"]).index("gene-001_1_B03")
    shards = built(root, output, validation_fraction=0, wells_per_shard=9)
    assert (shards.read_well(index)[0] == 7).all()


def test_tables_that_change_during_the_build_leave_no_complete_set(screen, tmp_path, monkeypatch):
    root, output = screen(), tmp_path / "out"
    table = (root / "metadata.csv").read_text()
    write = build_set.write_shards

    def write_then_change(tasks, workers, lock):
        yield from write(tasks, workers, lock)
        (root / "metadata.csv").write_text(table.replace("G1_guide_1", "G9_guide_1"))

    with monkeypatch.context() as patch:
        patch.setattr(build_set, "write_shards", write_then_change)
        with pytest.raises(BuildError, match=rf"the tables of {root}, .*, changed during the build: restore them and"):
            built(root, output)
    with pytest.raises(ShardError, match="no manifest"):
        ShardSet.open(output)
    with pytest.raises(BuildError, match="holds a build that differs in table"):
        built(root, output)
    (root / "metadata.csv").write_text(table)
    kept = {path: path.stat().st_mtime_ns for path in output.glob("*.tar")}
    assert set(built(root, output).wells["treatment"]) >= {"G1_guide_1"}
    assert {path: path.stat().st_mtime_ns for path in output.glob("*.tar")} == kept


@pytest.mark.slow
def test_a_shard_that_has_lost_all_its_wells_leaves_no_index(screen, tmp_path):
    root, output = screen(experiments=2), tmp_path / "out"
    built(root, output, wells_per_shard=1)
    (root / "gene-001" / "Plate1" / "B03_s1_w2.png").write_text("damaged")
    shards = built(root, output, wells_per_shard=1, on_error="quarantine")
    assert len(shards.wells) == 7
    assert not verify(LocalFolder(output), None).faults


def test_a_complete_set_is_only_read_also_while_another_build_has_the_lock(screen, tmp_path):
    root, output = screen(), tmp_path / "out"
    built(root, output)
    with locked(output / ".build"):
        assert built(root, output).manifest.wells["train"] == 8
        (root / "gene-001" / "Plate1" / "B03_s1_w1.png").touch()
        with pytest.raises(BuildError, match="another build works on this folder"):
            built(root, output)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["FIFO", "huge"])
def test_a_record_that_cannot_be_read_is_written_again(screen, tmp_path, kind):
    root, output = screen(), tmp_path / "out"
    built(root, output)
    before = digests(output)
    record = output / ".build" / "train-000000.tar.json"
    replace_by(record, kind)
    command = [sys.executable, "-m", "shards.build", "--layout", "rxrx3", "--root", str(root)]
    options = ["--wells-per-shard", "3", "--workers", "1", "--output", str(output)]
    subprocess.run([*command, *options], check=True, capture_output=True, timeout=60)
    assert record.stat().st_size < 1 << 20
    assert digests(output) == before


def test_a_plan_of_any_size_is_refused_by_name(screen, tmp_path):
    root, output = screen(), tmp_path / "out"
    built(root, output)
    replace_by(output / ".build" / "plan.json", "huge")
    with pytest.raises(BuildError, match=r"\.build/plan\.json is damaged: delete the folder"):
        built(root, output)


def replace_by(path: Path, kind: str) -> None:
    """Put a FIFO, or a file of a tebibyte that takes no room, in the place of a file."""
    path.unlink()
    if kind == "FIFO":
        os.mkfifo(path)
        return
    with path.open("wb") as file:
        file.truncate(1 << 40)


def test_a_folder_of_another_build_is_refused(screen, tmp_path):
    root, output = screen(), tmp_path / "out"
    built(root, output)
    before = digests(output)
    with pytest.raises(BuildError, match="holds a build that differs in seed, wells_per_shard"):
        built(root, output, seed=1, wells_per_shard=5)
    assert digests(output) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.tar").touch()
    with pytest.raises(BuildError, match="tar files that this command did not write"):
        built(root, tmp_path / "mine")


@pytest.mark.slow
def test_a_killed_build_is_completed_by_the_same_command(screen, tmp_path):
    """kill -9 of the process group at several moments, then a complete run: the same bytes as without a kill."""
    root = screen(experiments=6, wells=40, size=256)
    options = ["--layout", "rxrx3", "--root", str(root), "--wells-per-shard", "8", "--workers", "2"]
    command = [sys.executable, "-m", "shards.build", *options, "--output"]
    subprocess.run([*command, str(tmp_path / "complete")], check=True, capture_output=True)
    output, kills = tmp_path / "killed", 0
    for tars in (0, 3, 10, 20):
        build = subprocess.Popen([*command, str(output)], start_new_session=True, stderr=subprocess.DEVNULL)
        while len(list(output.glob("*.tar"))) < tars or not output.is_dir():
            assert build.poll() is None
            time.sleep(0.005)
        os.killpg(build.pid, signal.SIGKILL)
        kills += build.wait() == -signal.SIGKILL
        with pytest.raises(ShardError):
            ShardSet.open(output)
    assert kills == 4
    subprocess.run([*command, str(output)], check=True, capture_output=True)
    assert digests(output) == digests(tmp_path / "complete")
    assert not list(output.rglob("*.tmp"))


def command(root: Path, *options: str) -> list[str]:
    arguments = ["--layout", "rxrx3", "--root", str(root), "--wells-per-shard", "8", "--workers", "2", *options]
    return [sys.executable, "-m", "shards.build", *arguments]


@pytest.mark.slow
def test_of_two_builds_into_one_folder_one_is_refused_and_one_completes_the_set(screen, tmp_path):
    root = screen(experiments=6, wells=20, size=128)
    subprocess.run([*command(root), "--output", str(tmp_path / "single")], check=True, capture_output=True)
    both = [
        subprocess.Popen([*command(root), "--output", str(tmp_path / "shared")], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [build.communicate(timeout=120)[1] for build in both]
    assert sorted(build.returncode for build in both) == [0, 1]
    refused = next(error for error, build in zip(errors, both, strict=True) if build.returncode)
    assert re.search(rf"another build works on this folder: process \d+ on {platform.node()}, since 20", refused)
    assert digests(tmp_path / "shared") == digests(tmp_path / "single")


@pytest.mark.slow
def test_builds_with_other_options_and_kills_never_leave_a_set_that_is_not_sound(screen, tmp_path):
    """Twelve rounds: two builds with different options at once, one of them killed with or without its workers. The
    next build is never in the way of what they left, and what is complete is sound."""
    root, random = screen(experiments=4, wells=20, size=96), np.random.default_rng(3)
    for number in range(12):
        output = tmp_path / str(number)
        builds = [
            subprocess.Popen(
                [*command(root, "--codec", codec), "--output", str(output)],
                stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
            )
            for codec in ("lz4", "none")
        ]  # fmt: skip
        time.sleep(random.uniform(0.5, 4))
        (os.kill if number % 2 else os.killpg)(builds[number % 3 == 0].pid, signal.SIGKILL)
        codes = [build.wait(120) for build in builds]
        assert codes.count(0) < 2
        ended = [
            subprocess.run([*command(root, "--codec", codec), "--output", str(output)], capture_output=True, text=True)
            for codec in ("lz4", "none")
        ]
        assert sorted(build.returncode for build in ended) == [0, 1]
        assert any("holds a build that differs in codec" in build.stderr for build in ended)
        assert not verify(LocalFolder(output), None).faults


@pytest.mark.slow
def test_a_source_that_changes_during_the_build_is_not_stale_after_the_next_one(screen, tmp_path):
    """Images are rewritten in two ways, their times set back, for a while: the next build has them all."""
    root, output = screen(experiments=4, wells=60, size=64), tmp_path / "out"
    large = ["--wells-per-shard", "60", "--on-error", "quarantine"]
    paths, random = sorted(root.rglob("*.png")), np.random.default_rng(5)
    build = subprocess.Popen([*command(root, *large), "--output", str(output)], stderr=subprocess.DEVNULL)
    while not list(output.glob(".*.tmp")):
        assert build.poll() is None
        time.sleep(0.001)
    time.sleep(0.2)  # so that many of the images have been read already
    for number, path in enumerate(random.choice(paths, 120, replace=False)):
        times, other = path.stat(), path.with_suffix(".new")
        Image.fromarray(random.integers(0, 256, (64, 64), np.uint8)).save(other, "PNG")
        if number % 2:
            path.write_bytes(other.read_bytes())  # a reader may see a part of it
            other.unlink()
        else:
            other.replace(path)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert build.wait(120) == 0
    shards = built(root, output, wells_per_shard=60)
    read = read_layout("rxrx3", root)
    expected = {row["key"]: read_well(row["images"]) for row in read.rows(np.arange(len(read)))}
    stale = [k for n, k in enumerate(shards.wells["key"]) if not np.array_equal(shards.read_well(n), expected[k])]
    assert stale == []
    assert not verify(LocalFolder(output), None).faults


@pytest.mark.slow
def test_workers_end_when_only_the_build_is_killed(screen, tmp_path):
    import psutil

    root = screen(experiments=6, wells=40, size=256)
    options = ["--layout", "rxrx3", "--root", str(root), "--wells-per-shard", "8", "--workers", "2"]
    build = subprocess.Popen(
        [sys.executable, "-m", "shards.build", *options, "--output", str(tmp_path / "out")], stderr=subprocess.DEVNULL
    )
    while not list((tmp_path / "out").glob("*.tar")):
        assert build.poll() is None
        time.sleep(0.01)
    children = psutil.Process(build.pid).children(recursive=True)
    assert len(children) >= 2
    build.kill()
    build.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
