"""The records of all shards → the table of the set and its manifest, whose presence makes the set whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from shards.format import SPLITS, Entry, Manifest, Quarantined, Shard, write_index, write_manifest
from shards.planning import Plan
from shards.writing import RECORDS, BuildError, Record

if TYPE_CHECKING:
    import pandas as pd


def finish(plan: Plan, made_with: Mapping[str, object], removed: dict[str, int], conversion: str | None) -> Manifest:
    """Write the table of the set and, last, its manifest; BuildError if there is no well in it or two pixel types."""
    shards, places = list[Shard](), dict[str, list[object]]()
    quarantined, pixel_types = list[Quarantined](), dict[str, str]()
    for record in _records(plan):
        quarantined += record.quarantined
        if record.shard is not None:
            shards.append(record.shard)
            _add_places(places, record.shard, record.entries)
        pixel_types.update((entry.pixel_type, key) for key, entry in record.entries.items())
    if not shards:
        raise BuildError(f"no well image can be read; the first: {quarantined[0].error}")
    check_pixel_types(pixel_types)
    index = _index(plan, places)
    manifest = Manifest.model_validate(
        {
            "channels": plan.table.channels,
            "pixel_type": next(iter(pixel_types)),
            "conversion": conversion,
            "codec": plan.codec,
            "codec_trial": plan.codec_trial,
            "chunk": plan.chunk,
            "wells": {split: int((index["split"] == split).sum()) for split in SPLITS},
            "experiments": {s: tuple(sorted(set(index.loc[index["split"] == s, "experiment"]))) for s in SPLITS},
            "shards": shards,
            "wells_sha256": write_index(plan.output, index),
            "removed": removed,
            "quarantined": quarantined,
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


def _records(plan: Plan) -> Iterator[Record]:
    """What became of each shard, one record in memory at a time."""
    for cut in plan.cuts:
        place = plan.output / RECORDS / f"{cut.name}.json"
        yield Record.model_validate_json(place.read_bytes())


def _add_places(places: dict[str, list[object]], shard: Shard, entries: Mapping[str, Entry]) -> None:
    """Add where each well image of a shard lies to the columns of places."""
    for key, entry in entries.items():
        place = {"key": key, "shard": shard.name, "split": shard.split, **vars(entry)}
        for name, value in place.items():
            if name != "pixel_type":
                places.setdefault(name, []).append(value)


def _index(plan: Plan, places: Mapping[str, list[object]]) -> pd.DataFrame:
    """The table of the set: metadata of each well image kept, in shard order, and where it lies."""
    import pandas as pd

    return pd.DataFrame(places).merge(plan.table.metadata, on="key", validate="one_to_one")
