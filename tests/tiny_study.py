"""A tiny study that a process finishes in seconds: rendered noise in the folder layout, its shards, and a recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from harness.recipe.load import load
from harness.recipe.schema import Recipe

GENES = [f"GENE{i}" for i in range(12)]
RECIPE = """\
name: tiny
output: {output}
prepare:
  build:
    - {{layout: rxrx3, root: {folder}/images, output: {folder}/shards, validation_fraction: 0.34, wells_per_shard: 16}}
datasets:
  one: {{shards: {folder}/shards, fraction: 0.5}}
  two: {{shards: {folder}/shards}}
models:
  vit_s16: {{size: S, width: 16, depth: 1, heads: 2, patch: 16, drop_path: 0.1}}
  vit_b8: {{size: B, width: 24, depth: 2, heads: 2, patch: 8}}
mae: {{crop: 32, channels: 6, decoder_width: 16, decoder_depth: 1, decoder_heads: 2}}
train: {{epochs: 12, batch: 8, learning_rate: 1e-3, precision: fp32, validations: 3, validation_wells: 8}}
grid: {{models: [vit_s16, vit_b8], datasets: [one, two], seeds: [0]}}
embed: {{shards: {folder}/shards}}
evaluate: {{relationships: {{complexes: {folder}/complexes.csv}}, bootstrap: 50}}
launch: {{executor: local, parallel: 2, device: cpu, gpus_per_node: 0, cpus_per_task: 1, loader_workers: 1}}
profiles: {{laptop: {{}}}}
"""


def _stripes(rng: np.random.Generator, period: int) -> np.ndarray:
    """48 × 48 pixels that can be filled in from their surroundings: one wave of a random phase and direction."""
    y, x = np.mgrid[:48, :48]
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    return 100 + 60 * np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / (4 * period) + phase)


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three experiments of 16 wells (12 genes, 4 controls), 48 × 48 pixels, in RxRx3's layout."""
    root = tmp_path_factory.mktemp("tiny")
    rng, rows = np.random.default_rng(0), []
    for experiment in ("gene-001", "gene-002", "gene-003"):
        folder = root / "images" / experiment / "Plate1"
        folder.mkdir(parents=True)
        for i, gene in enumerate([*GENES, "", "", "", ""]):
            address = f"B{i + 2:02d}"
            for channel in range(1, 7):
                pixels = _stripes(rng, period=6 + i % 4 + channel).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{address}_s1_w{channel}.png")
            rows.append({
                "well_id": f"{experiment}_1_{address}", "experiment_name": experiment, "plate": 1, "address": address,
                "gene": gene, "treatment": f"{gene}_guide_1" if gene else "EMPTY_control", "SMILES": "",
                "concentration": "", "perturbation_type": "CRISPR", "cell_type": "HUVEC",
            })  # fmt: skip
    pd.DataFrame(rows).to_csv(root / "images" / "metadata.csv", index=False)
    pairs = [(a, b) for i, a in enumerate(GENES) for b in GENES[i + 1 :: 4]]
    pd.DataFrame(pairs, columns=["entity1", "entity2"]).to_csv(root / "complexes.csv", index=False)
    return root


@pytest.fixture(scope="session")
def write_tiny_recipe(tiny_images: Path) -> Callable[[Path], Path]:
    """Write the tiny study's recipe into a folder, with its output next to it."""

    def write(folder: Path) -> Path:
        path = folder / "tiny.yaml"
        path.write_text(RECIPE.format(folder=tiny_images, output=folder / "out"))
        return path

    return write


@pytest.fixture
def tiny_recipe_file(write_tiny_recipe: Callable[[Path], Path], tmp_path: Path) -> Path:
    """The tiny study's recipe, with an output folder of its own."""
    return write_tiny_recipe(tmp_path)


@pytest.fixture
def tiny_recipe(tiny_recipe_file: Path) -> Recipe:
    """The tiny study, its shards built."""
    from harness.data.prepare import prepare

    recipe = load(tiny_recipe_file, "laptop")
    prepare(recipe)
    return recipe
