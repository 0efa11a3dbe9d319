"""Speed of the training step for each network, way to compile and peer, and the profile of our best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import torch

from benchmarks.gpu_day.day import Day, Found, Row
from benchmarks.peers import OURS, Peer, StepSetting
from benchmarks.step_profile import profile
from benchmarks.timing import Search, search_here
from benchmarks.train_step import Measurement, config_of, measured
from harness.distributed.engine_choice import Compile
from harness.recipe.gpus import TERA, peak_flops

MODELS = ("L/16", "B/16", "S/16", "L/8", "B/8", "S/8", "L/8 wide heads", "L/8+")  # the most telling first
SMALL_MODELS = ("miniature",)


def ways() -> list[str]:
    """The choices of `launch.compile`."""
    return list(get_args(Compile))


def section_name(model: str, who: str) -> str:
    return f"step {model}, {who}"


def our_name(way: str) -> str:
    return f"ours, compile {way}"


def device(day: Day, earlier: dict[str, Found]) -> Found:
    """What the device is, and the rate of one large product."""
    peak, rate = peak_flops(day.device), day.matmul()
    name = torch.cuda.get_device_name(day.device) if day.device.type == "cuda" else "CPU"
    text = f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}, {torch.get_num_threads()} threads"
    peer = peak / TERA if peak else None
    return Found([Row("one large product", "TFLOP/s", rate / TERA, peer, "dense peak", rate / peak if peak else None)],
                 text=text)  # fmt: skip


def step(model: str, peer: Peer, way: str | None = None) -> Callable[[Day, dict[str, Found]], Found]:
    """The speed at the best batch. Compiling is slow, so a compiled step's search begins at the best batch in eager
    mode, where that is known."""

    def work(day: Day, earlier: dict[str, Found]) -> Found:
        first, largest = (2, 2) if day.small else (32, 4096)
        eager = earlier.get(section_name(model, our_name("none")))
        if way not in (None, "none") and eager is not None:
            first = eager.steps[0].speed.batch
        setting = StepSetting(config_of(model), day.device, day.bf16, first, way or "none")
        speed = search_here(peer, setting, Search(first, largest, day.seconds), torch.get_num_threads())
        name = our_name(way) if way else peer.name
        return Found(steps=[measured(model, name, speed, day.device, day.matmul())])

    return work


def missing(peer: Peer) -> Callable[[Day, dict[str, Found]], Found]:
    """Say that a peer is not installed."""
    row = Row(f"{peer.name}: not installed, pip install {peer.package}", "crops/s", None)
    return lambda day, earlier: Found([row])


def profiled(model: str) -> Callable[[Day, dict[str, Found]], Found]:
    """Where the time of our best step is spent, by kind of kernel."""

    def work(day: Day, earlier: dict[str, Found]) -> Found:
        best = best_of(earlier, model)
        setting = StepSetting(config_of(model), day.device, day.bf16, 2 if day.small else 64)
        if best is not None:
            setting = replace(setting, batch=best.speed.batch, compiled=best.name.rpartition(" ")[2])
        return Found(text=f"{model}, compile {setting.compiled}, batch {setting.batch}\n{profile(setting)}")

    return work


def best_of(earlier: dict[str, Found], model: str) -> Measurement | None:
    """Our fastest step of a network so far."""
    ours = [s for found in earlier.values() for s in found.steps if s.model == model and s.name.startswith(OURS.name)]
    return max(ours, key=lambda step: step.speed.crops_per_second, default=None)
