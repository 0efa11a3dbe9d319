"""Listing folders: links are followed once, loops end, and what cannot be listed is named."""

import os
from pathlib import Path

import pytest

from shards.images import folder_walk
from shards.images.folder_walk import walk


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def listed(root: Path) -> tuple[list[str], list[str]]:
    left_out: list[str] = []
    return [path.removeprefix(f"{root}/") for path in walk(str(root), left_out)], left_out


def test_files_are_listed_folder_by_folder(tmp_path):
    for name in ("b/2", "b/1", "a/x/1", "c", ".hidden/1"):
        touch(tmp_path / name)
    assert listed(tmp_path) == (["c", ".hidden/1", "a/x/1", "b/1", "b/2"], [])


def test_links_to_folders_and_files_are_followed(tmp_path):
    touch(tmp_path / "disk2" / "plate" / "1")
    touch(tmp_path / "disk3" / "deep" / "2")
    (tmp_path / "disk2" / "plate" / "more").symlink_to(tmp_path / "disk3")
    root = tmp_path / "root"
    touch(root / "own")
    (root / "linked").symlink_to("../disk2")
    (root / "file").symlink_to(root / "own")
    assert listed(root) == (["file", "own", "linked/plate/1", "linked/plate/more/deep/2"], [])


def test_a_folder_that_is_reached_twice_is_listed_under_its_own_name(tmp_path):
    touch(tmp_path / "plate" / "1")
    (tmp_path / "a_link").symlink_to("plate")
    files, left_out = listed(tmp_path)
    assert files == ["plate/1"]
    assert left_out == [f"{tmp_path}/a_link: a link to {tmp_path}/plate, which is read already: not followed"]


@pytest.mark.timeout(20)
def test_loops_end(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    touch(root / "plate" / "1")
    touch(other / "2")
    touch(tmp_path / "beside")
    for number, target in enumerate((root, root / "plate", tmp_path, Path("/"), other)):
        (root / "plate" / f"link{number}").symlink_to(target)
    (other / "back").symlink_to(root)
    (other / "self").symlink_to("self")
    files, left_out = listed(root)
    assert files == ["plate/1", "plate/link4/2", "plate/link4/self"]
    assert [line.partition(":")[0].removeprefix(f"{root}/") for line in left_out] == [
        "plate/link0", "plate/link1", "plate/link2", "plate/link3", "plate/link4/self", "plate/link4/back",
    ]  # fmt: skip


def test_what_is_not_there_or_cannot_be_listed_is_named(tmp_path, monkeypatch):
    touch(tmp_path / "a" / "1")
    touch(tmp_path / "closed" / "2")
    (tmp_path / "broken").symlink_to("nowhere")
    listing = os.scandir

    def refuse(folder):
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return listing(folder)

    monkeypatch.setattr(folder_walk.os, "scandir", refuse)
    files, left_out = listed(tmp_path)
    assert files == ["broken", "a/1"]
    assert left_out == [
        f"{tmp_path}/broken: a link to nowhere, which is not there",
        f"{tmp_path}/closed: cannot be listed: Permission denied",
    ]
