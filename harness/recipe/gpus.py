"""GPU types: their dense bf16 rate with its source, and what a plan needs besides: memory, links, power and a price.

Vendors print tensor-core rates with 2:4 sparsity, which training does not use; the table holds the dense rates (half
of those) with float32 accumulation, which is what a share of the peak (MFU) is measured against. Memory, power and
links are the vendor's datasheets; links are one GPU's bytes a second in one direction, within a node and to other nodes
of the vendor's reference server. Prices are a guess at what an hour is rented for; a recipe can state its own.

No torch at import time: `plan` must start fast.
"""

from __future__ import annotations

import re
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
    Peak(r"(NVIDIA )?A10", 125.0, "NVIDIA A10 datasheet"),
    Peak(r"(NVIDIA )?A10G", 70.0, "NVIDIA A10G datasheet: 140 with sparsity"),
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
    """The entry for a device's name as the driver gives it (`torch.cuda.get_device_name`); None if there is none.
    Laptop and other variants of a name are not taken for the card itself."""
    return next((peak for peak in PEAKS if re.fullmatch(peak.pattern, device_name.strip())), None)


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 FLOP/s of a CUDA or ROCm device at best; None for a CPU and for a GPU that the table lacks."""
    if device.type != "cuda":
        return None
    import torch

    peak = find_peak(torch.cuda.get_device_name(device))
    return peak.tflops * TERA if peak else None


@dataclass(frozen=True)
class Gpu:
    """One GPU that a plan can be made for, and its share of the node around it."""

    name: str
    peak_tflops: float  # dense bf16
    memory_gb: float  # 1e9 bytes
    watts: float  # rated board power
    link_gb_s: float  # to the GPUs of its node
    network_gb_s: float  # to other nodes
    price_per_hour: float


def _gpu(name: str, driver_name: str, *figures: float) -> Gpu:
    """A type whose rate is that of `PEAKS`; `figures` are the other fields of `Gpu`, in order."""
    peak = find_peak(driver_name)
    assert peak is not None, driver_name
    return Gpu(name, peak.tflops, *figures)


GPUS: tuple[Gpu, ...] = (
    _gpu("A100-40GB", "NVIDIA A100-SXM4-40GB", 42.9, 400.0, 300.0, 25.0, 1.5),  # DGX A100: NVLink 3, 200 Gb/s a GPU
    _gpu("A100-80GB", "NVIDIA A100-SXM4-80GB", 85.9, 400.0, 300.0, 25.0, 2.0),
    _gpu("H100-SXM", "NVIDIA H100 80GB HBM3", 85.9, 700.0, 450.0, 50.0, 3.0),  # DGX H100: NVLink 4, 400 Gb/s a GPU
    _gpu("H100-PCIe", "NVIDIA H100 PCIe", 85.9, 350.0, 64.0, 25.0, 2.5),
    _gpu("H200-SXM", "NVIDIA H200", 151.0, 700.0, 450.0, 50.0, 3.5),
    _gpu("B200", "NVIDIA B200", 193.0, 1000.0, 900.0, 50.0, 5.0),
    _gpu("L40S", "NVIDIA L40S", 51.5, 350.0, 32.0, 12.5, 1.2),
    _gpu("A10G", "NVIDIA A10G", 25.8, 300.0, 32.0, 3.1, 1.0),
)


def gpu_named(name: str) -> Gpu | None:
    """The type of that name, in any case; None if the table lacks it."""
    return next((gpu for gpu in GPUS if gpu.name.lower() == name.lower()), None)
