"""Which block of a trained encoder holds most? `python -m harness.probe RECIPE CELL --label gene --test EXPERIMENT`.

Every block's features of every well come from one pass; a linear probe on each is trained on some experiments' wells
and tested on others' (`analysis.embeddings.probes`). `--export DIR` hands the best encoder on, cut after its block.

Shapes: T tiles in a forward pass, W wells, K blocks, D embedding width.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.export import ExportError, export_cell
from harness.grid.cell_folder import WEIGHTS, cell_folder
from harness.grid.cells import Cell, find_cell
from harness.recipe.errors import RecipeError
from harness.recipe.load import load
from harness.recipe.schema import Recipe

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from analysis.embeddings.probes import Probe

COLUMNS = f"{'block':>5}{'accuracy':>10}{'balanced':>10}{'chance':>9}{'classes':>9}"


def block_features(recipe: Recipe, cell: Cell) -> tuple[pd.DataFrame, NDArray[Any]]:
    """The wells of `recipe.embed`, and what each block makes of them: (K, W, D), the final norm and pool behind it.

    Raises:
        ValueError: the cell's network is no masked vision transformer, or the recipe embeds nothing.
    """
    from harness.data.shard_sets import open_shards
    from harness.data.wells import evaluation_wells
    from harness.distributed.preemption import StopFlag
    from harness.distributed.ranks import Ranks, choose_device
    from harness.embed.wells import TileReading, embed_wells
    from harness.models.architecture import build
    from harness.models.block_features import EveryBlock
    from harness.models.mae import MaskedAutoencoder
    from harness.storage.weights import load_weights

    if recipe.embed is None:
        raise ValueError("the recipe has no `embed`: it says which wells to probe on")
    model = build(cell.architecture, recipe.embed.pool) if cell.architecture else None
    if not isinstance(model, MaskedAutoencoder):
        kind = type(model).__name__ if model else cell.kind
        raise ValueError(f"{cell.id} is a {kind}, which has no blocks to choose from")
    load_weights(cell_folder(recipe, cell) / WEIGHTS, model)
    ranks = Ranks(0, 1, choose_device(recipe.launch.device))
    shards = open_shards(recipe, recipe.embed.shards)
    wells = evaluation_wells(shards, recipe.embed.experiments)
    every = EveryBlock(model).to(ranks.device).eval()
    reading = TileReading.of(recipe, model.config.crop, ranks.device)
    found = embed_wells(every, cell, shards, wells, reading, ranks, recipe.train.precision, StopFlag())
    return shards.wells.loc[wells], found.reshape(len(wells), model.config.depth, -1).transpose(1, 0, 2)


def probe_cell(recipe: Recipe, cell: Cell, label: str, test: Sequence[str]) -> list[Probe]:
    """A linear probe of each block, by its number from 1, on the wells that have a label.

    Raises:
        ValueError: no such column, or nothing to train or test on; and as `block_features`.
    """
    from analysis.embeddings.probes import probe_blocks

    wells, features = block_features(recipe, cell)
    if label not in wells:
        raise ValueError(f"--label {label}: no such column; the wells have {', '.join(map(str, wells))}")
    labelled = (wells[label].fillna("").astype(str) != "").to_numpy(bool)
    named = wells[labelled]
    by_block = {number: values[labelled] for number, values in enumerate(features, start=1)}
    return probe_blocks(by_block, named[label].astype(str).tolist(), named["experiment"].astype(str).tolist(), test)


def table(probes: Sequence[Probe], best: int) -> str:
    """One line for each block."""
    lines = [COLUMNS]
    for probe in probes:
        numbers = f"{probe.accuracy:>10.3f}{probe.balanced_accuracy:>10.3f}{probe.chance:>9.3f}{probe.classes:>9}"
        lines.append(f"{probe.block:>5}{numbers}" + ("  best" if probe.block == best else ""))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, probe, and return the exit status: 0 done, 2 not possible as asked."""
    from harness.recipe.load import default_profile

    options = _parser().parse_intermixed_args(arguments)
    try:
        recipe = load(options.recipe, options.profile or default_profile()[0], options.overrides)
        cell = find_cell(recipe, options.cell)
        probes = probe_cell(recipe, cell, options.label, options.test)
        from analysis.embeddings.probes import best_block

        best = best_block(probes)
        print(json.dumps([asdict(probe) for probe in probes], indent=1) if options.json else table(probes, best))
        for path in export_cell(recipe, cell, options.export, best) if options.export else ():
            print(f"wrote {path}", file=sys.stderr)
        return 0
    except (RecipeError, ExportError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness.probe", description=__doc__.partition("\n\n")[0])
    parser.add_argument("recipe", type=Path, help="the study's YAML file")
    parser.add_argument("cell", help="a cell's id, or the start of it")
    parser.add_argument("overrides", nargs="*", metavar="field=value", help="as the sweep was given them")
    parser.add_argument("--label", default="gene", help="the column of wells to tell apart (default: gene)")
    parser.add_argument("--test", nargs="+", required=True, metavar="EXPERIMENT", help="the others train the probes")
    parser.add_argument("--export", type=Path, help="folder for the encoder cut after its best block")
    parser.add_argument("--json", action="store_true", help="a list of probes instead of a table")
    parser.add_argument("--profile", help="default: slurm where sbatch answers, else laptop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
