"""How initial values, rates, decay and epsilon of each parameter follow the encoder's shape: width by muP, depth by
CompleteP. Does not import torch. `docs/parametrisation.md` derives every line of `scale`.

Width: Yang & Hu, "Tensor Programs V" (2022), table 3, for optimisers whose update does not depend on the gradient's
scale; for Muon, the spectral condition of Yang, Simon & Bernstein (2023). Depth: Dey et al., "Don't be lazy: CompleteP"
(2025), table 1 with alpha = 1. The decoder has the same shape in all models of a study, so it needs no multiplier.

Legend: m width over base width, l depth over base depth, d width of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from harness.models.config import EncoderConfig
from harness.recipe.models import BASE_HEAD_WIDTH

if TYPE_CHECKING:
    from torch import nn

Role = Literal["input", "vector", "hidden", "block_vector", "layer_scale", "q_gain", "k_gain", "output", "fixed"]
Shape = tuple[int, ...]
Scheme = Literal["mae", "timm", "torch"]
"""How weight matrices begin: Xavier uniform (He et al. 2021), timm's truncated normal, or torch's own default."""
HIDDEN = ("in_proj.weight", "attn_out_proj.weight", "mlp_out_proj.weight")
OUTPUT = ("decoder.embed.", "encoder_decoder_proj.", "head.")  # they read the encoder's width and give a fixed one
LAST = ("decoder.pred.weight", "decoder_pred.weight", "head.weight")


@dataclass(frozen=True)
class Multipliers:
    """What the parametrisation multiplies. At the base shape all are 1, but for the initial value of the layer that
    reads the encoder, which is 0 at every shape.

    Attributes:
        init: the initial value, relative to the standard one at the base shape.
        rate: the learning rate.
        decay: the weight decay. It is 1 / rate, so that the share of a weight that decays in a step does not change.
        epsilon: AdamW's, and the smallest norm that Muon divides by.
    """

    init: float = 1.0
    rate: float = 1.0
    decay: float = 1.0
    epsilon: float = 1.0


UNIT = Multipliers()
Scaling = Callable[[str, Shape], Multipliers]
"""From a parameter's name and shape to its multipliers."""


def standard(name: str, shape: Shape) -> Multipliers:
    """Return the multipliers of the standard parametrisation, all 1."""
    return UNIT


def scaling_of(config: object, optimiser: str) -> Scaling:
    """Return the scaling of a network's parameters under an optimiser: lion, adamw or muon."""
    if not isinstance(config, EncoderConfig) or config.parametrisation == "standard":
        return standard
    return partial(scale, config=config, muon=optimiser == "muon")


def is_hidden_matrix(name: str, shape: Shape) -> bool:
    """Whether Muon updates a parameter: a matrix, except tokens and the last layer. Patch convolutions have 4 axes."""
    return len(shape) == 2 and "token" not in name and not name.endswith(LAST)


def role_of(name: str) -> Role:
    """Return what a parameter is in the encoder: by the names of `MaskedAutoencoder` and `ChannelAgnosticMae`."""
    if name.startswith(OUTPUT):
        return "output"
    if not name.startswith("encoder."):
        return "fixed"
    if ".blocks." not in name:
        return "input" if name.endswith("proj.weight") else "vector"
    ends: dict[Role, str] = {"layer_scale": "ls.gamma", "q_gain": ".q_norm.", "k_gain": ".k_norm."}
    special = [role for role, end in ends.items() if end in name]
    return special[0] if special else "hidden" if name.endswith(HIDDEN) else "block_vector"


def scale(name: str, shape: Shape, config: EncoderConfig, *, muon: bool = False) -> Multipliers:
    """Return a parameter's multipliers under muP and CompleteP.

    The residual scale 1 / l multiplies LayerScale, and 1 / d in place of 1 / sqrt(d) the gain of the queries' norm:
    a factor before a trained vector is the same as that factor on its initial value and its rate. So the forward pass
    is that of the standard parametrisation.

    Args:
        muon: whether Muon updates the hidden matrices, with torch's `match_rms_adamw`; then the rate is relative to
            that, and other parameters have the multipliers of AdamW and Lion.
    """
    m, l = config.width / config.base_width, config.depth / config.base_depth  # noqa: E741
    attention = math.sqrt(BASE_HEAD_WIDTH * config.heads / config.width)
    role = role_of(name)
    is_vector = len(shape) < 2
    by_role: dict[Role, Multipliers] = {
        "input": Multipliers(epsilon=1 / m),
        "vector": Multipliers(epsilon=1 / m),
        "hidden": Multipliers(init=m**-0.5, rate=1 / m, decay=m, epsilon=1 / (m * l)),
        "block_vector": Multipliers(epsilon=1 / (m * l)),
        "layer_scale": Multipliers(init=1 / l, rate=1 / l, decay=l, epsilon=1 / m),
        "q_gain": Multipliers(init=attention, rate=attention, decay=1 / attention, epsilon=1 / (l * attention)),
        "k_gain": Multipliers(epsilon=1 / l),
        "output": UNIT if is_vector else Multipliers(init=0.0, rate=1 / m, decay=m),
        "fixed": UNIT,
    }
    found = by_role[role]
    if not muon or role not in ("hidden", "output") or not is_hidden_matrix(name, shape):
        return found
    rate = _muon_gain(shape) / _muon_gain(base_shape(role, shape, m))
    return replace(found, rate=rate, decay=1 / rate, epsilon=1 / l if role == "hidden" else math.sqrt(m))


def base_shape(role: Role, shape: Shape, m: float) -> tuple[float, ...]:
    """Return rows and columns of a matrix at the base width; a convolution's columns are its inputs times its area."""
    rows, columns = shape[0], math.prod(shape[1:])
    return rows / (m if role in ("hidden", "input") else 1), columns / (m if role in ("hidden", "output") else 1)


def _muon_gain(shape: tuple[float, ...]) -> float:
    """Return the spectral norm that an update should have, sqrt(rows / columns), over the one that it has.

    An orthogonal matrix times torch's `0.2 sqrt(max(rows, columns))` has that norm.
    """
    rows, columns = shape
    return math.sqrt(rows / columns / max(rows, columns))


def scale_initial_values(network: nn.Module, config: EncoderConfig, encoder: Scheme, decoder: Scheme) -> None:
    """Bring freshly initialised parameters to the values of the parametrisation, in place; call it without gradients.

    Args:
        encoder, decoder: how the matrices of the encoder and its head, and of the decoder, were initialised.
    """
    if config.parametrisation == "standard":
        return
    for name, parameter in network.named_parameters():
        scheme = encoder if name.startswith(("encoder.", "head.")) else decoder
        parameter.mul_(initial_factor(name, tuple(parameter.shape), config, scheme))


def initial_factor(name: str, shape: Shape, config: EncoderConfig, scheme: Scheme) -> float:
    """Return the factor from a parameter's standard initial value at its shape to that of the parametrisation."""
    role, m = role_of(name), config.width / config.base_width
    wanted = scale(name, shape, config).init
    if role not in ("input", "hidden", "output"):
        return wanted
    if len(shape) < 2:  # torch draws the bias of a layer with n inputs within 1 / sqrt(n); other schemes leave it at 0
        return math.sqrt(m) if role == "output" else wanted
    if scheme == "timm" and role == "input":
        scheme = "torch"  # which timm keeps for a convolution
    rows, columns = base_shape(role, shape, 1.0)
    return wanted * _spread(scheme, *base_shape(role, shape, m)) / _spread(scheme, rows, columns)


def _spread(scheme: Scheme, rows: float, columns: float) -> float:
    """Return a matrix's initial deviation, up to a constant."""
    return {"mae": math.sqrt(2 / (rows + columns)), "timm": 1.0, "torch": 1 / math.sqrt(columns)}[scheme]
