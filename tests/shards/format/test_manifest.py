"""The manifest and the table: every change is detected, and no number or text of a manifest does harm."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
from shard_files import check_right_or_refused, flip_bit, flips, noisy, outcome, reseal_manifest, write_set

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


def shard(manifest: dict, **changes: object) -> None:
    manifest["shards"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(chunk=2**32), "chunk: .*must be one of 16, 32, 64, 128, 256, got 4294967296"),
        (lambda m: m.update(chunk=17), "chunk: .*must be one of 16, 32, 64, 128, 256, got 17"),
        (lambda m: m.update(channels=[]), "channels: "),
        (lambda m: m.update(chunk=256, channels=["c"] * 20_000), "chunk: 1310720000 bytes in 20000 channels"),
        (lambda m: m.update(shards=[]), "shards: "),
        (lambda m: m.update(shards=m["shards"] * 2, wells={"train": 4, "validation": 0}), "must be named once"),
        (lambda m: shard(m, wells=2**40), r"shards.0.wells: .*less than or equal to 16777216"),
        (lambda m: shard(m, bytes=2**62), r"shards.0.bytes: .*less than or equal to"),
        (lambda m: shard(m, name="train-" + "0" * 300 + ".tar"), r"shards.0.name: String should match"),
        (lambda m: shard(m, name="train-٣.tar"), r"shards.0.name: String should match"),
        (lambda m: m.update(wells={"train": 2**62, "validation": 0}), "wells.train: 4611686018427387904, but"),
        (lambda m: m.update(wells={"train": 2}), "must be given for train and validation"),
    ],
)
def test_a_number_out_of_bounds_is_refused_by_its_field(tmp_path, change, message):
    folder = write_set(tmp_path / "set", [noisy((1, 20, 20), "uint8", seed) for seed in range(2)])
    reseal_manifest(folder, change)
    with pytest.raises(ShardError, match=rf"{folder}/manifest.json: .*{message}"):
        ShardSet.open(folder)


@pytest.mark.parametrize(
    "text", ["[]", "3", '"text"', "null", "[" * 100_000, '{"a":' * 100_000, '{"chunk": ' + "9" * 5000 + "}", "\xff", ""]
)
def test_a_manifest_that_is_not_an_object_is_refused(tmp_path, text):
    (tmp_path / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(ShardError, match=r"manifest.json: "):
        ShardSet.open(tmp_path)


VALUES = [
    -(2**63),
    -1,
    0,
    1,
    3,
    16,
    17,
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    2**64,
    10**30,
    1.5,
    True,
    None,
    "",
    "x",
    [],
    {},
]


def places(value: object, path: tuple = ()) -> list[tuple]:
    """The path of every value inside a JSON object."""
    inner = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))][0 if path else 1 :]


@pytest.mark.slow
def test_every_value_of_a_manifest_may_be_hostile(tmp_path):
    """In a child process, which a signal or an endless allocation would end."""
    folder = write_set(tmp_path / "set", [noisy((1, 20, 36), "uint8", seed) for seed in range(3)], "none")
    command = [sys.executable, "-c", FUZZ, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.pop("checksum")
    assert int(done.stdout) == len(places(manifest)) * len(VALUES) > 500


FUZZ = f"""
import copy, json, resource, sys
from pathlib import Path
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2])]!r}
from shard_files import check_right_or_refused, noisy, reseal_manifest
from test_manifest import VALUES, changed, places
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
folder = Path(sys.argv[1])
images = [noisy((1, 20, 36), "uint8", seed) for seed in range(3)]
whole = json.loads((folder / "manifest.json").read_text())
whole.pop("checksum")
attempts = 0
for place in places(whole):
    for value in VALUES:
        reseal_manifest(folder, lambda manifest: (manifest.clear(), manifest.update(changed(whole, place, value))))
        check_right_or_refused(folder, images)
        attempts += 1
print(attempts)
"""


def changed(manifest: dict, place: tuple, value: object) -> dict:
    manifest = copy.deepcopy(manifest)
    section = manifest
    for step in place[:-1]:
        section = section[step]
    section[place[-1]] = value
    return manifest


def test_the_fuzzed_set_itself_is_right(tmp_path):
    images = [noisy((1, 20, 36), "uint8", seed) for seed in range(3)]
    assert check_right_or_refused(write_set(tmp_path / "set", images, "none"), images) == 0
