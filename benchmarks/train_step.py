"""Crops per second, share of peak FLOP/s and memory of a training step, compared with installed peers.

    python -m benchmarks.train_step [--models S/16,L/8+] [--device cuda] [--compile none,blocks] [--json] [--profile]

Ours and every peer run at their own best batch size, each in its own process. Without a GPU small models run on the
CPU, and the figures that the goals are about are reported as missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from analysis.compute.flops import VitMae, flops_per_crop
from benchmarks.peers import EAGER, OURS, PEERS, StepSetting
from benchmarks.step_profile import profile
from benchmarks.timing import Search, StepSpeed, best_speed, matmul_rate
from harness.models.config import MaeConfig, named_config
from harness.recipe.gpus import peak_flops

# By true MAE FLOPs over the dense bf16 peak of an H100 (989 TFLOP/s); "+" models share their plain model's goal.
# The decoder's heads are 32 wide, which bounds L/8; with 64-wide heads (half as many) its goal is higher.
MFU_GOALS = {"L/8": 0.45, "L/8 wide heads": 0.55, "L/16": 0.50, "B/8": 0.50, "B/16": 0.40, "S/16": 0.30}
EAGER_GOAL, PEER_GOAL = 2.0, 1.0
WIDE_HEADS = {"L/8 wide heads": replace(named_config("L/8"), decoder_heads=8)}
MINIATURE = {  # all parts of S/16, for tries of the benchmarks
    "miniature": replace(named_config("S/16"), width=48, depth=1, heads=3, crop=32, decoder_width=32, decoder_depth=1,
                         decoder_heads=2),
}  # fmt: skip
SMALL = {  # for a CPU: S/16 on a quarter of its crop's area, and a network that takes seconds
    "tiny/16": replace(named_config("S/16"), width=96, depth=4, heads=3, crop=128, decoder_width=128, decoder_depth=2),
    "S/16@128": replace(named_config("S/16"), crop=128),
}


@dataclass(frozen=True)
class Measurement:
    """Ours or a peer on one model."""

    model: str
    name: str
    speed: StepSpeed
    of_peak: float | None  # share of the device's dense bf16 peak, by true MAE FLOPs
    of_matmul: float  # share of the rate of one large product in this run


def config_of(name: str) -> MaeConfig:
    known = SMALL | WIDE_HEADS | MINIATURE
    return known[name] if name in known else named_config(name)


def true_flops(config: MaeConfig) -> float:
    """Of training on one crop (`analysis.compute.flops`, convention mae_train)."""
    fields = VitMae.__dataclass_fields__.keys() & asdict(config).keys()
    return flops_per_crop("mae_train", VitMae(**{name: getattr(config, name) for name in fields}))


def measure(options: argparse.Namespace, matmul: float) -> list[Measurement]:
    """Ours and every peer on every model."""
    device, results = torch.device(options.device), []
    for model in options.models:
        config = config_of(model)
        setting = StepSetting(config, device, options.bf16, options.first_batch)
        search = Search(options.first_batch, options.largest_batch, options.seconds)
        peers = [(f"ours, compile {how}", OURS, replace(setting, compiled=how)) for how in options.compile]
        peers += [(peer.name, peer, setting) for peer in PEERS if peer.is_installed]
        for name, peer, peer_setting in peers:
            speed = best_speed(peer, peer_setting, search)
            results.append(measured(model, name, speed, device, matmul))
            print(_line(results[-1]), file=options.out, flush=True)
    return results


def measured(model: str, name: str, speed: StepSpeed, device: torch.device, matmul: float) -> Measurement:
    """A speed with its shares of the device's peak and of `matmul`, FLOP/s of one large product."""
    rate, peak = speed.crops_per_second * true_flops(config_of(model)), peak_flops(device)
    return Measurement(model, name, speed, rate / peak if peak else None, rate / matmul)


HEAD = f"{'model':<10}{'':<28}{'batch':>7}{'crops/s':>10}{'step ms':>10}{'of peak':>9}{'of matmul':>11}{'peak GB':>9}"


def _line(result: Measurement) -> str:
    speed = result.speed
    of_peak = f"{result.of_peak:.1%}" if result.of_peak is not None else "-"
    numbers = f"{speed.batch:>7}{speed.crops_per_second:>10.2f}{speed.step_ms:>10.1f}{of_peak:>9}"
    return f"{result.model:<10}{result.name:<28}{numbers}{result.of_matmul:>11.1%}{speed.peak_memory_gb:>9.2f}"


def rows(results: list[Measurement], on_gpu: bool) -> list[dict[str, Any]]:
    """The comparison as a list of {name, unit, ours, peer, peer_name, ratio, goal, met}; `met` is null where the goal
    is about a GPU and there is none."""
    comparison: list[dict[str, Any]] = []
    for model in dict.fromkeys(result.model for result in results):
        of_model = [result for result in results if result.model == model]
        best = max((r for r in of_model if r.name.startswith("ours")), key=lambda r: r.speed.crops_per_second)
        for peer in PEERS:
            same = next((r.speed for r in of_model if r.name == peer.name), None)
            target = EAGER_GOAL if peer is EAGER else PEER_GOAL
            rate, memory = (same.crops_per_second, same.peak_memory_gb) if same else (None, None)
            ours = best.speed
            comparison.append(_row(f"{model} speed", "crops/s", ours.crops_per_second, rate, peer.name, target, on_gpu))
            comparison.append(_row(f"{model} memory", "GB", ours.peak_memory_gb, memory, peer.name, None, on_gpu))
        goal = MFU_GOALS.get(model.rstrip("+"))
        met = best.of_peak >= goal if best.of_peak is not None and goal is not None else None
        comparison.append({
            "name": f"{model} MFU", "unit": "share of dense bf16 peak", "ours": best.of_peak, "peer": None,
            "peer_name": "peak in harness/recipe/gpus.py", "ratio": None, "goal": goal, "met": met,
        })  # fmt: skip
    return comparison


def _row(
    name: str, unit: str, ours: float, peer: float | None, peer_name: str, goal: float | None, on_gpu: bool
) -> dict[str, Any]:
    ratio = ours / peer if peer else None
    met = ratio >= goal if ratio is not None and goal is not None and on_gpu else None
    shown = peer_name if peer else f"{peer_name} (not installed)"
    return {
        "name": name, "unit": unit, "ours": ours, "peer": peer, "peer_name": shown, "ratio": ratio, "goal": goal,
        "met": met,
    }  # fmt: skip


def _summary(comparison: list[dict[str, Any]], on_gpu: bool) -> str:
    lines = []
    for row in comparison:
        if row["ratio"] is not None:
            verdict = "" if row["goal"] is None else f", goal {row['goal']:g} {_verdict(row['met'])}"
            lines.append(f"{row['name']}: {row['ratio']:.2f} times {row['peer_name']}{verdict}")
        elif "not installed" in row["peer_name"]:
            lines.append(f"{row['name']}: no comparison, {row['peer_name']}")
        elif row["goal"] is not None:
            reached = f"{row['ours']:.1%}" if row["ours"] is not None else "not measured"
            lines.append(f"{row['name']}: {reached}, goal {row['goal']:.0%} {_verdict(row['met'])}")
    if not on_gpu:
        lines.append("GPU figures are missing: there is no GPU here, and the goals are about an H100.")
    return "\n".join(lines)


def _verdict(met: bool | None) -> str:
    return {True: "(met)", False: "(not met)", None: "(for a GPU)"}[met]


def main() -> int:
    options = _options()
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    where = torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} thread(s)"
    matmul = matmul_rate(device, options.bf16)
    precision = "bf16 autocast" if options.bf16 else "fp32"
    print(
        f"{where}, torch {torch.__version__}, {precision}; one large product: {matmul / 1e12:.3g} TFLOP/s",
        file=options.out,
    )
    print(HEAD, file=options.out)
    results = measure(options, matmul)
    comparison = rows(results, on_gpu)
    print(_summary(comparison, on_gpu), file=options.out)
    if options.profile:
        for model in options.models:
            best = max(
                (r for r in results if r.model == model and r.name.startswith("ours")),
                key=lambda r: r.speed.crops_per_second,
            )
            compiled = best.name.rpartition(" ")[2]
            setting = StepSetting(config_of(model), device, options.bf16, best.speed.batch, compiled)
            print(f"\n{model}, {best.name}, batch {best.speed.batch}\n{profile(setting)}", file=options.out)
    if options.json:
        print(json.dumps(comparison, indent=1))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=_list, help=f"the paper's names, or {', '.join(SMALL)} (default on a CPU)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], help="default: bf16 on a GPU, fp32 on a CPU")
    parser.add_argument("--compile", type=_list, help="ways to compile ours: none, blocks, whole, reduce-overhead")
    parser.add_argument("--first-batch", type=int, help="the search doubles from here")
    parser.add_argument("--largest-batch", type=int)
    parser.add_argument("--seconds", type=float, default=3.0, help="at least this long for each batch")
    parser.add_argument("--profile", action="store_true", help="print where the time of our best step is spent")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON; the table goes to stderr")
    options = parser.parse_args()
    on_gpu = options.device.startswith("cuda")
    options.models = options.models or (["S/16", "B/16", "B/8", "L/16", "L/8", "L/8+"] if on_gpu else list(SMALL))
    options.compile = options.compile or (["none", "blocks"] if on_gpu else ["none"])
    options.first_batch = options.first_batch or (32 if on_gpu else 4)
    options.largest_batch = options.largest_batch or (4096 if on_gpu else 16)
    options.bf16 = (options.precision or ("bf16" if on_gpu else "fp32")) == "bf16"
    options.out = sys.stderr if options.json else sys.stdout
    return options


def _list(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


if __name__ == "__main__":
    sys.exit(main())
