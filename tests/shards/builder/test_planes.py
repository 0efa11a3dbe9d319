"""The option `plane` of a build, and images in which 0 is white: what is stored, stated, resumed and quarantined."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from shards.build import main
from shards.builder.build_set import build
from shards.builder.options import check_plane
from shards.errors import BuildError, ImageError
from shards.inspect import main as inspect
from shards.reader.shard_set import ShardSet

STACK = np.random.default_rng(0).integers(0, 60_000, (3, 20, 24), np.uint16)


def folder_of(root: Path, images: dict[str, np.ndarray], **options) -> Path:
    """A folder of one well per image."""
    root.mkdir(exist_ok=True)
    for name, image in images.items():
        if image.shape[-2:] == (20, 24):
            tifffile.imwrite(root / f"{name}.tif", image, photometric=options.get(name, "minisblack"))
    rows = "".join(f"e,p,{name},{name}.tif\n" for name in images)
    (root / "wells.csv").write_text(f"experiment,plate,well,channel:DNA\n{rows}")
    return root


def made(root: Path, output: Path, **options) -> ShardSet:
    build("folder", root, output, validation_fraction=0, progress=False, **options)
    return ShardSet.open(output)


def pixels(shards: ShardSet, well: str) -> np.ndarray:
    return shards.read_well(shards.wells["well"].tolist().index(well))[0]


@pytest.mark.parametrize(("plane", "expected"), [(1, STACK[0]), (3, STACK[2]), ("max", STACK.max(axis=0))])
def test_a_build_takes_one_plane_or_the_maximum_and_says_which(tmp_path, plane, expected):
    shards = made(
        folder_of(tmp_path / "in", {"A01": STACK, "A02": STACK[:, ::-1]}), tmp_path / "out", plane=plane, codec="trial"
    )
    assert np.array_equal(pixels(shards, "A01"), expected)
    assert np.array_equal(pixels(shards, "A02"), expected[::-1])
    assert shards.manifest.made_with["plane"] == plane


def test_stacks_are_refused_by_default_and_quarantined_with_their_number_of_planes(tmp_path):
    root = folder_of(tmp_path / "in", {"A01": STACK[0], "A02": STACK, "A03": STACK[:2]})
    with pytest.raises(ImageError, match=r"A02.tif holds 3 planes; choose one with --plane N, or their maximum with"):
        made(root, tmp_path / "stopped")
    shards = made(root, tmp_path / "kept", on_error="quarantine")
    assert shards.wells["well"].tolist() == ["A01"]
    third = made(root, tmp_path / "third", on_error="quarantine", plane=3)
    assert sorted(well.error.partition(".tif ")[2] for well in third.manifest.quarantined) == [
        "holds 1 plane, but plane 3 was chosen",
        "holds 2 planes, but plane 3 was chosen",
    ]
    every = made(root, tmp_path / "every", plane="max")
    assert np.array_equal(pixels(every, "A01"), STACK[0])
    assert np.array_equal(pixels(every, "A03"), STACK[:2].max(axis=0))


def test_another_plane_is_another_build(tmp_path):
    root = folder_of(tmp_path / "in", {"A01": STACK})
    made(root, tmp_path / "out", plane=1)
    (tmp_path / "out" / "manifest.json").unlink()  # as if it had been interrupted
    for plane in (2, "max"):
        with pytest.raises(BuildError, match="out holds a build that differs in plane: delete it"):
            made(root, tmp_path / "out", plane=plane)
    plan = tmp_path / "out" / ".build" / "plan.json"
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "plane": 2}))
    assert np.array_equal(pixels(made(root, tmp_path / "out", plane=2), "A01"), STACK[1])  # its record is of plane 1


def test_images_in_which_0_is_white_are_turned_and_counted(tmp_path, capsys):
    dark = dict.fromkeys(("A01", "A02", "A03"), STACK[0])
    root = folder_of(tmp_path / "in", dark, A01="miniswhite", A03="miniswhite")
    command = ["--layout", "folder", "--root", str(root), "--validation-fraction", "0", "--workers", "1"]
    for _ in range(2):  # the second time it is complete
        assert main([*command, "--output", str(tmp_path / "out")]) == 0
        assert "turned 2 images in which 0 was white\n" in capsys.readouterr().out
    shards = ShardSet.open(tmp_path / "out")
    assert shards.manifest.turned == 2
    for name, expected in (("A01", 65535 - STACK[0]), ("A02", STACK[0])):
        assert np.array_equal(pixels(shards, name), expected)
    assert inspect([str(tmp_path / "out")]) == 0
    assert "pixels as in their sources, 2 images turned in which 0 was white" in capsys.readouterr().out
    made(folder_of(tmp_path / "black", {"A01": STACK[0]}), tmp_path / "other")
    assert inspect([str(tmp_path / "other")]) == 0
    assert "turned" not in capsys.readouterr().out


def test_shards_of_a_version_that_turned_nothing_are_kept_only_in_a_complete_set(tmp_path):
    root = folder_of(tmp_path / "in", {"A01": STACK[0]}, A01="miniswhite")
    made(root, tmp_path / "out")
    record = next((tmp_path / "out" / ".build").glob("*.tar.json"))
    old = {name: value for name, value in json.loads(record.read_text()).items() if name != "turned"}
    record.write_text(json.dumps(old))
    assert not build("folder", root, tmp_path / "out", validation_fraction=0, progress=False)[1]
    (tmp_path / "out" / "manifest.json").unlink()
    assert made(root, tmp_path / "out").manifest.turned == 1
    assert json.loads(record.read_text())["turned"] == 1


@pytest.mark.parametrize("plane", [0, -1, 10**7, "1", "mean", True, 1.5])
def test_what_is_no_plane_is_refused(plane):
    with pytest.raises(BuildError, match="plane must be a number from 1 to 1000000, or max, got"):
        check_plane(plane)


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "", "9" * 40, "²"])
def test_what_is_no_plane_is_one_line_and_writes_nothing(tmp_path, capsys, text):
    root = folder_of(tmp_path / "in", {"A01": STACK})
    assert main(["--layout", "folder", "--root", str(root), "--output", str(tmp_path / "out"), f"--plane={text}"]) == 1
    assert capsys.readouterr().err.startswith("shards.build: ")
    assert not (tmp_path / "out").exists()


def test_a_stack_in_several_files_is_read_again_if_one_of_them_changes(tmp_path):
    folder = tmp_path / "in" / "P1"
    folder.mkdir(parents=True)
    files = [folder / f"r01c01f01p{plane:02d}-ch1sk1fk1fl1.tiff" for plane in (1, 2, 3)]
    for path, values in zip(files, STACK, strict=True):
        tifffile.imwrite(path, values)

    def again() -> tuple[bool, np.ndarray]:
        changed = build(
            "jump", tmp_path / "in", tmp_path / "out", validation_fraction=0, progress=False, plane="max"
        )[1]  # fmt: skip
        return changed, ShardSet.open(tmp_path / "out").read_well(0)[0]

    assert np.array_equal(again()[1], STACK.max(axis=0))
    assert not again()[0]
    tifffile.imwrite(files[1], STACK[1] + 5000)
    changed, image = again()
    assert changed
    assert np.array_equal(image, np.maximum(STACK[1] + 5000, STACK[[0, 2]].max(axis=0)))
