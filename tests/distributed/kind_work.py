"""The code that each rank runs in `test_kinds`: a few float64 training steps of each kind of network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.distributed.build_engine import build_engine
from harness.distributed.engine import EngineOptions
from harness.distributed.optimiser import build_optimiser
from harness.distributed.ranks import Ranks, process_group
from harness.models.channel_agnostic import ChannelAgnosticMae
from harness.models.channel_agnostic_config import ChannelAgnosticConfig
from harness.models.classifier import DenseNetClassifier, DenseNetConfig, VitClassifier, VitClassifierConfig
from harness.models.interface import Network
from harness.models.layers.masking import masking_noise
from harness.models.layers.sub_batch_norm import plate_statistics, sub_batch_norms
from harness.models.mu_net import MuNet, MuNetConfig

BATCH, STEPS, CHANNELS, CROP, CLASSES = 8, 4, 3, 32, 3
TINY = {"width": 16, "depth": 2, "heads": 2, "patch": 8, "crop": CROP, "channels": CHANNELS, "drop_path": 0.3}
DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
DENSE = {
    "crop": CROP,
    "channels": CHANNELS,
    "classes": CLASSES,
    "group": 4,
    "growth": 4,
    "layers": (2, 2, 2),
}
KINDS: dict[str, Callable[[], Network]] = {
    "mu_net": lambda: MuNet(MuNetConfig(widths=(8, 16, 24), blocks=1, crop=CROP, channels=CHANNELS, mask_patch=8)),
    "channel_agnostic": lambda: ChannelAgnosticMae(
        ChannelAgnosticConfig(**TINY, **DECODER, train_channels=(0, 2), fourier_weight=0.01)
    ),
    "vit_classifier": lambda: VitClassifier(VitClassifierConfig(**TINY, classes=CLASSES)),
    "densenet": lambda: DenseNetClassifier(DenseNetConfig(**DENSE)),
    "densenet_adabn": lambda: DenseNetClassifier(DenseNetConfig(**DENSE, adaptive=True, embedding=8)),
}


def random_batch(step: int, network: Network) -> tuple[Tensor, Tensor, Tensor]:
    """Return a step's global batch (B, C, S, S), masking noise (B, N), and labels (B,), which only classifiers use."""
    generator = torch.Generator().manual_seed(step)
    crops = torch.randn(BATCH, CHANNELS, CROP, CROP, generator=generator, dtype=torch.float64)
    noise = masking_noise(0, range(step * BATCH, (step + 1) * BATCH), network.config.noise_values)
    return crops, noise, torch.arange(BATCH) % CLASSES


def run_kind(kind: str, engine_name: str, ranks: Ranks) -> dict[str, Any]:
    """Return losses, running statistics, weight sums, and embeddings with running and with plate statistics."""
    torch.manual_seed(0)
    rate, optimiser = (0.02, "sgd") if kind.startswith("densenet") else (1e-3, "adamw")
    engine = build_engine(
        KINDS[kind]().double(), lambda module: build_optimiser(module, optimiser, peak=rate, weight_decay=0.01), ranks,
        EngineOptions(engine_name),
    )  # fmt: skip
    network, part = engine.model.train(), BATCH // ranks.world
    own_crops, losses = slice(ranks.rank * part, (ranks.rank + 1) * part), []
    for step in range(STEPS):
        crops, noise, labels = random_batch(step, network)
        loss = engine.accumulate(crops[own_crops], noise[own_crops], 1.0, last=True, labels=labels[own_crops])
        engine.step(rate)
        network.commit_statistics(None)
        losses.append(float(ranks.mean(loss)))
    network.sync_statistics(ranks.mean)
    network.eval()
    with torch.no_grad():
        crops = random_batch(STEPS, network)[0]
        embedded = {"plain": network.embed(crops)}
        if network.adaptive:
            with plate_statistics(network, lambda: network.embed(crops)):
                embedded["plate"] = network.embed(crops[:2])
    weights = engine.weights()
    results: dict[str, Any] = {"losses": losses, **{name: value.tolist() for name, value in embedded.items()}}
    results["running"] = [float(norm.running_var.sum()) for norm in sub_batch_norms(network)]
    return results | {"weights": {name: float(value.abs().sum()) for name, value in weights.items()}}


def run_kinds(engines: list[str], folder: Path) -> None:
    """Run all kinds under all engines in one process group; the first rank writes the results of each as JSON."""
    with process_group("cpu") as ranks:
        for kind in KINDS:
            for engine in engines:
                results = run_kind(kind, engine, ranks)
                if ranks.is_first:
                    (folder / f"{kind}-{engine}.json").write_text(json.dumps(results))
