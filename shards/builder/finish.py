"""Finish a set: combine the records of all shards into its table and its manifest, which marks it as complete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from shards.builder.pixel_ranges import PixelRanges
from shards.builder.plan import Cut, Plan
from shards.builder.write import RECORDS, Record, read_record
from shards.errors import BuildError
from shards.format.manifest import SPLITS, Manifest, Quarantined, Shard, Split, write_manifest
from shards.format.writer import WellLocation, write_table

if TYPE_CHECKING:
    import pandas as pd


def finish(plan: Plan, made_with: Mapping[str, object], removed: dict[str, int], conversion: str | None) -> Manifest:
    """Write the table of the set and, last, its manifest; BuildError for no wells or two pixel types."""
    shards, quarantined, pixel_types, turned = list[Shard](), list[Quarantined](), dict[str, str](), 0
    pixels = PixelRanges()
    for _, record in _records(plan):
        quarantined += record.quarantined
        turned += record.turned or 0
        if record.shard is not None:
            shards.append(record.shard)
        if record.pixels is not None:
            pixels.merge(record.pixels)
        pixel_types.update((entry.pixel_type, key) for key, entry in record.entries.items())
    if not shards:
        raise BuildError(f"no well image can be read; the first error: {quarantined[0].error}")
    check_pixel_types(pixel_types)
    experiments: dict[Split, set[str]] = {split: set() for split in SPLITS}
    wells_sha256 = write_table(plan.output, _table(plan, experiments))
    manifest = Manifest.model_validate(
        {
            "channels": plan.table.channels,
            "pixel_type": next(iter(pixel_types)),
            "conversion": conversion,
            "codec": plan.codec,
            "codec_trial": plan.codec_trial,
            "chunk": plan.chunk,
            "wells": {split: sum(shard.wells for shard in shards if shard.split == split) for split in SPLITS},
            "experiments": {split: tuple(sorted(names)) for split, names in experiments.items()},
            "shards": shards,
            "wells_sha256": wells_sha256,
            "removed": removed,
            "quarantined": quarantined,
            "turned": turned,
            "pixel_ranges": pixels.by_channel(plan.table.channels),
            "notes": plan.table.notes,
            "made_with": made_with,
        }
    )
    write_manifest(plan.output, manifest)
    return manifest


def check_pixel_types(pixel_types: Mapping[str, str]) -> None:
    """Raise BuildError if the wells, one key for each pixel type, hold more than one type."""
    if len(pixel_types) > 1:
        (first, key), (second, other), *_ = pixel_types.items()
        raise BuildError(f"well {key} holds {first} pixels and well {other} {second}: one pixel type per set is needed")


def _records(plan: Plan) -> Iterator[tuple[Cut, Record]]:
    """The record of each shard, one in memory at a time."""
    for cut in plan.cuts:
        path = plan.output / RECORDS / f"{cut.name}.json"
        yield cut, read_record(path, cut.end - cut.begin)


def _table(plan: Plan, experiments: Mapping[Split, set[str]]) -> Iterator[pd.DataFrame]:
    """The table of the set, shard by shard: metadata and location of each well image that was kept.

    Fills `experiments` with the experiments of each split.
    """
    import pandas as pd

    for cut, record in _records(plan):
        if record.shard is not None:
            entries = record.entries.items()
            locations = [{"key": k, "shard": cut.name, "split": cut.split, **_location(entry)} for k, entry in entries]
            metadata = plan.table.metadata(plan.numbers(cut.begin, cut.end))
            part = pd.DataFrame(locations).merge(metadata, on="key", validate="one_to_one")
            experiments[cut.split].update(part["experiment"])
            yield part


def _location(entry: WellLocation) -> dict[str, int]:
    return {"offset": entry.offset, "height": entry.height, "width": entry.width}
