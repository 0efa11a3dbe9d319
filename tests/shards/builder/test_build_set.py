"""The builder and the format: what stock readers see, the split, determinism, resumption, and bad input."""

import hashlib
import io
import json
import os
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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import shards as shards_package
from shards.build import main
from shards.builder.build_set import build
from shards.builder.write import BuildError
from shards.errors import ImageError, LayoutError, ShardError
from shards.format.writer import ShardWriter
from shards.images.decode import read_well
from shards.layouts.registry import read_layout
from shards.reader.shard_set import ShardSet


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a finished set, its records aside (they hold the inputs' times of change)."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}


def built(root: Path, output: Path, **options) -> ShardSet:
    build("rxrx3", root, output, progress=False, **{"wells_per_shard": 3, **options})
    return ShardSet.open(output)


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
    one = sorted(train)[0]
    assert set(shards.wells["experiment"].iloc[shards.indices("train", [one])]) == {one}


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
    """The same tars, and the same table but for the lines that rows came from; a build that was begun goes on."""

    @settings(deadline=None, max_examples=10)
    @given(data=st.data())
    def check(data):
        (root / "metadata.csv").write_text("".join([header, *data.draw(st.permutations(rows))]))
        (output / "manifest.json").unlink()
        built(root, output, validation_fraction=0.4)
        built(root, fresh := Path(tempfile.mkdtemp(dir=folder)), validation_fraction=0.4)
        for place in (output, fresh):
            assert {name: digest for name, digest in digests(place).items() if name.endswith(".tar")} == tars
            assert ShardSet.open(place).wells.drop(columns="origin").equals(table)

    with tempfile.TemporaryDirectory() as folder:
        root, output = write_screen(Path(folder) / "screen", experiments=3, wells=3, size=4), Path(folder) / "out"
        table = built(root, output, validation_fraction=0.4).wells.drop(columns="origin")
        tars = {name: digest for name, digest in digests(output).items() if name.endswith(".tar")}
        header, *rows = (root / "metadata.csv").read_text().splitlines(keepends=True)
        check()


@pytest.mark.slow
def test_a_screen_is_imported_from_the_web(screen, tmp_path, web):
    """Table and images over http, in worker processes: the bytes that a local build gives, from images that fail once
    too; one that is not there is named with its line, or quarantined."""
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


def test_a_complete_build_is_left_untouched(screen, tmp_path, capsys):
    root, output = screen(), tmp_path / "out"
    command = ["--layout", "rxrx3", "--root", str(root), "--output", str(output), "--workers", "1"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "built in" in said.out
    assert re.search(r"12/12 \[\d\d:\d\d<00:00, .* MB/s of pixels\]", said.err)  # done, elapsed, to go, speed
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    assert main(command) == 0
    assert "already complete: nothing was changed" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_only_what_is_missing_is_built_again(screen, tmp_path):
    root, output = screen(), tmp_path / "out"
    built(root, output)
    before = digests(output)
    kept = {path.name: path.stat().st_mtime_ns for path in output.glob("*.tar")}
    (output / "manifest.json").unlink()
    (output / "train-000001.tar").unlink()
    (output / ".train-000001.tar.elsewhere.1.tmp").write_text("of another machine, which may still be writing")
    built(root, output)
    again = digests(output)
    again.pop(".train-000001.tar.elsewhere.1.tmp")
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


def test_wells_of_two_pixel_types_are_refused(screen, tmp_path):
    deep = screen(experiments=1, dtype="uint16")
    for path in (deep / "gene-001" / "Plate1").glob("B03*"):
        Image.new("L", (16, 16)).save(path)
    with pytest.raises(BuildError, match=r"holds uint(8|16) pixels and well .* uint(8|16): one pixel type"):
        built(deep, tmp_path / "out", validation_fraction=0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "manifest.json").unlink(), "manifest.json: no manifest"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json: invalid JSON"),
        (lambda f: (f / "wells.parquet").unlink(), "wells.parquet: not the table"),
        (lambda f: (f / "wells.parquet").write_bytes(b"PAR1"), "wells.parquet: not the table"),
        (lambda f: (f / "train-000000.tar").unlink(), "train-000000.tar: missing, but manifest.json says"),
        (lambda f: os.truncate(f / "train-000000.tar", 700), "train-000000.tar: 700 bytes, but"),
        (lambda f: rewrite(f, "version", 1), "manifest.json: version: "),
        (lambda f: rewrite(f, "shards", 0, "name", "../../etc/passwd.tar"), "shards.0.name: String should match"),
        (lambda f: rewrite(f, "wells", "train", 5), "other train experiments or another count"),
        (
            lambda f: rewrite(f, "experiments", "validation", ["gene-001", "gene-002", "gene-003"]),
            "are in both training",
        ),
    ],
)
def test_a_damaged_set_is_not_opened(screen, tmp_path, damage, message):
    built(screen(), tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(ShardError, match=message):
        ShardSet.open(tmp_path / "out")


def rewrite(folder: Path, *path_and_value) -> None:
    *path, last, value = path_and_value
    manifest = json.loads((folder / "manifest.json").read_text())
    place = manifest
    for step in path:
        place = place[step]
    place[last] = value
    manifest.pop("checksum")
    content = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    manifest["checksum"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(("y", "x", "size"), [(-1, 0, 4), (0, 13, 4), (13, 0, 4), (0, 0, 17), (0, 0, 0)])
def test_a_crop_outside_the_image_is_refused(screen, tmp_path, y, x, size):
    shards = built(screen(), tmp_path / "out")
    with pytest.raises(ValueError, match="leaves the 16 x 16 image of well 2"):
        shards.read_crop(2, y, x, size)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40)),
    dtype=st.sampled_from(["uint8", "uint16"]),
    key=st.from_regex(r"[A-Za-z0-9_+-]{1,90}", fullmatch=True),
    text=st.text(max_size=30),
)
def test_any_well_can_be_read_back_from_its_entry_and_by_tarfile(shape, dtype, key, text):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)
    file = io.BytesIO()
    writer = ShardWriter(file)
    entries = [writer.add(name, image, {"note": text}) for name in (key, "other" if key != "other" else "another")]
    writer.close()
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as archive:
        assert archive.getnames()[:2] == [f"{key}.zs", f"{key}.json"]
        assert np.array_equal(shards_package.decode(".zs", archive.extractfile(f"{key}.zs").read()), image)
        assert json.load(archive.extractfile(f"{key}.json")) == {"note": text}
    for entry in entries:
        assert (entry.height, entry.width, entry.pixel_type) == (*shape[1:], dtype)
        assert file.getvalue()[entry.offset :].startswith(b"wellzarr")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--root", "nowhere"], "nowhere: no such folder"),
        (["--option", "colour=red"], "layout 'rxrx3' has no option 'colour'"),
        (["--option", "colour"], "expected NAME=VALUE"),
        (["--wells-per-shard", "0"], "must be at least 1"),
        (["--validation-fraction", "1.5"], "must be at least 0 and below 1"),
    ],
)
def test_the_command_line_words_its_errors(screen, tmp_path, capsys, arguments, message):
    command = ["--layout", "rxrx3", "--root", str(screen()), "--output", str(tmp_path / "out"), "--workers", "1"]
    assert main([*command, *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_help_does_not_wait_for_heavy_imports():
    code = "import sys, shards.build; print([m for m in ('torch', 'pandas', 'webdataset') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.slow
def test_a_killed_build_is_completed_by_the_same_command(screen, tmp_path):
    """kill -9 of the whole process group at several moments, then once undisturbed: the same bytes as never killed."""
    root = screen(experiments=6, wells=40, size=256)
    options = ["--layout", "rxrx3", "--root", str(root), "--wells-per-shard", "8", "--workers", "2"]
    command = [sys.executable, "-m", "shards.build", *options, "--output"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
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
    assert digests(output) == digests(tmp_path / "whole")
    assert not list(output.rglob("*.tmp"))


@pytest.mark.slow
def test_two_builds_into_one_folder_end_with_one_whole_set(screen, tmp_path):
    root = screen(experiments=6, wells=20, size=128)
    options = ["--layout", "rxrx3", "--root", str(root), "--wells-per-shard", "8", "--workers", "2"]
    command = [sys.executable, "-m", "shards.build", *options, "--output"]
    subprocess.run([*command, str(tmp_path / "alone")], check=True, capture_output=True)
    both = [subprocess.Popen([*command, str(tmp_path / "shared")], stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [build.wait(120) for build in both] == [0, 0]
    assert digests(tmp_path / "shared") == digests(tmp_path / "alone")


THREADS = """
import sys
from pathlib import Path
import pyarrow.parquet
from shards.reader.shard_set import ShardSet
threads = lambda: len(list(Path("/proc/self/task").iterdir()))
before = threads()
shards = ShardSet.open(Path(sys.argv[1]))
print(len(shards.shapes), len(shards.indices("train", ["gene-001"])), threads() - before)
"""


def test_opening_a_set_starts_no_threads(screen, tmp_path):
    """Arrow's threads can abort a process that ends while they still hold what they read."""
    built(screen(), tmp_path / "out", validation_experiments=["gene-002"])
    command = [sys.executable, "-c", THREADS, str(tmp_path / "out")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "12 4 0\n"


@pytest.mark.slow
def test_workers_end_when_the_build_alone_is_killed(screen, tmp_path):
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
def test_a_plan_takes_memory_for_the_numbers_of_its_wells_alone(tmp_path):
    """300,000 more wells of six channels take below 200 bytes each at the peak; half a kilobyte were they all held."""
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
