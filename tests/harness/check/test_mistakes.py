"""Mistakes of a real person, each met before anything runs with a message that says what, where and the cure.

Covers `checks`, `inputs`, `machine`, `sets`, `study`, `wells` and `command` of the folder through the command line.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import sweep
from harness.check import machine
from harness.check.checks import check
from harness.check.study import Study
from harness.launch import owner
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.storage import ledger
from harness.storage.ledger import LedgerRow
from shards.builder.build_set import build


@dataclass(frozen=True)
class Place:
    """A tiny study whose shards are built: its folder of images and lists, its recipe, and a folder to write into."""

    images: Path
    recipe: Path
    folder: Path


@dataclass(frozen=True)
class Mistake:
    """What somebody did, and what they read: the field or file, what is wrong, and what would be right.

    Attributes:
        words: overrides; `{folder}` is the test's own.
        spoil: does what no override can.
    """

    words: tuple[str, ...]
    where: str
    what: str
    cure: str
    spoil: Callable[[Place, pytest.MonkeyPatch], None] = lambda place, monkeypatch: None
    status: int = 1


def edit(old: str, new: str) -> Callable[[Place, pytest.MonkeyPatch], None]:
    """Replace a text of the recipe."""

    def spoil(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        text = place.recipe.read_text()
        assert old in text
        place.recipe.write_text(text.replace(old, new))

    return spoil


def listed(text: str) -> Callable[[Place, pytest.MonkeyPatch], None]:
    """Write a relationship list, list.csv, in the test's own folder."""
    return lambda place, monkeypatch: (place.folder / "list.csv").write_text(text) and None


def fill_disk(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.plan.disk.free", lambda output: 1000)


def let_another_own(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    other = place.folder / "other.yaml"
    other.write_text(place.recipe.read_text())
    owner.claim(place.folder / "out", "other", other)


def block_output(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.folder / "results").write_text("notes")


def take_permission(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a folder of somebody else's: root may write everywhere, so the answer is replaced."""
    monkeypatch.setattr(machine, "may", lambda path, how: how & os.W_OK == 0)


def build_without_validation(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    build("rxrx3", place.images / "images", place.folder / "set", validation_fraction=0, progress=False)


def stop_a_build(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(place.images / "shards", place.folder / "set")
    (place.folder / "set" / "manifest.json").unlink()


def without_gpu(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.check.machine.gpus", lambda: 0)
    monkeypatch.setattr("harness.check.machine.cores", lambda: 4)


TWO = "datasets.two.shards={folder}/set"
LIST = "evaluate.relationships={mine: '{folder}/list.csv'}"
PAIRS = "entity1,entity2\n" + "".join(f"gene{i},gene{i + 1}\n" for i in range(11))
DENSE = "models={vit_s16: null, vit_b8: null, net: {kind: densenet, label: LABEL, group: GROUP}}"
IMAGENET = "models={vit_s16: null, vit_b8: null, net: {kind: imagenet, weights: {name: w, path: '{folder}/w.bin'}}}"

MISTAKES = {
    "no shards": Mistake((TWO,), "datasets.two.shards", "no shards here", "build them with python -m shards.build"),
    "an unfinished build": Mistake((TWO,), "datasets.two.shards", "no manifest.json", "build them", stop_a_build),
    "no validation": Mistake(
        (TWO,), "datasets.two.shards", "has no validation wells", "--validation-experiments", build_without_validation
    ),
    "another number of channels": Mistake(
        ("mae.channels=5",), "mae.channels", "has Hoechst, ConA", "set mae.channels=6"
    ),
    "other channels": Mistake(
        ("mae.channel_names=[DNA, ER, RNA, AGP, Mito, BF]",), "channels", "the model DNA, ER",
        "say so in the recipe: "
    ),
    "a channel that the set lacks": Mistake(
        ("embed.channels={DNA: Hoechts}",), "embed.channels", "has no channel 'Hoechts'", "did you mean 'Hoechst'?"
    ),
    "a crop larger than the images": Mistake(
        ("mae.crop=64",), "mae.crop", "is 64, but", "images of 48 x 48 pixels: at most 48 fits"
    ),
    "a batch larger than the study": Mistake(
        ("train.batch=10000",), "train.batch", "dataset two has 32 images", "train.batch may be at most 384"
    ),
    "a batch that ranks cannot share": Mistake(
        ("launch.executor=slurm", "launch.gpus_per_node=3"), "train.batch", "8 does not divide over 3 ranks", "9 would"
    ),
    "a batch that groups do not divide": Mistake(
        (DENSE.replace("LABEL", "gene").replace("GROUP", "3"), "grid.models=[net]"), "train.batch",
        "does not divide into groups of 3", "9 would"
    ),
    "a column of genes that is not there": Mistake(
        ("evaluate.gene_column=genes",), "evaluate.gene_column", "no column 'genes'", "it has key, shard, split"
    ),
    "a control of other screens": Mistake(
        ("evaluate.control.value=DMSO",), "evaluate.control.value", "column treatment has no DMSO",
        "it has EMPTY_control (12), GENE0_guide_1 (3)"
    ),
    "a control with a slip": Mistake(
        ("evaluate.control.value=EMPTY_controls",), "evaluate.control.value", "has no EMPTY_controls",
        "did you mean 'EMPTY_control'?"
    ),
    "batches without controls": Mistake(
        ("evaluate.batch_column=well",), "evaluate.batch_column", "too few in B02 (0)", "choose a coarser batch_column"
    ),
    "a list of other genes": Mistake(
        (LIST,), "evaluate.relationships.mine", "none of the 1 pairs", "the list BRCA1, TP53",
        listed("entity1,entity2\nTP53,BRCA1\n")
    ),
    "a list in small letters": Mistake(
        (LIST,), "evaluate.relationships.mine", "12 would be if case did not count", "write both alike", listed(PAIRS)
    ),
    "a list without its header": Mistake(
        (LIST,), "evaluate.relationships.mine", "the header is 'TP53,BRCA1'", "it must be 'entity1,entity2'",
        listed("TP53,BRCA1\nMYC,MAX\n")
    ),
    "a list that is not there": Mistake(
        ("evaluate.relationships={mine: '{images}/corum.csv'}",), "evaluate.relationships.mine",
        "corum.csv is not there", "has complexes.csv, images, shards"
    ),
    "an experiment that the set lacks": Mistake(
        ("embed.experiments=[gene-004]",), "embed.experiments", "gene-004 not in", "it holds gene-001, gene-002"
    ),
    "a GPU that is not there": Mistake(
        ("launch.device=cuda",), "launch.device", "this machine has no GPU", "set launch.device=cpu", without_gpu
    ),
    "weights that are not there": Mistake(
        (IMAGENET, "grid.models=[net]"), "models.net.weights.path", "w.bin is not there", "has tiny.yaml"
    ),
    "an output that is a file": Mistake(
        ("output={folder}/results",), "output", "results is a file", "name a folder", block_output
    ),
    "an output of somebody else's": Mistake(
        (), "output", "nothing may be written into", "choose a folder of your own", take_permission
    ),
    "a full disk": Mistake((), "launch", "the study needs", "free some, choose another output", fill_disk),
    "one output for two recipes": Mistake(
        (), "output", "belongs to another recipe", "Set `output`", let_another_own
    ),
    "a label that is no column": Mistake(
        (DENSE.replace("LABEL", "compound").replace("GROUP", "4"), "grid.models=[net]"), "models.net.label",
        "a classifier's label is 'compound'", "has the columns key, shard, split"
    ),
    "images that moved": Mistake(
        (), "prepare.build.0.root", "is no folder here", "name the folder of the images",
        lambda place, monkeypatch: edit("output: ", "output: new-")(place, monkeypatch)
        or edit(f"root: {place.images}/images", f"root: {place.folder}/images")(place, monkeypatch),
    ),
    "a field with a slip": Mistake(
        ("train.epocs=3",), "train.epocs", "unknown field", "did you mean 'epochs'?", status=2
    ),
    "a dataset with a slip": Mistake(
        ("grid.datasets=[tow]",), "grid.datasets.0", "'tow' is not known", "did you mean 'two'?", status=2
    ),
    "a patch that does not divide the crop": Mistake(
        ("mae.crop=40",), "models.vit_s16.patch", "16 does not divide the crop", "40 pixels", status=2
    ),
    "no such profile": Mistake(
        ("--profile", "laptops"), "tiny.yaml", "has no profile 'laptops'", "its profiles: laptop", status=2
    ),
}  # fmt: skip


@pytest.fixture
def place(tiny_images: Path, tiny_recipe: Recipe, tiny_recipe_file: Path, tmp_path: Path) -> Place:
    return Place(tiny_images, tiny_recipe_file, tmp_path)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found_before_anything_runs(
    name: str, place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mistake = MISTAKES[name]
    mistake.spoil(place, monkeypatch)
    words = [
        word.replace("{folder}", str(place.folder)).replace("{images}", str(place.images)) for word in mistake.words
    ]
    profile = [] if "--profile" in words else ["--profile", "laptop"]
    assert sweep.main(["check", str(place.recipe), *profile, *words]) == mistake.status
    told = capsys.readouterr()
    lines = [line for line in (told.out + told.err).splitlines() if mistake.what in line]
    assert lines, told.out + told.err
    assert mistake.where in lines[0]
    assert mistake.cure in lines[0]
    assert not (place.folder / "out" / "cells").exists()


def test_all_problems_are_told_at_once_and_a_run_refuses_them(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["mae.crop=64", "evaluate.control.value=DMSO", "embed.experiments=[gene-001]", "train.batch=10000"]
    assert sweep.main(["check", str(place.recipe), "--profile", "laptop", "--json", *words]) == 1
    found = json.loads(capsys.readouterr().out)["problems"]
    assert {problem["field"] for problem in found} >= {"mae.crop", "evaluate.control.value", "train.batch"}
    assert sweep.main(["run", str(place.recipe), "--profile", "laptop", *words]) == 2
    told = capsys.readouterr().err
    assert "error: nothing was started (--force starts it all the same):" in told
    assert all(f"  {problem['field']}: {problem['text']}" in told for problem in found if not problem["is_warning"])
    assert not (place.folder / "out" / "jobs").exists()


def test_a_plan_says_what_manifests_say_and_does_without_data(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["plan", str(place.recipe), "--profile", "laptop", "mae.channels=5"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("problem: mae.channels: is 5, but ")
    gone = [f"datasets.{name}={{shards: /gone, images: 64}}" for name in ("one", "two")]
    assert sweep.main(["plan", str(place.recipe), "--profile", "laptop", *gone, "embed=null", "evaluate=null"]) == 0
    assert "problem" not in capsys.readouterr().err


def test_a_warning_does_not_hide_a_full_disk(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_disk(place, monkeypatch)
    assert sweep.main(["check", str(place.recipe), "--profile", "laptop", "train.precision=bf16"]) == 1
    told = capsys.readouterr().out
    assert "warning: train.precision" in told
    assert "the study needs" in told


def test_a_refused_run_leaves_the_kept_recipe(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["run", str(place.recipe), "--profile", "laptop", "mae.crop=64"]) == 2
    assert not (place.folder / "out" / "resolved.yaml").exists()
    assert "nothing was started" in capsys.readouterr().err


def test_fewer_gpus_than_cells_at_a_time_are_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """One GPU, as `auto` finds it, for eight processes."""
    monkeypatch.setattr(machine, "gpus", lambda: 1)
    words = ["launch.device=auto", "launch.gpus_per_node=8", "launch.parallel=8"]
    found = check(load(place.recipe, "laptop", words)).errors
    assert [problem.field for problem in found] == ["launch.gpus_per_node"]


@pytest.mark.parametrize(("mode", "engine"), [("whole", "fsdp"), ("reduce-overhead", "ddp")])
def test_compilation_that_an_engine_cannot_do_is_told_before_jobs_wait(mode: str, engine: str) -> None:
    recipe = load(Path("recipes/scaling.yaml"), "slurm", [f"launch.compile={mode}", f"launch.engine={engine}"])
    assert {problem.field for problem in machine.compilation(Study(recipe, needs_data=False))} == {"launch.compile"}


def test_a_sound_study_is_said_to_be_so_and_what_was_looked_at(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.main(["check", str(place.recipe), "--profile", "laptop"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "profile laptop: as requested",
        "nothing wrong: 7 cells, 1 set of images (48 wells), channels, crops, batches, experiments, columns, "
        "controls, genes, 1 relationship list, files, output, space and devices were checked",
    ]


def test_sets_that_are_to_be_built_are_named_and_not_missed(
    tiny_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "new.yaml"
    recipe.write_text(
        f"name: new\noutput: {tmp_path}/out\n"
        f"prepare: {{build: [{{layout: rxrx3, root: {tiny_images}/images, output: {tmp_path}/set}}]}}\n"
        f"datasets: {{all: {{shards: {tmp_path}/set}}}}\n"
        "models: {vit_s16: {size: S, width: 16, depth: 1, heads: 2, patch: 16}}\nmae: {crop: 32}\n"
        "train: {precision: fp32}\ngrid: {models: [vit_s16], datasets: [all], untrained: false}\n"
        "launch: {executor: local, parallel: 1, gpus_per_node: 0}\nprofiles: {laptop: {}}\n"
    )
    assert sweep.main(["check", str(recipe), "--profile", "laptop"]) == 0
    assert f"not looked at, as a run builds them first: {tmp_path}/set" in capsys.readouterr().out


def test_cells_that_an_edit_left_behind_are_named(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    output = load(place.recipe, "laptop").output
    ledger.record(output, LedgerRow("vit_s16-old-s0-0123abcd", "train", "f", {}))
    assert sweep.main(["check", str(place.recipe), "--profile", "laptop"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: grid:")]
    assert "1 cells" in line
    assert "vit_s16-old-s0-0123abcd" in line
    assert "undo the edit to use them" in line


def test_a_study_made_for_gpus_is_told_what_fits_a_laptop(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_gpu(place, monkeypatch)
    words = ["launch.device=auto", "launch.gpus_per_node=8", "launch.parallel=64", "train.precision=bf16"]
    assert sweep.main(["check", str(place.recipe), "--profile", "laptop", *words]) == 0
    told = capsys.readouterr().out
    assert "warning: launch.parallel: is 64: 7 cells would train at a time on 4 processor cores" in told
    assert "set launch.parallel=2" in told
    assert "warning: train.precision: is bf16" in told
