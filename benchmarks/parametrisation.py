"""Whether one learning rate is the best for encoders of every width and depth, with and without muP.

    python -m benchmarks.parametrisation [--optimiser lion adamw muon] [--seeds 1] [--json] [--save RESULTS.json]
    python -m benchmarks.parametrisation --draw RESULTS.json FIGURE.png

A miniature MAE-ViT learns real crops: the five fluorescence channels of the JUMP-CP wells AMG900 and FK-866, that
SCALING_TEST_DATA points to, at half their resolution; the loss is that of crops of the well DMSO. All runs see the same
crops and masks in the same order. A shape's best rate is the minimum of a parabola through the lowest of its losses and
their neighbours, over the logarithm of the rate.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from analysis.figures.text_table import text_table
from benchmarks.parametrisation_figures import transfer_figure
from harness.distributed.optimiser import build_optimiser, set_rates
from harness.models.config import MaeConfig
from harness.models.layers.masking import masking_noise
from harness.models.layers.parametrisation import scaling_of
from harness.models.mae import MaskedAutoencoder
from harness.recipe.models import Parametrisation
from harness.train.schedule import learning_rate
from shards.loader.transform import self_standardise

OptimiserName = Literal["lion", "adamw", "muon"]
WIDTHS, DEPTHS = (32, 64, 128, 256), (1, 2, 4, 8)
MOST_OCTAVES = 1.0  # that the best rate should move
BASE_WIDTH, BASE_DEPTH, HEAD_WIDTH = 64, 2, 16
CROP, CROPS, HELD_OUT = 16, 32, 256
TRAINED, UNSEEN = ("AMG900", "FK-866"), "DMSO"
STEPS = {"lion": 400, "adamw": 200, "muon": 200}  # Lion's rates are lower, so it takes longer to learn anything
START = {"lion": -12, "adamw": -8, "muon": -8}  # log2 of the first rate that is tried; all are powers of two
BASE = MaeConfig(
    width=BASE_WIDTH, depth=BASE_DEPTH, heads=BASE_WIDTH // HEAD_WIDTH, patch=4, crop=CROP, channels=5,
    mask_ratio=0.5, decoder_width=64, decoder_depth=1, decoder_heads=4, base_width=BASE_WIDTH, base_depth=BASE_DEPTH,
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training run and its loss on unseen crops; NaN if it diverged."""

    optimiser: str
    parametrisation: str
    width: int
    depth: int
    rate: float
    loss: float


@dataclass(frozen=True)
class Best:
    """A shape's best rate, in octaves (log2). At an edge of the rates, the lowest loss may lie beyond it."""

    optimiser: str
    parametrisation: str
    width: int
    depth: int
    octave: float
    loss: float
    at_edge: bool


def shapes(widths: Sequence[int], depths: Sequence[int]) -> Iterator[MaeConfig]:
    """Every width at the base depth, and every depth at the base width."""
    for width in widths:
        yield replace(BASE, width=width, heads=width // HEAD_WIDTH)
    for depth in depths:
        if depth != BASE_DEPTH:
            yield replace(BASE, depth=depth)


def train(
    config: MaeConfig, optimiser: OptimiserName, rate: float, *, seed: int = 0, steps: int | None = None
) -> float:
    """The loss on unseen crops after a run under the one-cycle schedule of the recipes; the seed is of the weights."""
    torch.manual_seed(seed)
    steps = steps or STEPS[optimiser]
    model = MaskedAutoencoder(config)
    built = build_optimiser(
        model, optimiser, peak=rate, betas=(0.9, 0.95), momentum=0.95, weight_decay=0.05,
        scaling=scaling_of(config, optimiser),
    )  # fmt: skip
    for step in range(steps):
        set_rates(built, learning_rate(step, steps, rate))
        noise = masking_noise(0, range(step * CROPS, (step + 1) * CROPS), config.noise_values)
        loss = model(_crops("trained", step, CROPS), noise).loss
        if not torch.isfinite(loss):
            return math.nan
        loss.backward()
        built.step()
        built.zero_grad()
    with torch.no_grad():
        noise = masking_noise(1, range(HELD_OUT), config.mask_values)
        return float(model.eval()(_crops("unseen", 0, HELD_OUT), noise).loss)


@cache
def _crops(part: Literal["trained", "unseen"], step: int, count: int) -> Tensor:
    """Self-standardised crops (B, C, S, S) at places drawn for the step."""
    wells = _wells(TRAINED if part == "trained" else (UNSEEN,))  # (W, C, H, W)
    random = np.random.default_rng([part == "unseen", step])
    well = random.integers(0, len(wells), count)
    top, left = (random.integers(0, wells.shape[axis] - CROP + 1, count) for axis in (2, 3))
    cut = [wells[w, :, t : t + CROP, x : x + CROP] for w, t, x in zip(well, top, left, strict=True)]
    return self_standardise(torch.from_numpy(np.stack(cut)), value_range=65535)


@cache
def _wells(names: tuple[str, ...]) -> Any:  # noqa: ANN401  (an array)
    """The wells' fluorescence channels at half their resolution: (W, C, H, W), float32."""
    from shards.images.decode import read_image

    data = Path(os.environ.get("SCALING_TEST_DATA", "../shared/data")) / "cpjump1" / "images"
    files = [[next(iter(sorted((data / name).glob(f"*-ch{c}sk1*"))), None) for c in range(1, 6)] for name in names]
    if any(file is None for well in files for file in well):
        raise FileNotFoundError(
            f"{data}: no JUMP-CP wells; set SCALING_TEST_DATA to the folder that has cpjump1/images"
        )
    images = torch.stack([torch.stack([_plane(read_image(str(f))) for f in well]) for well in files])
    return nn.functional.avg_pool2d(images, 2).numpy()


def _plane(image: Any) -> Tensor:  # noqa: ANN401  (an array)
    return torch.from_numpy(np.asarray(image, dtype=np.float32))


def measure(
    optimisers: Sequence[OptimiserName], widths: Sequence[int], depths: Sequence[int], seeds: int = 1
) -> Iterator[Run]:
    """Every shape under both parametrisations, at rates about its best; losses are means over initial weights."""
    for optimiser in optimisers:
        for parametrisation in get_args(Parametrisation):
            first = START[optimiser]
            for shape in shapes(widths, depths):
                config, losses = replace(shape, parametrisation=parametrisation), dict[int, float]()
                while (octave := next_octave(losses, first)) is not None:
                    trained = [train(config, optimiser, 2.0**octave, seed=seed) for seed in range(seeds)]
                    losses[octave] = sum(trained) / seeds
                    yield Run(optimiser, parametrisation, config.width, config.depth, 2.0**octave, losses[octave])
                first = lowest_octave(losses)


def next_octave(losses: Mapping[int, float], first: int) -> int | None:
    """The next rate to try, as log2: from `first` on, until the best has a neighbour on either side."""
    best = lowest_octave(losses) if losses else first
    return next((octave for octave in (best, best + 1, best - 1) if octave not in losses), None)


def lowest_octave(losses: Mapping[int, float]) -> int:
    """The rate with the lowest loss, as log2; one that diverged counts as the highest."""
    return min(losses, key=lambda octave: losses[octave] if math.isfinite(losses[octave]) else math.inf)


def best_rates(runs: Sequence[Run]) -> list[Best]:
    """The best rate of every shape."""
    groups: dict[tuple[str, str, int, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.optimiser, run.parametrisation, run.width, run.depth), []).append(run)
    return [
        Best(*key, *best_octave([(math.log2(run.rate), run.loss) for run in group])) for key, group in groups.items()
    ]


def best_octave(points: Sequence[tuple[float, float]]) -> tuple[float, float, bool]:
    """Where the losses are lowest, that loss, and whether it is at an edge of the rates.

    Raises:
        ValueError: no loss is finite.
    """
    finite = sorted(point for point in points if math.isfinite(point[1]))
    if not finite:
        raise ValueError("every rate diverged")
    lowest = min(range(len(finite)), key=lambda n: finite[n][1])
    if lowest in (0, len(finite) - 1):
        return *finite[lowest], True
    (x0, y0), (x1, y1), (x2, y2) = finite[lowest - 1 : lowest + 2]
    curvature = (y2 - y1) / (x2 - x1) - (y1 - y0) / (x1 - x0)
    slope = ((y2 - y1) / (x2 - x1) + (y1 - y0) / (x1 - x0)) / 2
    if curvature <= 0:
        return x1, y1, False
    shift = -slope / curvature * (x2 - x0) / 2
    return x1 + shift, y1 + slope * shift / 2, False


def spans(best: Sequence[Best]) -> list[dict[str, str]]:
    """How many octaves the best rate moves, over widths and over depths."""
    rows = []
    for optimiser, parametrisation in dict.fromkeys((b.optimiser, b.parametrisation) for b in best):
        own = [b for b in best if (b.optimiser, b.parametrisation) == (optimiser, parametrisation)]
        row = {"optimiser": optimiser, "parametrisation": parametrisation}
        for axis, other, base in (("width", "depth", BASE_DEPTH), ("depth", "width", BASE_WIDTH)):
            line = sorted((getattr(b, axis), b.octave, b.at_edge) for b in own if getattr(b, other) == base)
            octaves = [octave for _, octave, _ in line]
            row[f"over {axis}s"] = f"{max(octaves) - min(octaves):.2f}" if octaves else ""
            row[f"log2 rate by {axis}"] = " ".join(f"{octave:.1f}{'!' * edge}" for _, octave, edge in line)
        rows.append(row)
    return rows


def as_rows(best: Sequence[Best]) -> list[dict[str, Any]]:
    """How far the best rate moves under mup, beside the standard parametrisation; at most an octave is the goal."""
    found = {(row["optimiser"], row["parametrisation"]): row for row in spans(best)}
    rows = []
    for optimiser in dict.fromkeys(b.optimiser for b in best):
        for axis in ("widths", "depths"):
            texts = [found.get((optimiser, name), {}).get(f"over {axis}", "") for name in ("mup", "standard")]
            ours, peer = (float(text) if text else None for text in texts)
            if ours is not None:
                rows.append({
                    "name": f"{optimiser}: best rate over {axis}", "unit": "octaves", "ours": ours, "peer": peer,
                    "peer_name": "standard", "ratio": ours / peer if peer else None, "goal": MOST_OCTAVES,
                    "met": ours <= MOST_OCTAVES,
                })  # fmt: skip
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.parametrisation", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--optimiser", nargs="+", choices=get_args(OptimiserName), default=["lion", "adamw"])
    parser.add_argument("--widths", nargs="+", type=int, default=WIDTHS)
    parser.add_argument("--depths", nargs="+", type=int, default=DEPTHS)
    parser.add_argument("--seeds", type=int, default=1, help="initial weights whose losses are averaged")
    parser.add_argument("--json", action="store_true", help="print what is concluded as JSON instead of a table")
    parser.add_argument("--save", type=Path, metavar="RESULTS", help="also write every run as JSON")
    parser.add_argument("--draw", nargs=2, type=Path, metavar=("RESULTS", "FIGURE"), help="draw saved JSON instead")
    options = parser.parse_args(arguments)
    if options.draw:
        results, figure = options.draw
        runs = [Run(**{**run, "loss": math.nan if run["loss"] is None else run["loss"]})
                for run in json.loads(results.read_text())["runs"]]  # fmt: skip
        transfer_figure(runs, best_rates(runs), figure)
        print(text_table(spans(best_rates(runs)), ("optimiser", "parametrisation")))
        return 0
    torch.set_num_threads(1)
    runs = []
    for run in measure(options.optimiser, options.widths, options.depths, options.seeds):
        runs.append(run)
        print(f"\r{len(runs)} runs, last {run}", end="", file=sys.stderr, flush=True)
    best = best_rates(runs)
    if options.save:
        shown = [{**asdict(run), "loss": None if math.isnan(run.loss) else run.loss} for run in runs]
        saved = {"seeds": options.seeds, "runs": shown, "best": [asdict(b) for b in best]}
        options.save.write_text(json.dumps(saved, indent=1))
    if options.json:
        print(json.dumps(as_rows(best), indent=1))
    else:
        print(text_table(spans(best), ("optimiser", "parametrisation")))
        print("octaves that the best rate moves; ! marks a best rate at the edge of the rates")
    return 0


if __name__ == "__main__":
    sys.exit(main())
