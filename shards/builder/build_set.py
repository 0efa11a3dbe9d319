"""Build a set of shards from a layout."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from shards.builder.codec_trial import with_codec
from shards.builder.curation import CurationRules, curate
from shards.builder.finish import check_pixel_types, finish
from shards.builder.lock import Lock, locked
from shards.builder.options import PLAN, check_folders, check_numbers, check_plane
from shards.builder.plan import Plan, choose_validation, digest_of, plan_shards
from shards.builder.write import RECORDS, OnError, Task, finished_record, write_shards
from shards.errors import BuildError, ShardError
from shards.format.atomic import atomic_write, remove_abandoned
from shards.format.manifest import MANIFEST, Manifest
from shards.format.writer import DEFAULT_CHUNK, DEFAULT_CODEC
from shards.images.decode import eight_bit_rule
from shards.images.planes import Plane
from shards.images.regular_files import read_regular
from shards.layouts.registry import read_layout
from shards.layouts.row_faults import Tolerance
from shards.layouts.well_table import WellTable, check_images
from shards.reader.shard_set import ShardSet

MAX_CLAIM_BYTES = 1 << 24
PIXEL_BYTES = {"uint8": 1, "uint16": 2}


def build(
    layout: str,
    root: str | Path,
    output: Path,
    *,
    options: Mapping[str, str] | None = None,
    curation: CurationRules | None = None,
    validation_experiments: Sequence[str] | None = None,
    validation_fraction: float = 0.1,
    wells_per_shard: int = 64,
    eight_bit: str | None = None,
    plane: Plane | None = None,
    codec: str = DEFAULT_CODEC,
    chunk: int = DEFAULT_CHUNK,
    seed: int = 0,
    workers: int = 1,
    on_error: OnError = "stop",
    unlabelled: Literal["refuse", "keep"] = "refuse",
    progress: bool = True,
) -> tuple[Manifest, bool]:
    """Build the shards of a layout into `output`; return the manifest and whether anything was written.

    `curation` leaves wells out, and the manifest says how many and why. Validation takes the named experiments, else
    `validation_fraction` of them (at least one; 0 for none). Wells are shuffled across plates within a split.
    `eight_bit` converts 16-bit pixels (`shards.images.decode.EightBit`). `plane` is the one that is taken of a stack, a
    number from 1, or "max" for their maximum; without it a stack is an unreadable image. `codec` (a name, or "trial")
    and `chunk` (side in pixels) say how pixels are stored, losslessly. An unreadable image, a blank cell in its place,
    or a well that no table describes stops the build, or with on_error="quarantine" the well image is left out and
    listed in the manifest. With unlabelled="keep", wells that no table describes are kept with an empty treatment. The
    same inputs and options give the same bytes for any number of workers.

    Only one build at a time writes into `output` (`shards.builder.lock`); a complete set is only read.

    Raises LayoutError or ImageError for bad input, and BuildError for options that cannot be met, or if `output` holds
    a build with other inputs or options or is in use by another build.
    """
    check_numbers(wells_per_shard, workers, seed)
    check_plane(plane)
    check_folders(str(root), output)
    conversion = _statement(eight_bit)
    tolerance = Tolerance(on_error == "quarantine", unlabelled == "keep")
    source = _Source(layout, str(root), dict(options or {}), curation, seed, plane, tolerance)
    named = None if validation_experiments is None else tuple(validation_experiments)
    made_with: dict[str, object] = {
        "layout": layout, "root": str(root), "options": source.options,
        "curation": None if curation is None else _as_text(curation),
        "validation_experiments": named, "validation_fraction": validation_fraction if named is None else None,
        "wells_per_shard": wells_per_shard, "eight_bit": eight_bit, "plane": plane, "codec": codec, "chunk": chunk,
        "seed": seed, **({"unlabelled": unlabelled} if unlabelled == "keep" else {}),
    }  # fmt: skip
    with ExitStack() as stack:
        hold = partial(stack.enter_context, locked(output / RECORDS))
        lock = None if (output / MANIFEST).is_file() else hold()
        table, removed = source.read(_scratch(output))
        if on_error == "stop":
            check_images(table)
        validation = choose_validation(table, validation_experiments, validation_fraction, seed)
        plan = plan_shards(
            table, validation, output, wells_per_shard=wells_per_shard, seed=seed, on_error=on_error,
            eight_bit=eight_bit, plane=plane,
        )  # fmt: skip
        plan = with_codec(plan, codec, chunk)
        claim = json.dumps({**made_with, "table": digest_of(table)}, indent=1).encode()
        _check_header(output, claim)
        if complete := _complete(plan):
            return complete, False
        lock = lock or hold()
        _write_claim(output, claim)
        _write_unfinished(plan, workers, progress, lock)
        source.check_unchanged(table, output)
        return finish(plan, made_with, removed, conversion), True


@dataclass(frozen=True)
class _Source:
    """Where the table of wells comes from, and which of them are kept."""

    layout: str
    root: str
    options: dict[str, str]
    curation: CurationRules | None
    seed: int
    plane: Plane | None
    tolerance: Tolerance

    def read(self, scratch: Path | None) -> tuple[WellTable, dict[str, int]]:
        """The table, its rows in a file in `scratch`, and how many well images each rule of the curation removed."""
        table = read_layout(self.layout, self.root, scratch, self.plane, self.tolerance, **self.options)
        return (table, {}) if self.curation is None else curate(table, self.curation, self.seed)

    def check_unchanged(self, table: WellTable, output: Path) -> None:
        """Raise BuildError if the tables, or the list of images where that is read from a folder, are others by now.

        Rows of a Parquet file may then be other images than those that the table names.
        """
        if digest_of(self.read(_scratch(output))[0]) != digest_of(table):
            raise BuildError(
                f"the tables of {self.root}, or the files that they are read from, changed during the build: restore "
                f"them and run the same command again, or delete {output} and build again"
            )


def _scratch(output: Path) -> Path | None:
    """A folder on the disk of the output for the rows of the table; None for a complete set in a read-only folder."""
    existing = next(folder for folder in (output, *output.absolute().parents) if folder.is_dir())
    return existing if os.access(existing, os.W_OK) else None


def _statement(eight_bit: str | None) -> str | None:
    """The conversion as stated in the manifest."""
    try:
        return None if eight_bit is None else eight_bit_rule(eight_bit).statement
    except ValueError as error:
        raise BuildError(str(error)) from None


def _as_text(curation: CurationRules) -> dict[str, str]:
    return {name: json.dumps(value) if name == "controls" else str(value) for name, value in asdict(curation).items()}


def _check_header(output: Path, claim: bytes) -> None:
    """Raise BuildError if the output folder holds a build with another claim: other options, or another table."""
    path = output / RECORDS / PLAN
    if not path.is_file():
        return
    try:
        known = json.loads(read_regular(path, MAX_CLAIM_BYTES))
        now = json.loads(claim)
        different = sorted(name for name in {*known, *now} if known.get(name) != now.get(name))
    except (OSError, ValueError, TypeError, AttributeError):
        raise BuildError(f"{path} is damaged: delete the folder {output}, or build into another") from None
    if different:
        raise BuildError(
            f"{output} holds a build that differs in {', '.join(different)}: delete it, or build into another folder"
        )


def _write_claim(output: Path, claim: bytes) -> None:
    """State the options and the table that this folder is of; `_check_header` again, now that no other build writes."""
    _check_header(output, claim)
    with atomic_write(output / RECORDS / PLAN) as file:
        file.write(claim)


def _complete(plan: Plan) -> Manifest | None:
    """The manifest of a set that is complete, and whose shards are still those of the images."""
    try:
        manifest = ShardSet.open(plan.output).manifest
    except ShardError:
        return None
    return manifest if all(finished_record(task) for task in plan) else None


def _is_open(task: Task) -> bool:
    """Whether a shard is yet to be written, or was by a version that read some images otherwise than this one does."""
    record = finished_record(task)
    return record is None or record.turned is None


def _write_unfinished(plan: Plan, workers: int, progress: bool, lock: Lock) -> None:
    """Write every shard that no earlier run has finished, each with its record."""
    from tqdm import tqdm

    unfinished = replace(plan, cuts=tuple(cut for cut, task in zip(plan.cuts, plan, strict=True) if _is_open(task)))
    if not unfinished:
        return
    for folder in (plan.output, plan.output / RECORDS):
        remove_abandoned(folder)
    (plan.output / MANIFEST).unlink(missing_ok=True)  # no longer valid: inputs have changed since
    start, pixels = time.monotonic(), 0
    pixel_types: dict[str, str] = {}
    with tqdm(total=plan.images, initial=plan.images - unfinished.images, unit="well", disable=not progress) as bar:
        for task, record in write_shards(unfinished, workers, lock):
            for key, entry in record.entries.items():
                pixel_types.setdefault(entry.pixel_type, key)
                pixels += entry.height * entry.width * len(task.channels) * PIXEL_BYTES[entry.pixel_type]
            check_pixel_types(pixel_types)
            bar.set_postfix_str(f"{pixels / 1e6 / (time.monotonic() - start):.1f} MB/s of pixels", refresh=False)
            bar.update(len(task.wells))
