"""Check a shard set from end to end: `python -m shards.verify DIR [--sample N | --all] [--json]`.

What the manifest states is held against the files: checksums of every file, the counts, the table against the archives
member by member, the sidecar indices against what their archives give, the split, and pixels of a sample or of all.
Every fault is listed with its path; the exit status is 0 for a sound set and 1 for a faulty one. A set may be damaged
in any way, or made to harm: nothing is extracted, and nothing is allocated on the word of a file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from shards.errors import ShardError
from shards.format.index import ShardIndex, rebuild
from shards.format.manifest import MANIFEST, SPLITS, Manifest, Shard, read_manifest
from shards.format.payload import Header
from shards.format.source import LocalFolder, Source
from shards.format.tar import ReadAt
from shards.format.writer import WELLS
from shards.reader.crop_reader import decode_image
from shards.remote.store import source_of
from shards.tables import parquet as columns

if TYPE_CHECKING:
    import pandas as pd

Result = TypeVar("Result")

PIECE = 16 << 20
"""Bytes of an archive that are read at one time."""
PIECES = 4
MOST_ROW = 1 << 16
"""Bytes that one row of the table may take, uncompressed, before it is refused unread."""
SAMPLE = 64


@dataclass(frozen=True)
class Fault:
    """What is wrong, and in which file."""

    path: str
    what: str


@dataclass(frozen=True)
class Findings:
    """What was checked, and every fault that was found."""

    place: str
    shards: int = 0
    wells: int = 0
    bytes: int = 0
    decoded: int = 0
    split: dict[str, object] = field(default_factory=dict)  # how many experiments each side has, and which both have
    faults: tuple[Fault, ...] = ()


def verify(source: Source, sample: int | None = SAMPLE, seed: int = 0, workers: int = 2) -> Findings:
    """Check a set, decoding the pixels of `sample` wells spread over it by `seed`, or of all of them with None.

    Never raises for anything that a set may hold; what cannot be read is a fault.
    """
    place, faults = str(source.place), list[Fault]()
    manifest = _guarded(faults, f"{place}/{MANIFEST}", lambda: read_manifest(source))
    if manifest is None:
        return Findings(place, faults=tuple(faults))
    table = _guarded(faults, f"{place}/{WELLS}", lambda: _table(source, manifest))
    split = _split(manifest, table, place, faults) if table is not None else {}
    faults += _strays(source, manifest)
    counts = [shard.wells for shard in manifest.shards]
    chosen = _chosen(counts, sample, seed)
    begins = np.cumsum([0, *counts])
    parts = [None if table is None else table.iloc[begins[i] : begins[i + 1]] for i in range(len(counts))]

    def check(number: int) -> list[Fault]:
        return list(_shard_faults(source, manifest, manifest.shards[number], parts[number], chosen[number]))

    with ThreadPoolExecutor(workers) as pool:
        for found in pool.map(check, range(len(counts))):
            faults += found
    decoded = sum(map(len, chosen))
    size = sum(shard.bytes for shard in manifest.shards)
    return Findings(place, len(counts), sum(counts), size, decoded, split, tuple(faults))


def _table(source: Source, manifest: Manifest) -> pd.DataFrame:
    """The table of wells, once its checksum, size and columns are those that the manifest implies."""
    if source.size(WELLS) is None:
        raise ShardError("missing")
    data = source.load(WELLS)
    if hashlib.sha256(data.data).hexdigest() != manifest.wells_sha256:
        raise ShardError(f"its checksum is not the one in {MANIFEST}")
    file, rows = columns.opened(data), sum(manifest.wells.values())
    groups = [file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups)]
    if file.metadata.num_rows != rows or sum(groups) > MOST_ROW * (rows + 16):
        raise ShardError(f"{file.metadata.num_rows} rows of {sum(groups)} bytes, but {MANIFEST} states {rows} wells")
    needed = {"key", "experiment", "shard", "split", "height", "width"}
    if missing := sorted(needed - set(file.schema_arrow.names)):
        raise ShardError(f"no column {', '.join(missing)}")
    return columns.read_frame(file)


def _split(manifest: Manifest, table: pd.DataFrame, place: str, faults: list[Fault]) -> dict[str, object]:
    """Hold table and manifest against each other: counts, experiments, and that no experiment is on both sides."""
    path = f"{place}/{WELLS}"
    seen = {split: set(table.loc[table["split"] == split, "experiment"].astype(str)) for split in SPLITS}
    shared = sorted(seen["train"] & seen["validation"])
    if shared:
        faults.append(Fault(path, f"experiments in both training and validation: {', '.join(shared)}"))
    for split in SPLITS:
        if seen[split] != set(manifest.experiments[split]):
            faults.append(Fault(path, f"other {split} experiments than {MANIFEST} states"))
        rows, stated = int((table["split"] == split).sum()), manifest.wells[split]
        if rows != stated:
            faults.append(Fault(path, f"{rows} {split} wells, but {MANIFEST} states {stated}"))
    expected = np.repeat([shard.name for shard in manifest.shards], [shard.wells for shard in manifest.shards])
    if list(expected) != list(table["shard"]):
        faults.append(Fault(path, f"the wells are not in the shards, or not in the order, that {MANIFEST} states"))
    if twice := sorted(set(table.loc[table["key"].duplicated(), "key"].astype(str))):
        faults.append(Fault(path, f"keys that occur twice: {', '.join(twice[:5])}"))
    return {**{split: len(seen[split]) for split in SPLITS}, "shared": shared}


def _strays(source: Source, manifest: Manifest) -> list[Fault]:
    """Archives and indices in the folder that the manifest does not know."""
    if not isinstance(source, LocalFolder):
        return []
    known = {name for shard in manifest.shards for name in (shard.name, shard.index)}
    found = sorted(path for path in source.place.iterdir() if path.suffix in (".tar", ".idx"))
    return [
        Fault(str(path), f"not a file of this set: {MANIFEST} does not name it")
        for path in found
        if path.name not in known
    ]


def _chosen(counts: Sequence[int], sample: int | None, seed: int) -> list[list[int]]:
    """Which images of each shard to decode: all, or a sample of the whole set without replacement."""
    total = sum(counts)
    if sample is None or sample >= total:
        return [list(range(count)) for count in counts]
    drawn = np.sort(np.random.default_rng(seed).choice(total, sample, replace=False))
    ends = np.cumsum(counts)
    of_shard = np.searchsorted(ends, drawn, side="right")
    return [(drawn[of_shard == i] - (ends[i] - counts[i])).tolist() for i in range(len(counts))]


def _shard_faults(
    source: Source, manifest: Manifest, shard: Shard, rows: pd.DataFrame | None, chosen: Sequence[int]
) -> Iterator[Fault]:
    """Every fault of one archive and its sidecar index."""
    faults = list[Fault]()
    path, sidecar = (f"{source.place}/{name}" for name in (shard.name, shard.index))
    size = _guarded(faults, path, lambda: _size(source, shard.name))
    read = _reading(source, shard.name, size or 0)
    sound = size is not None and _guarded(faults, path, lambda: _check_file(shard, size, read))
    # A damaged archive is read on all the same: its members may say which images are affected.
    rebuilt = _guarded(faults, path, lambda: rebuild(read, size, shard.sha256)) if size else None
    if rebuilt is not None:
        index, headers, keys = rebuilt
        stated = (len(manifest.channels), manifest.pixel_type, manifest.chunk, manifest.codec)
        for key, header in zip(keys, headers, strict=True):
            if (header.channels, header.pixel_type, header.chunk, header.codec.name) != stated:
                faults.append(Fault(path, f"{key}: not of the channels, pixel type, chunk and codec of {MANIFEST}"))
        if rows is not None:
            faults += [Fault(path, what) for what in _row_faults(rows, keys, index, read)]
        for number in chosen:
            if number < len(keys):
                faults += _pixel_faults(path, keys[number], headers[number], index, number, read)
    loaded = _guarded(faults, sidecar, lambda: ShardIndex.parse(source.load(shard.index)))
    if loaded is not None and rebuilt is not None and sound:
        _guarded(faults, sidecar, lambda: _check_same(loaded, rebuilt[0]))
    yield from faults


def _size(source: Source, name: str) -> int:
    size = source.size(name)
    if size is None:
        raise ShardError("missing")
    return size


def _check_file(shard: Shard, size: int, read: ReadAt) -> bool:
    if size != shard.bytes:
        raise ShardError(f"{size} bytes, but {MANIFEST} states {shard.bytes}")
    found = hashlib.sha256()
    for begin in range(0, size, PIECE):
        found.update(read(begin, min(size, begin + PIECE)))
    if found.hexdigest() != shard.sha256:
        raise ShardError(f"its checksum is not the one in {MANIFEST}")
    return True


def _row_faults(rows: pd.DataFrame, keys: Sequence[str], index: ShardIndex, read: ReadAt) -> Iterator[str]:
    """Where the table and the archive tell different things of the same image."""
    if list(rows["key"]) != list(keys):
        yield f"its {len(keys)} images are not the {len(rows)} that {WELLS} lists, or not in that order"
        return
    for key, row, record in zip(keys, rows.to_dict("records"), index.records, strict=True):
        stated, held = ((one["height"], one["width"]) for one in (row, record))
        if stated != held:
            yield f"{key}: {held[0]} x {held[1]} pixels, but {WELLS} says {stated[0]} x {stated[1]}"
        begin = int(record["json_offset"])
        metadata = json.loads(read(begin, begin + int(record["json_length"])))
        named = metadata.get("experiment") if isinstance(metadata, dict) else None
        if named != row["experiment"]:
            yield f"{key}: its metadata names experiment {named!r}, but {WELLS} says {row['experiment']!r}"


def _pixel_faults(path: str, key: str, header: Header, index: ShardIndex, number: int, read: ReadAt) -> list[Fault]:
    faults = list[Fault]()
    record = index.records[number]
    begin = int(record["offset"])
    _guarded(
        faults,
        path,
        lambda: decode_image(header, index, number, read(begin, begin + int(record["length"]))),
        f"{key}: ",
    )
    return faults


def _check_same(sidecar: ShardIndex, rebuilt: ShardIndex) -> bool:
    """Raise ShardError if a sidecar is not what its archive gives."""
    if sidecar.tar_bytes != rebuilt.tar_bytes or sidecar.tar_sha256 != rebuilt.tar_sha256:
        raise ShardError("the index of another archive")
    same = np.array_equal(sidecar.records, rebuilt.records) and np.array_equal(sidecar.offsets, rebuilt.offsets)
    if not same:
        raise ShardError("not what its archive gives: write it anew with python -m shards.index")
    return True


def _reading(source: Source, name: str, size: int) -> ReadAt:
    """Read a file by large pieces, the last few kept: one request each where it is remote, however small the parts."""

    @lru_cache(PIECES)
    def piece(number: int) -> bytes:
        return bytes(source.ranges([(name, number * PIECE, min(size, (number + 1) * PIECE))])[0])

    def read(begin: int, end: int) -> bytes:
        if not 0 <= begin <= end <= size:
            raise ShardError(f"the archive is cut short at byte {size}, before byte {end}")
        held = range(begin // PIECE, -(-end // PIECE))
        return b"".join(piece(n)[max(0, begin - n * PIECE) : end - n * PIECE] for n in held)

    return read


def _guarded(faults: list[Fault], path: str, act: Callable[[], Result], prefix: str = "") -> Result | None:
    """What `act` returns; or None, and a fault, whatever it raises: a hostile file may reach any library's depths."""
    try:
        return act()
    except ShardError as error:
        what = str(error).removeprefix(f"{path}: ")
    except FileNotFoundError:
        what = "missing"
    except Exception as error:
        what = f"cannot be read: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(
            ": "
        )
    faults.append(Fault(path, prefix + what))
    return None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(prog="python -m shards.verify", description="Check a shard set.")
    add = arguments.add_argument
    add("place", metavar="DIR", help="folder or URL of the set")
    how_many = arguments.add_mutually_exclusive_group()
    how_many.add_argument(
        "--sample", type=int, default=SAMPLE, metavar="N", help="wells to decode (default %(default)s)"
    )
    how_many.add_argument("--all", action="store_true", help="decode every well")
    add("--seed", type=int, default=0, help="of the sample (default %(default)s)")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), help="threads (default: one per core)")
    add("--json", action="store_true", help="print the findings as JSON")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = parser()
    given = arguments.parse_args(argv)
    if given.sample < 0 or given.workers < 1:
        arguments.error("--sample must be at least 0 and --workers at least 1")
    began = time.monotonic()
    try:
        found = verify(source_of(given.place), None if given.all else given.sample, given.seed, given.workers)
    except KeyboardInterrupt:
        print("shards.verify: interrupted", file=sys.stderr)
        return 130
    seconds = time.monotonic() - began
    if given.json:
        print(json.dumps({**asdict(found), "sound": not found.faults, "seconds": round(seconds, 2)}, indent=1))
    else:
        print(_summary(found, seconds))
    return 1 if found.faults else 0


def _summary(found: Findings, seconds: float) -> str:
    lines = [f"{fault.path}: {fault.what}" for fault in found.faults]
    if found.split:
        counts = " and ".join(f"{found.split[split]} {split}" for split in SPLITS)
        lines.append(f"split: {counts} experiments, {len(list(found.split['shared']))} in both")  # type: ignore[call-overload]
    checked = f"{found.shards} shards, {found.wells} wells, {found.bytes / 1e6:.1f} MB, {found.decoded} wells decoded"
    verdict = f"{len(found.faults)} faults" if found.faults else "sound"
    return "\n".join([*lines, f"{found.place}: {verdict}: {checked} in {seconds:.1f} s"])


if __name__ == "__main__":
    sys.exit(main())
