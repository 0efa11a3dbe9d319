"""Build a shard set: a layout's well images → tar shards, split by experiment, in parallel, resumable.

    python -m shards.build --layout rxrx3 --root DIR --output DIR

What is to be done is planned first and depends on the table and the options alone. Running again keeps every shard
whose record still fits its inputs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shards.format import (
    MANIFEST,
    SPLITS,
    Manifest,
    ShardError,
    ShardSet,
    remove_abandoned,
    replacing,
    write_index,
    write_manifest,
)
from shards.images import ImageError
from shards.layouts import LAYOUTS, read_layout
from shards.order import nested_experiments, shuffled
from shards.wells import LayoutError, WellTable, check_images, records
from shards.writing import RECORDS, BuildError, OnError, Record, Task, digest, finished, write_shards

if TYPE_CHECKING:
    import pandas as pd

PLAN = "plan.json"


def build(
    layout: str,
    root: Path,
    output: Path,
    *,
    options: Mapping[str, str] | None = None,
    validation_experiments: Sequence[str] | None = None,
    validation_fraction: float = 0.1,
    wells_per_shard: int = 64,
    seed: int = 0,
    workers: int = 1,
    on_error: OnError = "stop",
    progress: bool = True,
) -> tuple[Manifest, bool]:
    """Build the shards of a layout into `output`; return the manifest and whether anything had to be written.

    Validation takes the named experiments, else `validation_fraction` of them (at least one; 0 for none). Wells are
    shuffled across plates within a split. A bad image stops the build, or with on_error="quarantine" its well is left
    out and listed in the manifest. The same inputs and options give the same bytes for any number of workers.

    Raises LayoutError or ImageError for bad input, and BuildError for options that cannot be met, or if `output` holds
    a build of other inputs or options.
    """
    if wells_per_shard < 1 or workers < 1:
        raise BuildError(f"wells per shard and workers must be at least 1, got {wells_per_shard} and {workers}")
    table = read_layout(layout, root, **(options or {}))
    if on_error == "stop":
        check_images(table)
    validation = _validation(table, validation_experiments, validation_fraction, seed)
    tasks = _plan(table, validation, output, wells_per_shard, seed, on_error)
    named = None if validation_experiments is None else tuple(validation_experiments)
    made_with: dict[str, object] = {
        "layout": layout,
        "root": str(root),
        "options": dict(options or {}),
        "validation_experiments": named,
        "validation_fraction": validation_fraction if named is None else None,
        "wells_per_shard": wells_per_shard,
        "seed": seed,
    }
    _claim(output, made_with, table)
    done = _run(tasks, workers, progress)
    try:
        return ShardSet.open(output).manifest, False
    except ShardError:
        return _finish(output, table, [done[task.name] for task in tasks], made_with), True


def _validation(table: WellTable, named: Sequence[str] | None, fraction: float, seed: int) -> frozenset[str]:
    """Names of the validation experiments."""
    experiments = sorted(set(table.wells["experiment"]))
    if named is not None:
        if unknown := sorted(set(named).difference(experiments)):
            raise BuildError(f"no experiment {unknown[0]!r} for validation; there are {', '.join(experiments)}")
        return frozenset(named)
    if not 0 <= fraction < 1:
        raise BuildError(f"the validation fraction must be at least 0 and below 1, got {fraction}")
    if not fraction:
        return frozenset()
    if len(experiments) == 1:
        raise BuildError(
            f"only one experiment, {experiments[0]!r}: training and validation must not share one. "
            "Give a validation fraction of 0, or name the experiment to put all of it into validation"
        )
    chosen = frozenset(nested_experiments(experiments, fraction, seed))
    if len(chosen) == len(experiments):
        raise BuildError(f"a validation fraction of {fraction} takes all experiments: none is left to train on")
    return chosen


def _plan(
    table: WellTable, validation: frozenset[str], output: Path, wells_per_shard: int, seed: int, on_error: OnError
) -> list[Task]:
    """Cut each split, shuffled across plates, into shards."""
    wells = table.wells.sort_values("key")  # so that the order of rows on disk does not matter
    tasks = []
    for split in SPLITS:
        chosen = wells[wells["experiment"].isin(validation) == (split == "validation")]
        rows = records(chosen.iloc[shuffled(len(chosen), seed)])
        for number, start in enumerate(range(0, len(rows), wells_per_shard)):
            members = tuple(rows[start : start + wells_per_shard])
            tasks.append(Task(output, f"{split}-{number:06d}.tar", split, table.channels, members, on_error))
    return tasks


def _claim(output: Path, made_with: Mapping[str, object], table: WellTable) -> None:
    """Make the output folder, or make sure that what it holds is this build's own."""
    plan = {**made_with, "table": digest([table.channels, table.wells.sort_values("key").to_dict(orient="list")])}
    place = output / RECORDS / PLAN
    written = json.dumps(plan, indent=1).encode()
    if place.is_file():
        try:
            known = json.loads(place.read_bytes())
        except ValueError:
            raise BuildError(f"{place} is damaged: delete the folder {output}, or build into another") from None
        now = json.loads(written)
        if different := sorted(name for name in {*known, *now} if known.get(name) != now.get(name)):
            raise BuildError(
                f"{output} holds a build that differs in {', '.join(different)}: "
                "delete it, or build into another folder"
            )
    elif output.is_dir() and any(output.glob("*.tar")):
        raise BuildError(f"{output} holds tar files that this command did not write: build into another folder")
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as file:
            file.write(written)


def _run(tasks: Sequence[Task], workers: int, progress: bool) -> dict[str, Record]:
    """Records of all tasks by shard name, from earlier runs where they fit."""
    from tqdm import tqdm

    done = {task.name: record for task in tasks if (record := finished(task))}
    waiting = [task for task in tasks if task.name not in done]
    if not waiting:
        return done
    output = waiting[0].output
    for folder in (output, output / RECORDS):
        remove_abandoned(folder)
    (output / MANIFEST).unlink(missing_ok=True)  # of inputs that have changed since: it no longer holds
    began, written = time.monotonic(), 0
    pixel_types: dict[str, str] = {}
    total, left = (sum(len(task.wells) for task in some) for some in (tasks, waiting))
    with tqdm(total=total, initial=total - left, unit="well", disable=not progress) as bar:
        for task, record in write_shards(waiting, workers):
            done[task.name] = record
            for key, entry in record.entries.items():
                pixel_types.setdefault(entry.pixel_type, key)
            _check_pixel_types(pixel_types)
            written += record.shard.bytes if record.shard else 0
            bar.set_postfix_str(f"{written / 1e6 / (time.monotonic() - began):.1f} MB/s", refresh=False)
            bar.update(len(task.wells))
    return done


def _check_pixel_types(pixel_types: Mapping[str, str]) -> None:
    if len(pixel_types) > 1:
        (first, key), (second, other), *_ = pixel_types.items()
        raise BuildError(f"well {key} holds {first} pixels and well {other} {second}: one pixel type per set is needed")


def _finish(output: Path, table: WellTable, records: Sequence[Record], made_with: Mapping[str, object]) -> Manifest:
    """Write the table and, last, the manifest."""
    index = _index(table, records)
    pixel_types = {entry.pixel_type: key for record in records for key, entry in record.entries.items()}
    if not pixel_types:
        raise BuildError(f"no well image can be read; the first: {records[0].quarantined[0].error}")
    _check_pixel_types(pixel_types)
    manifest = Manifest.model_validate(
        {
            "channels": table.channels,
            "pixel_type": next(iter(pixel_types)),
            "wells": {split: int((index["split"] == split).sum()) for split in SPLITS},
            "experiments": {s: tuple(sorted(set(index.loc[index["split"] == s, "experiment"]))) for s in SPLITS},
            "shards": [record.shard for record in records if record.shard],
            "wells_sha256": write_index(output, index),
            "quarantined": [well for record in records for well in record.quarantined],
            "made_with": made_with,
        }
    )
    write_manifest(output, manifest)
    return manifest


def _index(table: WellTable, records: Iterable[Record]) -> pd.DataFrame:
    """The table of the set: metadata of each well image kept, in shard order, and where it lies."""
    import pandas as pd

    places = [
        (key, record.shard.name, record.shard.split, entry.offset, entry.height, entry.width)
        for record in records
        if record.shard
        for key, entry in record.entries.items()
    ]
    located = pd.DataFrame(places, columns=["key", "shard", "split", "offset", "height", "width"])
    return located.merge(table.wells.drop(columns="images"), on="key", validate="one_to_one")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(prog="python -m shards.build", description="Build tar shards of well images.")
    add = arguments.add_argument
    add("--layout", required=True, choices=list(LAYOUTS), help="how images and metadata lie on disk")
    add("--root", required=True, type=Path, help="folder of the images and their metadata")
    add("--output", required=True, type=Path, help="folder to build into")
    add("--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the layout; may be repeated")
    split = arguments.add_mutually_exclusive_group()
    split.add_argument("--validation-experiments", metavar="A,B", help="experiments kept for validation")
    split.add_argument(
        "--validation-fraction", type=float, default=0.1, help="or a share of them (default %(default)s)"
    )
    add("--wells-per-shard", type=int, default=64, help="well images per tar file (default %(default)s)")
    add("--seed", type=int, default=0, help="of the split and of the order within it (default %(default)s)")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: one per core)")
    add(
        "--on-error", choices=["stop", "quarantine"], default="stop", help="what a bad image does (default %(default)s)"
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    given = parser().parse_args(argv)
    began = time.monotonic()
    try:
        options = dict(_option(text) for text in given.option)
        named = given.validation_experiments.split(",") if given.validation_experiments else None
        manifest, changed = build(
            given.layout,
            given.root,
            given.output,
            options=options,
            validation_experiments=named,
            validation_fraction=given.validation_fraction,
            wells_per_shard=given.wells_per_shard,
            seed=given.seed,
            workers=given.workers,
            on_error=given.on_error,
        )
    except (BuildError, LayoutError, ImageError, ShardError, OSError) as error:
        print(f"shards.build: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("shards.build: interrupted; run the same command to go on", file=sys.stderr)
        return 130
    print(_summary(given.output, manifest, changed, time.monotonic() - began))
    return 0


def _option(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or not value:
        raise BuildError(f"--option {text}: expected NAME=VALUE")
    return name, value


def _summary(output: Path, manifest: Manifest, changed: bool, seconds: float) -> str:
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    parts = [f"{manifest.wells[s]} {s} wells of {len(manifest.experiments[s])} experiments" for s in SPLITS]
    lines = [f"{output}: {len(manifest.shards)} shards, {size:.1f} MB, {' and '.join(parts)}"]
    lines += [f"quarantined {well.key}: {well.origin}: {well.error}" for well in manifest.quarantined]
    lines.append(f"built in {seconds:.1f} s" if changed else "complete already: nothing was changed")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
