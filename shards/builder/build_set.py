"""Build a set of shards from a layout."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from shards.builder.codec_trial import with_codec
from shards.builder.curation import CurationRules, curate
from shards.builder.finish import check_pixel_types, finish
from shards.builder.plan import Plan, choose_validation, digest_of, plan_shards
from shards.builder.write import RECORDS, BuildError, OnError, finished_record, write_shards
from shards.errors import ShardError
from shards.format.atomic import atomic_write, remove_abandoned
from shards.format.manifest import MANIFEST, Manifest
from shards.format.writer import DEFAULT_CHUNK, DEFAULT_CODEC
from shards.images.decode import eight_bit_rule
from shards.layouts.registry import read_layout
from shards.layouts.well_table import check_images
from shards.reader.shard_set import ShardSet

PLAN = "plan.json"
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
    codec: str = DEFAULT_CODEC,
    chunk: int = DEFAULT_CHUNK,
    seed: int = 0,
    workers: int = 1,
    on_error: OnError = "stop",
    progress: bool = True,
) -> tuple[Manifest, bool]:
    """Build the shards of a layout into `output`; return the manifest and whether anything was written.

    `curation` leaves wells out, and the manifest says how many and why. Validation takes the named experiments, else
    `validation_fraction` of them (at least one; 0 for none). Wells are shuffled across plates within a split.
    `eight_bit` converts 16-bit pixels (`shards.images.decode.EightBit`). `codec` (a name, or "trial") and `chunk` (side
    in pixels) say how they are stored, losslessly. An unreadable image stops the build, or with on_error="quarantine"
    its well is left out and listed in the manifest. The same inputs and options give the same bytes for any number of
    workers.

    Raises LayoutError or ImageError for bad input, and BuildError for options that cannot be met, or if `output` holds
    a build with other inputs or options.
    """
    if wells_per_shard < 1 or workers < 1:
        raise BuildError(f"wells per shard and workers must be at least 1, got {wells_per_shard} and {workers}")
    conversion = _statement(eight_bit)
    existing = next(folder for folder in (output, *output.absolute().parents) if folder.is_dir())
    scratch = existing if os.access(existing, os.W_OK) else None  # a complete set may be in a read-only folder
    table, removed = read_layout(layout, root, scratch, **(options or {})), dict[str, int]()
    if curation is not None:
        table, removed = curate(table, curation, seed)
    if on_error == "stop":
        check_images(table)
    validation = choose_validation(table, validation_experiments, validation_fraction, seed)
    plan = plan_shards(
        table, validation, output, wells_per_shard=wells_per_shard, seed=seed, on_error=on_error, eight_bit=eight_bit
    )
    plan = with_codec(plan, codec, chunk)
    named = None if validation_experiments is None else tuple(validation_experiments)
    made_with: dict[str, object] = {
        "layout": layout, "root": str(root), "options": dict(options or {}),
        "curation": None if curation is None else _as_text(curation),
        "validation_experiments": named, "validation_fraction": validation_fraction if named is None else None,
        "wells_per_shard": wells_per_shard, "eight_bit": eight_bit, "codec": codec, "chunk": chunk, "seed": seed,
    }  # fmt: skip
    _claim_output(plan, made_with)
    _write_unfinished(plan, workers, progress)
    try:
        return ShardSet.open(output).manifest, False
    except ShardError:
        return finish(plan, made_with, removed, conversion), True


def _statement(eight_bit: str | None) -> str | None:
    """The conversion as stated in the manifest."""
    try:
        return None if eight_bit is None else eight_bit_rule(eight_bit).statement
    except ValueError as error:
        raise BuildError(str(error)) from None


def _as_text(curation: CurationRules) -> dict[str, str]:
    return {name: json.dumps(value) if name == "controls" else str(value) for name, value in asdict(curation).items()}


def _claim_output(plan: Plan, made_with: Mapping[str, object]) -> None:
    """Create the output folder, or check that what it holds belongs to this build."""
    output, path = plan.output, plan.output / RECORDS / PLAN
    written = json.dumps({**made_with, "table": digest_of(plan.table)}, indent=1).encode()
    if path.is_file():
        try:
            known = json.loads(path.read_bytes())
        except ValueError:
            raise BuildError(f"{path} is damaged: delete the folder {output}, or build into another") from None
        now = json.loads(written)
        if different := sorted(name for name in {*known, *now} if known.get(name) != now.get(name)):
            raise BuildError(
                f"{output} holds a build that differs in {', '.join(different)}: "
                "delete it, or build into another folder"
            )
    elif output.is_dir() and any(output.glob("*.tar")):
        raise BuildError(f"{output} holds tar files that this command did not write: build into another folder")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(written)


def _write_unfinished(plan: Plan, workers: int, progress: bool) -> None:
    """Write every shard that no earlier run has finished, each with its record."""
    from tqdm import tqdm

    unfinished = replace(
        plan, cuts=tuple(cut for cut, task in zip(plan.cuts, plan, strict=True) if not finished_record(task))
    )
    if not unfinished:
        return
    for folder in (plan.output, plan.output / RECORDS):
        remove_abandoned(folder)
    (plan.output / MANIFEST).unlink(missing_ok=True)  # no longer valid: inputs have changed since
    start, pixels = time.monotonic(), 0
    pixel_types: dict[str, str] = {}
    with tqdm(total=plan.images, initial=plan.images - unfinished.images, unit="well", disable=not progress) as bar:
        for task, record in write_shards(unfinished, workers):
            for key, entry in record.entries.items():
                pixel_types.setdefault(entry.pixel_type, key)
                pixels += entry.height * entry.width * len(task.channels) * PIXEL_BYTES[entry.pixel_type]
            check_pixel_types(pixel_types)
            bar.set_postfix_str(f"{pixels / 1e6 / (time.monotonic() - start):.1f} MB/s of pixels", refresh=False)
            bar.update(len(task.wells))
