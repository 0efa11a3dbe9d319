"""Time of a training step by kind of kernel (GPU) or operator (CPU)."""

from __future__ import annotations

import re
from collections import defaultdict

import torch
from torch.profiler import ProfilerActivity

from benchmarks.peers import StepSetting, ours
from benchmarks.timing import WARM_UP, wait

STEPS = 3
KINDS = (  # the first that matches a kernel's or operator's name; attention before products, whose names overlap
    ("attention", r"flash|fmha|scaled_dot_product|sdpa|attention"),
    ("optimiser", r"foreach|multi_tensor|lerp|sign"),
    ("Fourier", r"fft|complex|::abs|sgn"),
    ("matrix products", r"gemm|cutlass|nvjet|xmma|::mm|addmm|linear|::bmm|matmul"),
    ("norms", r"layer_?norm|instance_norm|batch_norm"),
    ("fused by the compiler", r"triton"),
    ("copies and casts", r"memcpy|memset|copy_|::to\b|_to_copy|::clone|::cat|direct_copy"),
    ("masking", r"sort|scatter|gather|index|radix"),
    ("activation", r"gelu"),
    ("elementwise", r"elementwise|::add|::mul|::sub|::div|::pow|::fill|::zero|::sum|::mean|reduce"),
)


def profile(setting: StepSetting) -> str:
    """A table of milliseconds and calls per step by kind, most expensive first."""
    step = ours(setting)
    for _ in range(WARM_UP):
        step()
    wait(setting.device)
    on_gpu = setting.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(STEPS):
            step()
        wait(setting.device)
    spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for event in profiler.key_averages():
        micros = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if micros and not (on_gpu and event.key.startswith("aten::")):  # on a GPU, kernels only
            kind = next((kind for kind, names in KINDS if re.search(names, event.key, re.IGNORECASE)), "other")
            spent[kind][0] += micros / STEPS / 1000
            spent[kind][1] += event.count / STEPS
    total = sum(ms for ms, _ in spent.values())
    lines = [f"  {'':<24}{'ms a step':>12}{'share':>8}{'calls':>9}"]
    for kind, (ms, calls) in sorted(spent.items(), key=lambda item: -item[1][0]):
        lines.append(f"  {kind:<24}{ms:>12.2f}{ms / total:>8.1%}{calls:>9.0f}")
    return "\n".join([*lines, f"  {'sum':<24}{total:>12.2f}"])
