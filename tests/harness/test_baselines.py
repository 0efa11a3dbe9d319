"""Baselines that no training touches: a network of ImageNet from disk, and profiles measured elsewhere."""

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
from analysis.embeddings.feature_tables import FeatureTableError
from analysis.recall.pairs import read_pairs
from analysis.recall.relationship_recall import relationship_recall
from harness.data.prepare import prepare
from harness.evaluate.measured_profiles import rows_of
from harness.grid.cell_folder import EMBEDDINGS, cell_folder
from harness.grid.cells import Cell, cells
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
    """timm's own network, as narrow as the tests' and with ImageNet's head, its weights drawn at random."""
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
        found = loaded(weights, pool=pool).embed(grey.repeat(1, 6, 1, 1))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_positions_of_another_grid_are_interpolated_as_timm_does(weights: Path) -> None:
    theirs = published(crop=64)
    fit = import_timm().models.vision_transformer.checkpoint_filter_fn
    theirs.load_state_dict(fit(published().state_dict(), theirs))
    crops = torch.randn(2, 3, 64, 64)
    found = loaded(weights, crop=64, channels=3).embed(crops)
    torch.testing.assert_close(found, theirs.forward_features(crops)[:, 1:].mean(1), atol=1e-5, rtol=1e-5)
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
        ({"depth": 1}, r"has 'blocks\.1\.\S+', which this trunk has not"),
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
    """The tiny study with both baselines beside an untrained network; the two cells."""
    narrow = ", ".join(f"{name}: {value}" for name, value in SMALL.items())
    named = ", ".join(str(table) for table in tables)
    recipe = load(file, "laptop", [
        f"models.imagenet={{kind: imagenet, {narrow}, weights: {{name: random, path: {weights}}}}}",
        f"models.measured={{kind: profiles, tables: [{named}]}}",
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
    """Another cell's embeddings as CellProfiler's tables are: shuffled, with other names and wells of other plates."""
    wells, values = read_embeddings(features)
    named = {"Metadata_Experiment": wells["experiment"], "Metadata_Plate": 1, "Metadata_Well": wells["well"]}
    table = pd.DataFrame(named).assign(**{f"Cells_Texture_{n}": column for n, column in enumerate(values.T)})
    table["Metadata_Well"] = table["Metadata_Well"].str.replace("B0", "b")
    other = table[table["Metadata_Experiment"] == "gene-001"].assign(Metadata_Experiment="gene-999")
    pd.concat([table, other]).sample(frac=1, random_state=0).to_csv(path, index=False)


@pytest.mark.slow
def test_both_go_the_studys_way_and_stand_beside_its_cells(
    tiny_recipe_file: Path, tmp_path: Path, weights: Path
) -> None:
    """Plan, ledger, evaluation and points; profiles that are another cell's features recall what that cell does."""
    recipe, net, measured = study(tiny_recipe_file, weights, [tmp_path / "cells.csv.gz"])
    assert [c.kind for c in cells(recipe)].count("trained") == 1
    assert (stages_of(recipe, net), stages_of(recipe, measured)) == (("embed", "evaluate"), ("evaluate",))
    (plan,) = (plan for plan in plan_cells(recipe, cells(recipe)) if plan.cell == net)
    assert (plan.crops, set(plan.flops.values()), plan.run) == (0, {0.0}, None)
    found = run(recipe, net)
    embedded = cell_folder(recipe, net) / EMBEDDINGS
    assert read_embeddings(embedded)[1].shape == (48, 16)
    assert len(read_provenance(embedded)["weights_sha256"]) == 64
    as_profiles(tmp_path / "cells.csv.gz", embedded)
    values = run(recipe, measured)
    assert values["recall"] == found["recall"]
    assert (values["wells"], values["width"]) == (48, 16)
    np.testing.assert_array_equal(*(read_embeddings(cell_folder(recipe, c) / EMBEDDINGS)[1] for c in (net, measured)))
    table = points(recipe, cells(recipe), "mae_train").set_index("model")
    assert set(table["kind"]) == {"imagenet", "profiles"}
    assert table["compute"].isna().all()
    assert not table["trained"].any()
    assert not missing_stages(recipe, net).missing + missing_stages(recipe, measured).missing


@pytest.mark.slow
def test_other_weights_and_tables_are_evaluated_anew_and_missing_ones_named(
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
    assert same.id == net.id  # where weights lie is no part of a cell
    assert not missing_stages(again, same).missing
    save_file({n: v + 1 for n, v in published().state_dict().items()}, tmp_path / "others.safetensors")
    (tmp_path / "others.csv").write_text((tmp_path / "cells.csv").read_text() + "\n")
    other, net, measured = study(tiny_recipe_file, tmp_path / "others.safetensors", [tmp_path / "others.csv"])
    assert missing_stages(other, net).missing == ("embed", "evaluate")
    assert missing_stages(other, measured).missing == ("evaluate",)
    gone, net, _ = study(tiny_recipe_file, tmp_path / "gone.safetensors", [tmp_path / "cells.csv"])
    with pytest.raises(StageError, match=r"gone\.safetensors: cannot be read: No such file"):
        missing_stages(gone, net)


WELLS = pd.DataFrame({"experiment": ["e1", "e1", "e2"], "plate": ["1", "1", "2"], "well": ["A01", "B12", "A01"]})


def rows(tmp_path: Path, text: str, wells: pd.DataFrame = WELLS) -> list[int]:
    from analysis.embeddings.feature_tables import read_wells

    (tmp_path / "table.csv").write_text(text)
    return rows_of(read_wells([tmp_path / "table.csv"]), wells.assign(key=[f"k{n}" for n in wells.index]), "T").tolist()


def test_rows_are_joined_by_what_the_table_names_wells_by(tmp_path: Path) -> None:
    assert rows(tmp_path, "Metadata_Plate,Metadata_Well,x\n2,a1,1\n1,B12,2\n1,A1,3\n,,4\n") == [2, 1, 0]
    assert rows(tmp_path, "experiment,plate,well,x\ne2,2,A01,1\ne1,1,A01,2\ne1,1,B12,3\n") == [1, 2, 0]
    assert rows(tmp_path, "key,Metadata_Well,x\nk2,?,1\nk0,?,2\nk1,?,3\n") == [1, 2, 0]
    both = WELLS.loc[[0, 0, 2]].reset_index(drop=True)  # two fields of view of one well
    assert rows(tmp_path, "Metadata_Plate,Metadata_Well,x\n1,A01,1\n2,A01,2\n", both) == [0, 0, 1]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Metadata_Plate,x\n1,1\n", "joined by Metadata_Plate and Metadata_Well"),
        ("Metadata_Plate,Metadata_Well,x\n1,A01,1\n", r'2 of 3 wells have no row here, first plate "1" well "B12"'),
        ("Metadata_Plate,Metadata_Well,x\n1,A01,1\n1,A1,2\n", r'plate "1" well "A1" comes twice'),
        ("Metadata_Plate,Metadata_Well,x,y,z\n1,A01,1,1,1\n1,B12,,,\n2,A1,1,2,3\n", "1 rows were left out"),
    ],
)
def test_tables_that_do_not_fit_the_wells_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(FeatureTableError, match=complaint):
        rows(tmp_path, text)


def test_plates_of_the_same_name_need_their_experiment(tmp_path: Path) -> None:
    with pytest.raises(FeatureTableError, match="plate 1 is in 2 experiments of the study: add Metadata_Experiment"):
        rows(tmp_path, "Metadata_Plate,Metadata_Well,x\n1,A01,1\n1,B12,2\n", WELLS.assign(plate="1"))


def test_a_baseline_in_a_study_that_has_no_use_for_it_is_refused(tiny_recipe_file: Path) -> None:
    named = ["models.measured={kind: profiles, tables: [x.csv]}", "grid.models=[vit_s16, measured]"]
    with pytest.raises(RecipeError, match=r"grid\.models\.1: 'measured' is never trained, and there is no `evaluate`"):
        load(tiny_recipe_file, "laptop", [*named, "evaluate=null"])
    with pytest.raises(RecipeError, match=r"models\.measured\.tables"):
        load(tiny_recipe_file, "laptop", ["models.measured={kind: profiles, tables: []}"])


TARGETS = ("Metadata_gene", "Metadata_pert_type", "Metadata_control_type")


@pytest.mark.slow
def test_cellprofilers_features_of_real_plates_recall_what_analysis_finds_in_the_files(
    real_data: Path, tiny_recipe_file: Path, tmp_path: Path
) -> None:
    """CPJUMP1: three plates of profiles, as they were published, and shards whose images are blank beside them."""
    tables = sorted((real_data / "cpjump1" / "profiles_U2OS_compound_24h").glob("BR*.csv.gz"))
    found = pd.concat([pd.read_csv(table, low_memory=False) for table in tables], ignore_index=True)
    control = found["Metadata_broad_sample"].isna()  # DMSO
    wells = pd.DataFrame({
        "experiment": "U2OS", "plate": found["Metadata_Plate"], "well": found["Metadata_Well"],
        "gene": found["Metadata_gene"].where(~control).fillna(""), "channel:DNA": "blank.png",
        "treatment": found["Metadata_broad_sample"].fillna("DMSO"),
    })  # fmt: skip
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(images / "blank.png")
    wells.to_csv(images / "wells.csv", index=False)
    source = real_data / "annotations" / "StringDB.txt"
    made = f"layout: folder, root: {images}, output: {tmp_path}/shards, validation_experiments: [U2OS]"
    recipe = load(tiny_recipe_file, "laptop", [
        f"prepare.build=[{{{made}}}]",
        f"embed={{shards: {tmp_path}/shards}}", "grid.models=[measured]", "grid.pixel_statistics=false",
        f"models.measured={{kind: profiles, tables: [{', '.join(map(str, tables))}]}}",
        f"evaluate={{relationships: {{StringDB: {source}}}, control: {{column: treatment, value: DMSO}}, "
        "batch_column: plate, bootstrap: 20}",
    ])  # fmt: skip
    prepare(recipe)
    (cell,) = cells(recipe)
    values = run(recipe, cell)
    features = found.select_dtypes("number").drop(
        columns=[c for c in found if c.startswith("Metadata_")], errors="ignore"
    )
    whole = features.loc[:, np.isfinite(features).all()].to_numpy()
    corrected = apply_named(
        "tvn", whole.astype(np.float32).astype(float), control.to_numpy(), wells["plate"].to_numpy()
    )
    map_ = aggregate(corrected, wells["gene"].tolist(), wells["treatment"].tolist())
    (direct,) = relationship_recall(map_.genes, map_.embeddings, [read_pairs(source, "StringDB")])
    row = json.loads(json.dumps(values))["recall"]["StringDB"]
    assert row["pairs"] == direct.pairs > 50
    assert row["recall"] == pytest.approx(direct.recall, abs=1e-12)
