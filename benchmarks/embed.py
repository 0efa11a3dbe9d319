"""Throughput of embedding compared with a plain loop over wells with the same encoder.

    python -m benchmarks.embed [--wells 12] [--device auto] [--precision fp32] [--repeats 3] [--json]

Wells are 2048 x 2048 x 6 of 8 bits (as in `benchmarks.builder`), built into shards; 64 crops of 256 each. The plain
loop reads a well from the same shards, cuts its crops, self-standardises them, runs the encoder, and averages. Ours is
a complete embedding stage: opening the set, checking the weights' digest, building the model, and writing the Parquet
file with its metadata; the loop's share of these is not counted. Both alternate in one process after a warm-up;
medians are reported.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.builder import write_wells
from harness.distributed.engine import autocast
from harness.distributed.ranks import choose_device
from harness.embed.cell import embed_cell
from harness.embed.parts import discard_parts, open_embedding
from harness.grid.cell import Cell
from harness.grid.cell_folder import EMBEDDINGS, WEIGHTS
from harness.grid.cells import cells
from harness.grid.stage_run import StageRun
from harness.models.architecture import build as build_network
from harness.models.interface import Network
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.storage.embeddings import read_embeddings
from harness.storage.weights import load_weights
from harness.train.loop import train_cell
from shards.builder.build_set import build as build_shards
from shards.loader.transform import self_standardise
from shards.reader.shard_set import ShardSet

Result = TypeVar("Result")
CROP, CHANNELS = 256, 6
RECIPE = """\
name: embed_benchmark
output: {folder}/out
datasets: {{wells: {{shards: {folder}/shards}}}}
models: {{vit_s16: {{size: S, patch: 16, width: {width}, depth: {depth}, heads: {heads}}}}}
mae: {{crop: 256, channels: 6, decoder_width: 32, decoder_depth: 1, decoder_heads: 2}}
train: {{epochs: 1, batch: 8, learning_rate: 1e-3, precision: {precision}}}
grid: {{models: [vit_s16], datasets: [wells], seeds: [0]}}
embed: {{shards: {folder}/shards, batch: {batch}}}
launch: {{executor: local, device: {device}, gpus_per_node: 0, cpus_per_task: 1}}
profiles: {{laptop: {{}}}}
"""


@dataclass(frozen=True)
class Elapsed:
    """Seconds of wall-clock time, and of all processors together."""

    clock: float
    processor: float


def rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The measurements, as {name, unit, ours, peer, peer_name, ratio, goal, met} and how far the embeddings differ."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recipe, cell = _study(folder, options)
        weights = folder / "cell"
        train_cell(StageRun(recipe, cell, weights, "benchmark"))  # an untrained cell: its weights are drawn and saved
        shards, model = ShardSet.open(folder / "shards"), _model(cell, weights, recipe)
        pairs = []
        for _ in range(1 + options.repeats):
            ours, _ = _timed(lambda: embed_cell(open_embedding(StageRun(recipe, cell, weights, "benchmark"))))
            discard_parts(weights)
            plain, vectors = _timed(lambda: plain_loop(model, cell, shards, recipe))
            pairs.append((ours, plain))
        apart = float(np.abs(read_embeddings(weights / EMBEDDINGS)[1] - vectors).max())
        crops = int((shards.shapes // CROP).prod(axis=1).sum())
    device = choose_device(options.device).type
    what = f"ViT of width {options.width} and depth {options.depth}, {device}, {options.precision}"
    common = {"crops": crops, "largest_difference": apart, "threads": torch.get_num_threads(),
              "load": round(os.getloadavg()[0], 2)}  # fmt: skip
    by_clock = _row(f"embed wells of 64 crops, {what}", "crops/s", crops, [(a.clock, b.clock) for a, b in pairs[1:]])
    measurements = [{**by_clock, "goal": ">= 1 x", "met": by_clock["ratio"] >= 1, **common}]
    if device == "cpu":
        seconds = [(a.processor, b.processor) for a, b in pairs[1:]]
        measurements.append({**_row(f"the same, {what}", "crops per processor second", crops, seconds), **common})
    return measurements


def _row(name: str, unit: str, crops: int, seconds: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Median rates, and the median of the ratios of adjacent runs, in which other load cancels out."""
    ours, peer = (crops / statistics.median(side) for side in zip(*seconds, strict=True))
    ratio = statistics.median(peer_seconds / our_seconds for our_seconds, peer_seconds in seconds)
    return {"name": name, "unit": unit, "ours": round(ours, 1), "peer": round(peer, 1),
            "peer_name": "a plain loop over wells", "ratio": round(ratio, 2), "goal": None, "met": None}  # fmt: skip


def _timed(work: Callable[[], Result]) -> tuple[Elapsed, Result]:
    clock, processor = time.perf_counter(), time.process_time()
    result = work()
    return Elapsed(time.perf_counter() - clock, time.process_time() - processor), result


def plain_loop(model: Network, cell: Cell, shards: ShardSet, recipe: Recipe) -> NDArray[np.float32]:
    """The plain loop: one well after another, its 64 crops as one batch. (W, D)."""
    assert cell.architecture is not None
    device = next(model.parameters()).device
    embeddings = []
    with torch.inference_mode(), autocast(device, recipe.train.precision):
        for well in range(len(shards.wells)):
            image = torch.from_numpy(shards.read_well(well)).to(device)  # (C, H, W)
            crops = image.unfold(1, CROP, CROP).unfold(2, CROP, CROP).permute(1, 2, 0, 3, 4)
            batch = self_standardise(crops.reshape(-1, CHANNELS, CROP, CROP), cell.architecture.mae.value_range)
            embeddings.append(model.embed(batch).float().mean(dim=0).cpu())
    return torch.stack(embeddings).numpy()


def _study(folder: Path, options: argparse.Namespace) -> tuple[Recipe, Cell]:
    """Wells, their shards, and a recipe with one untrained cell."""
    write_wells(folder / "images", options.wells)
    layout = {"pattern": "{file}_c{channel}.npy", "channels": ",".join(map(str, range(CHANNELS)))}
    build_shards("folder", folder / "images", folder / "shards", options=layout, wells_per_shard=4, progress=False)
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder, **vars(options)))
    recipe = load(folder / "recipe.yaml", "laptop")
    return recipe, next(cell for cell in cells(recipe) if cell.kind == "untrained")


def _model(cell: Cell, folder: Path, recipe: Recipe) -> Network:
    model = build_network(cell.architecture).to(choose_device(recipe.launch.device))
    load_weights(folder / WEIGHTS, model)
    return model.eval()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = _parser().parse_args(arguments)
    measurements = rows(options)
    if options.json:
        print(json.dumps(measurements, indent=1))
        return 0
    for row in measurements:
        print(
            f"{row['name']}: {row['ours']} {row['unit']}, {row['peer_name']} {row['peer']}: {row['ratio']} x "
            f"(goal {row['goal'] or '-'}), embeddings within {row['largest_difference']:.1g}"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embed", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--wells", type=int, default=12)
    parser.add_argument("--width", type=int, default=96, help="width of the encoder")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--batch", default="null", help="tiles per forward pass of ours; default: the recipe's default")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=3)
    return parser


if __name__ == "__main__":
    sys.exit(main())
