"""GPU types that a plan can be made for: rate, memory, links, power and a price. No torch: `plan` answers at once.

Rates, memory, power and links are the vendor's datasheets (`hardware.PEAKS` names them for the rates); links are one
GPU's bytes a second in one direction, within a node and to other nodes of the vendor's reference server. Prices are a
guess at what an hour is rented for, and a recipe says its own.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """One GPU of a type, and its share of the node around it."""

    name: str
    peak_tflops: float  # dense bf16
    memory_gb: float  # 1e9 bytes
    watts: float  # rated board power
    link_gb_s: float  # to the GPUs of its node
    network_gb_s: float  # to other nodes
    price_per_hour: float


MACHINES: tuple[Machine, ...] = (
    Machine("A100-40GB", 312.0, 42.9, 400.0, 300.0, 25.0, 1.5),  # DGX A100: NVLink 3, a 200 Gb/s port for each GPU
    Machine("A100-80GB", 312.0, 85.9, 400.0, 300.0, 25.0, 2.0),
    Machine("H100-SXM", 989.4, 85.9, 700.0, 450.0, 50.0, 3.0),  # DGX H100: NVLink 4, a 400 Gb/s port for each GPU
    Machine("H100-PCIe", 756.0, 85.9, 350.0, 64.0, 25.0, 2.5),
    Machine("H200-SXM", 989.4, 151.0, 700.0, 450.0, 50.0, 3.5),
    Machine("B200", 2250.0, 193.0, 1000.0, 900.0, 50.0, 5.0),
    Machine("L40S", 362.05, 51.5, 350.0, 32.0, 12.5, 1.2),
    Machine("A10G", 70.0, 25.8, 300.0, 32.0, 3.1, 1.0),  # the A10's rate at the A10G's clock is at most this
)


def machine_named(name: str) -> Machine | None:
    """The type of that name, in any case; None if the table lacks it."""
    return next((machine for machine in MACHINES if machine.name.lower() == name.lower()), None)
