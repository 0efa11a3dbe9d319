"""Does a grid of annealed branches give the loss law of a grid of cosine runs, and for how many crops?

    python -m benchmarks.branches [--seeds 5] [--output DIR] [--json]

Both grids have the same models, seeds and ends, on the demo assay: six ends of each run, as cosine runs of their own
length, and as branches of one trunk. `ours` is the exponent of the branches' loss law in compute, `peer` that of the
cosine runs, with its 90% interval in the name; the goal is an exponent inside it for at most half of the crops. Run it
again with the same output to see the numbers without training again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.arrays import Floats
from analysis.compute.flops import compute
from analysis.fitting.estimate import Points, fit_law
from analysis.fitting.parameters import Parameter, parameters
from analysis.laws.catalogue import named_law
from analysis.laws.metric import Metric
from harness import sweep
from harness.grid.cell import Cell
from harness.grid.cells import cells
from harness.models.architecture import cost_of
from harness.plan.cost import plan_cells
from harness.recipe.load import load
from harness.storage import ledger

RECIPE = Path(__file__).parents[1] / "recipes" / "scaling_annealed.yaml"
EPOCHS, ENDS = 8, (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
LAWS = {"power_law": "B C^-c", "power_offset": "E + B C^-c"}
CONFIDENCE = 0.9
LOSS = Metric("loss")
COMMON = (
    "embed=null", "evaluate=null", "grid.untrained=false", "grid.pixel_statistics=false", "launch.cells_per_job=16",
    "grid.models=[vit_s8, vit_b8, vit_l8]",
)  # fmt: skip
BRANCHES = (f"train.epochs={EPOCHS}", f"train.schedule.ends={list(ENDS)}")
LENGTHS = [round(EPOCHS * end) for end in ENDS]
COSINES = (f"grid.axes={{train.epochs: {LENGTHS}}}", "grid.datasets=[four_experiments]")


@dataclass(frozen=True)
class Grid:
    """A trained grid: compute and loss of each end of a run (n,), and the crops that it took."""

    compute: Floats
    loss: Floats
    crops: int

    def exponent(self, law: str) -> Parameter:
        """The exponent of a loss law in compute, with its interval."""
        points = Points(self.compute[:, None], self.loss)
        fitted = parameters(fit_law(named_law(law), points, LOSS), points, CONFIDENCE)
        return next(parameter for parameter in fitted if parameter.name == "c")


def trained(recipe_file: Path, output: Path, seeds: int, *overrides: str) -> Grid:
    """Run a grid, and read its ends from the ledger.

    Raises:
        RuntimeError: a cell failed.
    """
    words = [*COMMON, f"grid.seeds={list(range(seeds))}", f"output={output}", *overrides]
    with redirect_stdout(sys.stderr):
        failed = sweep.main(["run", str(recipe_file), "--profile", "laptop", *words])
    if failed:
        raise RuntimeError(f"{output}: not all cells were trained")
    recipe = load(recipe_file, "laptop", words)
    grid = cells(recipe)
    finals = [cell for cell in grid if cell.kind == "trained"]
    rows = [ledger.read(recipe.output, cell.id, "train") for cell in finals]
    values = [row.values for row in rows if row is not None]
    return Grid(
        np.array([_compute(cell, row["crops"]) for cell, row in zip(finals, values, strict=True)]),
        np.array([row["validation_loss"] for row in values]),
        sum(plan.crops for plan in plan_cells(recipe, grid)),
    )


def _compute(cell: Cell, crops: int) -> float:
    assert cell.architecture is not None
    return compute("mae_train", cost_of(cell.architecture), crops)


def rows(branches: Grid, cosines: Grid) -> Iterator[dict[str, Any]]:
    """The exponents of both grids, and their crops."""
    share = branches.crops / cosines.crops
    for law, equation in LAWS.items():
        ours, peer = branches.exponent(law), cosines.exponent(law)
        yield {
            "name": f"exponent c of {equation}, in [{peer.low:.4f}, {peer.high:.4f}] of the cosine runs",
            "unit": "decades of loss per decade of compute", "ours": ours.value, "peer": peer.value,
            "peer_name": "cosine runs", "ratio": ours.value / peer.value, "goal": peer.value,
            "met": bool(peer.low <= ours.value <= peer.high),
        }  # fmt: skip
    yield {
        "name": f"crops for {len(branches.loss)} points", "unit": "crops", "ours": branches.crops,
        "peer": cosines.crops, "peer_name": "cosine runs", "ratio": share, "goal": 0.5, "met": share <= 0.5,
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="where both grids are trained; default: a temporary folder")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        output = options.output or Path(temporary)
        branches = trained(RECIPE, output / "branches", options.seeds, *BRANCHES)
        cosines = trained(RECIPE.with_name("scaling.yaml"), output / "cosines", options.seeds, *COSINES)
    found = list(rows(branches, cosines))
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        for row in found:
            print(f"{row['name']:<80}{row['ours']:>12.4g}{row['peer']:>12.4g}{row['ratio']:>7.2f}  {row['met']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
