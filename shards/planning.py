"""A table of well images → the shards to write: which experiments are kept for validation, and who lies in which shard.

All of it depends on the table and the options alone: not on the order of rows on disk, nor on the machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

from shards.format import DEFAULT_CHUNK, DEFAULT_CODEC, SPLITS, Split
from shards.order import nested_experiments, shuffled
from shards.wells import WellTable, names
from shards.writing import BuildError, OnError, Task


@dataclass(frozen=True)
class Cut:
    """One shard: rows `begin` to `end` (exclusive) of the table in shard order."""

    name: str
    split: Split
    begin: int
    end: int


@dataclass(frozen=True)
class Plan(Sequence[Task]):
    """Every shard to write. A task is made when it is asked for: a million wells are never a million Python rows."""

    table: WellTable
    cuts: tuple[Cut, ...]
    output: Path
    on_error: OnError
    eight_bit: str | None
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
        """The task of one shard, or the plan of some."""
        if isinstance(index, slice):
            return replace(self, cuts=self.cuts[index])
        cut = self.cuts[index]
        rows = tuple(self.table.rows(cut.begin, cut.end))
        return Task(
            self.output, cut.name, cut.split, self.table.channels, rows, self.on_error, self.eight_bit,
            self.codec, self.chunk,
        )  # fmt: skip

    @property
    def images(self) -> int:
        """Well images in all shards."""
        return sum(cut.end - cut.begin for cut in self.cuts)


def choose_validation(table: WellTable, named: Sequence[str] | None, fraction: float, seed: int) -> frozenset[str]:
    """Names of the validation experiments: the named ones, else a fraction of them by a keyed hash of their names.

    Raises BuildError for an unknown name, or if nothing would be left to train on.
    """
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


def plan_shards(
    table: WellTable,
    validation: frozenset[str],
    output: Path,
    *,
    wells_per_shard: int,
    seed: int,
    on_error: OnError,
    eight_bit: str | None = None,
    codec: str = DEFAULT_CODEC,
    chunk: int = DEFAULT_CHUNK,
) -> Plan:
    """Cut each split, shuffled across plates, into shards."""
    import numpy as np

    by_key = table.wells["key"].argsort().to_numpy()  # so that the order of rows on disk does not matter
    in_validation = table.wells["experiment"].isin(validation).to_numpy()[by_key]
    orders, cuts, before = [], [], 0
    for split in SPLITS:
        chosen = by_key[in_validation == (split == "validation")]
        orders.append(chosen[shuffled(len(chosen), seed)])
        for number, begin in enumerate(range(0, len(chosen), wells_per_shard)):
            end = min(begin + wells_per_shard, len(chosen))
            cuts.append(Cut(f"{split}-{number:06d}.tar", split, before + begin, before + end))
        before += len(chosen)
    wells = table.wells.iloc[np.concatenate(orders)].reset_index(drop=True)
    return Plan(replace(table, wells=wells), tuple(cuts), output, on_error, eight_bit, codec, {}, chunk)


def digest_of(table: WellTable) -> str:
    """SHA-256 of a table, whatever the order of its rows, without what only error messages use: the origin."""
    digest = hashlib.sha256()
    by_key = table.wells["key"].argsort()
    for name in sorted(set(names(table.wells)) - {"origin"}):
        digest.update(json.dumps([name, table.wells[name].iloc[by_key].tolist()]).encode())
    digest.update(json.dumps(table.channels).encode())
    return digest.hexdigest()
