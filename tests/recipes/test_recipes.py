"""The recipes in `recipes/`: each is valid under both profiles, has the paper's settings, and runs in miniature."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from harness.grid.cells import cells
from harness.models.layers.timm_import import import_timm
from harness.plan.cost import plan_cells
from harness.plan.shared import shared_work
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.stages.run import run_cell
from harness.storage import ledger

FOLDER = Path(__file__).parents[2] / "recipes"
OTHERS = {"scaling", "scaling_annealed", "jump_wells", "jump_channels"}
ROWS = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem not in OTHERS)
TABLE6 = {  # supplement, Table 6: the entries with a number
    "densenet": ["rxrx1", "rxrx3"], "densenet_adabn": ["rxrx1", "rxrx3"], "densenet_adabn_1024": ["rxrx1", "rxrx3"],
    "mu_net_m": ["rxrx3"], "mu_net_l": ["rxrx3", "rpi_52m", "rpi_93m"], "vit_s16": ["rxrx3", "rpi_52m"],
    "vit_b16": ["rxrx3", "rpi_52m"], "vit_b8": ["rpi_52m"], "vit_l16": ["rxrx3", "rpi_52m"],
    "vit_l8_plus": ["rpi_52m", "rpi_93m"],
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("profile", ["slurm", "laptop"])
def test_a_recipe_is_valid_and_its_header_states_cost_and_result(name: str, profile: str) -> None:
    if profile == "slurm":  # the laptop profile can be planned only after its demo assay is rendered
        assert plan_cells(load(FOLDER / f"{name}.yaml", profile), cells(load(FOLDER / f"{name}.yaml", profile)))
    assert cells(load(FOLDER / f"{name}.yaml", profile))
    header = (FOLDER / f"{name}.yaml").read_text().split("\nname:")[0]
    for word in ("Cost", "Expect", "laptop profile"):
        assert word in header


def test_table6_trains_a_cell_for_each_number_and_the_row_recipes_train_the_same_cells() -> None:
    table6 = load(FOLDER / "table6.yaml", "slurm")
    ids = {(c.model, c.dataset): c.id for c in cells(table6) if c.kind == "trained"}
    assert set(ids) == {(model, dataset) for model, datasets in TABLE6.items() for dataset in datasets}
    for name in ROWS:
        rows = [c for c in cells(load(FOLDER / f"{name}.yaml", "slurm")) if c.kind == "trained"]
        for cell in rows if name != "ca_mae_l16_plus" else []:
            assert ids[cell.model, cell.dataset] == cell.id


def test_the_annealed_study_is_the_grid_of_the_cosine_one_with_four_ends_of_each_run() -> None:
    """140 points for 35; its header says what the plan says: 98.9 G crops apart, 62.0 G together."""
    cosine, annealed = (load(FOLDER / f"{name}.yaml", "slurm") for name in ("scaling", "scaling_annealed"))
    runs = [(c.model, c.dataset) for c in cells(cosine) if c.kind == "trained"]
    branches = [(c.model, c.dataset) for c in cells(annealed) if c.kind == "trained"]
    assert sorted(branches) == sorted(runs * 4)
    work = shared_work(plan_cells(annealed, cells(annealed)))
    assert work is not None
    header = (FOLDER / "scaling_annealed.yaml").read_text().split("\nname:")[0]
    assert f"{work.crops_apart / 1e9:.1f} G crops and {work.gpu_hours_apart:,.0f} A100 hours" in header
    assert f"{work.crops / 1e9:.1f} G and {work.gpu_hours:,.0f} ({work.share:.0%} less" in header


def test_table6_has_the_papers_settings() -> None:
    """Supplement A.2.1, A.2.2 and A.2.3."""
    recipe = load(FOLDER / "table6.yaml", "slurm")
    by_model = {c.model: c for c in cells(recipe) if c.kind == "trained"}
    for name, cell in by_model.items():
        assert cell.training is not None
        optimiser, rate = cell.training.optimiser, cell.training.learning_rate
        if name.startswith("densenet"):
            assert (optimiser.identity(), rate) == ({"name": "sgd", "momentum": 0.9, "weight_decay": 1e-5}, 0.32768)
            assert cell.architecture is not None
            assert cell.architecture.model.group == 16
        elif name.startswith("mu_net"):
            assert (optimiser.name, optimiser.weight_decay, rate) == ("adamw", 0.05, 1e-3)
        else:
            assert (optimiser.name, rate) == ("lion", 3e-5 if "_l" in name else 1e-4)
    assert recipe.train.schedule.warmup == 0.1


EPOCHS = {"rxrx1": 100, "rxrx1_2m": 100, "rxrx3": 50, "rpi_52m": 50, "rpi_93m": 50}


@pytest.mark.parametrize("name", ["scaling", *ROWS])
def test_epochs_are_fixed_on_rxrx_and_only_rpi_stops_early(name: str) -> None:
    """Supplement A.2: 100, 100 and 50 epochs for RxRx1, RxRx1-2M and RxRx3, up to 50 on RPI with early stopping."""
    for cell in cells(load(FOLDER / f"{name}.yaml", "slurm")):
        if cell.training is not None and cell.dataset is not None:
            assert cell.training.epochs == EPOCHS[cell.dataset]
            assert (cell.training.early_stopping is not None) == cell.dataset.startswith("rpi_")


def miniature(tiny: Recipe, name: str) -> list[str]:
    """Return overrides that replace the demo assay with the tiny study."""
    build = tiny.prepare.build[0]
    build_fields = f"{{layout: rxrx3, root: {build.root}, output: {build.output}, "
    build_fields += "validation_fraction: 0.34, wells_per_shard: 16}"
    assert tiny.evaluate is not None
    pairs = tiny.evaluate.relationships["complexes"]
    return [
        f"output={tiny.output.parent / name}", "prepare.assay=null", f"prepare.build=[{build_fields}]",
        f"datasets.assay={{shards: {build.output}}}", f"embed={{shards: {build.output}}}",
        f"evaluate={{relationships: {{complexes: {pairs}}}, bootstrap: 20}}", "launch.device=cpu",
        "launch.cells_per_job=40", "launch.parallel=1", "train.epochs=1", "train.validations=1",
        "grid.untrained=false",
    ]  # fmt: skip


def add_external_rows(recipe: Recipe, folder: Path) -> list[str]:
    """Write the files that two rows need (timm weights, a table of profiles); return overrides that add the rows."""
    torch.manual_seed(0)
    narrow = {"img_size": 48, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    net = import_timm().create_model("vit_large_patch16_224", **narrow)
    save_file(net.state_dict(), folder / "imagenet.safetensors")
    wells = pd.read_csv(Path(recipe.prepare.build[0].root) / "metadata.csv")
    identifiers = {"Metadata_Experiment": wells["experiment_name"], "Metadata_Plate": wells["plate"]}
    values = np.random.default_rng(0).normal(size=(len(wells), 8))
    features = {f"Cells_Texture_{n}": column for n, column in enumerate(values.T)}
    table = pd.DataFrame({**identifiers, "Metadata_Well": wells["address"], **features})
    table.to_parquet(folder / "profiles.parquet")
    models = load(FOLDER / "table6.yaml", "slurm").grid.models
    return [
        f"grid.models=[{', '.join(models)}]", f"models.imagenet_vit_l.weights.path={folder}/imagenet.safetensors",
        f"models.cellprofiler.tables=[{folder}/profiles.parquet]",
    ]  # fmt: skip


def check_evaluated(recipe: Recipe) -> None:
    """Assert that every cell has a recall between 0 and 1 in the ledger."""
    for cell in cells(recipe):
        row = ledger.read(recipe.output, cell.id, "evaluate")
        assert row is not None, cell.id
        assert 0 <= row.values["recall"]["complexes"]["recall"] <= 1


@pytest.mark.slow
def test_all_systems_run_from_images_to_a_report(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """The laptop profile of `table6` on the tiny study, with the rows that need files: every kind of model."""
    overrides = miniature(tiny_recipe, "table6") + add_external_rows(tiny_recipe, tmp_path)
    path = FOLDER / "table6.yaml"
    command = [sys.executable, "-m", "harness.sweep", str(path), "--profile", "laptop", *overrides]
    process = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert process.returncode == 0, process.stdout + process.stderr
    recipe = load(path, "laptop", overrides)
    check_evaluated(recipe)
    report = recipe.output / "report"
    assert (report / "recall_versus_compute.png").read_bytes().startswith(b"\x89PNG")
    curves = (report / "curves.csv").read_text()
    assert not any(f",{name}," in curves for name, model in recipe.models.items() if model.is_classifier)
    page = (report / "report.html").read_text()
    assert all(cell.id in page for cell in cells(recipe))


@pytest.mark.slow
def test_a_channel_agnostic_model_runs_from_images_to_recall(tiny_recipe: Recipe) -> None:
    """The laptop profile of its recipe, run in this process."""
    recipe = load(FOLDER / "ca_mae_l16_plus.yaml", "laptop", miniature(tiny_recipe, "ca_mae_l16_plus"))
    for cell in cells(recipe):
        run_cell(recipe.model_dump_json(), cell.id)
    check_evaluated(recipe)
