"""From a cell's fields to its network, and to the shape that its cost is counted from.

`build` needs torch and imports it only then; `cost_of` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analysis.compute import systems
from analysis.compute.flops import System, VitMae
from harness.grid.cells import Cell, model_kind, weights_path
from harness.models.channel_agnostic_config import ChannelAgnosticConfig
from harness.models.config import MaeConfig, Pool
from harness.recipe.models import LATER
from harness.recipe.schema import Recipe

if TYPE_CHECKING:
    from harness.models.interface import Network
    from harness.models.mu_net import MuNetConfig

CHANNEL_AGNOSTIC = (
    "width", "depth", "heads", "patch", "crop", "decoder_width", "decoder_depth", "mask_ratio",
)  # fmt: skip
VIT = ("width", "depth", "heads", "patch", "crop", "channels")
DENSENET = ("crop", "channels", "embedding")
MU_NET = ("widths", "blocks", "kernel", "crop", "channels")


def build(cell: Cell, pool: Pool = "mean", classes: int = 0) -> Network:
    """The network of a cell, its weights drawn from torch's global generator; a classifier's head has `classes`.

    Raises:
        ValueError: the cell has no network.
    """
    kind = model_kind(cell)
    if kind == "mu_net":
        from harness.models.mu_net import MuNet

        return MuNet(mu_net_config(cell, pool))
    if kind == "densenet":
        from harness.models.classifier import DenseNetClassifier, DenseNetConfig

        own = _fields(cell, *DENSENET, "group", "adaptive") | _dense_blocks(cell)
        return DenseNetClassifier(DenseNetConfig(**own, classes=classes))
    if kind == "vit_classifier":
        from harness.models.classifier import VitClassifier, VitClassifierConfig

        return VitClassifier(VitClassifierConfig(_vit_config(cell, pool), classes))
    if kind == "channel_agnostic":
        from harness.models.channel_agnostic import ChannelAgnosticMae

        return ChannelAgnosticMae(channel_agnostic_config(cell, pool))
    if kind == "imagenet":
        from harness.models.imagenet import ImagenetConfig, ImagenetVit

        return ImagenetVit(ImagenetConfig(**_fields(cell, *VIT), pool=pool))
    if kind == "mae_vit":
        from harness.models.mae import MaskedAutoencoder

        return MaskedAutoencoder(config_of(cell, pool))
    raise ValueError(f"cell {cell.id} has no network")


def config_of(cell: Cell, pool: Pool = "mean") -> MaeConfig:
    """The configuration of a cell whose model is a MAE-ViT."""
    own = ("drop_path", "layer_scale", "qk_norm", "position_temperature")
    chosen = _fields(cell, *own, "fourier_weight", "fourier_mode", "fourier_norm")
    return MaeConfig(**model_shape(cell), **chosen, pool=pool)


def initialise(network: Network, recipe: Recipe, cell: Cell) -> None:
    """Fill a network that begins with weights from disk.

    Raises:
        harness.models.encoder_file.EncoderFileError: the file cannot be read safely, or does not fit.
    """
    weights = weights_path(recipe, cell)
    if weights is not None:
        from harness.models.classifier import DenseNetClassifier
        from harness.models.imagenet import ImagenetVit
        from harness.models.pretrained import load_pretrained

        assert isinstance(network, DenseNetClassifier | ImagenetVit)
        load_pretrained(network.trunk, weights, network.config.channels)


def _vit_config(cell: Cell, pool: Pool) -> MaeConfig:
    own = ("drop_path", "layer_scale", "qk_norm", "position_temperature")
    return MaeConfig(**_fields(cell, *VIT, *own), pool=pool)


def mu_net_config(cell: Cell, pool: Pool = "mean") -> MuNetConfig:
    """The configuration of a cell whose model is a MU-net."""
    from harness.models.mu_net import MuNetConfig

    fields = _fields(cell, *MU_NET, "mask_ratio", "mask_patch")
    return MuNetConfig(**fields | {"widths": tuple(fields["widths"])}, pool=pool)


def channel_agnostic_config(cell: Cell, pool: Pool = "mean") -> ChannelAgnosticConfig:
    """The configuration of a cell whose model is a channel-agnostic MAE."""
    own = ("channels", "drop_path", "layer_scale", "qk_norm", "position_temperature", "fourier_weight", "fourier_norm")
    chosen = _fields(cell, *CHANNEL_AGNOSTIC, "decoder_heads", *own)
    return ChannelAgnosticConfig(**chosen, trained=_trained_channels(cell), pool=pool)


def _trained_channels(cell: Cell) -> tuple[int, ...]:
    given = _fields(cell, "channels", "train_channels")
    return tuple(range(given["channels"]) if given["train_channels"] is None else given["train_channels"])


def cost_of(cell: Cell) -> System:
    """What a cell's compute is counted from. No torch.

    Raises:
        ValueError: the cell has no network.
    """
    if model_kind(cell) == "mu_net":
        fields = _fields(cell, *MU_NET)
        return systems.MuNet(**fields | {"widths": tuple(fields["widths"])})
    if model_kind(cell) == "densenet":
        return systems.DenseNet161(**_fields(cell, *DENSENET), **_dense_blocks(cell))
    if model_kind(cell) == "vit_classifier":
        return systems.VitClassifier(VitMae(**_fields(cell, *VIT)))
    if model_kind(cell) == "imagenet":
        return systems.PlainVit(VitMae(**_fields(cell, *VIT)))
    if model_kind(cell) == "channel_agnostic":
        return systems.ChannelAgnosticMae(**_fields(cell, *CHANNEL_AGNOSTIC), channels=len(_trained_channels(cell)))
    return VitMae(**model_shape(cell))


def _dense_blocks(cell: Cell) -> dict[str, Any]:
    """What of a DenseNet's blocks is not as in DenseNet-161 (`recipe_models.LATER`)."""
    assert cell.architecture is not None
    chosen = {name: cell.architecture[name] for name in LATER.intersection(cell.architecture)}
    return chosen | ({"layers": tuple(chosen["layers"])} if "layers" in chosen else {})


def _fields(cell: Cell, *names: str) -> dict[str, Any]:
    assert cell.architecture is not None
    return {name: cell.architecture[name] for name in names}


def model_shape(cell: Cell) -> dict[str, Any]:
    """The fields of `analysis.compute.flops.VitMae` for this cell, whose model is a MAE-ViT."""
    if cell.architecture is None:
        raise ValueError(f"cell {cell.id} has no model")
    wanted = ("width", "depth", "heads", "patch", "crop", "channels", "mask_ratio")
    decoder = ("decoder_width", "decoder_depth", "decoder_heads")
    return {name: cell.architecture[name] for name in (*wanted, *decoder)}
