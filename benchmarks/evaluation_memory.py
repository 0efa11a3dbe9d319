"""Memory and time of a grid cell's evaluation as its wells grow, and what that predicts for 2.2 million wells.

    python -m benchmarks.evaluation_memory [--wells 20000 60000] [--correction tvn] [--folder FOLDER] [--json]

Wells have 1,024 features and are of 17,000 genes with six guides each; one in ten is a control, and an experiment has
10,000. Every size is evaluated by a process of its own. Memory is the peak of that process above one that has imported
the same modules, so the file's writer does not count. The slope is between the first and the last size.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evaluation_jobs import high_water
from harness.grid.cell_folder import EMBEDDINGS

WIDTH = 1024
GENES, GUIDES, COMPLEX = 17_000, 6, 5
EXPERIMENT_WELLS, CONTROLS, GROUP_WELLS = 10_000, 0.1, 65_536
STUDY_WELLS, STUDY_GB = 2_200_000, 12.0
RECIPE = Path(__file__).parents[1] / "recipes" / "scaling.yaml"


@dataclass(frozen=True)
class Evaluated:
    """One evaluation in a process of its own."""

    wells: int
    seconds: float
    processor_seconds: float  # which other work on the machine moves less
    gigabytes: float  # at its peak, above the imports
    values: dict[str, Any]  # of the ledger's row


def evaluated(wells: int, correction: str, folder: Path) -> Evaluated:
    """Write a screen, if the folder has none of that size, and evaluate it.

    Raises:
        CalledProcessError: the evaluation failed.
    """
    place = folder / f"{wells}-wells"
    if not (place / EMBEDDINGS).exists():
        place.mkdir(parents=True, exist_ok=True)
        write_screen(place / EMBEDDINGS, wells)
    command = [sys.executable, "-m", "benchmarks.evaluation_memory", "--of", str(place), "--correction", correction]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return Evaluated(wells, **found)


def evaluate_here(folder: Path, correction: str) -> dict[str, Any]:
    """Evaluate in this process; its time, its memory and its values."""
    import scipy.stats  # noqa: F401  (imported before memory is counted, as evaluation does later)

    from harness.evaluate.cell import evaluate_cell
    from harness.recipe.load import load

    pairs = folder / "complexes.csv"
    lines = [f"G{a},G{b}" for first in range(0, GENES, COMPLEX) for a in range(first, first + COMPLEX)
             for b in range(a + 1, first + COMPLEX)]  # fmt: skip
    pairs.write_text("\n".join(["entity1,entity2", *lines]) + "\n")
    recipe = load(RECIPE, "laptop", [f"evaluate={{relationships: {{complexes: {pairs}}}, correction: {correction}}}"])
    base, start, used = high_water(), time.perf_counter(), time.process_time()
    values = evaluate_cell(recipe, folder)
    return {
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - used,
        "gigabytes": (high_water() - base) / 1e9,
        "values": values,
    }


def write_screen(path: Path, wells: int) -> None:
    """Embeddings of a screen, in the row groups of a file that is joined from parts."""
    import pyarrow as pa
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    signal = rng.standard_normal((GENES // COMPLEX, WIDTH), dtype=np.float32)
    features = pa.schema([(f"feature_{number}", pa.float32()) for number in range(WIDTH)])
    writer = None
    for first in range(0, wells, GROUP_WELLS):
        number = np.arange(first, min(first + GROUP_WELLS, wells))
        gene, guide = rng.integers(GENES, size=len(number)), rng.integers(GUIDES, size=len(number))
        control = rng.random(len(number)) < CONTROLS
        values = rng.standard_normal((len(number), WIDTH), dtype=np.float32)
        values += 0.12 * signal[gene // COMPLEX] * ~control[:, None]
        values += 0.2 * (number // EXPERIMENT_WELLS)[:, None].astype(np.float32) % 1.4
        columns = _metadata(number, gene, guide, control) | {
            name: np.ascontiguousarray(column) for name, column in zip(features.names, values.T, strict=True)
        }
        table = pa.table(columns)
        writer = writer or parquet.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=len(table))
    assert writer is not None
    writer.close()


def _metadata(number: np.ndarray, gene: np.ndarray, guide: np.ndarray, control: np.ndarray) -> dict[str, list[str]]:
    experiments = [f"gene-{n // EXPERIMENT_WELLS:03d}" for n in number]
    plates = [str(n % EXPERIMENT_WELLS // 1380 + 1) for n in number]
    names = [f"{'ABCDEFGHIJKLMNOP'[n % 16]}{n // 16 % 24 + 1:02d}" for n in number]
    return {
        "key": [f"{e}_{p}_{w}_{n}" for e, p, w, n in zip(experiments, plates, names, number, strict=True)],
        "experiment": experiments,
        "plate": plates,
        "well": names,
        "gene": ["" if c else f"G{g}" for g, c in zip(gene, control, strict=True)],
        "treatment": [
            "EMPTY_control" if c else f"G{g}_guide_{s}" for g, s, c in zip(gene, guide, control, strict=True)
        ],
    }


def rows(found: Sequence[Evaluated]) -> list[dict[str, Any]]:
    """What was measured, as {name, unit, ours, peer, peer_name, ratio, goal, met}."""
    measured = []
    for one in found:
        measured.append(_row(f"{one.wells:,} wells x {WIDTH:,}: memory", "GB", one.gigabytes))
        measured.append(_row(f"{one.wells:,} wells x {WIDTH:,}: time", "s", one.seconds))
        measured.append(_row(f"{one.wells:,} wells x {WIDTH:,}: processor time", "s", one.processor_seconds))
    few, many = found[0], found[-1]
    slope = (many.gigabytes - few.gigabytes) * 1e9 / (many.wells - few.wells)
    study = many.gigabytes + slope * (STUDY_WELLS - many.wells) / 1e9
    goal = {"goal": f"< {STUDY_GB:g} GB", "met": study < STUDY_GB}
    return [
        *measured,
        _row("bytes per well", "B", slope),
        _row(f"{STUDY_WELLS:,} wells, by the slope", "GB", study) | goal,
    ]


def _row(name: str, unit: str, ours: float) -> dict[str, Any]:
    empty = dict.fromkeys(("peer", "ratio", "goal", "met"))
    return {"name": name, "unit": unit, "ours": round(ours, 3), "peer_name": "none", **empty}


def main(arguments: Sequence[str] | None = None, write: Callable[[str], None] = print) -> int:
    """The command line."""
    options = _parser().parse_args(arguments)
    if options.of:
        write(json.dumps(evaluate_here(options.of, options.correction)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = [evaluated(wells, options.correction, options.folder or Path(folder)) for wells in options.wells]
    write(json.dumps(rows(found), indent=1) if options.json else "\n".join(map(_text, rows(found))))
    return 0


def _text(row: dict[str, Any]) -> str:
    met = {True: "met", False: "NOT met", None: ""}[row["met"]]
    return f"{row['name']:36} {row['ours']:12,.3f} {row['unit']:2}  {row['goal'] or '':8} {met}".rstrip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation_memory", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--wells", nargs="+", type=int, default=[20_000, 60_000], help="sizes, two or more, ascending")
    parser.add_argument("--correction", default="tvn", help="a recipe's evaluate.correction (default: tvn)")
    parser.add_argument("--folder", type=Path, help="where screens are kept; default: a temporary folder")
    parser.add_argument("--of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
