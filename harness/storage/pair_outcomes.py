"""Read and write which known pairs a cell's map recalls (`analysis.recall.outcomes`), next to its embeddings.

They are no part of the ledger: rows without them are complete, and are compared without them.

Legend: G genes, P known pairs.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from analysis.recall.outcomes import PairOutcomes
from harness.storage.atomic import write_atomic

VERSION = 1
SAME = 1e-6  # of two recalls, one of them from outcomes in float32
DAMAGE = (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile)


def write_outcomes(path: Path, outcomes: Sequence[PairOutcomes]) -> None:
    """Write the outcomes of each source in one map, atomically."""
    arrays = {
        "version": np.array(VERSION),
        "sources": np.array([one.source for one in outcomes]),
        "genes": np.array(outcomes[0].genes),
    }
    for number, one in enumerate(outcomes):
        arrays[f"first{number}"] = one.first.astype(np.int32)
        arrays[f"second{number}"] = one.second.astype(np.int32)
        arrays[f"recalled{number}"] = one.recalled.astype(np.float32)
    write_atomic(path, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))


def read_outcomes(path: Path, recalls: Mapping[str, float]) -> dict[str, PairOutcomes]:
    """The outcomes of those sources whose recall is that of the ledger's row; empty if there is no usable file.

    Args:
        path: of `write_outcomes`.
        recalls: of the row, by source.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if int(file["version"]) != VERSION:
                return {}
            genes = tuple(file["genes"].tolist())
            found = [_outcomes(file, number, name, genes) for number, name in enumerate(file["sources"].tolist())]
    except DAMAGE:
        return {}
    return {one.source: one for one in found if one.source in recalls and abs(one.recall - recalls[one.source]) <= SAME}


def _outcomes(file: NpzFile, number: int, source: str, genes: tuple[str, ...]) -> PairOutcomes:
    """The outcomes of one source.

    Raises:
        ValueError: they are not of pairs of these genes.
    """
    first, second = (file[f"{name}{number}"].astype(np.int64) for name in ("first", "second"))
    recalled = file[f"recalled{number}"].astype(np.float64)
    places = np.concatenate([first, second])
    if not (len(first) == len(second) == len(recalled) > 0) or places.min() < 0 or places.max() >= len(genes):
        raise ValueError(f"{source}: not the outcomes of pairs of {len(genes)} genes")
    if not np.isfinite(recalled).all():
        raise ValueError(f"{source}: outcomes that are not finite")
    return PairOutcomes(source, genes, first, second, recalled)
