"""Export the trained encoder of a grid cell: `python -m harness.export RECIPE CELL --output DIR [--block N]`.

`--block` cuts the encoder after that block: the best block for linear probes is often not the last. Writes
`encoder.safetensors` (load it with `load_encoder`, no recipe needed), `recipe.yaml` (the resolved recipe) and
`README.md`, a model card with the cell's results from the ledger.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data.channels import CHANNELS, learned_channels, value_ranges
from harness.grid.cell import Cell
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import find_cell
from harness.recipe.errors import RecipeError
from harness.recipe.load import load, to_yaml
from harness.recipe.models import MaeVitSection
from harness.recipe.schema import Recipe
from harness.report.model_card import model_card
from harness.storage import ledger
from harness.storage.atomic import write_atomic
from harness.storage.weights import WeightsError, load_weights, read_weights

if TYPE_CHECKING:
    from harness.models.encoder_file import load_encoder, load_transform
    from harness.models.layers.self_standardise import SelfStandardise

ENCODER, RECIPE, CARD = "encoder.safetensors", "recipe.yaml", "README.md"
__all__ = ["SelfStandardise", "export_cell", "find_cell", "load_encoder", "load_transform", "main"]


class ExportError(RuntimeError):
    """A cell that cannot be exported; the message says why."""


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import `load_encoder` and its companions lazily, so that the command's `--help` does not import torch."""
    if name in ("SelfStandardise", "load_encoder", "load_transform"):
        from harness.models import encoder_file

        return getattr(encoder_file, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def export_cell(recipe: Recipe, cell: Cell, output: Path, block: int | None = None) -> list[Path]:
    """Write a cell's encoder, recipe and model card into `output`, and return their paths.

    Args:
        block: cut the encoder after this many blocks. Default: `embed.block`, so that the exported encoder is the
            evaluated one.

    Raises:
        ExportError: the cell has no network, or has not been trained yet.
        harness.models.encoder_file.EncoderFileError: its weights do not fit its recipe.
    """
    from harness.models.architecture import configure
    from harness.models.config import DEFAULT_POOL, MaeConfig
    from harness.models.encoder_file import cut_encoder, save_encoder

    recipe = cell.recipe(recipe)
    row = _checked_row(recipe, cell, "train")
    if cell.architecture is None:
        raise ExportError(f"{cell.id} has no network: {cell.kind.replace('_', ' ')} are not an encoder")
    if cell.kind == "pretrained":
        raise ExportError(f"{cell.id} was not trained by the sweep: its weights are the file that the recipe names")
    if row is None:
        raise ExportError(f"{cell.id} is not trained yet: run python -m harness.sweep first")
    if cell.network_kind == "channel_agnostic" and block is None:
        return _export_channel_agnostic(recipe, cell, output)
    if not isinstance(cell.architecture.model, MaeVitSection):
        raise ExportError(
            f"{cell.id} is a {cell.network_kind}: only encoders of MAE-ViTs and CA-MAEs can be exported, "
            "and only those of MAE-ViTs can be cut"
        )
    pool = recipe.embed.pool if recipe.embed else DEFAULT_POOL
    config = configure(MaeConfig, cell.architecture, pool=pool)
    notes = {"cell": cell.id, "fingerprint": row.fingerprint, "recipe": recipe.name}
    channels = _channels(recipe, cell)
    if channels:
        notes[CHANNELS] = json.dumps(channels)
    evaluated_blocks = (recipe.embed.block if recipe.embed else None) or config.depth
    weights, blocks = _encoder_weights(recipe, cell), block or evaluated_blocks
    evaluated = _checked_row(recipe, cell, "evaluate") if blocks == evaluated_blocks else None
    if blocks != config.depth:
        notes["blocks"] = f"{blocks} of {config.depth}"
        weights, config = cut_encoder(weights, config, blocks)
    value_range = value_ranges(cell.architecture.mae, channels)
    save_encoder(output / ENCODER, weights, config, value_range=value_range, notes=notes)
    card = model_card(recipe, cell, row.values, evaluated.values if evaluated else None, channels, blocks)
    for name, text in ((RECIPE, to_yaml(recipe)), (CARD, card)):
        write_atomic(output / name, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]
    return [output / name for name in (ENCODER, RECIPE, CARD)]


def _checked_row(recipe: Recipe, cell: Cell, stage: ledger.Stage) -> ledger.LedgerRow | None:
    """A stage's row, if it is done.

    Raises:
        LedgerError: it cannot be used.
    """
    from harness.report.rows import checked_values

    checked_values(recipe, cell, stage)
    return ledger.read(recipe.output, cell.id, stage)


def _export_channel_agnostic(recipe: Recipe, cell: Cell, output: Path) -> list[Path]:
    """Export the complete model with OpenPhenom's names, as safetensors and in torch's format, and the recipe."""
    from harness.grid.cell_folder import WEIGHTS
    from harness.models.architecture import build
    from harness.models.channel_agnostic import ChannelAgnosticMae
    from harness.models.openphenom import save_openphenom

    assert cell.architecture is not None
    model = build(cell.architecture)
    assert isinstance(model, ChannelAgnosticMae)
    load_weights(cell_folder(recipe, cell) / WEIGHTS, model)
    channels = _channels(recipe, cell)
    notes = {"cell": cell.id, "recipe": recipe.name, CHANNELS: json.dumps(channels)}
    notes["trained_channels"] = json.dumps([channels[number] for number in model.config.learned] if channels else [])
    paths = [output / "model.safetensors", output / "model.pt"]
    for path in paths:
        save_openphenom(path, model, notes)
    write_atomic(output / RECIPE, lambda file: file.write(to_yaml(recipe).encode()))
    return [*paths, output / RECIPE]


def _encoder_weights(recipe: Recipe, cell: Cell) -> dict[str, Any]:
    from harness.grid.cell_folder import WEIGHTS

    try:
        tensors = read_weights(cell_folder(recipe, cell) / WEIGHTS)
    except WeightsError as error:
        raise ExportError(f"the ledger lists this cell as trained, but: {error}") from error
    prefix = "encoder."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _channels(recipe: Recipe, cell: Cell) -> list[str]:
    """Return the names of the image channels in the model's order; empty for initial weights, which have none.

    Raises:
        ChannelError: weights of an earlier version do not say them, and their training set cannot be read.
    """
    return list(learned_channels(recipe, cell, cell_folder(recipe, cell)) or ())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 if it succeeded, 2 on an error."""
    from harness.recipe.load import default_profile

    options = _parser().parse_intermixed_args(arguments)
    try:
        recipe = load(options.recipe, options.profile or default_profile()[0], options.overrides)
        for path in export_cell(recipe, find_cell(recipe, options.cell), options.output, options.block):
            print(f"wrote {path}")
        return 0
    except (RecipeError, ExportError, WeightsError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness.export", description=__doc__.partition("\n\n")[0])
    parser.add_argument("recipe", type=Path, help="the study's YAML file")
    parser.add_argument("cell", help="a grid cell's id, or an unambiguous prefix of it")
    parser.add_argument("overrides", nargs="*", metavar="field=value", help="the same overrides as for the sweep")
    parser.add_argument("--output", type=Path, required=True, help="folder for the weights, recipe and model card")
    parser.add_argument("--block", type=int, help="cut the encoder after this many blocks; default: embed.block")
    parser.add_argument("--profile", help="default: slurm if sbatch is available, else laptop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
