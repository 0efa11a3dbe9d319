"""Payloads, tar files and indices: what stock Zarr sees, what a crop touches, and that no damage goes unseen."""

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pytest
import zarr
import zarr.core.buffer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from shards.errors import ShardError
from shards.format.codecs import CODECS, choose_codec, codec_named, crc32c, trial_ratios
from shards.format.index import ShardIndex, rebuild
from shards.format.manifest import MANIFEST, Manifest, Shard, read_manifest, write_manifest
from shards.format.payload import Header, decode_payload, encode_payload, read_header
from shards.format.source import LocalFolder
from shards.format.tar import members
from shards.format.writer import ShardWriter, write_table
from shards.index import main
from shards.reader.shard_set import ShardSet

T = TypeVar("T")
EVERY_CODEC = list(CODECS)


def noisy(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Something like a dim image: smooth, with photon noise."""
    rng = np.random.default_rng(seed)
    smooth = 20 + 15 * np.sin(np.arange(shape[1]) / 9)[:, None] * np.cos(np.arange(shape[2]) / 7)
    return (rng.poisson(np.broadcast_to(smooth, shape)) * (1 if dtype == "uint8" else 37)).clip(0, None).astype(dtype)


def write_set(folder: Path, images: list[np.ndarray], codec: str = "delta+zstd", chunk: int = 16, per: int = 2) -> Path:
    """A whole set of images as the builder leaves it, all of one experiment for training."""
    folder.mkdir(exist_ok=True)
    shards, rows = [], []
    for number, first in enumerate(range(0, len(images), per)):
        name = f"train-{number:06d}.tar"
        with (folder / name).open("wb") as file:
            writer = ShardWriter(file, codec, chunk)
            for index, image in enumerate(images[first : first + per], start=first):
                entry = writer.add(f"well{index}", image, {"note": "ä", "number": index})
                shape = {"height": entry.height, "width": entry.width}
                rows.append({"key": f"well{index}", "experiment": "e", "shard": name, "split": "train", **shape})
            sha256 = writer.close()
        shard = Shard(
            name=name, split="train", wells=len(images[first : first + per]), bytes=writer.bytes, sha256=sha256
        )
        (folder / shard.index).write_bytes(writer.index())
        shards.append(shard)
    write_manifest(
        folder,
        Manifest(
            channels=tuple(f"c{c}" for c in range(len(images[0]))), pixel_type=images[0].dtype.name, codec=codec,
            chunk=chunk, wells={"train": len(images), "validation": 0}, experiments={"train": ("e",), "validation": ()},
            shards=tuple(shards), wells_sha256=write_table(folder, [pd.DataFrame(rows)]), made_with={},
        ),
    )  # fmt: skip
    return folder


def as_zarr(payload: bytes) -> zarr.Array:
    """The payload as stock Zarr opens it: beside the metadata that is its own header."""
    metadata = json.dumps(read_header(payload).zarr()).encode()
    buffer = zarr.core.buffer.cpu.Buffer.from_bytes
    return zarr.open_array(MemoryStore({"zarr.json": buffer(metadata), "c/0/0/0": buffer(payload)}), mode="r")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Zarr calls numcodecs' codecs experimental
@pytest.mark.parametrize("codec", EVERY_CODEC)
@pytest.mark.parametrize(("shape", "dtype"), [((6, 128, 192), "uint8"), ((3, 100, 70), "uint16"), ((1, 5, 9), "uint8")])
def test_stock_zarr_reads_payloads_pixel_for_pixel(codec, shape, dtype):
    image = noisy(shape, dtype)
    payload, bounds = encode_payload(image, CODECS[codec], 64)
    array = as_zarr(payload)
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert np.array_equal(array[:], image)
    assert np.array_equal(array[-1:, 2:90, 5:66], image[-1:, 2:90, 5:66])
    assert np.array_equal(decode_payload(payload), image)
    assert len(bounds) == -(-shape[1] // 64) * -(-shape[2] // 64) + 1


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("codec", ["zstd", "delta+zstd", "shuffle+zstd"])
def test_stock_zarr_notices_damage_as_we_do(codec):
    payload, bounds = encode_payload(noisy((2, 64, 64), "uint16"), CODECS[codec], 64)
    damaged = bytearray(payload)
    damaged[int(bounds[0]) + 99] ^= 4
    with pytest.raises(ShardError, match="chunk 0 of 1: a chunk's checksum does not match"):
        decode_payload(bytes(damaged))
    with pytest.raises(ValueError, match=r"(?i)checksum"):
        as_zarr(bytes(damaged))[:]


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    data=st.data(),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 70), st.integers(1, 70)),
    dtype=st.sampled_from(["uint8", "uint16"]),
    codec=st.sampled_from(EVERY_CODEC),
    chunk=st.sampled_from([16, 32, 64]),
    mode=st.sampled_from(["runs", "span"]),
)
def test_the_kernel_agrees_with_numpy(tmp_path_factory, data, shape, dtype, codec, chunk, mode):
    """Any window of any image, by any codec, flipped or not, with its sums: as slices of the image have it."""
    image = np.random.default_rng(data.draw(st.integers(0, 99))).integers(
        0, np.iinfo(dtype).max + 1, shape, dtype=dtype
    )
    folder = write_set(tmp_path_factory.mktemp("set"), [image[:, ::-1], image], codec, chunk)
    shards = ShardSet.open(folder, mode=mode)
    size = [data.draw(st.integers(1, side)) for side in shape[1:]]
    top, left = (data.draw(st.integers(0, side - part)) for side, part in zip(shape[1:], size, strict=True))
    rows, columns = data.draw(st.booleans()), data.draw(st.booleans())
    out, sums = np.empty((1, shape[0], *size), dtype), np.empty((1, shape[0], 2), np.uint64)
    shards.reader.read(shards.windows(np.array([1]), np.array([[top, left, rows, columns]])), out, sums)
    expected = image[:, top : top + size[0], left : left + size[1]]
    expected = expected[:, :: -1 if rows else 1, :: -1 if columns else 1]
    assert np.array_equal(out[0], expected)
    wide = expected.astype(np.uint64)
    assert np.array_equal(sums[0], np.stack([wide.sum((1, 2)), (wide**2).sum((1, 2))], axis=1))


def test_a_crop_touches_its_chunks_alone(tmp_path):
    """256 pixels of 2048: at most 25 of 1,024 chunks, in at most five runs of bytes; found by the ranges asked for."""
    image = np.zeros((1, 2048, 2048), np.uint8)
    shards = ShardSet.open(write_set(tmp_path / "set", [image], "none", 64))
    stored = 64 * 64 + 4
    for top, left, rows, columns in ((0, 0, 4, 4), (1, 1, 5, 5), (1792, 1792, 4, 4), (1000, 64, 5, 4)):
        (runs,) = shards.reader.runs(shards.windows(np.array([0]), np.array([[top, left, 0, 0]])), (256, 256))
        assert len(runs) == rows
        assert {stop - start for _, start, stop in runs} == {columns * stored}


def outcome(read: Callable[[], T]) -> T | ShardError:
    """What was read, or the error that says it cannot be."""
    try:
        return read()
    except ShardError as error:
        return error


def flips(size: int, step: int = 1):
    """Every byte, with a bit that changes from byte to byte."""
    return ((at, 1 << at % 8) for at in range(0, size, step))


def damaged(path: Path, at: int, bit: int):
    """Flip one bit of a file in place; call what is returned to flip it back."""

    def flip() -> None:
        with path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ bit]))

    flip()
    return flip


@pytest.mark.slow
@pytest.mark.parametrize("codec", EVERY_CODEC)
def test_every_flipped_byte_of_a_tar_file_is_noticed_or_harmless(tmp_path, codec):
    """By the reader, which goes by the sidecar; by the metadata; and by whoever goes by the tar file itself."""
    image = noisy((1, 20, 36), "uint16")
    folder = write_set(tmp_path / "set", [image], codec)
    path = folder / "train-000000.tar"
    content = path.read_bytes()
    shards = ShardSet.open(folder)
    noticed = 0
    for at, bit in flips(len(content)):
        restore = damaged(path, at, bit)
        for read, expected in ((shards.read_well, image), (shards.metadata, {"note": "ä", "number": 0})):
            found = outcome(lambda read=read: read(0))
            noticed += isinstance(found, ShardError)
            assert str(path) in str(found) if isinstance(found, ShardError) else np.array_equal(found, expected)
        restore()
        changed = bytearray(content)
        changed[at] ^= bit
        try:
            found = {m.key + m.kind: bytes(changed[m.offset : m.offset + m.size]) for m in of(bytes(changed))}
            assert np.array_equal(decode_payload(found["well0zs"]), image)
        except ShardError:
            noticed += 1
        except KeyError:  # the member's name itself changed: a member is missed by its name
            noticed += 1
    payload = len(encode_payload(image, CODECS[codec], 16)[0])
    assert noticed > payload  # all of the payload, by one or the other, is under a checksum
    assert np.array_equal(shards.read_well(0), image)


def of(tar: bytes):
    return members(lambda start, stop: tar[start:stop], len(tar))


def test_every_flipped_byte_of_a_payload_is_noticed(tmp_path):
    payload, _ = encode_payload(noisy((2, 20, 20), "uint8"), CODECS["delta+zstd"], 16)
    for at, bit in flips(len(payload)):
        changed = bytearray(payload)
        changed[at] ^= bit
        with pytest.raises(ShardError):
            decode_payload(bytes(changed))


def test_every_flipped_byte_of_an_index_is_noticed_or_harmless(tmp_path, caplog):
    images = [noisy((1, 40, 40), "uint8", seed) for seed in range(2)]
    folder = write_set(tmp_path / "set", images)
    path = folder / "train-000000.idx"
    whole = path.read_bytes()
    anew = 0
    for at, bit in flips(len(whole)):
        damaged(path, at, bit)
        shards = ShardSet.open(folder)
        for index, image in enumerate(images):
            found = outcome(lambda shards=shards, index=index: shards.read_well(index))
            if isinstance(found, ShardError):
                assert f"train-000000.tar: image {index} " in str(found)
                assert "rebuild it with python -m shards.index" in str(found)
            else:
                assert np.array_equal(found, image)
        if path.read_bytes() == whole:
            anew += 1
        path.write_bytes(whole)
    assert anew >= 56 + 2 * 80  # header and records: rebuilt from the tar file, and said
    assert "train-000000.idx: the index is damaged: its checksum does not match; rebuilding it" in caplog.text


def test_every_flipped_byte_of_manifest_and_table_is_noticed_or_harmless(tmp_path):
    folder = write_set(tmp_path / "set", [noisy((1, 20, 20), "uint8")])
    known = read_manifest(LocalFolder(folder))
    path = folder / MANIFEST
    for at, bit in flips(path.stat().st_size):
        restore = damaged(path, at, bit)
        found = outcome(lambda: read_manifest(LocalFolder(folder)))
        assert str(path) in str(found) if isinstance(found, ShardError) else found == known
        restore()
    for at, bit in flips((folder / "wells.parquet").stat().st_size, 7):
        restore = damaged(folder / "wells.parquet", at, bit)
        with pytest.raises(ShardError, match=r"wells.parquet: not the table"):
            ShardSet.open(folder)
        restore()


def test_a_missing_index_is_read_from_the_tar_file_and_said(tmp_path, caplog, capsys):
    images = [noisy((2, 30, 50), "uint16", seed) for seed in range(3)]
    folder = write_set(tmp_path / "set", images, "shuffle+zstd")
    whole = (folder / "train-000000.idx").read_bytes()
    for path in folder.glob("*.idx"):
        path.unlink()
    shards = ShardSet.open(folder)
    assert np.array_equal(shards.read_well(1), images[1])
    assert f"{folder}/train-000000.idx: missing; rebuilding it from train-000000.tar" in caplog.text
    assert (folder / "train-000000.idx").read_bytes() == whole
    assert not (folder / "train-000001.idx").exists()  # not asked for yet
    (folder / "train-000000.idx").write_bytes((b"x" + whole)[: len(whole)])
    assert main([str(folder)]) == 0
    assert "2 indices written" in capsys.readouterr().out
    assert (folder / "train-000000.idx").read_bytes() == whole
    assert np.array_equal(ShardSet.open(folder).read_well(2), images[2])
    assert main([str(tmp_path)]) == 1
    assert "no manifest" in capsys.readouterr().err


def test_an_index_of_another_tar_file_is_not_believed(tmp_path, caplog):
    one = write_set(tmp_path / "one", [noisy((1, 40, 40), "uint8", 1)])
    other = write_set(tmp_path / "other", [noisy((1, 40, 40), "uint8", 2)])
    (one / "train-000000.idx").write_bytes((other / "train-000000.idx").read_bytes())
    assert np.array_equal(ShardSet.open(one).read_well(0), noisy((1, 40, 40), "uint8", 1))
    assert "it belongs to another tar file" in caplog.text


@given(cut=st.floats(0, 1, exclude_max=True))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_tar_file_cut_anywhere_is_refused(tmp_path_factory, cut):
    file = io.BytesIO()
    writer = ShardWriter(file, "zstd", 16)
    for number in range(2):
        writer.add(f"well{number}", noisy((1, 30, 30), "uint8"), {})
    writer.close()
    short = file.getvalue()[: int(cut * (len(file.getvalue()) - 1024))]  # the end mark is two blocks; one suffices
    with pytest.raises(ShardError, match=r"cut short at byte|no metadata"):
        rebuild(lambda start, stop: short[start:stop], len(short), "0" * 64)


def test_a_file_cut_short_while_it_is_read_is_an_error_not_a_crash(tmp_path):
    folder = write_set(tmp_path / "set", [noisy((1, 40, 40), "uint8")])
    shards = ShardSet.open(folder)
    shards.read_well(0)
    os.truncate(folder / "train-000000.tar", 2000)
    with pytest.raises(ShardError, match=r"train-000000.tar: image 0, .*the file cannot be read, or is too short"):
        shards.read_well(0)
    with pytest.raises(ShardError, match=r"train-000000.tar: 2000 bytes, but manifest.json says"):
        ShardSet.open(folder)


def archive(*infos: tarfile.TarInfo, content: bytes = b"") -> bytes:
    return b"".join(info.tobuf(tarfile.GNU_FORMAT) + content for info in infos) + bytes(1024)


def info(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.type, made.linkname = size, kind, "/etc/passwd" if kind == tarfile.SYMTYPE else ""
    return made


@pytest.mark.parametrize(
    ("tar", "message"),
    [
        (archive(info("/etc/passwd.zs")), "member '/etc/passwd.zs' is not a file"),
        (archive(info("../../up.zs")), "member '../../up.zs' is not a file"),
        (archive(info("a.zs", kind=tarfile.SYMTYPE)), "is not a file <key>.zs"),
        (archive(info("a.zs", kind=tarfile.CHRTYPE)), "is not a file <key>.zs"),
        (archive(info("././@LongLink", 1 << 40, tarfile.GNUTYPE_LONGNAME)), "is not a file <key>.zs"),
        (archive(info("paxheader.json", 1 << 33, tarfile.XHDTYPE)), "is not a file <key>.zs"),
        (archive(info("a.zs", 1 << 60)), "cut short at byte 1536: a.zs ends at"),
        (b"\xff" * 2048, "not a tar header"),
        (archive(info("a.zs"), info("b.json")), "are not an image and its metadata"),
        (archive(info("a.zs"), info("a.json")), "a: not a payload of this format"),
    ],
)
def test_hostile_tar_files_do_nothing_but_fail(tar, message):
    asked = []

    def read(start: int, stop: int) -> bytes:
        asked.append(stop - start)
        return tar[start:stop]

    with pytest.raises(ShardError, match=message):
        rebuild(read, len(tar), "0" * 64)
    assert max(asked) <= 512


def hostile_header(**changes) -> bytes:
    stored = Header(1, 16, 16, "uint8", 16, CODECS["zstd"]).zarr()
    stored.update(changes)
    text = json.dumps(stored, separators=(",", ":")).encode()
    packed = struct.pack("<8sI", b"wellzarr", len(text)) + text
    return packed + struct.pack("<I", crc32c(packed))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (struct.pack("<8sI", b"wellzarr", 1 << 31) + bytes(64), "claims 2147483648 bytes"),
        (hostile_header(shape=[1, 10**9, 10**9]), "does not write|out of bounds"),
        (hostile_header(shape=[1, -16, 16]), "does not write|out of bounds"),
        (hostile_header(shape=["a", None, {}]), "does not write"),
        (hostile_header(data_type="object"), "does not write"),
        (hostile_header(attributes={"codec": "pickle"}), "does not write"),
        (Header(1 << 20, 1 << 20, 1 << 20, "uint8", 64, CODECS["zstd"]).pack(), "out of bounds"),
        (Header(1, 16, 16, "uint8", 16, CODECS["zstd"]).pack(), "index of chunks is damaged"),
    ],
)
def test_hostile_payloads_do_nothing_but_fail(payload, message):
    with pytest.raises(ShardError, match=message):
        decode_payload(payload)


BOMB = """
import resource, struct, sys
from pathlib import Path
from typing import TypeVar
import numpy as np
from shards.errors import ShardError
from shards.reader.shard_set import ShardSet
from shards.format.payload import decode_payload
folder = Path(sys.argv[1])
shards = ShardSet.open(folder)
shards.read_well(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for read in (lambda: shards.read_well(0), lambda: decode_payload((folder / "bomb").read_bytes())):
    try:
        read()
    except ShardError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_bomb_fails_in_bounded_memory(tmp_path, monkeypatch, codec):
    """A chunk whose frame claims, and holds, 2 GiB of zeros, under a right checksum: built by swapping the encoder."""
    import imagecodecs
    import zstandard

    whole = bytes(1 << 31) if codec == "zstd" else bytes(1 << 30)
    frame = (
        zstandard.ZstdCompressor().compress(whole) if codec == "zstd" else imagecodecs.lz4_encode(whole, header=True)
    )
    bomb = bytes(frame) + struct.pack("<I", crc32c(bytes(frame)))
    del whole
    honest, calls = codec_named(codec).encode, []

    def encode(self, chunk):
        calls.append(1)
        return bomb if len(calls) == 1 else honest(chunk)

    monkeypatch.setattr(type(codec_named(codec)), "encode", encode)
    images = [noisy((1, 16, 16), "uint8", seed) for seed in range(2)]
    folder = write_set(tmp_path / "set", images, codec)
    first = next(of((folder / "train-000000.tar").read_bytes()))
    (folder / "bomb").write_bytes((folder / "train-000000.tar").read_bytes()[first.offset : first.offset + first.size])
    done = subprocess.run([sys.executable, "-c", BOMB, folder], capture_output=True, text=True, check=True)
    kernel, plain, grown = done.stdout.splitlines()
    assert "cannot be decompressed to a chunk of this size" in kernel
    assert "chunk 0 of 1: " in plain
    assert int(grown) < 64 * 1024 + len(bomb) // 256  # KiB; the file itself is read whole by the plain way


def test_open_files_are_capped(tmp_path):
    images = [noisy((1, 20, 20), "uint8", seed) for seed in range(12)]
    folder = write_set(tmp_path / "set", images, per=1)
    shards = ShardSet.open(folder)
    shards.reader.max_open_shards = 3
    order = np.random.default_rng(0).permutation(np.tile(np.arange(12), 4))
    for index in order:
        assert np.array_equal(shards.read_well(index), images[index])
        assert held(folder) <= 2 * 3 + 1  # tar file and index of each, and the table
    windows = shards.windows(np.arange(12), np.zeros((12, 4), np.int64))
    out = np.empty((12, 1, 20, 20), np.uint8)
    shards.reader.read(windows, out)  # more at once than may stay open
    assert np.array_equal(out, np.stack(images))


def held(folder: Path) -> int:
    """How many files of a folder this process has open."""
    links = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    return sum(link.startswith(str(folder)) for link in links)


def test_an_index_is_the_same_from_the_writer_and_from_the_tar_file():
    file = io.BytesIO()
    writer = ShardWriter(file, "lz4", 32)
    for number, shape in enumerate([(2, 40, 50), (2, 64, 32)]):
        writer.add(f"well{number}", noisy(shape, "uint16"), {"number": number})
    sha256 = writer.close()
    tar = file.getvalue()
    index, headers, keys = rebuild(lambda start, stop: tar[start:stop], len(tar), sha256)
    assert index.pack() == bytes(writer.index())
    assert keys == ("well0", "well1")
    assert [(h.height, h.width, h.chunks) for h in headers] == [(40, 50, 4), (64, 32, 2)]
    again = ShardIndex.parse(np.frombuffer(index.pack(), np.uint8))
    assert np.array_equal(again.bounds(1), index.bounds(1))


def test_the_codec_is_chosen_by_what_it_saves():
    chunks = [noisy((2, 64, 64), "uint16", seed) for seed in range(4)]
    ratios = trial_ratios(chunks)
    assert set(ratios) == set(EVERY_CODEC)
    assert choose_codec(ratios).name == max(ratios, key=lambda name: ratios[name])
    assert "shuffle+zstd" not in trial_ratios([noisy((2, 64, 64), "uint8")])
    assert choose_codec({"zstd": 1.08, "none": 0.999}).name == "none"
    with pytest.raises(ValueError, match="no codec 'gzip'; there are none, lz4, zstd"):
        codec_named("gzip")


@pytest.mark.parametrize(
    ("image", "chunk", "message"),
    [
        (np.zeros((2, 8, 8), np.float32), 64, "uint8 or uint16 is needed, got float32"),
        (np.zeros((8, 8), np.uint8), 64, "an image"),
        (np.zeros((1, 0, 8), np.uint8), 64, "an image"),
        (np.zeros((1, 8, 8), np.uint8), 60, "side must be one of 16, 32, 64, 128, 256, got 60"),
    ],
)
def test_what_cannot_be_encoded_is_refused(image, chunk, message):
    with pytest.raises(ValueError, match=message):
        encode_payload(image, CODECS["zstd"], chunk)
