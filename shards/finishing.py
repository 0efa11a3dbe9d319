"""The records of all shards → the table of the set and its manifest, whose presence makes the set whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from shards.format import SPLITS, Entry, Manifest, Quarantined, Shard, write_index, write_manifest
from shards.planning import Plan
from shards.wells import names
from shards.writing import RECORDS, BuildError, Record

if TYPE_CHECKING:
    import pandas as pd


def finish(plan: Plan, made_with: Mapping[str, object], removed: dict[str, int], conversion: str | None) -> Manifest:
    """Write the table of the set and, last, its manifest; BuildError if there is no well in it or two pixel types."""
    import pandas as pd

    shards, places = list[Shard](), list[pd.DataFrame]()
    quarantined, pixel_types = list[Quarantined](), dict[str, str]()
    for record in _records(plan):
        quarantined += record.quarantined
        if record.shard is not None:
            shards.append(record.shard)
            places.append(_places(record.shard, record.entries))
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


def _places(shard: Shard, entries: Mapping[str, Entry]) -> pd.DataFrame:
    """Where each well image of a shard lies."""
    import pandas as pd

    located = pd.DataFrame([asdict(entry) for entry in entries.values()]).drop(columns="pixel_type")
    return located.assign(key=pd.Series(list(entries), dtype=str), shard=shard.name, split=shard.split)


def _index(plan: Plan, places: list[pd.DataFrame]) -> pd.DataFrame:
    """The table of the set: metadata of each well image kept, in shard order, and where it lies."""
    import pandas as pd

    located = pd.concat(places, ignore_index=True)
    order = ["key", "shard", "split"]
    located = located[[*order, *(name for name in names(located) if name not in order)]]
    return located.merge(plan.table.metadata, on="key", validate="one_to_one")
