"""Weakly supervised classifiers: sub-batch norms against plain ones, what a batch holds, and whole tiny studies."""

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
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from analysis.compute.systems import DenseNet161, VitClassifier
from harness.data.labels import plates, read_labels
from harness.data.plate_statistics import adapted, by_plate
from harness.data.shard_sets import open_shards
from harness.data.to_device import StepInput
from harness.distributed.preemption import Preempted
from harness.distributed.ranks import Ranks
from harness.embed.cell import embed_cell
from harness.embed.parts import open_embedding
from harness.grid.cell_folder import EMBEDDINGS
from harness.grid.cells import Cell, cells
from harness.grid.stage_run import StageRun
from harness.models.architecture import build, cost_of
from harness.models.classifier import DenseNetClassifier, DenseNetConfig
from harness.models.encoder_file import EncoderFileError
from harness.models.layers.sub_batch_norm import SubBatchNorm, by_sub_batches, plate_statistics
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

HERE = Ranks(0, 1, torch.device("cpu"))
SGD = "train.optimisers.net={name: sgd, momentum: 0.9, weight_decay: 1e-5}"
VIT = "models.net={kind: vit_classifier, width: 16, depth: 1, heads: 2, patch: 8, drop_path: 0.1}"
DENSE = "models.net={kind: densenet, group: 4, embedding: 8, growth: 4, layers: [2, 2, 2]}"
SHORT = ["grid.models=[net]", "grid.datasets=[two]", "grid.untrained=false", "grid.pixel_statistics=false"]


def norm_and_peers(groups: int) -> tuple[SubBatchNorm, list[nn.BatchNorm2d]]:
    torch.manual_seed(0)
    norm = SubBatchNorm(5, 3, nn.ReLU(), eps=1e-5, momentum=0.1)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    peers = [nn.BatchNorm2d(5) for _ in range(groups)]
    for peer in peers:
        peer.load_state_dict({**norm.state_dict(), "num_batches_tracked": torch.tensor(0)})
    return norm.train(), peers


@settings(deadline=None, max_examples=20)
@given(groups=st.integers(1, 4), seed=st.integers(0, 99))
def test_each_sub_batch_is_normed_as_by_a_norm_of_its_own(groups: int, seed: int) -> None:
    """GhostBN against one torch BatchNorm per group: outputs, gradients, and the mean of their running statistics."""
    norm, peers = norm_and_peers(groups)
    features = 2 + 3 * torch.randn(3 * groups, 5, 4, 4, generator=torch.Generator().manual_seed(seed))
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    found = norm(ours)
    expected = torch.cat([peer(part) for peer, part in zip(peers, theirs.split(3), strict=True)]).relu()
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(norm.weight.grad, sum(peer.weight.grad for peer in peers), atol=1e-4, rtol=1e-4)
    assert not norm.running_mean.any()  # until the step is done
    norm.commit_statistics(None)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(peer, name) for peer in peers]).mean(0)
        torch.testing.assert_close(getattr(norm, name), mean)
    torch.testing.assert_close(norm.eval()(features[:1]), nn.functional.relu(_by_running(norm, features[:1])))


def _by_running(norm: SubBatchNorm, features: torch.Tensor) -> torch.Tensor:
    shape = (1, -1, 1, 1)
    centred = (features - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + norm.eps).sqrt()
    return centred * norm.weight.view(shape) + norm.bias.view(shape)


def test_pieces_and_ranks_change_no_running_statistic() -> None:
    features = torch.randn(12, 5, 4, 4)
    whole, pieces, ranks = norm_and_peers(4)[0], norm_and_peers(4)[0], [norm_and_peers(4)[0] for _ in range(2)]
    for _ in range(3):
        whole(features)
        whole.commit_statistics(None)
        for part in features.split(6):
            pieces(part)
        pieces.commit_statistics(None)
        for rank, part in zip(ranks, features.split(6), strict=True):
            rank(part)
            rank.commit_statistics(None)
    torch.testing.assert_close(pieces.running_var, whole.running_var)
    torch.testing.assert_close(torch.stack([rank.running_mean for rank in ranks]).mean(0), whole.running_mean)


def test_a_skipped_update_leaves_the_statistics_alone() -> None:
    norm, _ = norm_and_peers(1)
    norm(torch.full((3, 5, 4, 4), float("nan")))
    norm.commit_statistics(torch.tensor(True))
    assert not norm.running_mean.any()
    norm(torch.ones(3, 5, 4, 4))
    norm.commit_statistics(torch.tensor(False))
    torch.testing.assert_close(norm.running_mean, torch.full((5,), 0.1))


def test_at_inference_a_plate_is_normed_by_its_own_statistics_alone() -> None:
    """AdaBN: the mean over the plate's sub-batches, in place of the running ones, and only inside."""
    norm, _ = norm_and_peers(2)
    norm.eval()
    plate, image = 5 + 2 * torch.randn(6, 5, 4, 4), torch.randn(1, 5, 4, 4)
    before = norm(image)
    mean = torch.stack([part.mean((0, 2, 3)) for part in plate.split(3)]).mean(0)
    variance = torch.stack([part.var((0, 2, 3)) for part in plate.split(3)]).mean(0)
    with plate_statistics(norm, lambda: norm(plate)):
        shape = (1, -1, 1, 1)
        centred = (image - mean.view(shape)) / (variance.view(shape) + norm.eps).sqrt()
        torch.testing.assert_close(norm(image), (centred * norm.weight.view(shape) + norm.bias.view(shape)).relu())
    torch.testing.assert_close(norm(image), before)
    assert not norm.running_mean.any()


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 4 crops does not divide into sub-batches of 3"):
        norm_and_peers(1)[0](torch.randn(4, 5, 4, 4))


def test_in_eval_mode_the_trunk_computes_what_timms_does() -> None:
    theirs = import_timm().create_model("densenet161", in_chans=2, num_classes=0).eval()
    ours = by_sub_batches(import_timm().create_model("densenet161", in_chans=2, num_classes=0), 4).eval()
    weights = {name: value for name, value in theirs.state_dict().items() if not name.endswith("num_batches_tracked")}
    ours.load_state_dict(weights)
    crops = torch.randn(2, 2, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(crops), theirs(crops), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("channels", "classes", "embedding", "blocks"),
    [(3, 1000, None, {}), (6, 1139, 1024, {}), (6, 0, None, {}), (6, 9, 16, {"growth": 12, "layers": (3, 2, 4)})],
)
def test_densenet_counts_are_those_of_the_closed_form(
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


def test_a_vit_classifier_costs_its_encoder(tiny_recipe_file: Path) -> None:
    recipe = load(tiny_recipe_file, "laptop", [VIT, "grid.models=[net]"])
    (cell,) = (cell for cell in cells(recipe) if cell.kind == "untrained")
    assert cell.architecture is not None
    net = build(cell.architecture)
    cost = VitClassifier(16, 1, 2, 8, 32, 6)
    assert sum(p.numel() for p in net.parameters()) == cost.parameters()


def cell_of(path: Path, *overrides: str) -> tuple[Recipe, Cell]:
    recipe = load(path, "laptop", [*SHORT, *overrides])
    return recipe, cells(recipe)[0]


def test_labels_are_the_training_wells_and_unknown_ones_have_none(tiny_recipe: Recipe) -> None:
    shards = ShardSet.open(tiny_recipe.datasets["two"].shards)
    wells = shards.indices("train")[:9]
    found = read_labels(shards, wells, "treatment")
    known = shards.wells.loc[wells, "treatment"]
    assert list(found.names) == sorted(set(known))
    for well, label in zip(shards.wells.index, found.of_well, strict=True):
        name = shards.wells.loc[well, "treatment"]
        assert label == (found.names.index(name) if name in set(known) else -1)
    with pytest.raises(ValueError, match="label is 'target'"):
        read_labels(shards, wells, "target")
    with pytest.raises(ValueError, match="holds 1 labels: a classifier needs two"):
        read_labels(shards, wells, "perturbation_type")


def test_labels_come_equally_often_and_adaptive_groups_from_one_plate(
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
def test_a_stopped_run_ends_bit_for_bit_the_same(
    tiny_recipe: Recipe, tiny_recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    recipe, cell = cell_of(tiny_recipe_file, model, SGD, "train.epochs=1", "train.learning_rate=0.01")
    calm = train_cell(StageRun(recipe, cell, tmp_path / "calm", "print"))
    with monkeypatch.context() as patched:
        signal_at(patched, 2)
        with pytest.raises(Preempted, match="saved at step 2 of 4"):
            train_cell(StageRun(recipe, cell, tmp_path / "storm", "print"))
    train_cell(StageRun(recipe, cell, tmp_path / "storm", "print"))
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("calm", "storm"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert calm["mean_predictor_loss"] == pytest.approx(np.log(13))


@pytest.mark.slow
def test_an_adaptive_study_goes_from_training_to_recall_and_asks_only_the_plate(
    tiny_recipe: Recipe, tiny_recipe_file: Path, tmp_path: Path
) -> None:
    recipe, cell = cell_of(tiny_recipe_file, DENSE, "models.net.adaptive=true", SGD, "train.epochs=1")
    run_cell(recipe.model_dump_json(), cell.id)
    assert ledger.read(recipe.output, cell.id, "evaluate") is not None
    folder = recipe.output / "cells" / cell.id
    wells, features = read_embeddings(folder / EMBEDDINGS)
    assert features.shape == (48, 8)
    few = load(tiny_recipe_file, "laptop", [*SHORT, DENSE, "models.net.adaptive=true", SGD, "train.epochs=1",
               "embed.experiments=[gene-002]", "embed.batch=3"])  # fmt: skip
    embed_cell(open_embedding(StageRun(few, cell, folder, "print")))
    again, found = read_embeddings(folder / EMBEDDINGS)
    chosen = (wells["experiment"] == "gene-002").to_numpy()
    assert list(again["key"]) == list(wells.loc[chosen, "key"])
    np.testing.assert_allclose(found, features[chosen], atol=1e-5)
    assert cell.architecture is not None
    net = build(cell.architecture, classes=13).eval()
    assert recipe.embed is not None
    shards = open_shards(recipe, recipe.embed.shards)
    every = shards.wells.index.to_numpy()
    assert [len(part) for part in by_plate(net, shards, every)] == [16, 16, 16]
    crop = torch.randn(1, 6, 32, 32)
    with torch.no_grad():
        plain = net.embed(crop)
        with adapted(net, cell, shards, by_plate(net, shards, every)[0], HERE, torch.autocast("cpu", enabled=False)):
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
        found = [[row[kind] for row in rows if kind in row] for rows in (one, two)]
        assert found[1] == pytest.approx(found[0], abs=1e-5)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_imagenet_weights_come_from_disk_and_fit_any_channels(tmp_path: Path) -> None:
    theirs = import_timm().create_model("densenet161", num_classes=10)
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    net = DenseNetClassifier(DenseNetConfig(crop=32, channels=6))
    load_pretrained(net.trunk, tmp_path / "w.safetensors", 6)
    first, published = net.trunk.state_dict()["features.conv0.weight"], theirs.state_dict()["features.conv0.weight"]
    torch.testing.assert_close(first, published.repeat(1, 2, 1, 1) / 2)  # the same answer to grey images
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    load_pretrained(net.trunk, tmp_path / "w.pt", 6)
    (tmp_path / "w.pt").rename(tmp_path / "p.safetensors")
    with pytest.raises(EncoderFileError, match="a pickle under another name"):
        load_pretrained(net.trunk, tmp_path / "p.safetensors", 6)
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(EncoderFileError, match=r"has 'conv.weight', which this trunk has not"):
        load_pretrained(net.trunk, tmp_path / "x.safetensors", 6)


def test_recipes_that_cannot_be_are_refused(tiny_recipe: Recipe, tiny_recipe_file: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"models\.net\.kind: a DenseNet halves crops five times: 48 pixels"):
        load(tiny_recipe_file, "laptop", [DENSE, "mae.crop=48"])
    recipe, cell = cell_of(tiny_recipe_file, DENSE, "datasets.two.order=stream", "datasets.two.stream.lanes=2")
    with pytest.raises(ValueError, match="a classifier samples by label or plate"):
        build_run_spec(recipe, cell)
    recipe, cell = cell_of(tiny_recipe_file, DENSE, "models.net.group=16")
    with pytest.raises(ValueError, match=r"train\.batch 8 over 1 ranks does not divide into groups of 16"):
        train_cell(StageRun(recipe, cell, tmp_path / "cell", "print"))


def test_only_other_blocks_than_a_densenet_161s_are_part_of_an_id(tiny_recipe_file: Path) -> None:
    plain = "models.net={kind: densenet, group: 4}"
    same = cell_of(tiny_recipe_file, plain, "models.net.growth=48", "models.net.layers=[6, 12, 36, 24]")[1]
    other = cell_of(tiny_recipe_file, plain, "models.net.growth=24")[1]
    assert cell_of(tiny_recipe_file, plain)[1].id == same.id != other.id
    trunk = 28_681_000 - 2209 * 1000 + 3 * 49 * 96  # as published, without the head, with three more channels
    assert cost_of(same.architecture).parameters() == trunk
    assert cost_of(other.architecture).parameters() == DenseNet161(growth=24).parameters()


def test_the_path_of_weights_is_no_part_of_an_id(tiny_recipe_file: Path) -> None:
    ids = {
        cell_of(tiny_recipe_file, DENSE, f"models.net.weights={{name: {name}, path: {path}}}")[1].id
        for name, path in [("imagenet", "a"), ("imagenet", "b"), ("other", "a")]
    }
    assert len(ids) == 2
