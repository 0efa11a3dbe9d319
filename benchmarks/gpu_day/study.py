"""What a study does beside its steps: embedding, waiting for data, saving and loading checkpoints."""

from __future__ import annotations

import os
import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks import embed
from benchmarks.builder import write_wells
from benchmarks.gpu_day.day import Day, Found, Row
from benchmarks.gpu_day.parity import small_config
from benchmarks.peers import BETAS, LEARNING_RATE, WEIGHT_DECAY
from benchmarks.timing import wait
from benchmarks.train_step import config_of
from harness.checkpoint.checkpoints import Checkpoints, Progress
from harness.distributed.engine import Engine, EngineOptions
from harness.distributed.optimiser import build_optimiser
from harness.distributed.ranks import Ranks
from harness.grid.cell_folder import TRAIN_LOG
from harness.grid.cells import cells
from harness.grid.stage_run import StageRun
from harness.models.layers.masking import masking_noise
from harness.models.mae import MaskedAutoencoder
from harness.recipe.load import load
from harness.storage.train_log import read_log
from harness.train.loop import train_cell
from shards.builder.build_set import build as build_shards

WELLS, BATCH, STEPS = 12, 256, 300
SMALL_WELLS, SMALL_BATCH, SMALL_STEPS = 4, 2, 8
DATA_WAIT_GOAL = 0.02  # of the time of training
GIGA = 1e9
RECIPE = """\
name: gpu_day
output: {folder}/out
datasets: {{wells: {{shards: {folder}/shards}}}}
models: {{model: {{size: S, patch: 16, width: {width}, depth: {depth}, heads: {heads}}}}}
mae: {{crop: 256, channels: 6, decoder_width: {decoder[0]}, decoder_depth: {decoder[1]}, decoder_heads: {decoder[2]}}}
train: {{epochs: {epochs}, batch: {batch}, precision: {precision}, validations: 1, validation_wells: 1}}
grid: {{models: [model], datasets: [wells], seeds: [0]}}
launch: {{executor: local, device: {device}, gpus_per_node: 0, loader_workers: {workers}}}
profiles: {{laptop: {{}}}}
"""


def embedding(width: int, depth: int, heads: int) -> Callable[[Day, dict[str, Found]], Found]:
    """Crops per second of an embedding stage with this encoder, and of a plain loop over wells."""

    def work(day: Day, earlier: dict[str, Found]) -> Found:
        options = Namespace(
            wells=2 if day.small else 24, width=width, depth=depth, heads=heads, batch="null",
            repeats=1 if day.small else 3, device=day.device.type, precision="bf16" if day.bf16 else "fp32",
        )  # fmt: skip
        names = Row.__dataclass_fields__
        return Found([Row(**{k: v for k, v in row.items() if k in names}) for row in embed.rows(options)])

    return work


def data_wait(day: Day, earlier: dict[str, Found]) -> Found:
    """Train S/16 from shards of complete wells, and see which share of the time the loop waits for crops."""
    wells, batch, steps = (SMALL_WELLS, SMALL_BATCH, SMALL_STEPS) if day.small else (WELLS, BATCH, STEPS)
    _shards(day.scratch, wells)
    config = small_config(day) if day.small else config_of("S/16")
    workers = max(1, (os.cpu_count() or 2) - 2)
    text = RECIPE.format(
        folder=day.scratch, width=config.width, depth=config.depth, heads=config.heads, batch=batch,
        decoder=(config.decoder_width, config.decoder_depth, config.decoder_heads), device=day.device.type,
        epochs=-(-steps * batch // (wells // 2)), workers=workers, precision="bf16" if day.bf16 else "fp32",
    )  # fmt: skip
    (day.scratch / "recipe.yaml").write_text(text)
    recipe = load(day.scratch / "recipe.yaml", "laptop")
    cell = next(cell for cell in cells(recipe) if cell.kind == "trained")
    folder = day.scratch / "cell"
    train_cell(StageRun(recipe, cell, folder, "gpu_day"))
    rows = [row for row in read_log(folder / TRAIN_LOG) if row["kind"] == "train"]
    usual = rows[len(rows) // 2 :]  # the first ones compile and fill the caches
    waits, speed = (statistics.median(row[name] for row in usual) for name in ("data_wait", "crops_per_second"))
    name, peer = f"S/16 from shards, {workers} loader threads", f"goal of at most {DATA_WAIT_GOAL:.0%}"
    met = waits <= DATA_WAIT_GOAL if day.device.type == "cuda" else None
    return Found([
        Row(name, "share of time waiting for data", waits, None, peer, None, DATA_WAIT_GOAL, met),
        Row(name, "crops/s", speed),
    ])  # fmt: skip


def _shards(scratch: Path, wells: int) -> None:
    if (scratch / "shards").exists():
        return
    write_wells(scratch / "images", wells)
    layout = {"pattern": "{file}_c{channel}.npy", "channels": ",".join(map(str, range(embed.CHANNELS)))}
    build_shards(
        "folder", scratch / "images", scratch / "shards", options=layout, validation_experiments=["e1"],
        wells_per_shard=4, progress=False,
    )  # fmt: skip


def checkpoint(model_name: str) -> Callable[[Day, dict[str, Found]], Found]:
    """How long training waits for a save, how long until it is on disk, and how long a start takes to load it."""

    def work(day: Day, earlier: dict[str, Found]) -> Found:
        config = small_config(day) if day.small else config_of(model_name)
        ranks = Ranks(0, 1, day.device)
        torch.manual_seed(0)
        with day.device:
            model = MaskedAutoencoder(config)
        optimiser = partial(build_optimiser, name="lion", peak=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY)
        engine = Engine(model, optimiser, ranks, EngineOptions("single"))
        crops = torch.randn(2, config.channels, config.crop, config.crop, device=day.device)
        noise = masking_noise(0, range(2), config.noise_values).to(day.device)
        checkpoints = Checkpoints(day.scratch / "saved", "gpu_day", ranks)
        waits, complete = list[float](), list[float]()
        for step in (1, 2):  # the first allocates the staging buffer
            engine.accumulate(crops, noise, 1.0, last=True)
            engine.step(LEARNING_RATE)
            wait(day.device)
            start = time.perf_counter()
            checkpoints.save(engine, Progress(step=step))
            waits.append(time.perf_counter() - start)
            checkpoints.wait(required=True)
            complete.append(time.perf_counter() - start)
        start = time.perf_counter()
        checkpoints.resume(engine)
        wait(day.device)
        loaded = time.perf_counter() - start
        checkpoints.close()
        size = sum(file.stat().st_size for file in (day.scratch / "saved").rglob("*.distcp")) / 2 / GIGA
        name = f"checkpoint of {model_name}, {size:.3g} GB"
        return Found([
            Row(f"{name}: training waits, first save", "s", waits[0]), Row(f"{name}: training waits", "s", waits[1]),
            Row(f"{name}: on disk after", "s", complete[1]), Row(f"{name}: loaded in", "s", loaded),
        ])  # fmt: skip

    return work
