"""What a build is asked to do is checked before anything is read or written."""

from pathlib import Path

import pytest

from shards.build import main
from shards.builder.options import check_folders, check_numbers
from shards.errors import BuildError


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 1, 0), "wells per shard must be at least 1 and at most 1000000, got 0"),
        ((10**7, 1, 0), "wells per shard must be .* got 10000000"),
        ((1, 0, 0), "workers must be at least 1"),
        ((1, 10**9, 0), "workers must be at least 1 and at most 1024, got 1000000000"),
        ((1, 1, -1), "seed must be at least 0"),
        ((1, 1, 10**100), "seed must be at least 0 and at most 18446744073709551615"),
    ],
)
def test_numbers_have_bounds(numbers, message):
    with pytest.raises(BuildError, match=message):
        check_numbers(*numbers)
    check_numbers(1, 1, 0)
    check_numbers(10**6, 1024, 2**64 - 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workers", "1000000000"],
        ["--wells-per-shard", "-3"],
        ["--chunk", "4294967296"],
        ["--chunk", "0"],
        ["--seed", "1" + "0" * 100],
        ["--validation-fraction", "nan"],
        ["--validation-fraction", "inf"],
        ["--control-fraction", "nan"],
        ["--min-wells", "1" + "0" * 30],
        ["--min-experiments", "-1"],
        ["--eight-bit", "0:" + "9" * 5000],
    ],
)
def test_a_number_that_cannot_be_is_one_line_and_writes_nothing(screen, tmp_path, capsys, arguments):
    command = ["--layout", "rxrx3", "--root", str(screen()), "--output", str(tmp_path / "out"), "--workers", "1"]
    assert main([*command, *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("shards.build: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".build").write_text("mine")
    for output in ("file", "dangling"):
        with pytest.raises(BuildError, match=f"{output} is not a folder: build into another one"):
            check_folders("root", tmp_path / output)
    with pytest.raises(BuildError, match=r"other/.build is not a folder"):
        check_folders("root", tmp_path / "other")
    with pytest.raises(BuildError, match=r"out cannot be created: .*file is not a folder"):
        check_folders("root", tmp_path / "file" / "deep" / "out")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("root", ["out", "out/images", "link", "file://{}/out"])
def test_images_inside_the_output_are_refused(tmp_path: Path, root):
    (tmp_path / "out" / "images").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "out" / "images")
    location = root.format(tmp_path) if "{}" in root else str(tmp_path / root)
    with pytest.raises(BuildError, match="are inside the output"):
        check_folders(location, tmp_path / "out")
    check_folders(str(tmp_path), tmp_path / "out" / "images")
    check_folders("https://host/out", tmp_path / "out" / "images")


def test_files_of_others_are_left_alone(screen, tmp_path):
    root = screen()
    for name, kind in {"notes.txt": "files", "a.tar": "tar files", "manifest.json": "files"}.items():
        mine = tmp_path / f"of {name}"
        mine.mkdir()
        (mine / name).write_text("mine")
        with pytest.raises(BuildError, match=f"holds {kind} that this command did not write, such as {name}"):
            check_folders(str(root), mine)
        assert [path.name for path in mine.iterdir()] == [name]
        assert (mine / name).read_text() == "mine"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".snapshot").mkdir()
    check_folders(str(root), tmp_path / "empty")
