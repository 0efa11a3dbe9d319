"""Whether two runs of one study gave the same results: `python -m benchmarks.same_study OLD NEW`, two output folders.

For a change that must not change any result: run the same recipe before and after it. Grid cells and their ids, the
bytes of every tensor, embedding and reconstruction are compared, and ledger rows value by value without what the clock
decides. Fields of the ledger that were renamed in between are compared under today's name and listed.

Files of weights are not compared as files: the safetensors library writes a header's metadata in no fixed order.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from harness.grid.cell_folder import EMBEDDINGS, RECONSTRUCTIONS, WEIGHTS

TIMED = {"stage_seconds", "train_seconds", "crops_per_second", "spent"}
RENAMED = {"low": "recall_low", "high": "recall_high"}


def digests(output: Path) -> dict[str, str]:
    """SHA-256 of every tensor, and of every file of embeddings or reconstructions, by its path below `output`."""
    found: dict[str, str] = {}
    for path in sorted(output.glob("cells/*/*")):
        name = str(path.relative_to(output))
        if path.name == WEIGHTS:
            tensors = load_file(path).items()
            found |= {f"{name}/{key}": _sha256(value.tobytes() + str(value.shape).encode()) for key, value in tensors}
        elif path.name == EMBEDDINGS:
            found[name] = _sha256(_columns(path))
        elif path.name == RECONSTRUCTIONS:
            found[name] = _sha256(path.read_bytes())
    return found


def _columns(path: Path) -> bytes:
    """The columns of a Parquet file as bytes; without its metadata, which names the file of weights."""
    sink = pa.BufferOutputStream()
    table = pq.read_table(path).replace_schema_metadata(None)
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def ledger_values(output: Path, renamed: Counter[str]) -> dict[str, Any]:
    """Every value of every row by cell, stage and path, without timings; old names are counted in `renamed`."""
    values: dict[str, Any] = {}
    for path in sorted(output.glob("ledger/*/*.json")):
        row = json.loads(path.read_text())
        for name, value in _flat(row, renamed).items():
            values[f"{path.parent.name}/{path.stem}/{name}"] = value
    return values


def _flat(value: Any, renamed: Counter[str], name: str = "") -> dict[str, Any]:  # noqa: ANN401  (any JSON)
    if not isinstance(value, dict):
        return {name: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if key in TIMED:
            continue
        if key in RENAMED and "low_tail" in value:
            renamed[f"{key} -> {RENAMED[key]}"] += 1
            key = RENAMED[key]
        flat |= _flat(inner, renamed, f"{name}.{key}".lstrip("."))
    return flat


def compare(kind: str, old: dict[str, Any], new: dict[str, Any]) -> Counter[str]:
    """Print what differs, at most ten of each, and return how often each last name of a path differs."""
    differing = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    print(f"{kind}: {len(old)} before, {len(new)} after, {len(differing)} differ")
    for name in differing[:10]:
        print(f"  {name}: {old.get(name)} -> {new.get(name)}")
    return Counter(name.rpartition(".")[2] for name in differing)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, and return 0 if nothing differs but a row's protocol, which states the names of its fields."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.same_study", description=__doc__.partition("\n\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args(arguments)
    cells = [{path.name: True for path in (output / "cells").iterdir()} for output in (options.old, options.new)]
    differing = compare("grid cells", *cells)
    differing += compare("tensors, embeddings and reconstructions", digests(options.old), digests(options.new))
    renamed: Counter[str] = Counter()
    old, new = ledger_values(options.old, renamed), ledger_values(options.new, renamed)
    differing += compare("values in the ledger", old, new)
    print(
        "renamed in the ledger:", ", ".join(f"{name} ({count} times)" for name, count in renamed.items()) or "nothing"
    )
    return 1 if differing.keys() - {"protocol"} else 0


if __name__ == "__main__":
    sys.exit(main())
