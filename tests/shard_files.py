"""Small shard sets written directly, and ways to change their files."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from shards.builder.build_set import build
from shards.errors import ShardError
from shards.format.manifest import Manifest, Shard, write_manifest
from shards.format.source import LocalFolder, Range
from shards.format.tar import Member, members
from shards.format.writer import ShardWriter, write_table
from shards.reader.shard_set import ShardSet

T = TypeVar("T")


def noisy(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Something like a dim image: smooth, with photon noise."""
    rng = np.random.default_rng(seed)
    smooth = 20 + 15 * np.sin(np.arange(shape[1]) / 9)[:, None] * np.cos(np.arange(shape[2]) / 7)
    return (rng.poisson(np.broadcast_to(smooth, shape)) * (1 if dtype == "uint8" else 37)).clip(0, None).astype(dtype)


@dataclass(frozen=True)
class Recorded(LocalFolder):
    """A folder that keeps which bytes of which files were read."""

    read: list[Range] = field(default_factory=list)

    def load(self, name: str, limit: int) -> bytes:
        data = super().load(name, limit)
        self.read.append((name, 0, len(data)))
        return data

    def ranges(self, ranges: Sequence[Range]) -> list[bytes]:
        self.read.extend(ranges)
        return super().ranges(ranges)


def write_set(
    folder: Path,
    images: list[np.ndarray],
    codec: str = "delta+zstd",
    chunk: int = 16,
    per: int = 2,
    validation: int = 0,
) -> Path:
    """A complete set of images as the builder writes it; the last `validation` shards are those of experiment v."""
    folder.mkdir(exist_ok=True)
    shards, rows, count = [], [], -(-len(images) // per)
    for number, first in enumerate(range(0, len(images), per)):
        split, experiment = ("validation", "v") if number >= count - validation else ("train", "e")
        name = f"{split}-{number:06d}.tar"
        with (folder / name).open("wb") as file:
            writer = ShardWriter(file, codec, chunk)
            for index, image in enumerate(images[first : first + per], start=first):
                entry = writer.add(f"well{index}", image, {"note": "ä", "number": index})
                shape = {"height": entry.height, "width": entry.width}
                rows.append({"key": f"well{index}", "experiment": experiment, "shard": name, "split": split, **shape})
            sha256 = writer.close()
        shard = Shard(name=name, split=split, wells=len(images[first : first + per]), bytes=writer.bytes, sha256=sha256)
        (folder / shard.index).write_bytes(writer.index())
        shards.append(shard)
    wells = {split: sum(row["split"] == split for row in rows) for split in ("train", "validation")}
    experiments = {"train": ("e",) if wells["train"] else (), "validation": ("v",) if validation else ()}
    write_manifest(
        folder,
        Manifest(
            channels=tuple(f"c{c}" for c in range(len(images[0]))), pixel_type=images[0].dtype.name, codec=codec,
            chunk=chunk, wells=wells, experiments=experiments, shards=tuple(shards),
            wells_sha256=write_table(folder, [pd.DataFrame(rows)]), made_with={},
        ),
    )  # fmt: skip
    return folder


def check_right_or_refused(folder: Path, images: list[np.ndarray]) -> int:
    """Read each image of a set completely and in part, and its metadata; return how many of these reads are refused.

    Whatever is read is right, and all errors are ShardErrors that name a file.
    """
    shards = outcome(lambda: ShardSet.open(folder))
    if isinstance(shards, ShardError):
        assert str(folder) in str(shards)
        return 1
    refused = 0
    for number, image in enumerate(images):
        side = min(8, *image.shape[1:])
        for read, expected in (
            (lambda n=number: shards.read_well(n), image),
            (lambda n=number, s=side: shards.read_crop(n, 0, 0, s), image[:, :side, :side]),
            (lambda n=number: shards.metadata(n), {"note": "ä", "number": number}),
        ):
            found = outcome(read)
            refused += isinstance(found, ShardError)
            if isinstance(found, ShardError):
                assert str(folder) in str(found)
            elif isinstance(expected, dict):
                assert found == expected
            else:
                assert np.array_equal(found, expected), f"wrong pixels of well {number}"
    return refused


def reseal_manifest(folder: Path, change: Callable[[dict], object]) -> None:
    """Change a manifest as its author would, with a matching checksum."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    content.pop("checksum", None)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({**content, "checksum": hashlib.sha256(text.encode()).hexdigest()}))


def outcome(read: Callable[[], T]) -> T | ShardError:
    """What was read, or the error that was raised instead."""
    try:
        return read()
    except ShardError as error:
        return error


def flips(size: int, step: int = 1):
    """Every byte, with a bit that changes from byte to byte."""
    return ((at, 1 << at % 8) for at in range(0, size, step))


def flip_bit(path: Path, at: int, bit: int):
    """Flip one bit of a file in place; the returned function flips it back."""

    def flip() -> None:
        with path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ bit]))

    flip()
    return flip


def members_of(tar: bytes) -> Iterator[Member]:
    """The members of an archive in memory."""
    return members(lambda start, stop: tar[start:stop], len(tar))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def built(root: Path, output: Path, **options) -> ShardSet:
    build("rxrx3", root, output, progress=False, **{"wells_per_shard": 3, **options})
    return ShardSet.open(output)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a finished set except its records, which have the inputs' times of change."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}
