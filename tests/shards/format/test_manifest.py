"""The manifest and the table: every change is detected."""

import pytest
from shard_files import flip_bit, flips, noisy, outcome, write_set

from shards.errors import ShardError
from shards.format.manifest import MANIFEST, read_manifest
from shards.format.source import LocalFolder
from shards.reader.shard_set import ShardSet


def test_every_flipped_byte_of_manifest_and_table_is_noticed_or_harmless(tmp_path):
    folder = write_set(tmp_path / "set", [noisy((1, 20, 20), "uint8")])
    known = read_manifest(LocalFolder(folder))
    path = folder / MANIFEST
    for at, bit in flips(path.stat().st_size):
        restore = flip_bit(path, at, bit)
        found = outcome(lambda: read_manifest(LocalFolder(folder)))
        assert str(path) in str(found) if isinstance(found, ShardError) else found == known
        restore()
    for at, bit in flips((folder / "wells.parquet").stat().st_size, 7):
        restore = flip_bit(folder / "wells.parquet", at, bit)
        with pytest.raises(ShardError, match=r"wells.parquet: not the table"):
            ShardSet.open(folder)
        restore()
