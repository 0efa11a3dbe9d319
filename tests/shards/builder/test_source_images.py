"""Images that change while they are read: what is returned is one version of each file, with that version's state."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile

from shards.builder import source_images
from shards.builder.source_images import ATTEMPTS, read_source_images, states_of


def save(path: Path, value: int, side: int = 8) -> None:
    """An image of one value; every file of a side has the same size."""
    np.save(path.with_suffix(".npy"), np.full((side, side), value, np.uint8))


def in_place(path: Path, value: int) -> None:
    """Rewrite a file and set its time of change back."""
    times = path.stat()
    save(path, value)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def by_rename(path: Path, value: int) -> None:
    save(path.with_name("new.npy"), value)
    path.with_name("new.npy").replace(path)


def cut_short(path: Path, value: int) -> None:
    save(path, value)
    with path.open("r+b") as file:
        file.truncate(100)


def by_link(path: Path, value: int) -> None:
    """Point a link to another file of the same size and time."""
    other = path.with_name(f"other{value}.npy")
    save(other, value)
    times = path.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    path.unlink()
    path.symlink_to(other)


def changing(monkeypatch, change, path: Path, times: int) -> None:
    """Change a file after its pixels were read and before that is noticed, this many times."""
    read, done = source_images.read_well_image, []

    def read_then_change(images, rule, plane):
        try:
            return read(images, rule, plane)
        finally:
            if len(done) < times:
                done.append(None)
                change(path, 100 + len(done))

    monkeypatch.setattr(source_images, "read_well_image", read_then_change)


@pytest.mark.parametrize("change", [in_place, by_rename, by_link])
def test_pixels_and_states_are_of_one_version(tmp_path, monkeypatch, change):
    paths = [tmp_path / f"{channel}.npy" for channel in range(3)]
    for path in paths:
        save(path, 1)
    images = tuple(map(str, paths))
    changing(monkeypatch, change, paths[1], times=1)
    source = read_source_images(images, None)
    assert source.image is not None
    assert source.image[:, 0, 0].tolist() == [1, 101, 1]
    assert source.states == states_of(images)


def test_an_image_that_was_cut_short_for_a_moment_is_read_again(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    save(path, 1)
    cut_short(path, 1)
    changing(monkeypatch, in_place, path, times=1)
    source = read_source_images((str(path),), None)
    assert source.image is not None
    assert source.image[0, 0, 0] == 101
    assert source.states == states_of((str(path),))


@pytest.mark.parametrize("change", [in_place, by_rename, by_link, cut_short])
def test_an_image_that_never_stops_changing_is_named(tmp_path, monkeypatch, change):
    path = tmp_path / "a.npy"
    save(path, 1)
    changing(monkeypatch, change, path, times=99)
    source = read_source_images((str(path),), None)
    assert source.image is None
    assert source.error == f"image file {path} changed while it was being read, {ATTEMPTS} times"
    assert source.states != states_of((str(path),))


def test_rows_of_a_parquet_file_that_is_replaced_are_of_its_new_version(tmp_path, monkeypatch):
    def write(path: Path, value: int) -> None:
        save(path.with_name("cell"), value)
        cells = [path.with_name("cell.npy").read_bytes()] * 3
        pq.write_table(pa.table({"png": cells}), path.with_name("new.parquet"))
        path.with_name("new.parquet").replace(path)

    path = tmp_path / "images.parquet"
    write(path, 1)
    images = tuple(f"{path}#{row}.png" for row in range(3))
    changing(monkeypatch, write, path, times=1)
    source = read_source_images(images, None)
    assert source.image is not None
    assert source.image[:, 0, 0].tolist() == [101] * 3
    assert source.states == states_of(images)


def test_a_page_that_is_appended_while_a_file_is_read_is_noticed(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8))

    def append(path: Path, value: int) -> None:
        tifffile.imwrite(path, np.full((8, 8), value, np.uint8), append=True)

    changing(monkeypatch, append, path, times=1)
    source = read_source_images((str(path),), None)
    assert source.image is None or source.states == states_of((str(path),))
    assert source.states == states_of((str(path),))


@pytest.mark.slow
def test_two_changes_within_one_tick_of_the_clock_are_told_apart(tmp_path):
    """Rewriting a file at once after it was read would leave its state as it was, if reading did not wait."""
    path = tmp_path / "a.npy"
    for value in range(100):
        save(path, value)
        source = read_source_images((str(path),), None)
        in_place(path, value + 100)
        assert source.states != states_of((str(path),))


def test_a_missing_and_a_remote_image_have_no_state(tmp_path):
    source = read_source_images((str(tmp_path / "none.npy"),), None)
    assert (source.image, source.states) == (None, (None,))
    assert "none.npy does not exist" in source.error
    assert states_of(("memory://a.npy",)) == (None,)
