"""The model card of an exported encoder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from harness.grid.cell import Cell
from harness.recipe.models import Mae, MaeVitSection
from harness.recipe.schema import Recipe

MARKS = r"[\\`*{}\[\]<>#&~|$!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"  # an underscore inside a word marks nothing


def model_card(
    recipe: Recipe, cell: Cell, trained: dict[str, Any], evaluated: dict[str, Any] | None, channels: Sequence[str],
    blocks: int,
) -> str:  # fmt: skip
    """The card's markdown: what it is, how to load it, how it was trained, how it did, and under what licence."""
    parts = [_CARD_HEAD.format(name=cell.id, study=recipe.name), _what(cell, channels, blocks), _CARD_LOADING.strip()]
    parts += [_training(cell, trained), _results(recipe, evaluated), _CARD_LICENCE.strip()]
    return "\n\n".join(parts) + "\n"


def _what(cell: Cell, channels: Sequence[str], blocks: int) -> str:
    vit, mae = _mae_vit(cell)
    bias = {"mlp": "of the MLP alone (timm 1.0.25 and later)", "timm-0.8.13": "shifted, as timm 0.8.13 to 1.0.24"}
    value_range: object = mae.value_range or "the pixel type's own, 255 or 65535"
    if isinstance(mae.value_range, dict):
        value_range = ", ".join(f"{value:g} ({_literal(name)})" for name, value in mae.value_range.items())
    rows = {
        "encoder": f"ViT-{vit.size}/{vit.patch}: width {vit.width}, depth {_depth(blocks, vit.depth)}, "
        f"heads {vit.heads}, parallel scaling blocks, QK-norm {'on' if mae.qk_norm else 'off'}",
        "bias of the blocks": bias[mae.block_bias],
        "input": f"crops of {mae.crop} × {mae.crop} pixels, {mae.channels} channels",
        "channels, in order": ", ".join(map(_literal, channels)) or "those of the shards it was trained on",
        "self-standardisation": f"pixels over {value_range}; then every crop and channel to mean 0 and variance 1",
        "cell": f"`{cell.id}` ({cell.kind}, seed {cell.seed})",
    }
    return "## What it is\n\n" + _table(("", ""), list(rows.items()))


def _mae_vit(cell: Cell) -> tuple[MaeVitSection, Mae]:
    """The model of a cell that is exported; other kinds have no card."""
    assert cell.architecture is not None
    assert isinstance(cell.architecture.model, MaeVitSection)
    return cell.architecture.model, cell.architecture.mae


def _depth(blocks: int, depth: int) -> str:
    return str(depth) if blocks == depth else f"{blocks}, cut from {depth} (the final norm stays)"


def _training(cell: Cell, trained: dict[str, Any]) -> str:
    if cell.training is None:
        return "## Training\n\nNone: these are initial weights, a baseline."
    vit, mae = _mae_vit(cell)
    weight, optimiser = vit.fourier_weight, cell.training.optimiser
    objective = "masked pixels" + (f" and Fourier magnitudes (alpha {weight:g})" if weight else "")
    rows = [
        ("dataset", f"{cell.dataset}: {trained.get('wells', '?')} images of {len(trained.get('experiments', []))} "
         "experiments"),
        ("objective", f"{objective}, mask ratio {mae.mask_ratio:g}"),
        ("optimiser", f"{optimiser.name}, batch {cell.training.batch}, peak {cell.training.learning_rate:g}"),
        ("crops seen", f"{trained.get('crops', 0):,} in {trained.get('steps', 0):,} steps{_stopped(trained)}"),
    ]  # fmt: skip
    if cell.continued is not None:
        rows.append(("begins with", f"the final state of `{cell.continued.id}`, whose crops are counted too"))
    for name in ("validation_loss", "best_validation_loss", "mean_predictor_loss"):
        if trained.get(name) is not None:  # a segment may end before the first validation
            rows.append((name.replace("_", " "), f"{trained[name]:.4f}"))
    return "## Training\n\nThe whole recipe is `recipe.yaml`.\n\n" + _table(("", ""), rows)


def _stopped(trained: dict[str, Any]) -> str:
    if trained.get("annealed") is not False:
        return ""
    if trained.get("steps") == trained.get("planned_steps"):
        return ": a state of a longer run, whose learning rate had not decayed"
    return f" of {trained.get('planned_steps', '?')} planned: stopped before the learning rate had decayed"


def _results(recipe: Recipe, evaluated: dict[str, Any] | None) -> str:
    if evaluated is None:
        return "## Results\n\nNot evaluated: the ledger has no row for this encoder."
    rows = [
        (
            _literal(source),
            f"{r['recall']:.3f}",
            _interval(r["recall_low"], r["recall_high"]),
            f"{r['chance']:.2f}",
            str(r["pairs"]),
        )
        for source, r in evaluated["recall"].items()
    ]
    protocol, correction = (_literal(evaluated[name]) for name in ("protocol", "correction"))
    head = f"## Results\n\nRecall of known relationships, {protocol}, correction {correction}, "
    head += f"{evaluated['genes']} genes, from the ledger of study {recipe.name}.\n\n"
    return head + _table(("source", "recall", "interval", "chance", "pairs"), rows)


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _literal(text: str) -> str:
    """Text of a user's as Markdown that shows it as it is, without links, images, emphasis or HTML."""
    return re.sub(MARKS, r"\\\g<0>", " ".join(text.split()))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


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
`block_fn=ParallelScalingBlock` (timm 1.0.25 or later; with `qkv_bias=True` if the bias of the blocks is shifted), so
timm alone can load the file too; the shape is in its metadata, under `config`.
"""
_CARD_LICENCE = """
## Licence

None has been chosen. The code that trained these weights is Apache-2.0, which says nothing about the weights: they are
for whoever trained them to license, within what the training images' own licence allows. Choose before publishing, then
change `license` at the top of this file and this section.
"""
