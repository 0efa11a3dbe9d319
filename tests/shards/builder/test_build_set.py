"""Covers `build_set`, `plan`, `write` and `finish`: what stock readers see, the split, determinism, resumption."""

import hashlib
import os
import platform
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hostile_files import BOMBS, not_files
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shard_files import built

import shards as shards_package
from shards.build import main
from shards.builder import build_set
from shards.builder.lock import locked
from shards.errors import BuildError, ImageError, LayoutError, ShardError
from shards.format.source import LocalFolder
from shards.format.writer import ShardWriter
from shards.images.decode import read_well
from shards.layouts.registry import read_layout
from shards.reader.shard_set import ShardSet
from shards.verify import verify


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a finished set except its records, which have the inputs' times of change."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_every_reader_sees_the_pixels_of_the_files(screen, tmp_path, dtype):
    root = screen(dtype=dtype)
    shards = built(root, tmp_path / "out")
    read = read_layout("rxrx3", root)
    table = read.wells.set_index("key")
    expected = {row["key"]: read_well(row["images"]) for row in read.rows(np.arange(len(table)))}
    assert set(shards.wells["key"]) == set(expected)
    for index, key in enumerate(shards.wells["key"]):
        assert shards.read_well(index).dtype == np.dtype(dtype)
        assert np.array_equal(shards.read_well(index), expected[key])
        assert np.array_equal(shards.read_crop(index, 3, 5, 8), expected[key][:, 3:11, 5:13])
    seen = set()
    for shard in shards.manifest.shards:
        path = tmp_path / "out" / shard.name
        for sample in webdataset.WebDataset(str(path), shardshuffle=False).decode(shards_package.decode):
            seen.add(sample["__key__"])
            assert np.array_equal(sample["zs"], expected[sample["__key__"]])
            assert sample["zs"].dtype == np.dtype(dtype)
            assert sample["json"]["treatment"] == table.loc[sample["__key__"], "treatment"]
            assert sample["json"]["SMILES"] == table.loc[sample["__key__"], "SMILES"]
            assert sample["json"]["channels"][3] == "Syto14"
        with tarfile.open(path) as archive:
            assert {(m.uid, m.gid, m.mtime, m.mode) for m in archive} == {(0, 0, 0, 0o644)}
        assert shard.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert subprocess.run(["tar", "-tf", path], capture_output=True, check=True).stderr == b""
    assert seen == set(expected)


def test_validation_shares_no_experiment_with_training(screen, tmp_path):
    shards = built(screen(experiments=5), tmp_path / "out", validation_fraction=0.4)
    assert shards.manifest.split_by == "experiment"
    train, validation = (set(shards.manifest.experiments[split]) for split in ("train", "validation"))
    assert (len(train), len(validation)) == (3, 2)
    assert not train & validation
    for split, experiments in (("train", train), ("validation", validation)):
        assert set(shards.wells["experiment"].iloc[shards.indices(split)]) == experiments
        assert all(name.startswith(split) for name in shards.wells["shard"].iloc[shards.indices(split)])
    name = sorted(train)[0]
    assert set(shards.wells["experiment"].iloc[shards.indices("train", [name])]) == {name}


@pytest.mark.slow
@settings(deadline=None, max_examples=15)
@given(experiments=st.integers(2, 6), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 2**32))
def test_any_split_is_a_partition_by_experiment(write_screen, experiments, fraction, seed):
    names = {f"gene-{number + 1:03d}" for number in range(experiments)}
    with tempfile.TemporaryDirectory() as folder:
        root = write_screen(Path(folder) / "screen", experiments=experiments, wells=2, size=2)
        if round(fraction * experiments) == experiments:
            with pytest.raises(BuildError, match="none is left to train on"):
                built(root, Path(folder) / "out", validation_fraction=fraction, seed=seed)
            return
        shards = built(root, Path(folder) / "out", validation_fraction=fraction, seed=seed)
    train, validation = (set(shards.manifest.experiments[split]) for split in ("train", "validation"))
    assert train | validation == names
    assert not train & validation
    assert len(validation) == max(1, round(fraction * experiments))
    assert sorted([*shards.indices("train"), *shards.indices("validation")]) == list(range(2 * experiments))


def test_wells_are_mixed_across_plates(screen, tmp_path):
    shards = built(screen(experiments=4, wells=8), tmp_path / "out", validation_fraction=0, wells_per_shard=8)
    assert (shards.wells.groupby("shard")["experiment"].nunique() >= 3).all()


def test_validation_experiments_may_be_named(screen, tmp_path):
    root = screen()
    shards = built(root, tmp_path / "out", validation_experiments=["gene-002"])
    assert shards.manifest.experiments["validation"] == ("gene-002",)
    with pytest.raises(BuildError, match="no experiment 'gene-009' for validation; there are gene-001"):
        built(root, tmp_path / "other", validation_experiments=["gene-009"])


def test_one_experiment_cannot_be_split(screen, tmp_path):
    root = screen(experiments=1)
    with pytest.raises(BuildError, match="only one experiment, 'gene-001'"):
        built(root, tmp_path / "out")
    assert len(built(root, tmp_path / "out", validation_fraction=0).indices("train")) == 4


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_number_of_workers(screen, tmp_path):
    root = screen(experiments=4)
    built(root, tmp_path / "one", workers=1)
    built(root, tmp_path / "three", workers=3)
    assert digests(tmp_path / "one") == digests(tmp_path / "three")


@pytest.mark.slow
def test_the_order_of_rows_on_disk_does_not_matter(write_screen):
    """The same tar files, and the same table except for the line numbers; an interrupted build is continued."""

    @settings(deadline=None, max_examples=10)
    @given(data=st.data())
    def check(data):
        (root / "metadata.csv").write_text("".join([header, *data.draw(st.permutations(rows))]))
        (output / "manifest.json").unlink()
        built(root, output, validation_fraction=0.4)
        built(root, fresh := Path(tempfile.mkdtemp(dir=folder)), validation_fraction=0.4)
        for built_set in (output, fresh):
            assert {name: digest for name, digest in digests(built_set).items() if name.endswith(".tar")} == tars
            assert ShardSet.open(built_set).wells.drop(columns="origin").equals(table)

    with tempfile.TemporaryDirectory() as folder:
        root, output = write_screen(Path(folder) / "screen", experiments=3, wells=3, size=4), Path(folder) / "out"
        table = built(root, output, validation_fraction=0.4).wells.drop(columns="origin")
        tars = {name: digest for name, digest in digests(output).items() if name.endswith(".tar")}
        header, *rows = (root / "metadata.csv").read_text().splitlines(keepends=True)
        check()


@pytest.mark.slow
def test_a_screen_is_imported_from_the_web(screen, tmp_path, web):
    """Table and images over http, in worker processes: the same bytes as a local build, also if an image fails once;
    a missing one is named with its line, or quarantined."""
    root = screen()
    built(root, tmp_path / "local")
    built(f"{web}/screen", tmp_path / "remote", workers=2)
    tars = {name: digest for name, digest in digests(tmp_path / "local").items() if name.endswith(".tar")}
    assert {name: digest for name, digest in digests(tmp_path / "remote").items() if name.endswith(".tar")} == tars
    assert built(f"{web}/screen", tmp_path / "remote").manifest.made_with["root"] == f"{web}/screen"
    web.failures.append("B03_s1_w4.png")
    built(f"{web}/screen", tmp_path / "again")
    assert {name: digest for name, digest in digests(tmp_path / "again").items() if name.endswith(".tar")} == tars
    (root / "gene-001" / "Plate1" / "B03_s1_w4.png").unlink()
    with pytest.raises(ImageError, match=r"^metadata.csv, line 3: image file http.*B03_s1_w4.png does not exist"):
        built(f"{web}/screen", tmp_path / "stopped")
    shards = built(f"{web}/screen", tmp_path / "kept", on_error="quarantine")
    assert [well.key for well in shards.manifest.quarantined] == ["gene-001_1_B03"]
    with pytest.raises(LayoutError, match=r"nothing/metadata.csv: no such table"):
        built(f"{web}/nothing", tmp_path / "none")


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


def test_a_shard_that_has_lost_all_its_wells_leaves_no_index(screen, tmp_path):
    root, output = screen(experiments=2), tmp_path / "out"
    built(root, output, wells_per_shard=1)
    (root / "gene-001" / "Plate1" / "B03_s1_w2.png").write_text("damaged")
    shards = built(root, output, wells_per_shard=1, on_error="quarantine")
    assert len(shards.wells) == 7
    assert not verify(LocalFolder(output), None).faults


def test_metadata_that_no_reader_would_accept_are_refused_by_their_line(screen, tmp_path):
    root = screen()
    text = (root / "metadata.csv").read_text().replace("G2_guide_1", "G" * 70_000, 1)
    (root / "metadata.csv").write_text(text)
    with pytest.raises(LayoutError, match=r"^metadata.csv, line 4: its columns take 7\d{4} bytes; 65536 are the limit"):
        built(root, tmp_path / "out")


def test_a_narrow_image_that_would_be_padded_beyond_the_limit_is_quarantined(tmp_path):
    """65,536 x 1 pixels of 100 channels have 6.5 MB, and 3.4 GB in chunks of 256 pixels with 16 bits."""
    np.save(tmp_path / "narrow.npy", np.zeros((65_536, 1), np.uint16))
    np.save(tmp_path / "good.npy", np.zeros((4, 4), np.uint16))
    names = [f"c{channel}" for channel in range(100)]
    rows = [",".join(["e", "p", well, *[f"{image}.npy"] * 100]) for well, image in (("A01", "narrow"), ("A02", "good"))]
    header = ",".join(["experiment", "plate", "well", *(f"channel:{name}" for name in names)])
    (tmp_path / "wells.csv").write_text("\n".join([header, *rows]))
    options = {"validation_fraction": 0, "chunk": 256, "on_error": "quarantine", "progress": False}
    manifest, _ = build_set.build("folder", tmp_path, tmp_path / "out", **options)
    (bad,) = manifest.quarantined
    assert bad.key == "e_p_A01_1"
    assert bad.error == (
        "images of 65536 x 1 pixels take 3355443200 bytes in chunks of 256 pixels: choose smaller chunks"
    )


def test_a_complete_set_is_only_read_also_while_another_build_has_the_lock(screen, tmp_path):
    root, output = screen(), tmp_path / "out"
    built(root, output)
    with locked(output / ".build"):
        assert built(root, output).manifest.wells["train"] == 8
        (root / "gene-001" / "Plate1" / "B03_s1_w1.png").touch()
        with pytest.raises(BuildError, match="another build works on this folder"):
            built(root, output)


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


def test_a_bad_image_stops_the_build_or_is_quarantined(screen, tmp_path, capsys):
    root, output = screen(), tmp_path / "out"
    plate = root / "gene-001" / "Plate1"
    (plate / "B03_s1_w2.png").write_bytes((plate / "B03_s1_w2.png").read_bytes()[:60])
    with pytest.raises(ImageError, match=r"metadata.csv, line 3: image file .*B03_s1_w2.png cannot be decoded"):
        built(root, output)
    with pytest.raises(ShardError, match="no manifest"):
        ShardSet.open(output)
    (plate / "B04_s1_w5.png").unlink()
    with pytest.raises(LayoutError, match=r"B04_s1_w5.png does not exist"):
        built(root, output)
    shards = built(root, output, on_error="quarantine")
    assert {well.key for well in shards.manifest.quarantined} == {"gene-001_1_B03", "gene-001_1_B04"}
    assert len(shards.wells) == 10
    assert sum(shards.manifest.wells.values()) == 10
    command = ["--layout", "rxrx3", "--root", str(root), "--output", str(output), "--wells-per-shard", "3"]
    assert main([*command, "--on-error", "quarantine", "--workers", "1"]) == 0
    assert "quarantined gene-001_1_B03: metadata.csv, line 3: image file" in capsys.readouterr().out


@pytest.mark.timeout(60)
@pytest.mark.parametrize("codec", ["delta+zstd", "trial"])
def test_hostile_images_are_quarantined_and_the_rest_is_built(screen, tmp_path, codec):
    """Every file that is no image file, and every bomb, in place of the first channel of a well."""
    (tmp_path / "kinds").mkdir()
    hostile = list(not_files(tmp_path / "kinds").values())
    for name, content in BOMBS.items():
        (tmp_path / "kinds" / name).write_bytes(content)
        hostile.append(tmp_path / "kinds" / name)
    root = screen(experiments=2, wells=len(hostile))
    plate = root / "gene-001" / "Plate1"
    for number, path in enumerate(hostile):
        image = plate / f"B{number + 2:02d}_s1_w1.png"
        image.unlink()
        image.symlink_to(path)
    shards = built(root, tmp_path / "out", on_error="quarantine", codec=codec, validation_experiments=["gene-001"])
    assert {well.key for well in shards.manifest.quarantined} == {
        f"gene-001_1_B{number + 2:02d}" for number in range(len(hostile))
    }
    assert len(shards.wells) == len(hostile)
    assert not verify(LocalFolder(tmp_path / "out"), None).faults
    with pytest.raises(ImageError, match=r"metadata.csv, line \d+: image file .* is .*, not a regular file|claims"):
        built(root, tmp_path / "stopped", validation_experiments=["gene-002"])


def test_wells_of_two_pixel_types_are_refused(screen, tmp_path):
    deep = screen(experiments=1, dtype="uint16")
    for path in (deep / "gene-001" / "Plate1").glob("B03*"):
        Image.new("L", (16, 16)).save(path)
    with pytest.raises(BuildError, match=r"holds uint(8|16) pixels and well .* uint(8|16): one pixel type"):
        built(deep, tmp_path / "out", validation_fraction=0)


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


@pytest.mark.slow
def test_a_plan_keeps_only_the_numbers_of_its_wells_in_memory(tmp_path):
    """300,000 more wells of six channels take less than 200 bytes each at the peak; all in memory would take 500."""
    header = "well_id,experiment_name,plate,address,gene,treatment,SMILES,concentration,perturbation_type,cell_type\n"
    code = """
import re, sys, threading, time
from pathlib import Path
from shards.builder.curation import CurationRules, curate
from shards.layouts.registry import read_layout
from shards.builder.plan import choose_validation, digest_of, plan_shards
held, peak = re.compile(r"RssAnon:\\s+(\\d+)"), [0]
def watch():
    while True:
        peak[0] = max(peak[0], int(held.search(Path("/proc/self/status").read_text())[1]))
        time.sleep(0.005)
threading.Thread(target=watch, daemon=True).start()
table, _ = curate(read_layout("rxrx3", sys.argv[1]), CurationRules(min_wells=2), 0)
apart = choose_validation(table, None, 0.1, 0)
plan = plan_shards(table, apart, Path("unused"), wells_per_shard=64, seed=0, on_error="stop")
digest_of(plan.table)
assert len(plan[0].wells) == 64
print(1024 * peak[0])
"""
    peaks = {}
    for wells in (100_000, 400_000):
        rows = (
            f"gene-{n // 10000:03d}_1_A{n},gene-{n // 10000:03d},1,A{n % 1536},G{n % 977},G{n % 977}_guide_1,"
            f'"CC1=[N+](CCCC)C2=CC=CC=C2 |c:1,13,{n}|",0.25,CRISPR,HUVEC\n'
            for n in range(wells)
        )
        (tmp_path / "metadata.csv").write_text("".join([header, *rows]))
        ended = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
        peaks[wells] = int(ended.stdout)
    assert (peaks[400_000] - peaks[100_000]) / 300_000 < 200
