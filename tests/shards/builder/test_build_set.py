"""Covers `build_set`, `plan`, `write` and `finish`: what stock readers see, the split, determinism, bad images."""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hostile_files import BOMBS, not_files
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shard_files import built, digests

import shards as shards_package
from shards.build import main
from shards.builder import build_set
from shards.errors import BuildError, ImageError, LayoutError, ShardError
from shards.format.source import LocalFolder
from shards.images.decode import read_well
from shards.layouts.registry import read_layout
from shards.reader.shard_set import ShardSet
from shards.verify import verify


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


def test_metadata_that_no_reader_would_accept_are_refused_by_their_line(screen, tmp_path):
    root = screen()
    text = (root / "metadata.csv").read_text().replace("G2_guide_1", "G" * 70_000, 1)
    (root / "metadata.csv").write_text(text)
    with pytest.raises(LayoutError, match=r"^metadata.csv, line 4: its columns take 7\d{4} bytes; 65536 are the limit"):
        built(root, tmp_path / "out")


def test_a_narrow_image_that_would_be_padded_beyond_the_limit_is_quarantined(tmp_path):
    """65,536 x 1 pixels of 100 channels have 6.5 MB, and 3.4 GB in chunks of 256 pixels with 16 bits."""
    names = [f"c{channel}" for channel in range(100)]
    for image, shape in (("narrow", (65_536, 1)), ("good", (4, 4))):
        np.save(tmp_path / f"{image}.npy", np.zeros(shape, np.uint16))
        for name in names:
            (tmp_path / f"{image}_{name}.npy").symlink_to(tmp_path / f"{image}.npy")
    images = {"A01": "narrow", "A02": "good"}
    rows = [",".join(["e", "p", well, *(f"{image}_{name}.npy" for name in names)]) for well, image in images.items()]
    header = ",".join(["experiment", "plate", "well", *(f"channel:{name}" for name in names)])
    (tmp_path / "wells.csv").write_text("\n".join([header, *rows]))
    options = {"validation_fraction": 0, "chunk": 256, "on_error": "quarantine", "progress": False}
    manifest, _ = build_set.build("folder", tmp_path, tmp_path / "out", **options)
    (bad,) = manifest.quarantined
    assert bad.key == "e_p_A01_1"
    assert bad.error == (
        "images of 65536 x 1 pixels take 3355443200 bytes in chunks of 256 pixels: choose smaller chunks"
    )


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


@pytest.mark.slow
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
