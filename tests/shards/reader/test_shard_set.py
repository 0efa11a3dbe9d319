"""An opened set: damaged sets are refused, crops are inside their image, and opening starts no threads."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from shard_files import built

from shards.errors import ShardError
from shards.reader.shard_set import ShardSet, wells_per_shard


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
        (lambda f: rewrite(f, "wells", "train", 5), "wells.train: 5, but the train shards have 8"),
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
    section = manifest
    for step in path:
        section = section[step]
    section[last] = value
    manifest.pop("checksum")
    content = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    manifest["checksum"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(("y", "x", "size"), [(-1, 0, 4), (0, 13, 4), (13, 0, 4), (0, 0, 17), (0, 0, 0)])
def test_a_crop_outside_the_image_is_refused(screen, tmp_path, y, x, size):
    shards = built(screen(), tmp_path / "out")
    with pytest.raises(ValueError, match="leaves the 16 x 16 image of well 2"):
        shards.read_crop(2, y, x, size)


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


def test_the_wells_of_a_stream_must_ascend(set_of_62):
    shards = ShardSet.open(set_of_62)
    assert wells_per_shard(shards, shards.indices("train")).sum() == 62
    with pytest.raises(ValueError, match="must ascend"):
        wells_per_shard(shards, np.array([3, 2]))
