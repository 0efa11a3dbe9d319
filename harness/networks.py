"""From a cell's fields to its network, and to the shape that its cost is counted from.

`build` needs torch and imports it only then; `cost_of` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analysis.flops import System, VitMae
from analysis.systems import MuNet as MuNetCost
from harness.grid import Cell, model_kind, model_shape
from harness.models.config import MaeConfig, Pool

if TYPE_CHECKING:
    from harness.models.mu_net import MuNetConfig
    from harness.models.network import Network

MU_NET = ("widths", "blocks", "kernel", "crop", "channels")


def build(cell: Cell, pool: Pool = "mean") -> Network:
    """The network of a cell, its weights drawn from torch's global generator.

    Raises:
        ValueError: the cell has no network.
    """
    kind = model_kind(cell)
    if kind == "mu_net":
        from harness.models.mu_net import MuNet

        return MuNet(mu_net_config(cell, pool))
    if kind == "mae_vit":
        from harness.models.mae import MaskedAutoencoder

        return MaskedAutoencoder(config_of(cell, pool))
    raise ValueError(f"cell {cell.id} has no network")


def config_of(cell: Cell, pool: Pool = "mean") -> MaeConfig:
    """The configuration of a cell whose model is a MAE-ViT."""
    own = ("drop_path", "layer_scale", "qk_norm", "position_temperature")
    chosen = _fields(cell, *own, "fourier_weight", "fourier_mode", "fourier_norm")
    return MaeConfig(**model_shape(cell), **chosen, pool=pool)


def mu_net_config(cell: Cell, pool: Pool = "mean") -> MuNetConfig:
    """The configuration of a cell whose model is a MU-net."""
    from harness.models.mu_net import MuNetConfig

    fields = _fields(cell, *MU_NET, "mask_ratio", "mask_patch")
    return MuNetConfig(**fields | {"widths": tuple(fields["widths"])}, pool=pool)


def cost_of(cell: Cell) -> System:
    """What a cell's compute is counted from. No torch.

    Raises:
        ValueError: the cell has no network.
    """
    if model_kind(cell) == "mu_net":
        fields = _fields(cell, *MU_NET)
        return MuNetCost(**fields | {"widths": tuple(fields["widths"])})
    return VitMae(**model_shape(cell))


def _fields(cell: Cell, *names: str) -> dict[str, Any]:
    assert cell.architecture is not None
    return {name: cell.architecture[name] for name in names}
