"""What a machine could do at best: dense bf16 peaks by GPU, with their sources, and the memory a process has taken.

Vendors print tensor-core rates with 2:4 sparsity, which training does not use; the table holds the dense rates (half
of those) with float32 accumulation, which is what a share of the peak (MFU) is measured against.
"""

from __future__ import annotations

import re
import resource
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TERA = 1e12


@dataclass(frozen=True)
class Peak:
    """Dense bf16 rate of the GPUs whose name, as the driver gives it, matches `pattern` from end to end."""

    pattern: str
    tflops: float
    source: str


_HOPPER = "NVIDIA H100 Tensor Core GPU datasheet"
_ADA = "NVIDIA Ada GPU architecture whitepaper, appendix A"
_AMPERE = "NVIDIA Ampere GA102 GPU architecture whitepaper, appendix A"

PEAKS: tuple[Peak, ...] = (
    Peak(r"(NVIDIA )?A100-?.*", 312.0, "NVIDIA A100 Tensor Core GPU datasheet"),
    Peak(r"(NVIDIA )?A30", 165.0, "NVIDIA A30 datasheet"),
    Peak(r"(NVIDIA )?A10G?", 125.0, "NVIDIA A10 datasheet (A10G: at most this)"),
    Peak(r"(NVIDIA )?A40", 149.7, "NVIDIA A40 datasheet"),
    Peak(r"NVIDIA RTX A6000", 154.8, _AMPERE),
    Peak(r"NVIDIA GeForce RTX 3090", 71.0, _AMPERE),
    Peak(r"NVIDIA H100 PCIe", 756.0, f"{_HOPPER}: 1,513 with sparsity"),
    Peak(r"NVIDIA H100 NVL", 835.5, f"{_HOPPER}: 1,671 with sparsity"),
    Peak(r"NVIDIA H100( 80GB HBM3| SXM.*)?", 989.4, f"{_HOPPER}: 1,979 with sparsity"),
    Peak(r"NVIDIA H200 NVL", 835.5, "NVIDIA H200 datasheet: 1,671 with sparsity"),
    Peak(r"NVIDIA H200( .*)?", 989.4, "NVIDIA H200 datasheet: 1,979 with sparsity"),
    Peak(r"NVIDIA (GH200|H100 96GB)( .*)?", 989.4, "NVIDIA GH200 datasheet: 1,979 with sparsity"),
    Peak(r"NVIDIA B200( .*)?", 2250.0, "NVIDIA HGX B200: 36 PFLOP/s of eight GPUs with sparsity"),
    Peak(r"NVIDIA GB200( .*)?", 2500.0, "NVIDIA GB200 NVL72: 360 PFLOP/s of 72 GPUs with sparsity"),
    Peak(r"NVIDIA L4", 121.0, "NVIDIA L4 datasheet: 242 with sparsity"),
    Peak(r"NVIDIA L40", 181.05, "NVIDIA L40 datasheet"),
    Peak(r"NVIDIA L40S", 362.05, "NVIDIA L40S datasheet"),
    Peak(r"NVIDIA RTX 6000 Ada Generation", 364.25, "NVIDIA RTX 6000 Ada datasheet"),
    Peak(r"NVIDIA GeForce RTX 4090", 165.2, _ADA),
    Peak(r"NVIDIA GeForce RTX 5090", 209.5, "NVIDIA RTX Blackwell GPU architecture whitepaper"),
    Peak(
        r"AMD Instinct MI250X?.*", 191.5, "AMD Instinct MI250X datasheet: 383 for the two dies, each a device to torch"
    ),
    Peak(r"AMD Instinct MI300X.*", 1307.4, "AMD Instinct MI300X datasheet"),
)


def find_peak(device_name: str) -> Peak | None:
    """The entry for a device's name as the driver gives it (`torch.cuda.get_device_name`), or None for one that the
    table has not. Laptop and other variants of a name are not taken for the card itself."""
    return next((peak for peak in PEAKS if re.fullmatch(peak.pattern, device_name.strip())), None)


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 FLOP/s of a CUDA or ROCm device at best; None for a CPU and for a GPU that the table has not."""
    if device.type != "cuda":
        return None
    import torch

    peak = find_peak(torch.cuda.get_device_name(device))
    return peak.tflops * TERA if peak else None


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory taken so far: of a GPU by this process's tensors, on a CPU by the whole process.

    Reads counters that the allocator and the kernel keep anyway: the device is not waited for.
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
