"""The optimiser's identity, and what it cannot be used with."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from minimal_recipe import MINIMAL

from harness.grid.cells import cells
from harness.recipe.errors import RecipeError
from harness.recipe.load import load
from harness.recipe.optimiser import Optimiser
from harness.recipe.schema import Recipe

OTHERS = {
    "net": {"kind": "mu_net", "mask_patch": 16}, "dense": {"kind": "densenet"},
    "vit": {"kind": "vit_classifier", "width": 48, "depth": 2, "heads": 3, "patch": 16},
}  # fmt: skip


def recipe(folder: Path, *overrides: str, **models: object) -> Recipe:
    path = folder / "recipe.yaml"
    content = yaml.safe_load(MINIMAL)
    content["models"] |= models
    content["grid"]["models"] += list(models)
    path.write_text(yaml.safe_dump(content))
    return load(path, "laptop", overrides)


def cell_id(folder: Path, *overrides: str, **models: object) -> str:
    return next(cell.id for cell in cells(recipe(folder, *overrides, **models)) if cell.kind == "trained")


@pytest.mark.parametrize(
    ("optimiser", "expected"),
    [
        (Optimiser(name="sgd"), {"name": "sgd", "momentum": 0.9, "weight_decay": 0.05}),
        (Optimiser(name="adamw"), {"name": "adamw", "betas": [0.9, 0.95], "weight_decay": 0.05}),
        (
            Optimiser(name="muon", rest="lion"),
            {"name": "muon", "rest": "lion", "momentum": 0.95, "betas": [0.9, 0.95], "weight_decay": 0.05},
        ),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_identity_has_the_fields_that_are_used(optimiser: Optimiser, expected: dict[str, object]) -> None:
    assert optimiser.identity() == expected
    given = {"momentum": optimiser.momentum_used} if "momentum" in expected else {}
    assert optimiser.model_copy(update=given).identity() == expected


@pytest.mark.parametrize(
    ("overrides", "models", "message"),
    [
        (["train.optimiser.name=muon"], ["net"],
         "train.optimiser.name: for the model net: muon needs hidden matrices, which mu_net does not have: use adamw"),
        (["train.optimisers.dense={name: muon}"], ["dense"], "train.optimisers.dense.name: for the model dense: muon"),
        (["train.optimiser.name=muon", "launch.engine=deepspeed"], [],
         "launch.engine: the model vit_s16 trains with muon needs whole matrices, and DeepSpeed"),
        (["train.optimiser.name=sgd", "mae.parametrisation=mup"], [],
         "train.optimiser.name: for the model vit_s16: mae.parametrisation is mup, which is not derived for sgd"),
        (["mae.parametrisation=mup"], ["net"], "models.net.kind: mae.parametrisation is mup, which mu_net does not"),
        (["mae.parametrisation=mup"], ["dense"], "models.dense.kind: mae.parametrisation is mup, which densenet does"),
        (["mae.parametrisation=mup", "mae.qk_norm=false"], [], "models.vit_s16.heads: 3 must be width / 64 where mae"),
        (["mae.parametrisation=mup", "mae.qk_norm=false"], ["vit"], "models.vit.heads: 3 must be width / 64 where mae"),
        (["mae.base_width=0"], [], "mae.base_width: input should be greater than 0"),
        (["mae.parametrisation=muP"], [], "mae.parametrisation: input should be 'standard' or 'mup'"),
        (["train.optimiser={name: muon, rest: sgd}"], [], "train.optimiser.rest: input should be 'adamw' or 'lion'"),
        (["train.optimiser={name: muon, momentum: 1}"], [], "train.optimiser.momentum: input should be less than 1"),
    ],
    ids=lambda value: ";".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(
    tmp_path: Path, overrides: list[str], models: list[str], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(tmp_path, *overrides, **{name: OTHERS[name] for name in models})
    assert message.lower() in str(caught.value).lower()


@pytest.mark.parametrize("kind", ["vit_s16", "vit"])
def test_the_base_is_part_of_an_id_only_under_mup(tmp_path: Path, kind: str) -> None:
    def identity(*overrides: str) -> object:
        found = cells(recipe(tmp_path, *overrides, vit=OTHERS["vit"]))
        return next(c.id for c in found if c.kind == "trained" and c.model == kind)

    standard = identity()
    assert identity("mae.base_width=48", "mae.base_depth=2") == standard
    mup = identity("mae.parametrisation=mup")
    assert mup != standard
    assert len({mup, *(identity("mae.parametrisation=mup", f"mae.base_{name}=6") for name in ("width", "depth"))}) == 3


def test_fields_of_muon_are_part_of_an_id_only_under_muon(tmp_path: Path) -> None:
    assert cell_id(tmp_path, "train.optimiser.rest=lion", "train.optimiser.momentum=0.5") == cell_id(tmp_path)
    muon = "train.optimiser.name=muon"
    ids = {cell_id(tmp_path, muon, *more) for more in (
        [], ["train.optimiser.rest=lion"], ["train.optimiser.momentum=0.9"], ["train.optimiser.momentum=0.95"]
    )}  # fmt: skip
    assert len(ids) == 3
