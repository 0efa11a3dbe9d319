"""The optimiser's section of a recipe, and what an optimiser cannot be used with."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from harness.recipe.fields import Pair, Probability, Section
from harness.recipe.models import Mae, Model

MOMENTUM = {"sgd": 0.9, "muon": 0.95}
USES = {"lion": {"betas"}, "adamw": {"betas"}, "sgd": {"momentum"}, "muon": {"betas", "momentum", "rest"}}
NO_MUON_ON_DEEPSPEED = "muon needs whole matrices, and DeepSpeed keeps flat parts of them: use ddp, hsdp or fsdp"
MATRICES = ("mae_vit", "channel_agnostic", "vit_classifier")  # kinds whose hidden weights are matrices


class Optimiser(Section):
    """Lion and AdamW take `betas`; SGD takes `momentum`; Muon takes `momentum`, and `rest` with its `betas`."""

    name: Literal["lion", "adamw", "sgd", "muon"] = Field("lion", description="the update rule")
    betas: Pair = Field((0.9, 0.95), description="of Lion and AdamW: decay of the running means")
    momentum: Probability | None = Field(None, description="null: 0.9 for SGD, 0.95 for Muon")
    rest: Literal["adamw", "lion"] = Field(
        "adamw", description="under Muon, the optimiser of all that is not a hidden matrix"
    )
    weight_decay: Annotated[float, Field(ge=0, le=1000)] = Field(0.05, description="decoupled, times the learning rate")

    @property
    def momentum_used(self) -> float:
        """The momentum of SGD or Muon, given or usual."""
        return MOMENTUM.get(self.name, 0.0) if self.momentum is None else self.momentum

    def identity(self) -> dict[str, JsonValue]:
        """The fields that this optimiser uses, as JSON."""
        fields: dict[str, Any] = self.model_dump(mode="json", include={"name", "weight_decay", *USES[self.name]})
        return fields | ({"momentum": self.momentum_used} if "momentum" in fields else {})

    def misfit(self, model: Model, mae: Mae) -> str | None:
        """Why this optimiser cannot train a model of a study; None if it can."""
        if self.name == "muon" and model.kind not in MATRICES:
            return f"muon needs hidden matrices, which {model.kind} does not have: use adamw, lion or sgd"
        if self.name == "sgd" and mae.parametrisation == "mup" and model.kind in MATRICES:
            return "mae.parametrisation is mup, which is not derived for sgd: use lion, adamw or muon"
        return None
