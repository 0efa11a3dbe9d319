"""A shard is the one that the manifest lists: swapped, mixed, overwritten or damaged files are refused or repaired."""

import hashlib
import itertools
import json
import os
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from faulty_server import serving
from shard_files import check_right_or_refused, flip_bit, noisy, reseal_manifest, write_set

from shards.errors import ShardError
from shards.format.codecs import crc32c
from shards.format.source import LocalFolder
from shards.index import main
from shards.reader.shard_set import ShardSet
from shards.remote.open_set import open_url
from shards.verify import verify

SHAPE = (2, 20, 36)


def images_of(build: int, count: int) -> list[np.ndarray]:
    return [noisy(SHAPE, "uint8", 100 * build + number) for number in range(count)]


def swap(one: Path, other: Path) -> None:
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


@pytest.mark.parametrize("codec", ["none", "delta+zstd"])
@pytest.mark.parametrize("kinds", [(".tar",), (".idx",), (".tar", ".idx")], ids="+".join)
def test_every_pair_of_swapped_shards_is_repaired_or_refused(tmp_path, codec, kinds):
    """Training and validation shards of equal sizes; swapped sidecars are rebuilt, swapped tar files refused."""
    images = images_of(0, 8)
    whole = write_set(tmp_path / "whole", images, codec, validation=2)
    shards = sorted(path.stem for path in whole.glob("*.tar"))
    for one, other in itertools.combinations(shards, 2):
        folder = Path(shutil.copytree(whole, tmp_path / "set"))
        for kind in kinds:
            swap(folder / f"{one}{kind}", folder / f"{other}{kind}")
        before = {path.name: path.read_bytes() for path in folder.glob("*.idx")}
        refused = check_right_or_refused(folder, images)
        if kinds == (".idx",):
            assert refused == 0
            assert all(path.read_bytes() == (whole / path.name).read_bytes() for path in folder.glob("*.idx"))
        else:
            assert refused in (1, 2 * 2 * 3)  # the set, if sizes differ, or all that is read of four wells
            assert before == {path.name: path.read_bytes() for path in folder.glob("*.idx")}
        shutil.rmtree(folder)


def test_every_mixture_of_two_builds_gives_the_pixels_of_its_manifest_or_an_error(tmp_path):
    """Codec none: every file of one build has the size of its namesake in the other. 64 mixtures of six files."""
    images = {build: images_of(build, 2) for build in (0, 1)}
    builds = {build: write_set(tmp_path / f"build{build}", images[build], "none", per=1) for build in (0, 1)}
    names = sorted(path.name for path in builds[0].iterdir() if path.is_file())
    assert len(names) == 6
    for chosen in itertools.product((0, 1), repeat=len(names)):
        folder = tmp_path / "mixed"
        folder.mkdir()
        for name, build in zip(names, chosen, strict=True):
            shutil.copy(builds[build] / name, folder / name)
        of = dict(zip(names, chosen, strict=True))
        refused = check_right_or_refused(folder, images[of["manifest.json"]])
        foreign = sum(of[name] != of["manifest.json"] for name in names if name.endswith(".tar"))
        assert refused == 3 * foreign, of  # tables of both builds are equal, and sidecars are rebuilt
        shutil.rmtree(folder)


def test_a_file_overwritten_in_part_while_it_is_open_is_refused_where_it_differs(tmp_path):
    images, others = images_of(0, 2), images_of(1, 2)
    folder, other = (write_set(tmp_path / n, i, "none") for n, i in (("set", images), ("other", others)))
    shards = ShardSet.open(folder)
    assert np.array_equal(shards.read_well(1), images[1])
    tar, second = folder / "train-000000.tar", shards.reader.open_shard(0).index.records[1]["offset"]
    content = tar.read_bytes()[:second] + (other / tar.name).read_bytes()[second:]
    with tar.open("r+b") as file:
        file.write(content)
    assert np.array_equal(shards.read_well(0), images[0])
    with pytest.raises(ShardError, match=r"train-000000.tar: image 1, chunk 0 .*not the one of this set: restore the"):
        shards.read_well(1)
    assert np.array_equal(ShardSet.open(folder).read_well(0), images[0])


def test_a_foreign_tar_file_is_refused_before_anything_is_read_of_it(tmp_path):
    folder, other = (write_set(tmp_path / str(b), images_of(b, 2), "none") for b in (0, 1))
    shutil.copy(other / "train-000000.tar", folder)
    with pytest.raises(ShardError, match=r"train-000000.tar: not the file of this set, or damaged.*build the set"):
        ShardSet.open(folder).reader.open_shard(0)


def test_an_index_is_written_only_if_the_whole_tar_file_has_the_checksum_of_the_manifest(tmp_path, capsys):
    """The last byte of the file is in its end mark, which no reader of images looks at."""
    folder = write_set(tmp_path / "set", images_of(0, 4), "none")
    (folder / "train-000000.idx").unlink()
    (folder / "train-000001.idx").unlink()
    flip_bit(folder / "train-000000.tar", (folder / "train-000000.tar").stat().st_size - 1, 1)
    with pytest.raises(ShardError, match=r"train-000000.tar: its checksum is not the one in manifest.json: restore"):
        ShardSet.open(folder).read_well(0)
    assert not (folder / "train-000000.idx").exists()
    assert main([str(folder)]) == 1
    shown = capsys.readouterr()
    assert "train-000000.tar: its checksum is not the one" in shown.err
    assert "1 of 2 indices written" in shown.out
    assert not (folder / "train-000000.idx").exists()
    stamp = (folder / "train-000001.idx").read_bytes()[24:56].hex()
    assert stamp == hashlib.sha256((folder / "train-000001.tar").read_bytes()).hexdigest()


def version_1(folder: Path, name: str) -> bytes:
    """The index as version 1 had it: no checksums of chunks; they are left out of version 2's bytes here."""
    data = (folder / name).read_bytes()
    magic, _, wells, size, sha256 = struct.unpack_from("<8sIIQ32s", data)
    fields = np.frombuffer(data, "<i8", 10 * wells, 56).reshape(wells, 10).copy()
    words, kept = np.frombuffer(data, "<u4", offset=60 + 80 * wells), []
    for row in fields:
        bounds = words[row[4] : row[4] + row[5] + 1]
        row[4], row[6] = sum(map(len, kept)), crc32c(bounds.tobytes())
        kept.append(bounds)
    head = struct.pack("<8sIIQ32s", magic, 1, wells, size, sha256) + fields.tobytes()
    return head + struct.pack("<I", crc32c(head)) + np.concatenate(kept).tobytes()


def test_an_index_of_version_1_is_rebuilt_with_one_line_in_the_log(tmp_path, caplog):
    images = images_of(0, 2)
    folder = write_set(tmp_path / "set", images)
    whole, old = (folder / "train-000000.idx").read_bytes(), version_1(folder, "train-000000.idx")
    (folder / "train-000000.idx").write_bytes(old)
    assert check_right_or_refused(folder, images) == 0
    (line,) = caplog.messages
    assert line == f"{folder}/train-000000.idx: not an index of version 2; rebuilding it from train-000000.tar"
    assert (folder / "train-000000.idx").read_bytes() == whole


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
def test_an_index_that_is_not_a_file_is_replaced_or_left_and_reported(tmp_path, kind, caplog, capsys):
    images = images_of(0, 2)
    folder = write_set(tmp_path / "set", images)
    path = folder / "train-000000.idx"
    whole = path.read_bytes()
    path.unlink()
    {"pipe": os.mkfifo, "folder": Path.mkdir, "loop": lambda path: path.symlink_to(path)}[kind](path)
    assert any(fault.path == str(path) for fault in verify(LocalFolder(folder)).faults)
    assert check_right_or_refused(folder, images) == 0
    assert "; rebuilding it from train-000000.tar" in caplog.messages[0]
    failed = kind == "folder"  # a file can replace the others
    assert any(f"{path}: cannot be written" in line for line in caplog.messages) == failed
    assert main([str(folder)]) == failed
    shown = capsys.readouterr()
    assert (f"{path}: cannot be written" in shown.err, f"{int(not failed)} of 1 indices" in shown.out) == (failed, True)
    assert failed or path.read_bytes() == whole


def test_an_index_from_a_server_is_requested_only_if_it_has_the_bytes_that_the_table_implies(tmp_path, caplog):
    """Two images of 2 x 3 chunks: 60 + 2 * 80 bytes of head, and 2 * 13 words."""
    images = images_of(0, 2)
    folder = write_set(tmp_path / "set", images)
    path = folder / "train-000000.idx"
    assert path.stat().st_size == 60 + 2 * 80 + 4 * 2 * 13
    with serving(folder) as server:
        assert np.array_equal(open_url(server.url, None).read_well(0), images[0])
        assert not caplog.messages
        path.write_bytes(path.read_bytes() + bytes(4))
        assert np.array_equal(open_url(server.url, None).read_well(0), images[0])
    assert caplog.messages[0].endswith(
        "train-000000.idx: 328 bytes; 324 are the limit; rebuilding it from train-000000.tar"
    )


def test_threads_rebuild_an_index_once(tmp_path, caplog):
    images = images_of(0, 2)
    folder = write_set(tmp_path / "set", images)
    (folder / "train-000000.idx").unlink()
    shards = ShardSet.open(folder)
    with ThreadPoolExecutor(8) as pool:
        wells = list(pool.map(lambda number: shards.read_well(number % 2), range(16)))
    assert all(np.array_equal(well, images[number % 2]) for number, well in enumerate(wells))
    assert len(caplog.messages) == 1


def test_a_tar_file_whose_keys_are_not_those_of_the_table_is_refused_at_a_rebuild(tmp_path):
    folder = write_set(tmp_path / "set", images_of(0, 2))
    table = pd.read_parquet(folder / "wells.parquet")
    table.assign(key=["well1", "well0"]).to_parquet(folder / "wells.parquet", index=False)
    checksum = hashlib.sha256((folder / "wells.parquet").read_bytes()).hexdigest()
    reseal_manifest(folder, lambda manifest: manifest.update(wells_sha256=checksum))
    (folder / "train-000000.idx").unlink()
    with pytest.raises(ShardError, match=r"train-000000.tar: it holds well0, where wells.parquet lists well1"):
        ShardSet.open(folder).read_well(0)
    assert main([str(folder)]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["none", "delta+zstd", "lz4"])
def test_400_flipped_bytes_anywhere_in_a_set_give_right_pixels_or_a_refusal(tmp_path, codec):
    images = images_of(0, 6)
    whole = write_set(tmp_path / "whole", images, codec, validation=1)
    files = sorted(path.name for path in whole.iterdir() if path.is_file())
    sizes = [(whole / name).stat().st_size for name in files]
    random = np.random.default_rng(13)
    folder, refused = Path(shutil.copytree(whole, tmp_path / "set")), 0
    for _ in range(400):
        # Half of the flips by bytes of the set, half by files: small files are important, too.
        weights = np.array(sizes) / sum(sizes) if random.random() < 0.5 else None
        name = files[random.choice(len(files), p=weights)]
        flip_bit(folder / name, int(random.integers((whole / name).stat().st_size)), 1 << int(random.integers(8)))
        refused += check_right_or_refused(folder, images) > 0
        for path in whole.iterdir():
            shutil.copy(path, folder / path.name)
    assert refused > 100


CUT = """
import json, os, sys
from pathlib import Path
import numpy as np
from shards.errors import ShardError
from shards.reader.shard_set import ShardSet
folder, name = Path(sys.argv[1]), sys.argv[2]
shards = ShardSet.open(folder)
shards.read_crop(0, 0, 0, 8)
os.truncate(folder / name, int(sys.argv[3]))
wells = [lambda: shards.read_well(0), lambda: shards.read_well(1)]
for read in (*wells, lambda: len(shards.wells), lambda: shards.metadata(1)):
    try:
        read()
        print("read")
    except ShardError as error:
        print("refused", error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train-000000.idx", "train-000000.tar", "wells.parquet"])
@pytest.mark.parametrize("size", [0, 100])
def test_a_file_that_is_cut_while_the_set_is_open_is_an_error_not_a_signal(tmp_path, name, size):
    """Images large enough that the index has many pages: a cut under a memory mapping ends a process with SIGBUS."""
    folder = write_set(tmp_path / "set", [noisy((1, 1024, 1024), "uint8", seed) for seed in range(2)])
    command = [sys.executable, "-c", CUT, str(folder), name, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == {
        "train-000000.idx": ["refused", "refused", "read", "read"],
        "train-000000.tar": ["refused", "refused", "read", "refused"],
        "wells.parquet": ["read", "read", "refused", "read"],
    }[name]
    assert all(name.removesuffix(".idx") in line for line in lines if line.startswith("refused"))


def reseal_index(path: Path, change) -> None:
    """Change an index as a hostile writer would, with all its checksums recomputed."""
    data = path.read_bytes()
    header = list(struct.unpack_from("<8sIIQ32s", data))
    wells = header[2]
    fields = np.frombuffer(data, "<i8", 10 * wells, 56).reshape(wells, 10).copy()
    words = np.frombuffer(data, "<u4", offset=60 + 80 * wells).copy()
    spans = [(int(row[4]), int(row[4] + 2 * row[5] + 1)) for row in fields]
    change(header, fields, words)
    for row, (begin, end) in zip(fields, spans, strict=True):
        row[6] = crc32c(words[begin:end].tobytes())
    head = struct.pack("<8sIIQ32s", *header) + fields.tobytes()
    path.write_bytes(head + struct.pack("<I", crc32c(head)) + words.tobytes())


VALUES = [-(2**63), -1, 0, 1, 2, 511, 512, 4096, 2**31, 2**32 - 1, 2**32, 2**61, 2**62, 2**63 - 1]


@pytest.mark.slow
def test_every_number_of_an_index_may_be_hostile(tmp_path):
    """In a child process, which a signal would end. Also every pair of records swapped, with their words."""
    images = [noisy((1, 32, 64), "uint8", seed) for seed in range(3)]  # a grid of 2 x 4; transposed, of 4 x 2
    write_set(tmp_path / "set", images, "none", per=3)
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(tmp_path / "set")], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == {"changes": 3 * 9 * len(VALUES) + 2 * len(VALUES) + 3 + 1}


FUZZ = f"""
import json, shutil, sys
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2])]!r}
from faulty_server import serving
from shard_files import check_right_or_refused, noisy
from test_sidecar import VALUES, reseal_index
folder, changes = Path(sys.argv[1]), 0
images = [noisy((1, 32, 64), "uint8", seed) for seed in range(3)]
path = folder / "train-000000.idx"
whole = path.read_bytes()

def attempt(change):
    global changes
    changes += 1
    path.write_bytes(whole)
    reseal_index(path, change)
    check_right_or_refused(folder, images)

for value in VALUES:
    for well in range(3):
        for field in (0, 1, 2, 3, 4, 5, 7, 8, 9):
            attempt(lambda header, fields, words: fields.__setitem__((well, field), value))
    attempt(lambda header, fields, words: header.__setitem__(2, value % 2**32))
    attempt(lambda header, fields, words: header.__setitem__(3, value % 2**64))
for a, b in ((0, 1), (0, 2), (1, 2)):
    attempt(lambda header, fields, words: fields.__setitem__([a, b], fields[[b, a]]))
attempt(lambda header, fields, words: fields.__setitem__((slice(None), [2, 3]), fields[:, [3, 2]]))  # transposed
print(json.dumps({{"changes": changes}}))
"""


@pytest.mark.parametrize("word", range(9))
@pytest.mark.parametrize("value", [0, 1, 3, 1000, 2**31, 2**32 - 1])
def test_offsets_and_checksums_of_chunks_may_be_hostile(tmp_path, word, value):
    images = [noisy((1, 32, 32), "uint8", seed) for seed in range(2)]
    folder = write_set(tmp_path / "set", images, "none")
    reseal_index(folder / "train-000000.idx", lambda header, fields, words: words.__setitem__(word, value))
    assert check_right_or_refused(folder, images) >= 1
