"""Covers `draft`, `command` and `set_facts`: what `init` writes is a recipe that `check` finds nothing wrong with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness import sweep
from harness.authoring.command import name_of
from harness.authoring.draft import Machine, draft, scalar
from harness.authoring.set_facts import Control, SetFacts, read_facts
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from shards.builder.build_set import build
from shards.format.manifest import PixelRange

LAPTOP, SERVER = Machine(cores=4, gpus=0), Machine(cores=64, gpus=8)
RANGE = PixelRange(low=100, median=200, high=900, brightest=4000, spread=800, standardised={64: 0.2})
FACTS = SetFacts(
    Path("shards/mine"), ("DNA", "ER"), "uint16", {"DNA": RANGE, "ER": RANGE}, {"train": 4000, "validation": 400},
    {"train": ("a", "b", "c", "d"), "validation": ("e",)}, 1080, Control("treatment", "DMSO", 64), (("DMSO", 64),), 900,
)  # fmt: skip


def written(facts: SetFacts, machine: Machine, folder: Path) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(draft(facts, "mine", machine))
    return load(path, "laptop")


@pytest.mark.parametrize("machine", [LAPTOP, SERVER], ids=["laptop", "server"])
@pytest.mark.parametrize(
    "facts",
    [
        FACTS,
        replace(FACTS, pixel_type="uint8", pixel_ranges={}),
        replace(FACTS, side=20, wells={"train": 2, "validation": 1}),
        replace(FACTS, experiments={"train": ("a",), "validation": ("b: [x] #1\n",)}, control=None, treatments=()),
        replace(FACTS, channels=("no", "GFP: 488 #2"), pixel_ranges={"no": RANGE, "GFP: 488 #2": RANGE}),
    ],
    ids=["usual", "8 bits", "few and small", "no control", "odd names"],
)
def test_every_draft_is_a_recipe(facts: SetFacts, machine: Machine, tmp_path: Path) -> None:
    """`load` refuses what does not fit, under every profile."""
    recipe = written(facts, machine, tmp_path)
    assert recipe.mae.channel_names == list(facts.channels)
    assert recipe.mae.crop <= facts.side
    assert (recipe.mae.value_range is None) == (facts.pixel_type == "uint8")
    assert set(recipe.grid.datasets) == ({"half", "all"} if len(facts.experiments["train"]) >= 4 else {"all"})


def test_a_laptop_gets_what_a_laptop_can_do(tmp_path: Path) -> None:
    recipe = written(FACTS, LAPTOP, tmp_path)
    assert (recipe.launch.executor, recipe.launch.parallel, recipe.launch.gpus_per_node) == ("local", 4, 0)
    assert (recipe.train.precision, recipe.train.optimiser.name, recipe.mae.crop) == ("fp32", "adamw", 64)
    assert recipe.mae.value_range == {"DNA": 800.0, "ER": 800.0}
    on_gpus = written(FACTS, SERVER, tmp_path)
    assert (on_gpus.launch.parallel, on_gpus.launch.gpus_per_node, on_gpus.train.precision) == (8, 8, "bf16")


def test_what_it_says_of_evaluation_is_filled_in_and_can_be_uncommented(tmp_path: Path) -> None:
    text = draft(FACTS, "mine", LAPTOP)
    assert "64 images whose treatment is DMSO" in text
    uncommented = text.replace("# evaluate:", "evaluate:").replace("\n#   ", "\n  ")
    path = tmp_path / "with.yaml"
    path.write_text(uncommented)
    evaluate = load(path, "laptop").evaluate
    assert evaluate is not None
    assert (evaluate.control.column, evaluate.control.value, evaluate.gene_column) == ("treatment", "DMSO", "gene")
    without = draft(replace(FACTS, control=None, treatments=(("JQ1", 9),)), "mine", LAPTOP)
    assert "none was recognised; the column treatment has JQ1 (9)" in without


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_any_name_is_read_back_as_it_was(name: str) -> None:
    assert yaml.safe_load(f"{{x: {scalar(name)}}}") == {"x": name}


@pytest.mark.parametrize(
    ("place", "name"),
    [("/data/shards/my-screen", "my_screen"), ("/data/plate 7/shards", "plate_7"), ("/2024/set", "study_2024")],
)
def test_a_study_is_named_after_its_folder(place: str, name: str) -> None:
    assert name_of(Path(place)) == name


def test_init_writes_a_recipe_that_check_passes_and_never_overwrites(
    tiny_images: Path, tiny_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    assert sweep.main(["init", str(tiny_images / "shards"), "--output", str(path)]) == 0
    assert f"wrote {path}; look through it, then: python -m harness.sweep check {path}" in capsys.readouterr().out
    assert sweep.main(["check", str(path), "--profile", "laptop"]) == 0
    assert "nothing wrong" in capsys.readouterr().out
    before = path.read_text()
    assert sweep.main(["init", str(tiny_images / "shards"), "--output", str(path)]) == 2
    assert f"error: {path} exists and was left as it is: name another file with --output" in capsys.readouterr().err
    assert path.read_text() == before


def test_controls_and_genes_are_found_in_the_table(tiny_images: Path, tiny_recipe: Recipe) -> None:
    """12 genes and 4 controls in each of three experiments."""
    facts = read_facts(tiny_images / "shards")
    assert facts.control == Control("treatment", "EMPTY_control", 12)
    assert (facts.genes, facts.side, facts.pixel_type) == (12, 48, "uint8")


def test_a_set_without_validation_is_refused_with_the_cure(
    tiny_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build("rxrx3", tiny_images / "images", tmp_path / "set", validation_fraction=0, progress=False)
    assert sweep.main(["init", str(tmp_path / "set"), "--output", str(tmp_path / "x.yaml")]) == 2
    assert "has no validation wells" in (told := capsys.readouterr().err)
    assert "--validation-experiments" in told
    assert not (tmp_path / "x.yaml").exists()


def test_a_folder_that_is_no_set_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["init", str(tmp_path)]) == 2
    assert "no manifest: not a shard set" in capsys.readouterr().err
