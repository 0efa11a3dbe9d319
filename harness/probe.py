"""Find the best block of an encoder: `python -m harness.probe RECIPE CELL --label gene --test EXPERIMENT`.

One forward pass gives the features of all blocks for every well. A linear probe per block is trained on the wells of
some experiments and tested on those of others (`analysis.embeddings.probes`). `--export DIR` exports the encoder, cut
after its best block.

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
from harness.grid.cell import Cell
from harness.grid.cell_folder import WEIGHTS, cell_folder
from harness.grid.cells import find_cell
from harness.recipe.errors import RecipeError
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.storage.weights import WeightsError, load_weights

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from analysis.embeddings.probes import Probe

COLUMNS = f"{'block':>5}{'accuracy':>10}{'balanced':>10}{'chance':>9}{'classes':>9}"


def block_features(recipe: Recipe, cell: Cell) -> tuple[pd.DataFrame, NDArray[Any]]:
    """Return the wells of `recipe.embed` and their features per block (K, W, D), after the final norm and pooling.

    Raises:
        ValueError: the cell's network is not a masked autoencoder with ViT blocks, or the recipe has no `embed`.
    """
    from harness.data.channels import embedding_channels
    from harness.data.shard_sets import open_shards
    from harness.data.wells import evaluation_wells
    from harness.distributed.preemption import StopFlag
    from harness.distributed.ranks import Ranks, choose_device
    from harness.embed.wells import TileReading, embed_parts
    from harness.models.architecture import build
    from harness.models.block_features import EveryBlock
    from harness.models.mae import MaskedAutoencoder

    recipe = cell.recipe(recipe)
    if recipe.embed is None:
        raise ValueError("the recipe has no `embed`, which names the wells to probe on")
    model = build(cell.architecture, recipe.embed.pool) if cell.architecture else None
    if not isinstance(model, MaskedAutoencoder):
        kind = type(model).__name__ if model else cell.kind
        raise ValueError(f"{cell.id} is a {kind}, which has no blocks to choose from")
    load_weights(cell_folder(recipe, cell) / WEIGHTS, model)
    ranks = Ranks(0, 1, choose_device(recipe.launch.device))
    shards = open_shards(recipe, recipe.embed.shards)
    wells = evaluation_wells(shards, recipe.embed.experiments)
    encoder = EveryBlock(model).to(ranks.device).eval()
    reading = TileReading.of(recipe, model.config.crop, ranks.device)
    channels, precision = (
        embedding_channels(recipe, cell, cell_folder(recipe, cell), shards.manifest.channels),
        recipe.train.precision,
    )
    (features,) = embed_parts(encoder, cell, shards, [wells], channels, reading, ranks, precision, StopFlag())
    return shards.wells.loc[wells], features.reshape(len(wells), model.config.depth, -1).transpose(1, 0, 2)


def probe_cell(recipe: Recipe, cell: Cell, label: str, test: Sequence[str]) -> list[Probe]:
    """Train and test a linear probe of each block, numbered from 1, on the wells that have a label.

    Raises:
        ValueError: no such column, no wells to train or test on, or as in `block_features`.
    """
    from analysis.embeddings.probes import probe_blocks

    wells, features = block_features(recipe, cell)
    if label not in wells:
        raise ValueError(f"--label {label}: no such column; the wells have {', '.join(map(str, wells))}")
    labelled = (wells[label].fillna("").astype(str) != "").to_numpy(bool)
    labelled_wells = wells[labelled]
    by_block = {number: values[labelled] for number, values in enumerate(features, start=1)}
    return probe_blocks(
        by_block, labelled_wells[label].astype(str).tolist(), labelled_wells["experiment"].astype(str).tolist(), test
    )


def table(probes: Sequence[Probe], best: int) -> str:
    """Format the probes as a table with one line per block."""
    lines = [COLUMNS]
    for probe in probes:
        numbers = f"{probe.accuracy:>10.3f}{probe.balanced_accuracy:>10.3f}{probe.chance:>9.3f}{probe.classes:>9}"
        lines.append(f"{probe.block:>5}{numbers}" + ("  best" if probe.block == best else ""))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 if it succeeded, 2 on an error."""
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
    except (RecipeError, ExportError, WeightsError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness.probe", description=__doc__.partition("\n\n")[0])
    parser.add_argument("recipe", type=Path, help="the study's YAML file")
    parser.add_argument("cell", help="a grid cell's id, or an unambiguous prefix of it")
    parser.add_argument("overrides", nargs="*", metavar="field=value", help="the same overrides as for the sweep")
    parser.add_argument("--label", default="gene", help="column of the wells to classify (default: gene)")
    parser.add_argument(
        "--test",
        nargs="+",
        required=True,
        metavar="EXPERIMENT",
        help="test experiments; the probes are trained on all others",
    )
    parser.add_argument("--export", type=Path, help="export the encoder, cut after its best block, to this folder")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--profile", help="default: slurm if sbatch is available, else laptop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
