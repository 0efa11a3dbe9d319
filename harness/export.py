"""Hand a trained encoder to others: `python -m harness.export RECIPE CELL --output DIR [--block N]`.

With a block the encoder is cut after it: the best one for linear probes is often not the last. Leaves
`encoder.safetensors` (read by `load_encoder`, no recipe needed), `recipe.yaml` (the study as it was resolved) and
`README.md`, a model card with the cell's numbers from the ledger.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data.shard_sets import manifest_of
from harness.grid.cells import Cell, cells, model_kind
from harness.recipe.load import RecipeError, load, to_yaml
from harness.recipe.models import DEFAULT_KIND
from harness.recipe.schema import Recipe
from harness.stages.missing import cell_folder
from harness.storage import ledger
from harness.storage.atomic import write_whole

if TYPE_CHECKING:
    from harness.models.encoder_file import SelfStandardise, load_encoder, load_transform

ENCODER, RECIPE, CARD = "encoder.safetensors", "recipe.yaml", "README.md"
__all__ = ["SelfStandardise", "export_cell", "find_cell", "load_encoder", "load_transform", "main"]


class ExportError(RuntimeError):
    """A cell that cannot be exported; the text says what is missing."""


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """`from harness.export import load_encoder` in a notebook, without torch for the command's `--help`."""
    if name in ("SelfStandardise", "load_encoder", "load_transform"):
        from harness.models import encoder_file

        return getattr(encoder_file, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def export_cell(recipe: Recipe, cell: Cell, output: Path, block: int | None = None) -> list[Path]:
    """Write a cell's encoder, recipe and card into `output`, and return their paths.

    Args:
        block: cut the encoder after this many blocks; by default where `embed.block` cuts it, so that what is handed
            on is what was evaluated.

    Raises:
        ExportError: the cell has no network, or has not been trained yet.
        harness.models.encoder_file.EncoderFileError: its weights do not fit its recipe.
    """
    from harness.models.architecture import config_of
    from harness.models.encoder_file import cut_encoder, save_encoder

    row = ledger.read(recipe.output, cell.id, "train")
    if cell.architecture is None:
        raise ExportError(f"{cell.id} has no network: {cell.kind.replace('_', ' ')} are no encoder")
    if cell.kind == "pretrained":
        raise ExportError(f"{cell.id} was not trained here: its weights are a file of yours")
    if row is None:
        raise ExportError(f"{cell.id} is not trained yet: python -m harness.sweep runs what is missing")
    if model_kind(cell) == "channel_agnostic" and block is None:
        return _export_channel_agnostic(recipe, cell, output)
    if model_kind(cell) != DEFAULT_KIND:
        raise ExportError(
            f"{cell.id} is a {model_kind(cell)}: only encoders of MAE-ViTs and CA-MAEs are exported, "
            "and only those of MAE-ViTs are cut"
        )
    config = config_of(cell, recipe.embed.pool if recipe.embed else "mean")
    notes = {"cell": cell.id, "fingerprint": row.fingerprint, "recipe": recipe.name}
    channels = _channels(recipe, cell)
    if channels:
        notes["channels"] = json.dumps(channels)
    evaluated_blocks = (recipe.embed.block if recipe.embed else None) or config.depth
    weights, blocks = _encoder_weights(recipe, cell), block or evaluated_blocks
    if blocks != config.depth:
        notes["blocks"] = f"{blocks} of {config.depth}"
        weights, config = cut_encoder(weights, config, blocks)
    save_encoder(output / ENCODER, weights, config, value_range=cell.architecture["value_range"], notes=notes)
    evaluated = ledger.read(recipe.output, cell.id, "evaluate") if blocks == evaluated_blocks else None
    card = model_card(recipe, cell, row.values, evaluated.values if evaluated else None, channels, blocks)
    for name, text in ((RECIPE, to_yaml(recipe)), (CARD, card)):
        write_whole(output / name, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]
    return [output / name for name in (ENCODER, RECIPE, CARD)]


def _export_channel_agnostic(recipe: Recipe, cell: Cell, output: Path) -> list[Path]:
    """The whole model under OpenPhenom's names, as safetensors and in torch's format, and the recipe."""
    from harness.models.architecture import build
    from harness.models.channel_agnostic import ChannelAgnosticMae
    from harness.models.openphenom import save_openphenom
    from harness.stages.missing import WEIGHTS
    from harness.storage.weights import load_weights

    model = build(cell)
    assert isinstance(model, ChannelAgnosticMae)
    load_weights(cell_folder(recipe, cell) / WEIGHTS, model)
    paths = [output / "model.safetensors", output / "model.pt"]
    for path in paths:
        save_openphenom(path, model, {"cell": cell.id, "recipe": recipe.name})
    write_whole(output / RECIPE, lambda file: file.write(to_yaml(recipe).encode()))
    return [*paths, output / RECIPE]


def _encoder_weights(recipe: Recipe, cell: Cell) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from harness.stages.missing import WEIGHTS

    path, prefix = cell_folder(recipe, cell) / WEIGHTS, "encoder."
    try:
        whole = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ExportError(f"{path}: the ledger says this cell is trained, but its weights: {error}") from error
    return {name.removeprefix(prefix): value for name, value in whole.items() if name.startswith(prefix)}


def _channels(recipe: Recipe, cell: Cell) -> list[str]:
    """Names of the image channels in the order the model takes them; none where the shards are not at hand."""
    if cell.dataset is None:
        return []
    try:
        return [str(name) for name in manifest_of(recipe, recipe.datasets[cell.dataset].shards)["channels"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def model_card(
    recipe: Recipe, cell: Cell, trained: dict[str, Any], evaluated: dict[str, Any] | None, channels: Sequence[str],
    blocks: int,
) -> str:  # fmt: skip
    """The card's markdown: what it is, how to load it, how it was trained, how it did, and under what licence."""
    parts = [_CARD_HEAD.format(name=cell.id, study=recipe.name), _what(cell, channels, blocks), _CARD_LOADING.strip()]
    parts += [_training(cell, trained), _results(recipe, evaluated), _CARD_LICENCE.strip()]
    return "\n\n".join(parts) + "\n"


def _what(cell: Cell, channels: Sequence[str], blocks: int) -> str:
    shape = cell.architecture or {}
    value_range = shape["value_range"] or "the pixel type's own, 255 or 65535"
    rows = {
        "encoder": f"ViT-{shape['size']}/{shape['patch']}: width {shape['width']}, "
        f"depth {_depth(blocks, shape['depth'])}, "
        f"heads {shape['heads']}, parallel scaling blocks, QK-norm {'on' if shape['qk_norm'] else 'off'}",
        "input": f"crops of {shape['crop']} × {shape['crop']} pixels, {shape['channels']} channels",
        "channels, in order": ", ".join(channels) or "those of the shards it was trained on",
        "self-standardisation": f"pixels over {value_range}; then every crop and channel to mean 0 and variance 1",
        "cell": f"`{cell.id}` ({cell.kind}, seed {cell.seed})",
    }
    return "## What it is\n\n" + _table(("", ""), list(rows.items()))


def _depth(blocks: int, depth: int) -> str:
    return str(depth) if blocks == depth else f"{blocks}, cut from {depth} (the final norm stays)"


def _training(cell: Cell, trained: dict[str, Any]) -> str:
    if cell.training is None:
        return "## Training\n\nNone: these are initial weights, a baseline."
    weight = (cell.architecture or {})["fourier_weight"]
    optimiser = cell.training.settings["optimiser"]
    objective = "masked pixels" + (f" and Fourier magnitudes (alpha {weight:g})" if weight else "")
    rows = [
        ("dataset", f"{cell.dataset}: {trained.get('wells', '?')} images of {len(trained.get('experiments', []))} "
         "experiments"),
        ("objective", f"{objective}, mask ratio {(cell.architecture or {})['mask_ratio']:g}"),
        ("optimiser", f"{optimiser['name']}, batch {cell.training.batch}, peak {cell.training.learning_rate:g}"),
        ("crops seen", f"{trained.get('crops', 0):,} in {trained.get('steps', 0):,} steps"),
    ]  # fmt: skip
    for name in ("validation_loss", "best_validation_loss", "mean_predictor_loss"):
        if name in trained:
            rows.append((name.replace("_", " "), f"{trained[name]:.4f}"))
    return "## Training\n\nThe whole recipe is `recipe.yaml`.\n\n" + _table(("", ""), rows)


def _results(recipe: Recipe, evaluated: dict[str, Any] | None) -> str:
    if evaluated is None:
        return "## Results\n\nNot evaluated: the ledger has no row for this encoder."
    rows = [
        (source, f"{r['recall']:.3f}", f"{r['low']:.3f} to {r['high']:.3f}", f"{r['chance']:.2f}", str(r["pairs"]))
        for source, r in evaluated["recall"].items()
    ]
    head = f"## Results\n\nRecall of known relationships, {evaluated['protocol']}, correction "
    head += f"{evaluated['correction']}, {evaluated['genes']} genes, from the ledger of study {recipe.name}.\n\n"
    return head + _table(("source", "recall", "interval", "chance", "pairs"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")


_CARD_HEAD = """---
library_name: timm
license: other
license_name: not-chosen-yet
tags: [microscopy, cell-painting, masked-autoencoder, vision-transformer]
---
# {name}

An image encoder for fluorescence microscopy, a masked autoencoder of the study `{study}`."""

_CARD_LOADING = """
## How to load it

```python
from harness.export import load_encoder, load_transform  # this project, installed with pip

encoder = load_encoder("encoder.safetensors")       # a timm VisionTransformer in eval mode
standardise = load_transform("encoder.safetensors")
vectors = encoder(standardise(crops))               # raw crops (B, C, H, W), uint8 or uint16 → (B, D)
tokens = encoder.forward_features(standardise(crops))  # (B, 1 + L, D), the class token first
```

A well's embedding is the mean over its tiles. The keys are those of timm's `VisionTransformer` built with
`block_fn=ParallelScalingBlock`, so timm alone can load the file too; the shape is in its metadata, under `config`.
"""

_CARD_LICENCE = """
## Licence

None has been chosen. The code that trained these weights is Apache-2.0, which says nothing about the weights: they are
for whoever trained them to license, within what the training images' own licence allows. Choose before publishing, then
change `license` at the top of this file and this section.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, export, and return the exit status: 0 done, 2 not possible as asked."""
    from harness.sweep import default_profile

    options = _parser().parse_intermixed_args(arguments)
    try:
        recipe = load(options.recipe, options.profile or default_profile()[0], options.overrides)
        for path in export_cell(recipe, find_cell(recipe, options.cell), options.output, options.block):
            print(f"wrote {path}")
        return 0
    except (RecipeError, ExportError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def find_cell(recipe: Recipe, name: str) -> Cell:
    """The cell of that id, or the only one whose id starts with it.

    Raises:
        ExportError: there is none, or more than one.
    """
    found = cells(recipe)
    matching = [cell for cell in found if cell.id == name] or [cell for cell in found if cell.id.startswith(name)]
    if len(matching) != 1:
        several = ", ".join(cell.id for cell in matching or found)
        raise ExportError(f"{name!r} names {len(matching)} cells of this recipe; choose one of: {several}")
    return matching[0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness.export", description=__doc__.partition("\n\n")[0])
    parser.add_argument("recipe", type=Path, help="the study's YAML file")
    parser.add_argument("cell", help="a cell's id, or the start of it")
    parser.add_argument("overrides", nargs="*", metavar="field=value", help="as the sweep was given them")
    parser.add_argument("--output", type=Path, required=True, help="folder for weights, recipe and card")
    parser.add_argument("--block", type=int, help="cut the encoder after so many blocks; default: as embed.block does")
    parser.add_argument("--profile", help="default: slurm where sbatch answers, else laptop")
    return parser


if __name__ == "__main__":
    sys.exit(main())
