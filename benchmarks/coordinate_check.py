"""Size of activations, and of their change in training, over widths and depths of the encoder: a coordinate check.

    python -m benchmarks.coordinate_check [--optimiser lion adamw muon] [--widths ...] [--depths ...]
        [--steps 10] [--json] [--save RESULTS.json]
    python -m benchmarks.coordinate_check --draw RESULTS.json FIGURE.png

Yang & Hu (2022), appendix D.1: under muP neither depends on width, so every curve is flat; so it is over depth under
CompleteP (Dey et al. 2025). A few steps on one batch are enough to see it. All shapes start with the same decoder.

Shapes: B crops, L tokens, D width.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from analysis.figures.text_table import text_table
from harness.distributed.optimiser import build_optimiser
from harness.models.config import MaeConfig
from harness.models.layers.masking import masking_noise
from harness.models.layers.parametrisation import scaling_of
from harness.models.mae import MaskedAutoencoder
from harness.recipe.models import Parametrisation

OptimiserName = Literal["lion", "adamw", "muon"]
WIDTHS, DEPTHS = (32, 64, 128, 256, 512, 1024), (2, 4, 8, 16, 24)
FLAT = 1.5  # largest over smallest of what should not depend on the shape
HEAD_WIDTH, CROPS = 16, 16
RATES = {"lion": 2e-4, "adamw": 1e-3, "muon": 1e-3}  # at the base shape
BASE = MaeConfig(
    width=128, depth=4, heads=128 // HEAD_WIDTH, patch=8, crop=32, channels=3, mask_ratio=0.5, decoder_width=64,
    decoder_depth=1, decoder_heads=4, base_width=128, base_depth=4,
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """How to train for a check, once per seed, before the change is measured."""

    parametrisation: Parametrisation
    optimiser: OptimiserName
    steps: int = 10
    seeds: int = 2
    rate: float | None = None  # None: of `RATES`
    layer_scale: float = BASE.layer_scale or 1.0


@dataclass(frozen=True)
class Sizes:
    """One shape's activations: root mean squares over seeds at the start, and of the change, by name."""

    optimiser: str
    parametrisation: str
    axis: str
    size: int  # on that axis
    start: dict[str, float]
    change: dict[str, float]


def at(axis: str, size: int) -> MaeConfig:
    """The base shape with another width, at the same width of a head, or another depth."""
    return replace(BASE, width=size, heads=size // HEAD_WIDTH) if axis == "width" else replace(BASE, depth=size)


def sizes(config: MaeConfig, check: Check, axis: str) -> Sizes:
    """Train one shape for a few steps and measure it."""
    config = replace(config, parametrisation=check.parametrisation, layer_scale=check.layer_scale)
    runs = [_run(config, check, seed) for seed in range(check.seeds)]
    start, change = (
        {name: (sum(run[part][name] ** 2 for run in runs) / len(runs)) ** 0.5 for name in runs[0][part]}
        for part in (0, 1)
    )
    return Sizes(check.optimiser, check.parametrisation, axis, getattr(config, axis), start, change)


def _run(config: MaeConfig, check: Check, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    model = _model(config, seed)
    optimiser = build_optimiser(
        model, check.optimiser, peak=check.rate or RATES[check.optimiser], momentum=0.95, weight_decay=0.05,
        scaling=scaling_of(config, check.optimiser),
    )  # fmt: skip
    crops, noise = _batch(seed), masking_noise(seed, range(CROPS), config.noise_values)
    before = activations(model, crops, noise)
    for _ in range(check.steps):
        optimiser.zero_grad()
        model(crops, noise).loss.backward()
        optimiser.step()
    after = activations(model, crops, noise)
    names = list(before)
    return {name: _rms(before[name]) for name in names}, {name: _rms(after[name] - before[name]) for name in names}


@torch.no_grad()
def _model(config: MaeConfig, seed: int) -> MaskedAutoencoder:
    """A network with the decoder of the base shape, but for the layer that reads the encoder."""
    torch.manual_seed(seed)
    base = MaskedAutoencoder(BASE).state_dict()
    model = MaskedAutoencoder(config)
    same = {name: value for name, value in base.items() if name.startswith("decoder.") and ".embed." not in name}
    model.load_state_dict(model.state_dict() | same)
    return model


def _batch(seed: int) -> Tensor:
    """Smooth random crops of unit variance (B, C, S, S)."""
    generator = torch.Generator().manual_seed(1000 + seed)
    crops = torch.randn(CROPS, BASE.channels, BASE.crop, BASE.crop, generator=generator)
    crops = nn.functional.avg_pool2d(crops, 5, 1, 2)
    return crops / crops.std(dim=(2, 3), keepdim=True)


@torch.no_grad()
def activations(model: MaskedAutoencoder, crops: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """The activations to compare: (B, L, D) of the encoder, and of the decoder, whose width is the same everywhere."""
    modules = {
        "embedded patches": model.encoder.patch_embed, "residual stream": model.encoder.blocks[-1],
        "encoder's output": model.encoder.norm, "decoder's input": model.decoder.embed,
        "prediction": model.decoder.pred,
    }  # fmt: skip
    with _recorded(modules) as kept:
        first = model.encoder.blocks[0].register_forward_pre_hook(lambda _, inputs: kept.update(first=inputs[0]))
        model(crops, noise)
        first.remove()
    return kept | {"sum of the blocks": kept["residual stream"] - kept.pop("first")}


@contextmanager
def _recorded(modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    kept: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
        kept[name] = output

    hooks = [module.register_forward_hook(partial(keep, name)) for name, module in modules.items()]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def measure(
    optimisers: Sequence[OptimiserName], widths: Sequence[int], depths: Sequence[int], seeds: int = 2, steps: int = 10
) -> Iterator[Sizes]:
    """Every shape under both parametrisations."""
    for optimiser in optimisers:
        for parametrisation in get_args(Parametrisation):
            check = Check(parametrisation, optimiser, steps, seeds)
            for axis, values in (("width", widths), ("depth", depths)):
                yield from (sizes(at(axis, size), check, axis) for size in values)


def ratios(measured: Sequence[Sizes]) -> list[dict[str, str]]:
    """The largest over the smallest, over widths and over depths; of the start and of the change."""
    rows = []
    for optimiser, parametrisation, axis in dict.fromkeys((s.optimiser, s.parametrisation, s.axis) for s in measured):
        own = [s for s in measured if (s.optimiser, s.parametrisation, s.axis) == (optimiser, parametrisation, axis)]
        for part in ("start", "change"):
            row = {"optimiser": optimiser, "parametrisation": parametrisation, "over": axis, "of": part}
            rows.append(row | {name: _ratio([getattr(s, part)[name] for s in own]) for name in own[0].start})
    return rows


def _ratio(values: Sequence[float]) -> str:
    return "all 0" if not any(values) else f"{max(values) / min(values):.2f}"


def as_rows(measured: Sequence[Sizes]) -> list[dict[str, Any]]:
    """The same ratios under mup, beside the standard parametrisation; below `FLAT` is the goal."""
    found = {tuple(row[key] for key in ("optimiser", "parametrisation", "over", "of")): row for row in ratios(measured)}
    rows = []
    for (optimiser, parametrisation, axis, part), row in found.items():
        peers = found.get((optimiser, "standard", axis, part), {})
        for name in measured[0].start if parametrisation == "mup" else ():
            if row[name] != "all 0":
                ours, peer = float(row[name]), float(peers[name]) if peers.get(name, "all 0") != "all 0" else None
                rows.append({
                    "name": f"{optimiser}: {part} of the {name} over {axis}s", "unit": "largest over smallest",
                    "ours": ours, "peer": peer, "peer_name": "standard", "ratio": ours / peer if peer else None,
                    "goal": FLAT, "met": ours < FLAT,
                })  # fmt: skip
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coordinate_check", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--optimiser", nargs="+", choices=get_args(OptimiserName), default=get_args(OptimiserName))
    parser.add_argument("--widths", nargs="+", type=int, default=WIDTHS)
    parser.add_argument("--depths", nargs="+", type=int, default=DEPTHS)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10, help="of training, before the change is measured")
    parser.add_argument("--json", action="store_true", help="print what is concluded as JSON instead of a table")
    parser.add_argument("--save", type=Path, metavar="RESULTS", help="also write every size as JSON")
    parser.add_argument("--draw", nargs=2, type=Path, metavar=("RESULTS", "FIGURE"), help="draw saved JSON instead")
    options = parser.parse_args(arguments)
    if options.draw:
        from benchmarks.parametrisation_figures import coordinate_figure

        results, figure = options.draw
        coordinate_figure([Sizes(**entry) for entry in json.loads(results.read_text())], figure)
        return 0
    torch.set_num_threads(1)
    measured = list(measure(options.optimiser, options.widths, options.depths, options.seeds, options.steps))
    if options.save:
        options.save.write_text(json.dumps([asdict(entry) for entry in measured], indent=1))
    if options.json:
        print(json.dumps(as_rows(measured), indent=1))
    else:
        print(text_table(ratios(measured), ("optimiser", "parametrisation", "over", "of")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
