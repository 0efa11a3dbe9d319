"""Read and write the sketches over genes of a cell's recalls (`analysis.recall.gene_sketch`), next to its embeddings.

They are no part of the ledger: rows without them are complete, and are compared without them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.storage.atomic import write_atomic

SAME = 1e-9  # of two recalls
DAMAGE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile)
Sketch = NDArray[np.float64]


def write_sketches(path: Path, version: int, recalls: Mapping[str, float], sketches: Mapping[str, Sketch]) -> None:
    """Write the sketches (2, K) of each source with the recalls that they belong to, atomically."""
    names = list(sketches)
    values = np.stack([sketches[name] for name in names]).astype(np.float32)  # (sources, 2, K)
    recall = np.array([recalls[name] for name in names])
    write_atomic(
        path, lambda file: np.savez(file, version=version, sources=np.array(names), recall=recall, sketches=values)
    )


def read_sketches(path: Path, version: int, recalls: Mapping[str, float]) -> dict[str, Sketch]:
    """The sketches of those sources whose recall is still what it was; empty if there is no usable file.

    Args:
        path: of `write_sketches`.
        version: of the signs; others cannot be combined.
        recalls: of the ledger's row, by source.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if int(file["version"]) != version:
                return {}
            rows = zip(file["sources"].tolist(), file["recall"].tolist(), file["sketches"], strict=True)
            return {
                name: sketch.astype(np.float64)
                for name, recall, sketch in rows
                if name in recalls and abs(recall - recalls[name]) <= SAME and np.isfinite(sketch).all()
            }
    except DAMAGE:
        return {}
