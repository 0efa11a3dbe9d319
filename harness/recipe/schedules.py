"""Schedules of the learning rate: one-cycle cosine, and warm-up, stable, decay, whose trunk many ends can share."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Discriminator, Field, JsonValue, Tag, model_validator

from harness.recipe.fields import Fraction, Pair, Section
from harness.recipe.models import ARM, Ratio

COSINE, STABLE = "one_cycle_cosine", "warmup_stable_decay"
DIGITS = 12
"""Of a share of a run: products such as 0.3 × 0.9 are the same number however they come about."""
MOST_ENDS = 50
Shape = Literal["sqrt", "linear", "cosine"]
StartFactor = Annotated[float, Field(gt=0, le=1)]


class OneCycleCosine(Section):
    """One-cycle cosine: cosine warm-up to the peak, cosine decay to the end."""

    name: Literal["one_cycle_cosine"] = "one_cycle_cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="share of the run in which the rate rises")
    start_factor: StartFactor = Field(0.04, description="first rate, as a share of the peak")
    final_factor: Annotated[float, Field(ge=0, le=1)] = Field(4e-6, description="last rate, as a share of the first")
    cycle_momentum: bool = Field(
        False,
        description="the first beta (SGD: the momentum) falls as the rate rises and back, as in torch's OneCycleLR and "
        "the released configuration; the optimiser's own is then unused",
    )
    momentum_range: Pair = Field((0.85, 0.95), description="of a cycled momentum: at the peak, and at both ends")

    @model_validator(mode="after")
    def _ordered(self) -> OneCycleCosine:
        if self.momentum_range[0] > self.momentum_range[1]:
            raise ValueError(f"momentum_range {list(self.momentum_range)} must not fall: at the peak, then at the ends")
        return self

    def identity(self) -> dict[str, JsonValue]:
        """The fields that change a result, as JSON; the momentum's only where it is cycled."""
        return self.model_dump(
            mode="json", exclude=set() if self.cycle_momentum else {"cycle_momentum", "momentum_range"}
        )

    def trunk_identity(self) -> dict[str, JsonValue]:
        """The same: the rates of a run that is stopped on its way are those of the whole run."""
        return self.identity()


class WarmupStableDecay(Section):
    """Linear warm-up to the peak, a constant rate, and for each end a decay to zero (Hägele et al. 2024).

    Runs to different ends share the part before their decay, the trunk, which is trained once.
    """

    name: Literal["warmup_stable_decay"]
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(0.02, description="share of the whole run")
    start_factor: StartFactor = Field(0.04, description="first rate, as a share of the peak")
    decay: Ratio = Field(0.2, description="share of each end's run over which the rate falls to zero")
    shape: Shape = Field(
        "sqrt", description="of the decay: 1 - sqrt(x), 1 - x, or half a cosine, of the share x of the decay"
    )
    ends: Annotated[list[Fraction], Field(min_length=1, max_length=MOST_ENDS)] = Field(
        [1.0], description="shares of the whole run at which a run ends; each is a cell, and they share the trunk"
    )

    @model_validator(mode="after")
    def _fits(self) -> WarmupStableDecay:
        if any(after <= before for before, after in pairwise(self.ends)):
            raise ValueError(f"ends {self.ends} must rise")
        if self.stable_until(self.ends[0]) < self.warmup:
            raise ValueError(
                f"the run that ends at {self.ends[0]:g} decays from {self.stable_until(self.ends[0]):g} of the whole "
                f"run on, before its warm-up ends at {self.warmup:g}: take a smaller warmup or decay, or a later end"
            )
        return self

    def stable_until(self, end: float) -> float:
        """The share of the whole run at which the decay of the run to `end` begins."""
        return round(end * (1 - self.decay), DIGITS)

    def identity(self) -> dict[str, JsonValue]:
        """The fields that change the result of a run to one of the ends, as JSON."""
        return self.model_dump(mode="json", exclude={"ends"})

    def trunk_identity(self) -> dict[str, JsonValue]:
        """The fields that change the trunk, as JSON."""
        return self.model_dump(mode="json", exclude={"ends", "decay", "shape"})


def _arm(value: object) -> str:
    """Whose fields those are: without a name a cosine's, or of the other where that alone has one of them."""
    if isinstance(value, dict):
        of_stable = value.keys() & (WarmupStableDecay.model_fields.keys() - OneCycleCosine.model_fields.keys())
        name = value.get("name", STABLE if of_stable else COSINE)
    else:
        name = getattr(value, "name", COSINE)
    return f"{ARM}{name}"


def ends(schedule: OneCycleCosine | WarmupStableDecay) -> list[float]:
    """The shares of the whole run at which runs end."""
    return schedule.ends if isinstance(schedule, WarmupStableDecay) else [1.0]


Schedule = Annotated[
    Annotated[OneCycleCosine, Tag(f"{ARM}{COSINE}")] | Annotated[WarmupStableDecay, Tag(f"{ARM}{STABLE}")],
    Discriminator(_arm),
]
