"""The sidecar index: any damage is detected, and the index is rebuilt from its tar file."""

import hashlib
import io

import numpy as np
from shard_files import flip_bit, flips, noisy, outcome, write_set

from shards.errors import ShardError
from shards.format.index import ShardIndex
from shards.format.rebuild import rebuild
from shards.format.writer import ShardWriter
from shards.index import main
from shards.reader.shard_set import ShardSet


def test_every_flipped_byte_of_an_index_is_noticed_or_harmless(tmp_path, caplog):
    images = [noisy((1, 40, 40), "uint8", seed) for seed in range(2)]
    folder = write_set(tmp_path / "set", images)
    path = folder / "train-000000.idx"
    whole = path.read_bytes()
    rebuilt = 0
    for at, bit in flips(len(whole)):
        flip_bit(path, at, bit)
        shards = ShardSet.open(folder)
        for index, image in enumerate(images):
            found = outcome(lambda shards=shards, index=index: shards.read_well(index))
            if isinstance(found, ShardError):
                assert f"train-000000.tar: image {index} " in str(found)
                assert "rebuild it with python -m shards.index" in str(found)
            else:
                assert np.array_equal(found, image)
        if path.read_bytes() == whole:
            rebuilt += 1
        path.write_bytes(whole)
    assert rebuilt >= 56 + 2 * 80  # header and records: rebuilt from the tar file, and logged
    assert "train-000000.idx: the index is damaged: its checksum does not match; rebuilding it" in caplog.text


def test_a_missing_index_is_rebuilt_from_the_tar_file_and_logged(tmp_path, caplog, capsys):
    images = [noisy((2, 30, 50), "uint16", seed) for seed in range(3)]
    folder = write_set(tmp_path / "set", images, "shuffle+zstd")
    whole = (folder / "train-000000.idx").read_bytes()
    for path in folder.glob("*.idx"):
        path.unlink()
    shards = ShardSet.open(folder)
    assert np.array_equal(shards.read_well(1), images[1])
    assert f"{folder}/train-000000.idx: missing; rebuilding it from train-000000.tar" in caplog.text
    assert (folder / "train-000000.idx").read_bytes() == whole
    assert not (folder / "train-000001.idx").exists()  # not needed yet
    (folder / "train-000000.idx").write_bytes((b"x" + whole)[: len(whole)])
    assert main([str(folder)]) == 0
    assert "2 of 2 indices written" in capsys.readouterr().out
    assert (folder / "train-000000.idx").read_bytes() == whole
    assert np.array_equal(ShardSet.open(folder).read_well(2), images[2])
    assert main([str(tmp_path)]) == 1
    assert "no manifest" in capsys.readouterr().err


def test_an_index_of_another_tar_file_is_rebuilt(tmp_path, caplog):
    folder = write_set(tmp_path / "set", [noisy((1, 40, 40), "uint8", 1)])
    other = write_set(tmp_path / "other", [noisy((1, 40, 40), "uint8", 2)])
    (folder / "train-000000.idx").write_bytes((other / "train-000000.idx").read_bytes())
    assert np.array_equal(ShardSet.open(folder).read_well(0), noisy((1, 40, 40), "uint8", 1))
    assert "it belongs to another tar file" in caplog.text


def test_an_index_is_the_same_from_the_writer_and_from_the_tar_file():
    file = io.BytesIO()
    writer = ShardWriter(file, "lz4", 32)
    for number, shape in enumerate([(2, 40, 50), (2, 64, 32)]):
        writer.add(f"well{number}", noisy(shape, "uint16"), {"number": number})
    sha256 = writer.close()
    tar = file.getvalue()
    rebuilt = rebuild(lambda start, stop: tar[start:stop], len(tar))
    assert rebuilt.index.tar_sha256 == sha256 == hashlib.sha256(tar).hexdigest()
    assert rebuilt.index.pack() == bytes(writer.index())
    assert rebuilt.keys == ("well0", "well1")
    assert [(h.height, h.width, h.chunks) for h in rebuilt.headers] == [(40, 50, 4), (64, 32, 2)]
    again = ShardIndex.parse(rebuilt.index.pack())
    assert all(np.array_equal(a, b) for a, b in zip(again.chunks(1), rebuilt.index.chunks(1), strict=True))
