"""Plan the shards to write: which experiments are kept for validation, and which wells go into which shard.

The plan depends only on the table and the options, not on the order of rows on disk or on the machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from shards.builder.write import OnError, Task
from shards.errors import BuildError
from shards.format.manifest import SPLITS, Split
from shards.format.writer import DEFAULT_CHUNK, DEFAULT_CODEC
from shards.images.planes import Plane
from shards.layouts.well_table import WellTable
from shards.order.random_order import nested_experiments, shuffled
from shards.tables.columns import FAULT, INTERNAL, WRITTEN_WELL


@dataclass(frozen=True)
class Cut:
    """One shard: positions `begin` to `end` (exclusive) of the plan's order."""

    name: str
    split: Split
    begin: int
    end: int


@dataclass(frozen=True)
class Plan(Sequence[Task]):
    """All shards to write. Tasks are created on request, so that a million wells are never a million Python rows."""

    table: WellTable
    splits: tuple[NDArray[np.int64], ...]  # row numbers of the table by ascending key, for each of SPLITS
    seed: int
    cuts: tuple[Cut, ...]
    output: Path
    on_error: OnError
    eight_bit: str | None
    plane: Plane | None
    codec: str
    codec_trial: dict[str, float]
    chunk: int

    def __len__(self) -> int:
        return len(self.cuts)

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> Plan: ...
    def __getitem__(self, index: int | slice) -> Task | Plan:
        """The task of one shard, or the plan of several."""
        if isinstance(index, slice):
            return replace(self, cuts=self.cuts[index])
        cut = self.cuts[index]
        return Task(
            self.output, cut.name, cut.split, self.table.channels, tuple(self.rows(cut.begin, cut.end)), self.on_error,
            self.eight_bit, self.plane, self.codec, self.chunk,
        )  # fmt: skip

    def rows(self, begin: int, end: int) -> list[dict[str, Any]]:
        """The rows at these positions of the order (`WellTable.rows`)."""
        return self.table.rows(self.numbers(begin, end))

    def numbers(self, begin: int, end: int) -> NDArray[np.int64]:
        """Row numbers at these positions of the order: split after split, each shuffled across plates."""
        parts, before = list[NDArray[np.int64]](), 0
        for rows in self.splits:
            first, last = max(begin - before, 0), min(end - before, len(rows))
            if first < last:
                parts.append(rows[shuffled(len(rows), self.seed, first, last)])
            before += len(rows)
        return np.concatenate(parts)

    @property
    def images(self) -> int:
        """Well images in all shards."""
        return sum(cut.end - cut.begin for cut in self.cuts)


def choose_validation(table: WellTable, named: Sequence[str] | None, fraction: float, seed: int) -> frozenset[str]:
    """Names of the validation experiments: the named ones, else a fraction of them by a keyed hash of their names.

    Raises BuildError for an unknown name, or if nothing would be left to train on.
    """
    experiments = sorted({str(name) for part in table.parts("experiment") for name in part["experiment"].unique()})
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
    validation = frozenset(nested_experiments(experiments, fraction, seed))
    if len(validation) == len(experiments):
        raise BuildError(f"a validation fraction of {fraction} takes all experiments: none is left to train on")
    return validation


def plan_shards(
    table: WellTable,
    validation: frozenset[str],
    output: Path,
    *,
    wells_per_shard: int,
    seed: int,
    on_error: OnError,
    eight_bit: str | None = None,
    plane: Plane | None = None,
    codec: str = DEFAULT_CODEC,
    chunk: int = DEFAULT_CHUNK,
) -> Plan:
    """Cut each split into shards."""
    in_validation = np.concatenate(
        [part["experiment"].isin(validation).to_numpy() for part in table.parts("experiment")]
    )
    splits = tuple(table.numbers[in_validation == (split == "validation")] for split in SPLITS)
    cuts, before = list[Cut](), 0
    for split, rows in zip(SPLITS, splits, strict=True):
        for number, begin in enumerate(range(0, len(rows), wells_per_shard)):
            end = min(begin + wells_per_shard, len(rows))
            cuts.append(Cut(f"{split}-{number:06d}.tar", split, before + begin, before + end))
        before += len(rows)
    return Plan(table, splits, seed, tuple(cuts), output, on_error, eight_bit, plane, codec, {}, chunk)


def digest_of(table: WellTable) -> str:
    """SHA-256 of a table, independent of the order of its rows; without ORIGIN, which only error messages use.

    Columns of INTERNAL count where they say something: a fault, or a well that is written in another way.
    """
    digest = hashlib.sha256()
    for number, part in enumerate(table.parts(*sorted({"well", FAULT, WRITTEN_WELL}.intersection(table.columns)))):
        told = [part[FAULT] != ""] if FAULT in part else []
        told += [part[WRITTEN_WELL] != part["well"]] if WRITTEN_WELL in part else []
        if any(column.any() for column in told):
            digest.update(json.dumps([number, part.to_numpy().tolist()]).encode())
    for name in sorted(set(table.columns) - INTERNAL):
        digest.update(name.encode())
        for part in table.parts(name):
            digest.update(json.dumps(part[name].tolist()).encode())
    patterns = {name: [pattern.text, dict(pattern.constants)] for name, pattern in table.patterns.items()}
    digest.update(json.dumps([table.channels, patterns]).encode())
    return digest.hexdigest()
