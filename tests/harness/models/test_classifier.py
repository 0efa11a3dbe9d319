"""Covers `classifier` and, with `tests/harness/test_baselines.py`, `pretrained`; also the classifiers' data order.

The slow tests run complete tiny studies.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from analysis.compute.systems import DenseNet161, VitClassifierCost
from harness.data.channels import ChannelOrder
from harness.data.labels import plates, read_labels
from harness.data.plate_statistics import adapted, by_plate
from harness.data.shard_sets import open_shards
from harness.data.to_device import StepInput
from harness.distributed.preemption import Preempted
from harness.distributed.ranks import Ranks
from harness.embed.cell import embed_cell
from harness.embed.parts import open_embedding
from harness.grid.cell import Cell
from harness.grid.cell_folder import EMBEDDINGS
from harness.grid.cells import cells
from harness.grid.stage_run import StageRun
from harness.models.architecture import build, cost_of
from harness.models.classifier import DenseNetClassifier, DenseNetConfig
from harness.models.encoder_file import EncoderFileError
from harness.models.layers.timm_import import import_timm
from harness.models.pretrained import load_pretrained
from harness.recipe.errors import RecipeError
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.stages.run import run_cell
from harness.storage import ledger
from harness.storage.embeddings import read_embeddings
from harness.storage.train_log import read_log
from harness.train.loop import train_cell
from harness.train.run import Run
from harness.train.run_spec import build_run_spec
from shards.reader.shard_set import ShardSet

ONE_RANK = Ranks(0, 1, torch.device("cpu"))
AS_STORED = ChannelOrder(tuple("123456"))
SGD = "train.optimisers.net={name: sgd, momentum: 0.9, weight_decay: 1e-5}"
VIT = "models.net={kind: vit_classifier, width: 16, depth: 1, heads: 2, patch: 8, drop_path: 0.1}"
DENSE = "models.net={kind: densenet, group: 4, embedding: 8, growth: 4, layers: [2, 2, 2]}"
SHORT = ["grid.models=[net]", "grid.datasets=[two]", "grid.untrained=false", "grid.pixel_statistics=false"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "classes", "embedding", "blocks"),
    [(3, 1000, None, {}), (6, 1139, 1024, {}), (6, 0, None, {}), (6, 9, 16, {"growth": 12, "layers": (3, 2, 4)})],
)
def test_densenet_counts_match_the_closed_form(
    channels: int, classes: int, embedding: int | None, blocks: dict[str, Any]
) -> None:
    cost = DenseNet161(channels=channels, classes=classes, embedding=embedding, **blocks)
    with torch.device("meta"):
        config = DenseNetConfig(channels=channels, classes=classes, embedding=embedding, **blocks)
        net = DenseNetClassifier(config).eval()
        with FlopCounterMode(display=False) as counter:
            net.embed(torch.empty(1, channels, 256, 256))
    assert sum(p.numel() for p in net.parameters()) == cost.parameters()
    assert counter.get_total_flops() == 2 * cost.dense_forward_macs()
    if (channels, classes) == (3, 1000):
        assert cost.parameters() == 28_681_000  # as published with torchvision's densenet161


def test_a_vit_classifier_has_the_parameters_of_its_cost_model(tiny_recipe_file: Path) -> None:
    recipe = load(tiny_recipe_file, "laptop", [VIT, "grid.models=[net]"])
    (cell,) = (cell for cell in cells(recipe) if cell.kind == "untrained")
    assert cell.architecture is not None
    net = build(cell.architecture)
    cost = VitClassifierCost(16, 1, 2, 8, 32, 6)
    assert sum(p.numel() for p in net.parameters()) == cost.parameters()


def cell_of(path: Path, *overrides: str) -> tuple[Recipe, Cell]:
    recipe = load(path, "laptop", [*SHORT, *overrides])
    return recipe, cells(recipe)[0]


def test_labels_are_the_training_wells_and_unknown_ones_have_none(tiny_recipe: Recipe) -> None:
    shards = ShardSet.open(tiny_recipe.datasets["two"].shards)
    wells = shards.indices("train")[:9]
    labels = read_labels(shards, wells, "treatment")
    known = shards.wells.loc[wells, "treatment"]
    assert list(labels.names) == sorted(set(known))
    for well, label in zip(shards.wells.index, labels.of_well, strict=True):
        name = shards.wells.loc[well, "treatment"]
        assert label == (labels.names.index(name) if name in set(known) else -1)
    with pytest.raises(ValueError, match="label is 'target'"):
        read_labels(shards, wells, "target")
    with pytest.raises(ValueError, match="holds 1 labels: a classifier needs two"):
        read_labels(shards, wells, "perturbation_type")


def test_labels_are_equally_frequent_and_adaptive_groups_come_from_one_plate(
    tiny_recipe: Recipe, tiny_recipe_file: Path
) -> None:
    recipe, cell = cell_of(tiny_recipe_file, VIT)
    spec = build_run_spec(recipe, cell)
    assert spec.labels is not None
    drawn = spec.labels.of_well[spec.wells[spec.order.wells(0, 13_000)]]
    counts = np.bincount(drawn, minlength=13)  # 12 genes in 2 wells each, and 8 control wells
    assert len(counts) == 13
    assert np.abs(counts - 1000).max() < 5 * 1000**0.5
    recipe, cell = cell_of(tiny_recipe_file, DENSE, "models.net.adaptive=true")
    spec = build_run_spec(recipe, cell)
    groups = np.array(plates(spec.shards, spec.wells[spec.order.wells(0, 64)])).reshape(-1, 4)
    assert (groups == groups[:, :1]).all()
    assert len(set(groups[:, 0])) == 2


def signal_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    real = Run.step

    def step_then_signal(run: Run, inputs: StepInput) -> None:
        real(run, inputs)
        if run.progress.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Run, "step", step_then_signal)


@pytest.mark.slow
@pytest.mark.parametrize("model", [VIT, DENSE])
def test_a_resumed_run_ends_with_the_same_bits(
    tiny_recipe: Recipe, tiny_recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    recipe, cell = cell_of(tiny_recipe_file, model, SGD, "train.epochs=1", "train.learning_rate=0.01")
    uninterrupted = train_cell(StageRun(recipe, cell, tmp_path / "uninterrupted", "print"))
    with monkeypatch.context() as patched:
        signal_at(patched, 2)
        with pytest.raises(Preempted, match="saved at step 2 of 4"):
            train_cell(StageRun(recipe, cell, tmp_path / "resumed", "print"))
    train_cell(StageRun(recipe, cell, tmp_path / "resumed", "print"))
    expected, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("uninterrupted", "resumed"))
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert uninterrupted["mean_predictor_loss"] == pytest.approx(np.log(13))


@pytest.mark.slow
def test_an_adaptive_study_runs_from_training_to_recall_with_plate_statistics(
    tiny_recipe: Recipe, tiny_recipe_file: Path, tmp_path: Path
) -> None:
    recipe, cell = cell_of(tiny_recipe_file, DENSE, "models.net.adaptive=true", SGD, "train.epochs=1")
    run_cell(recipe.model_dump_json(), cell.id)
    assert ledger.read(recipe.output, cell.id, "evaluate") is not None
    folder = recipe.output / "cells" / cell.id
    wells, features = read_embeddings(folder / EMBEDDINGS)
    assert features.shape == (48, 8)
    subset_recipe = load(tiny_recipe_file, "laptop", [*SHORT, DENSE, "models.net.adaptive=true", SGD, "train.epochs=1",
               "embed.experiments=[gene-002]", "embed.batch=3"])  # fmt: skip
    embed_cell(open_embedding(StageRun(subset_recipe, cell, folder, "print")))
    again, subset = read_embeddings(folder / EMBEDDINGS)
    in_experiment = (wells["experiment"] == "gene-002").to_numpy()
    assert list(again["key"]) == list(wells.loc[in_experiment, "key"])
    np.testing.assert_allclose(subset, features[in_experiment], atol=1e-5)
    assert cell.architecture is not None
    net = build(cell.architecture, classes=13).eval()
    assert recipe.embed is not None
    shards = open_shards(recipe, recipe.embed.shards)
    rows = shards.wells.index.to_numpy()
    assert [len(part) for part in by_plate(net, shards, rows)] == [16, 16, 16]
    crop = torch.randn(1, 6, 32, 32)
    with torch.no_grad():
        plain = net.embed(crop)
        with adapted(
            net, cell, shards, by_plate(net, shards, rows)[0], AS_STORED, ONE_RANK, torch.autocast("cpu", enabled=False)
        ):
            assert not torch.allclose(net.embed(crop), plain)
        torch.testing.assert_close(net.embed(crop), plain)


RANKED = """
import sys
from pathlib import Path
from harness.grid.cells import cells
from harness.grid.stage_run import StageRun
from harness.recipe.schema import Recipe
from harness.train.loop import train_cell
recipe = Recipe.model_validate_json(Path(sys.argv[1]).read_text(), strict=False)
train_cell(StageRun(recipe, cells(recipe)[0], Path(sys.argv[2]), "print"))
"""


@pytest.mark.slow
def test_two_ranks_give_the_losses_and_statistics_of_one(
    tiny_recipe: Recipe, tiny_recipe_file: Path, tmp_path: Path
) -> None:
    recipe, cell = cell_of(tiny_recipe_file, DENSE, SGD, "train.epochs=1", "train.learning_rate=0.0001")
    train_cell(StageRun(recipe, cell, tmp_path / "one", "print"))
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    (tmp_path / "two").mkdir()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-c", RANKED, str(tmp_path / "recipe.json"), str(tmp_path / "two")]
    processes = [subprocess.Popen(command, env={**common, "RANK": str(rank)}) for rank in range(2)]
    assert [process.wait(timeout=240) for process in processes] == [0, 0]
    one, two = (read_log(tmp_path / name / "train.jsonl") for name in ("one", "two"))
    for kind in ("loss", "validation_loss"):
        logged = [[row[kind] for row in rows if kind in row] for rows in (one, two)]
        assert logged[1] == pytest.approx(logged[0], abs=1e-5)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_imagenet_weights_load_from_disk_for_any_channels(tmp_path: Path) -> None:
    theirs = import_timm().create_model("densenet161", num_classes=10)
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    net = DenseNetClassifier(DenseNetConfig(crop=32, channels=6))
    load_pretrained(net.trunk, tmp_path / "w.safetensors", 6)
    first, published = net.trunk.state_dict()["features.conv0.weight"], theirs.state_dict()["features.conv0.weight"]
    torch.testing.assert_close(first, published.repeat(1, 2, 1, 1) / 2)  # the same features for grey images
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    load_pretrained(net.trunk, tmp_path / "w.pt", 6)
    (tmp_path / "w.pt").rename(tmp_path / "p.safetensors")
    with pytest.raises(EncoderFileError, match="a pickle under another name"):
        load_pretrained(net.trunk, tmp_path / "p.safetensors", 6)
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(EncoderFileError, match=r"has 'conv.weight', which this trunk does not have"):
        load_pretrained(net.trunk, tmp_path / "x.safetensors", 6)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"pos_embed": torch.zeros(1, 0, 4)}, r"pos_embed has shape \(1, 0, 4\), this trunk's has \(1, 5, 4\)"),
        (
            {"pos_embed": torch.zeros(1, 5, 4, dtype=torch.int64)},
            r"pos_embed is torch.int64, this trunk's is torch.float32",
        ),
        ({"pos_embed": torch.zeros(4)}, r"pos_embed has shape \(4,\)"),
        ({"pos_embed": torch.full((1, 5, 4), torch.inf)}, "pos_embed holds NaN or infinity"),
    ],
)
def test_odd_pretrained_weights_are_refused_by_name(tmp_path: Path, changes: dict[str, Tensor], why: str) -> None:
    trunk = torch.nn.Module()
    trunk.pos_embed = torch.nn.Parameter(torch.zeros(1, 5, 4))
    save_file({"pos_embed": torch.zeros(1, 5, 4)} | changes, tmp_path / "w.safetensors")
    with pytest.raises(EncoderFileError, match=rf"w\.safetensors: {why}"):
        load_pretrained(trunk, tmp_path / "w.safetensors", 3)


def test_impossible_recipes_are_refused(tiny_recipe: Recipe, tiny_recipe_file: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"models\.net\.kind: a DenseNet halves crops five times: 48 pixels"):
        load(tiny_recipe_file, "laptop", [DENSE, "mae.crop=48"])
    recipe, cell = cell_of(tiny_recipe_file, DENSE, "datasets.two.order=stream", "datasets.two.stream.lanes=2")
    with pytest.raises(ValueError, match="a classifier samples by label or plate"):
        build_run_spec(recipe, cell)
    recipe, cell = cell_of(tiny_recipe_file, DENSE, "models.net.group=16")
    with pytest.raises(ValueError, match=r"train\.batch 8 over 1 ranks does not divide into groups of 16"):
        train_cell(StageRun(recipe, cell, tmp_path / "cell", "print"))


def test_only_blocks_other_than_densenet_161s_change_the_id(tiny_recipe_file: Path) -> None:
    plain = "models.net={kind: densenet, group: 4}"
    same = cell_of(tiny_recipe_file, plain, "models.net.growth=48", "models.net.layers=[6, 12, 36, 24]")[1]
    other = cell_of(tiny_recipe_file, plain, "models.net.growth=24")[1]
    assert cell_of(tiny_recipe_file, plain)[1].id == same.id != other.id
    trunk = 28_681_000 - 2209 * 1000 + 3 * 49 * 96  # as published, without the head, with three more channels
    assert cost_of(same.architecture).parameters() == trunk
    assert cost_of(other.architecture).parameters() == DenseNet161(growth=24).parameters()


def test_the_path_of_weights_is_not_part_of_the_identity(tiny_recipe_file: Path) -> None:
    ids = {
        cell_of(tiny_recipe_file, DENSE, f"models.net.weights={{name: {name}, path: {path}}}")[1].id
        for name, path in [("imagenet", "a"), ("imagenet", "b"), ("other", "a")]
    }
    assert len(ids) == 2
