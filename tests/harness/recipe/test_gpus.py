"""Peaks are found by the names that drivers give, and a name that only looks alike finds nothing."""

from __future__ import annotations

import pytest
import torch

from harness.recipe.gpus import PEAKS, find_peak, peak_flops
from harness.train.metrics import peak_memory_bytes


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA B200", 2250),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA L40", 181.05),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165.2),
    ],
)
def test_names_as_drivers_give_them(name: str, tflops: float) -> None:
    peak = find_peak(name)
    assert peak is not None
    assert peak.tflops == tflops


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "Tesla T4", ""])
def test_a_name_that_the_table_has_not_finds_nothing(name: str) -> None:
    """A wrong peak makes a wrong MFU; none is better."""
    assert find_peak(name) is None


def test_every_peak_names_its_source_and_is_dense() -> None:
    """Where a source's rate with sparsity is quoted, ours is half of it."""
    for peak in PEAKS:
        assert peak.source
        quoted = peak.source.rpartition(": ")[2]
        if quoted.endswith(" with sparsity") and "PFLOP" not in quoted:
            assert peak.tflops == pytest.approx(float(quoted.split()[0].replace(",", "")) / 2, rel=1e-3)


def test_a_cpu_has_no_peak_but_memory() -> None:
    before = peak_memory_bytes(torch.device("cpu"))
    held = torch.ones(30_000_000)  # 120 MB, touched
    after = peak_memory_bytes(torch.device("cpu"))
    assert peak_flops(torch.device("cpu")) is None
    assert before > 20e6
    assert after >= max(before, held.nbytes)
