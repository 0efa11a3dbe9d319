"""One to 128 epochs on tiles of real wells, as a study of its own: what repeats do, and which law they follow.

    python -m benchmarks.repeats_study [--images FOLDER] [--output DIR] [--figure FILE] [--json]

The three CPJUMP1 wells (five fluorescence channels) are cut into tiles of 64 pixels, each of which counts as an image:
32, 128 and 512 to train on, 256 to validate. Three masked autoencoders see them 1, 2, 4, ... 128 times, as annealed
branches of one trunk each. Runs that are no better than predicting each channel's mean have not begun to learn, and are
no points of a law. The law is fitted to all others, and to those of fewer epochs to predict those of more. Beside it,
Muennighoff et al.'s. Run it again with the same output to see the numbers without training again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.arrays import Floats, Mask
from analysis.compute.flops import flops_per_crop
from analysis.design.repeats import best_epochs, in_words, shown_places
from analysis.fitting import averages
from analysis.fitting.estimate import Average, Points, fit_law
from analysis.fitting.intervals import rolling_origin, scale_at
from analysis.fitting.parameters import parameters
from analysis.laws.catalogue import named_law
from analysis.laws.metric import Metric
from benchmarks.laws import row
from benchmarks.repeats_peer import both_factors
from benchmarks.shares import CONFIDENCE, LEAST, MOST, line
from harness import sweep
from harness.grid.cells import cells
from harness.models.architecture import cost_of
from harness.recipe.load import load
from harness.storage import ledger

LOSS = Metric("loss")
SIDE, CHANNELS, PER_EXPERIMENT, TRAINING = 64, 5, 16, 32  # pixels; of the plate; tiles; experiments to train on
EPOCHS, FEWEST = 128, 12  # runs that a law is fitted to
PUBLISHED = 15.4  # repeats that language models profit from (Muennighoff et al. 2023)
BETTER = 0.95  # of the mean predictor's loss: a run that has begun to learn
SEEN = (16, 32, 64)  # epochs up to which runs are fitted, to predict those of more
RECIPE = """\
name: repeats
output: {folder}/runs
prepare:
  build:
    - {{layout: folder, root: {folder}/tiles, output: {folder}/shards, validation_experiments: {validation}}}
datasets:
  u32: {{shards: {folder}/shards, fraction: 0.0625}}
  u128: {{shards: {folder}/shards, fraction: 0.25}}
  u512: {{shards: {folder}/shards}}
models:
  s: {{size: S, patch: 8, width: 32, depth: 2, heads: 2}}
  b: {{size: B, patch: 8, width: 96, depth: 3, heads: 3}}
  l: {{size: L, patch: 8, width: 192, depth: 4, heads: 4}}
mae: {{crop: 64, channels: 5, decoder_width: 64, decoder_depth: 1, decoder_heads: 2, layer_scale: 1.0}}
train:
  epochs: {epochs}
  batch: 8
  learning_rate: 1e-3
  optimiser: {{name: adamw, betas: [0.9, 0.95], weight_decay: 0.05}}
  schedule: {{name: warmup_stable_decay, warmup: 0.005, decay: 0.2, shape: linear, ends: {ends}}}
  precision: fp32
  validations: 8
  validation_wells: 256
grid: {{models: [s, b, l], datasets: [u32, u128, u512], untrained: false, pixel_statistics: false}}
launch: {{executor: local, parallel: 1, device: cpu, loader_workers: 1, cells_per_job: 16}}
profiles: {{laptop: {{}}}}
"""


@dataclass(frozen=True)
class Study:
    """Finished runs: cost per crop in FLOPs, images and crops (n, 3), and the loss on unseen tiles (n,)."""

    points: Points
    learned: Mask  # (n,) whether a run is better than predicting the mean

    @property
    def of_law(self) -> Study:
        """The runs that have begun to learn."""
        return Study(self.points.subset(self.learned), self.learned[self.learned])

    @property
    def epochs(self) -> Floats:
        """Of each run (n,)."""
        return np.asarray(self.points.x[:, 2] / self.points.x[:, 1])


def cut(images: Path, tiles: Path) -> None:
    """Cut the wells into tiles and describe them; experiments are of tiles from all wells, in a fixed random order."""
    import pandas as pd
    import tifffile

    tiles.mkdir(parents=True, exist_ok=True)
    found = []
    for well in sorted(path for path in images.iterdir() if path.is_dir()):
        planes = [tifffile.imread(next(well.glob(f"*-ch{channel}sk*.tiff"))) for channel in range(1, CHANNELS + 1)]
        whole = np.stack(planes)
        for y in range(0, whole.shape[1] - SIDE + 1, SIDE):
            found += [whole[:, y : y + SIDE, x : x + SIDE] for x in range(0, whole.shape[2] - SIDE + 1, SIDE)]
    rows = []
    for number, index in enumerate(np.random.default_rng(0).permutation(len(found))):
        experiment, place = f"e{number // PER_EXPERIMENT:02d}", number % PER_EXPERIMENT
        names = {f"channel:c{channel}": f"{experiment}_{place:02d}_c{channel}.tiff" for channel in range(CHANNELS)}
        for plane, name in zip(found[index], names.values(), strict=True):
            tifffile.imwrite(tiles / name, plane)
        rows.append({"experiment": experiment, "plate": "1", "well": f"{chr(65 + place)}01", **names})
    pd.DataFrame(rows).to_csv(tiles / "wells.csv", index=False)


def trained(images: Path, folder: Path) -> Study:
    """Run the study where it has not been run, and read its runs from the ledger.

    Raises:
        RuntimeError: a cell failed.
    """
    if not (folder / "tiles" / "wells.csv").exists():
        cut(images, folder / "tiles")
    tiles = len((folder / "tiles" / "wells.csv").read_text().splitlines()) - 1
    validation = [f"e{number:02d}" for number in range(TRAINING, tiles // PER_EXPERIMENT)]
    ends = [epochs / EPOCHS for epochs in 2 ** np.arange(int(np.log2(EPOCHS)) + 1)]
    file = folder / "repeats.yaml"
    file.write_text(RECIPE.format(folder=folder, validation=validation, epochs=EPOCHS, ends=[float(e) for e in ends]))
    with redirect_stdout(sys.stderr):
        if sweep.main(["run", str(file), "--profile", "laptop"]):
            raise RuntimeError(f"{folder}: not all cells were trained")
    recipe = load(file, "laptop", [])
    found = []
    for cell in cells(recipe):
        done = ledger.read(recipe.output, cell.id, "train") if cell.is_point and cell.architecture else None
        if done is not None and cell.architecture is not None:
            cost = flops_per_crop("mae_train", cost_of(cell.architecture))
            names = ("wells", "crops", "validation_loss", "mean_predictor_loss")
            found.append((cost, *(done.values[name] for name in names)))
    table = np.array(found, dtype=np.float64)
    return Study(Points(table[:, :3], table[:, 3]), np.asarray(table[:, 3] < BETTER * table[:, 4]))


def worth(points: Points) -> dict[str, Any]:
    """How many repeats are worth as much as new images: the low end of R's interval in Muennighoff et al.'s law."""
    fitted = fit_law(named_law("data_constrained"), points, LOSS)
    found = next(one for one in parameters(fitted, points, CONFIDENCE) if one.name == "R")
    name = "repeats after which a further one is worth 1/e of a new tile, low end"
    return row(name, "repeats", found.low, PUBLISHED, "text, Muennighoff et al.", PUBLISHED, found.low >= PUBLISHED)


def rows(study: Study) -> list[dict[str, Any]]:
    """Runs of more epochs predicted from those of fewer, beside the peer's law."""
    found = []
    for most in SEEN:
        few = study.epochs < most * 1.01
        train, rest = study.points.subset(few), study.points.subset(~few)
        if len(train) < FEWEST or not len(rest):
            continue
        law, z = averages.fit(train, LOSS), np.log(rest.y)
        off = np.abs(law.log_or_linear(rest.x) - z)
        scale = scale_at(law, train, rest.x, rolling_origin(train, LOSS, "auto"), confidence=CONFIDENCE)
        error, covered = float(np.sqrt(np.mean(off**2))), float(np.mean(off <= scale.half_width))
        peer = float(np.sqrt(np.mean((both_factors(train)(rest.x) - z) ** 2)))
        name = f"{len(rest)} runs of more than {most} epochs from {len(train)} of fewer"
        found.append(row(f"{name}: RMSE", "log loss", error, peer, "Muennighoff et al.", peer, error <= peer))
        found.append(row(f"{name}: 90% intervals", "coverage", covered, CONFIDENCE, "stated", LEAST,
                         LEAST <= covered <= MOST))  # fmt: skip
    return found


def draw(study: Study, law: Average, path: Path) -> None:
    """Loss against crops seen: a panel for each model; a colour for each number of tiles; open: nothing learned yet."""
    from matplotlib.figure import Figure

    from analysis.figures.style import COLOURS, styled

    costs, images = (np.unique(study.points.x[:, column]) for column in (0, 1))
    with styled():
        figure = Figure(figsize=(7.2, 2.6), layout="constrained")
        panels = figure.subplots(1, len(costs), sharey=True, sharex=True)
        for axes, cost, size in zip(panels, costs, COLOURS, strict=True):
            for unique, colour in zip(images, COLOURS.values(), strict=True):
                own = (study.points.x[:, 0] == cost) & (study.points.x[:, 1] == unique)
                for part, face in ((own & study.learned, colour), (own & ~study.learned, "none")):
                    axes.plot(study.points.x[part, 2], study.points.y[part], "o", color=colour, mfc=face, markersize=4)
                crops = np.geomspace(1e3, unique * EPOCHS, 60)
                places = np.column_stack([np.full(60, cost), np.full(60, unique), crops])
                axes.plot(crops, law.predict(places), color=colour, linewidth=1, label=f"{unique:.0f} tiles")
            axes.set(xscale="log", yscale="log", title=f"model {size}", xlabel="Crops seen")
            axes.set_yticks([0.2, 0.3, 0.4, 0.5], ["0.2", "0.3", "0.4", "0.5"])
            axes.minorticks_off()
        panels[0].set_ylabel("Loss on unseen tiles")
        panels[0].legend(frameon=False)
        figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("SCALING_TEST_DATA", "../shared/data")) / "cpjump1" / "images"
    parser.add_argument("--images", type=Path, default=default, help="folder with a folder of images for each well")
    parser.add_argument("--output", type=Path, help="where the study is run; default: a temporary folder")
    parser.add_argument("--figure", type=Path, help="draw loss against epochs to this file")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if not options.images.is_dir():
        print(f"error: no folder {options.images}; name the images with --images", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        study = trained(options.images, (options.output or Path(temporary)).resolve())
    points = study.of_law.points
    law = averages.fit(points, LOSS)
    for found in best_epochs(law, points, shown_places(points)):
        print(f"{found.unique:.0f} images, {found.size:.3g} FLOPs a crop: {in_words(found)}", file=sys.stderr)
    if options.figure:
        draw(study, law, options.figure)
    found_rows = [worth(points), *rows(study.of_law)]
    print(json.dumps(found_rows, indent=1) if options.json else "\n".join(map(line, found_rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
