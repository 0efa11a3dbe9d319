"""Baselines without training: an ImageNet network from disk, and measured profiles (`evaluate/measured_profiles`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from analysis.compute.systems import PlainVit
from analysis.embeddings.aggregate import aggregate
from analysis.embeddings.corrections import apply_named
from analysis.recall.pairs import read_pairs
from analysis.recall.relationship_recall import relationship_recall
from harness.data.prepare import prepare
from harness.grid.cell import Cell
from harness.grid.cell_folder import EMBEDDINGS, cell_folder
from harness.grid.cells import cells
from harness.models.encoder_file import EncoderFileError
from harness.models.imagenet import ImagenetConfig, ImagenetVit
from harness.models.layers.timm_import import import_timm
from harness.models.pretrained import load_pretrained
from harness.plan.cost import plan_cells
from harness.recipe.errors import RecipeError
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.report.points import points
from harness.stages.missing import StageError, missing_stages, stages_of
from harness.stages.run import run_cell
from harness.storage import ledger
from harness.storage.embeddings import read_embeddings, read_provenance

TINY = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8}
SMALL = {"width": 16, "depth": 2, "heads": 2, "patch": 8}


def published(crop: int = 48, channels: int = 3) -> torch.nn.Module:
    """timm's network with random weights and the ImageNet head, as narrow as the other networks of these tests."""
    torch.manual_seed(0)
    return import_timm().create_model("vit_large_patch16_224", img_size=crop, in_chans=channels, **TINY).eval()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_file(published().state_dict(), tmp_path / "imagenet.safetensors")
    return tmp_path / "imagenet.safetensors"


def loaded(path: Path, **changes: int | str) -> ImagenetVit:
    net = ImagenetVit(ImagenetConfig(**{**SMALL, "crop": 48, **changes})).eval()
    load_pretrained(net.trunk, path, net.config.channels)
    return net


@torch.no_grad()
def test_six_equal_channels_are_embedded_as_timm_embeds_a_grey_image(weights: Path) -> None:
    grey = torch.randn(2, 1, 48, 48)
    tokens: Tensor = published().forward_features(grey.repeat(1, 3, 1, 1))
    for pool, expected in (("mean", tokens[:, 1:].mean(1)), ("class", tokens[:, 0])):
        embeddings = loaded(weights, pool=pool).embed(grey.repeat(1, 6, 1, 1))
        torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_positions_of_another_grid_are_interpolated_as_timm_does(weights: Path) -> None:
    reference = published(crop=64)
    fit = import_timm().models.vision_transformer.checkpoint_filter_fn
    reference.load_state_dict(fit(published().state_dict(), reference))
    crops = torch.randn(2, 3, 64, 64)
    embeddings = loaded(weights, crop=64, channels=3).embed(crops)
    torch.testing.assert_close(embeddings, reference.forward_features(crops)[:, 1:].mean(1), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"\(2, 3, 64, 64\): this model takes \(2, 3, 48, 48\)"):
        loaded(weights, channels=3).embed(crops)


def test_the_published_count_and_the_closed_form() -> None:
    """timm's table gives vit_large_patch16_224 304,326,632 parameters, 1,025,000 of them in the head."""
    assert PlainVit(1024, 24, 16, 16, crop=224, channels=3).parameters() == 304_326_632 - 1_025_000
    with torch.device("meta"):
        net = ImagenetVit(ImagenetConfig(1024, 24, 16, 16))
    assert sum(p.numel() for p in net.parameters()) == PlainVit(1024, 24, 16, 16).parameters()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"width": 24}, r"cls_token has shape \(1, 1, 16\), this trunk's has \(1, 1, 24\)"),
        ({"depth": 1}, r"has 'blocks\.1\.\S+', which this trunk does not have"),
        ({"depth": 3}, r"lacks 'blocks\.2\.\S+'"),
        ({"patch": 16}, r"patch_embed\.proj\.weight has shape \(16, 3, 8, 8\), this trunk's has \(16, 6, 16, 16\)"),
    ],
)
def test_weights_of_another_network_are_refused(weights: Path, change: dict[str, int], complaint: str) -> None:
    with pytest.raises(EncoderFileError, match=complaint):
        loaded(weights, **change)


def test_weights_that_hold_nan_or_no_known_format_are_refused(tmp_path: Path) -> None:
    state = published().state_dict()
    state["norm.bias"] = state["norm.bias"] + float("nan")
    torch.save(state, tmp_path / "broken.pt")
    with pytest.raises(EncoderFileError, match=r"norm\.bias holds NaN"):
        loaded(tmp_path / "broken.pt")
    with pytest.raises(EncoderFileError, match=r"'\.npz' is no known format"):
        loaded(tmp_path / "jax.npz")


def study(file: Path, weights: Path, tables: Sequence[Path], *overrides: str) -> tuple[Recipe, Cell, Cell]:
    """The tiny study with both baselines and an untrained network, and the cells of the two baselines."""
    narrow = ", ".join(f"{name}: {value}" for name, value in SMALL.items())
    paths = ", ".join(str(table) for table in tables)
    recipe = load(file, "laptop", [
        f"models.imagenet={{kind: imagenet, {narrow}, weights: {{name: random, path: {weights}}}}}",
        f"models.measured={{kind: profiles, tables: [{paths}]}}",
        "grid.models=[vit_s16, imagenet, measured]", "grid.exclude=[{model: vit_s16, dataset: one}]",
        "train.learning_rate={vit_s16: 1e-3}", "launch.nodes={vit_s16: 1}", *overrides,
    ])  # fmt: skip
    prepare(recipe)
    return recipe, *(next(c for c in cells(recipe) if c.kind == kind) for kind in ("pretrained", "profiles"))


def run(recipe: Recipe, cell: Cell) -> dict[str, object]:
    run_cell(recipe.model_dump_json(), cell.id)
    row = ledger.read(recipe.output, cell.id, "evaluate")
    assert row is not None
    return row.values


def as_profiles(path: Path, features: Path) -> None:
    """Write another grid cell's embeddings as a CellProfiler table: shuffled, with other names and more plates."""
    wells, values = read_embeddings(features)
    metadata = {"Metadata_Experiment": wells["experiment"], "Metadata_Plate": 1, "Metadata_Well": wells["well"]}
    table = pd.DataFrame(metadata).assign(**{f"Cells_Texture_{n}": column for n, column in enumerate(values.T)})
    table["Metadata_Well"] = table["Metadata_Well"].str.replace("B0", "b")
    other = table[table["Metadata_Experiment"] == "gene-001"].assign(Metadata_Experiment="gene-999")
    pd.concat([table, other]).sample(frac=1, random_state=0).to_csv(path, index=False)


@pytest.mark.slow
def test_both_baselines_are_planned_evaluated_and_reported_like_other_cells(
    tiny_recipe_file: Path, tmp_path: Path, weights: Path
) -> None:
    """Plan, ledger, evaluation and points. Profiles that equal another cell's features have that cell's recall."""
    recipe, net, measured = study(tiny_recipe_file, weights, [tmp_path / "cells.csv.gz"])
    assert [c.kind for c in cells(recipe)].count("trained") == 1
    assert (stages_of(recipe, net), stages_of(recipe, measured)) == (("embed", "evaluate"), ("evaluate",))
    (plan,) = (plan for plan in plan_cells(recipe, cells(recipe)) if plan.cell == net)
    assert (plan.crops, set(plan.flops.values()), plan.run) == (0, {0.0}, None)
    expected = run(recipe, net)
    embedded = cell_folder(recipe, net) / EMBEDDINGS
    assert read_embeddings(embedded)[1].shape == (48, 16)
    assert len(read_provenance(embedded)["weights_sha256"]) == 64
    as_profiles(tmp_path / "cells.csv.gz", embedded)
    values = run(recipe, measured)
    assert values["recall"] == expected["recall"]
    assert (values["wells"], values["width"]) == (48, 16)
    np.testing.assert_array_equal(*(read_embeddings(cell_folder(recipe, c) / EMBEDDINGS)[1] for c in (net, measured)))
    table = points(recipe, cells(recipe), "mae_train").set_index("model")
    assert set(table["kind"]) == {"imagenet", "profiles"}
    assert table["compute"].isna().all()
    assert not table["trained"].any()
    assert not missing_stages(recipe, net).missing + missing_stages(recipe, measured).missing


@pytest.mark.slow
def test_changed_weights_and_tables_are_evaluated_again_and_missing_ones_named(
    tiny_recipe_file: Path, tmp_path: Path, weights: Path
) -> None:
    recipe, net, measured = study(tiny_recipe_file, weights, [tmp_path / "cells.csv"])
    with pytest.raises(StageError, match=r"cells\.csv: cannot be read: No such file"):
        missing_stages(recipe, measured)
    run(recipe, net)
    as_profiles(tmp_path / "cells.csv", cell_folder(recipe, net) / EMBEDDINGS)
    run(recipe, measured)
    moved = weights.rename(tmp_path / "moved.safetensors")
    again, same, _ = study(tiny_recipe_file, moved, [tmp_path / "cells.csv"])
    assert same.id == net.id  # the path of the weights is not part of the id
    assert not missing_stages(again, same).missing
    save_file({n: v + 1 for n, v in published().state_dict().items()}, tmp_path / "others.safetensors")
    (tmp_path / "others.csv").write_text((tmp_path / "cells.csv").read_text() + "\n")
    other, net, measured = study(tiny_recipe_file, tmp_path / "others.safetensors", [tmp_path / "others.csv"])
    assert missing_stages(other, net).missing == ("embed", "evaluate")
    assert missing_stages(other, measured).missing == ("evaluate",)
    gone, net, _ = study(tiny_recipe_file, tmp_path / "gone.safetensors", [tmp_path / "cells.csv"])
    with pytest.raises(StageError, match=r"gone\.safetensors: cannot be read: No such file"):
        missing_stages(gone, net)


def test_a_baseline_in_a_study_that_has_no_use_for_it_is_refused(tiny_recipe_file: Path) -> None:
    baseline = ["models.measured={kind: profiles, tables: [x.csv]}", "grid.models=[vit_s16, measured]"]
    with pytest.raises(RecipeError, match=r"grid\.models\.1: 'measured' is never trained, and there is no `evaluate`"):
        load(tiny_recipe_file, "laptop", [*baseline, "evaluate=null"])
    with pytest.raises(RecipeError, match=r"models\.measured\.tables"):
        load(tiny_recipe_file, "laptop", ["models.measured={kind: profiles, tables: []}"])


@pytest.mark.slow
def test_recall_of_real_cellprofiler_profiles_equals_that_of_analysis(
    real_data: Path, tiny_recipe_file: Path, tmp_path: Path
) -> None:
    """CPJUMP1: three plates of profiles as published, with shards of blank images."""
    tables = sorted((real_data / "cpjump1" / "profiles_U2OS_compound_24h").glob("BR*.csv.gz"))
    profiles = pd.concat([pd.read_csv(table, low_memory=False) for table in tables], ignore_index=True)
    control = profiles["Metadata_broad_sample"].isna()  # DMSO
    wells = pd.DataFrame({
        "experiment": "U2OS", "plate": profiles["Metadata_Plate"], "well": profiles["Metadata_Well"],
        "gene": profiles["Metadata_gene"].where(~control).fillna(""), "channel:DNA": "blank.png",
        "treatment": profiles["Metadata_broad_sample"].fillna("DMSO"),
    })  # fmt: skip
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(images / "blank.png")
    wells.to_csv(images / "wells.csv", index=False)
    source = real_data / "annotations" / "StringDB.txt"
    build = f"layout: folder, root: {images}, output: {tmp_path}/shards, validation_experiments: [U2OS]"
    recipe = load(tiny_recipe_file, "laptop", [
        f"prepare.build=[{{{build}}}]",
        f"embed={{shards: {tmp_path}/shards}}", "grid.models=[measured]", "grid.pixel_statistics=false",
        f"models.measured={{kind: profiles, tables: [{', '.join(map(str, tables))}]}}",
        f"evaluate={{relationships: {{StringDB: {source}}}, control: {{column: treatment, value: DMSO}}, "
        "batch_column: plate, bootstrap: 20}",
    ])  # fmt: skip
    prepare(recipe)
    (cell,) = cells(recipe)
    values = run(recipe, cell)
    features = profiles.select_dtypes("number").drop(
        columns=[c for c in profiles if c.startswith("Metadata_")], errors="ignore"
    )
    complete = features.loc[:, np.isfinite(features).all()].to_numpy()
    corrected = apply_named(
        "tvn", complete.astype(np.float32).astype(float), control.to_numpy(), wells["plate"].to_numpy()
    )
    genes = aggregate(corrected, wells["gene"].tolist(), wells["treatment"].tolist())
    (direct,) = relationship_recall(genes.genes, genes.embeddings, [read_pairs(source, "StringDB")])
    row = json.loads(json.dumps(values))["recall"]["StringDB"]
    assert row["pairs"] == direct.pairs > 50
    assert row["recall"] == pytest.approx(direct.recall, abs=1e-12)
