"""Check a shard set from end to end: `python -m shards.verify DIR [--sample N | --all] [--json]`.

The manifest is compared with the files: the checksum of every file, the counts, the table against the archives member
by member, the sidecar indices against their archives, the split, and the pixels of a sample or of all wells. Every
fault is listed with its path; the exit status is 0 for a sound set and 1 for a faulty one. A set may be damaged in any
way, or malicious: nothing is extracted, and no memory is allocated because a file claims a size.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from shards.errors import ShardError
from shards.format.index import ShardIndex
from shards.format.manifest import MANIFEST, SPLITS, Manifest, Shard, read_manifest
from shards.format.payload import Header
from shards.format.rebuild import Rebuilt, block_reader, parse_metadata, rebuild
from shards.format.source import LocalFolder, Source
from shards.format.tar import ReadAt
from shards.format.writer import WELLS
from shards.reader.crop_reader import decode_image
from shards.reader.sidecar import kind_faults
from shards.reader.well_table import WellTable
from shards.remote.store import source_of

if TYPE_CHECKING:
    import pandas as pd

Result = TypeVar("Result")

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
    split: dict[str, object] = field(default_factory=dict)  # number of experiments in each split, and those in both
    faults: tuple[Fault, ...] = ()


def verify(source: Source, sample: int | None = SAMPLE, seed: int = 0, workers: int = 2) -> Findings:
    """Check a set, decoding the pixels of `sample` wells spread over it by `seed`, or of all of them with None.

    Never raises because of a set's content: what cannot be read is a fault.
    """
    place, faults = str(source.place), list[Fault]()
    manifest = _attempt(faults, f"{place}/{MANIFEST}", lambda: read_manifest(source))
    if manifest is None:
        return Findings(place, faults=tuple(faults))
    table = _attempt(faults, f"{place}/{WELLS}", lambda: _read_table(source, manifest))
    split = _check_split(manifest, table, place, faults) if table is not None else {}
    faults += _unknown_files(source, manifest)
    counts = [shard.wells for shard in manifest.shards]
    sampled = _sampled(counts, sample, seed)
    begins = np.cumsum([0, *counts])
    parts = [None if table is None else table.iloc[begins[i] : begins[i + 1]] for i in range(len(counts))]

    def check(number: int) -> list[Fault]:
        return list(_shard_faults(source, manifest, manifest.shards[number], parts[number], sampled[number]))

    with ThreadPoolExecutor(workers) as pool:
        for shard_faults in pool.map(check, range(len(counts))):
            faults += shard_faults
    decoded = sum(map(len, sampled))
    size = sum(shard.bytes for shard in manifest.shards)
    return Findings(place, len(counts), sum(counts), size, decoded, split, tuple(faults))


def _read_table(source: Source, manifest: Manifest) -> pd.DataFrame:
    if source.size(WELLS) is None:
        raise ShardError("missing")
    return WellTable.open(source, manifest).frame()


def _check_split(manifest: Manifest, table: pd.DataFrame, place: str, faults: list[Fault]) -> dict[str, object]:
    """Compare table and manifest: counts, experiments, and that no experiment is in both splits."""
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


def _unknown_files(source: Source, manifest: Manifest) -> list[Fault]:
    """Archives and indices in the folder that the manifest does not list."""
    if not isinstance(source, LocalFolder):
        return []
    known = {name for shard in manifest.shards for name in (shard.name, shard.index)}
    paths = sorted(path for path in source.place.iterdir() if path.suffix in (".tar", ".idx"))
    return [
        Fault(str(path), f"not a file of this set: {MANIFEST} does not name it")
        for path in paths
        if path.name not in known
    ]


def _sampled(counts: Sequence[int], sample: int | None, seed: int) -> list[list[int]]:
    """The images of each shard to decode: all, or a sample of the set without replacement."""
    total = sum(counts)
    if sample is None or sample >= total:
        return [list(range(count)) for count in counts]
    drawn = np.sort(np.random.default_rng(seed).choice(total, sample, replace=False))
    ends = np.cumsum(counts)
    of_shard = np.searchsorted(ends, drawn, side="right")
    return [(drawn[of_shard == i] - (ends[i] - counts[i])).tolist() for i in range(len(counts))]


def _shard_faults(
    source: Source, manifest: Manifest, shard: Shard, rows: pd.DataFrame | None, sampled: Sequence[int]
) -> Iterator[Fault]:
    """Every fault of one archive and its sidecar index."""
    faults = list[Fault]()
    path, sidecar = (f"{source.place}/{name}" for name in (shard.name, shard.index))
    size = _attempt(faults, path, lambda: _size(source, shard.name))
    if size is not None and size != shard.bytes:
        faults.append(Fault(path, f"{size} bytes, but {MANIFEST} states {shard.bytes}"))
    read = block_reader(lambda begin, end: source.ranges([(shard.name, begin, end)])[0], size or 0)
    # A damaged archive is still read: its members may show which images are affected.
    rebuilt = _attempt(faults, path, lambda: rebuild(read, size)) if size else None
    if rebuilt is not None:
        if size == shard.bytes and rebuilt.index.tar_sha256 != shard.sha256:
            faults.append(Fault(path, f"its checksum is not the one in {MANIFEST}"))
        faults += _content_faults(path, manifest, rebuilt, rows, sampled, read)
    loaded = _attempt(faults, sidecar, lambda: ShardIndex.parse(source.load(shard.index, shard.bytes)))
    if loaded is not None and rebuilt is not None and rebuilt.index.tar_sha256 == shard.sha256:
        _attempt(faults, sidecar, lambda: _check_same(loaded, rebuilt.index))
    yield from faults


def _size(source: Source, name: str) -> int:
    size = source.size(name)
    if size is None:
        raise ShardError("missing")
    return size


def _content_faults(
    path: str, manifest: Manifest, rebuilt: Rebuilt, rows: pd.DataFrame | None, sampled: Sequence[int], read: ReadAt
) -> list[Fault]:
    """What the images of an archive are, compared with manifest and table; and the pixels of the sampled ones."""
    faults = [Fault(path, what) for what in kind_faults(rebuilt, manifest)]
    if rows is not None:
        faults += [Fault(path, what) for what in _row_faults(rows, rebuilt.keys, rebuilt.index, read)]
    for number in sampled:
        if number < len(rebuilt.keys):
            faults += _pixel_faults(path, rebuilt.keys[number], rebuilt.headers[number], rebuilt.index, number, read)
    return faults


def _row_faults(rows: pd.DataFrame, keys: Sequence[str], index: ShardIndex, read: ReadAt) -> Iterator[str]:
    """Differences between the table and the archive, image by image."""
    if list(rows["key"]) != list(keys):
        yield f"its {len(keys)} images are not the {len(rows)} that {WELLS} lists, or not in that order"
        return
    for key, row, record in zip(keys, rows.to_dict("records"), index.records, strict=True):
        stated, stored = ((image["height"], image["width"]) for image in (row, record))
        if stated != stored:
            yield f"{key}: {stored[0]} x {stored[1]} pixels, but {WELLS} says {stated[0]} x {stated[1]}"
        begin = int(record["json_offset"])
        named = parse_metadata(read(begin, begin + int(record["json_length"]))).get("experiment")
        if named != row["experiment"]:
            yield f"{key}: its metadata names experiment {named!r}, but {WELLS} says {row['experiment']!r}"


def _pixel_faults(path: str, key: str, header: Header, index: ShardIndex, number: int, read: ReadAt) -> list[Fault]:
    faults = list[Fault]()
    record = index.records[number]
    begin = int(record["offset"])
    _attempt(
        faults,
        path,
        lambda: decode_image(header, index, number, read(begin, begin + int(record["length"]))),
        f"{key}: ",
    )
    return faults


def _check_same(sidecar: ShardIndex, rebuilt: ShardIndex) -> bool:
    """Raise ShardError if a sidecar differs from the index of its archive."""
    if sidecar.tar_bytes != rebuilt.tar_bytes or sidecar.tar_sha256 != rebuilt.tar_sha256:
        raise ShardError("the index of another archive")
    if sidecar.pack() != rebuilt.pack():
        raise ShardError("does not match its archive: rewrite it with python -m shards.index")
    return True


def _attempt(faults: list[Fault], path: str, act: Callable[[], Result], prefix: str = "") -> Result | None:
    """What `act` returns; None, and a fault, if it raises anything: a malicious file may fail in any library."""
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
    add("--seed", type=int, default=0, help="random seed of the sample (default %(default)s)")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), help="threads (default: one per core)")
    add("--json", action="store_true", help="print the findings as JSON")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    arguments = parser()
    args = arguments.parse_args(argv)
    if args.sample < 0 or args.workers < 1:
        arguments.error("--sample must be at least 0 and --workers at least 1")
    start = time.monotonic()
    try:
        findings = verify(source_of(args.place), None if args.all else args.sample, args.seed, args.workers)
    except KeyboardInterrupt:
        print("shards.verify: interrupted", file=sys.stderr)
        return 130
    seconds = time.monotonic() - start
    if args.json:
        print(json.dumps({**asdict(findings), "sound": not findings.faults, "seconds": round(seconds, 2)}, indent=1))
    else:
        print(_summary(findings, seconds))
    return 1 if findings.faults else 0


def _summary(findings: Findings, seconds: float) -> str:
    lines = [f"{fault.path}: {fault.what}" for fault in findings.faults]
    if findings.split:
        counts = " and ".join(f"{findings.split[split]} {split}" for split in SPLITS)
        lines.append(f"split: {counts} experiments, {len(list(findings.split['shared']))} in both")  # type: ignore[call-overload]
    size = f"{findings.shards} shards, {findings.wells} wells, {findings.bytes / 1e6:.1f} MB"
    checked = f"{size}, {findings.decoded} wells decoded"
    verdict = f"{len(findings.faults)} faults" if findings.faults else "sound"
    return "\n".join([*lines, f"{findings.place}: {verdict}: {checked} in {seconds:.1f} s"])


if __name__ == "__main__":
    sys.exit(main())
