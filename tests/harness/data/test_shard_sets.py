"""A recipe may name its shards by URL: the same crops, weights and embeddings, and clear words where it cannot work."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch
from faulty_server import FaultyServer, serving
from safetensors.torch import load_file

from harness.data.shard_sets import manifest_of, open_shards
from harness.distributed.ranks import Ranks
from harness.grid.cell_folder import EMBEDDINGS, WEIGHTS, cell_folder
from harness.grid.cells import cells
from harness.plan.cost import training_images
from harness.recipe.errors import RecipeError
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.stages.missing import StageError, missing_stages
from harness.stages.run import run_cell
from harness.storage.ledger import Stage, rows
from harness.train import run_spec as run_spec

BUILT = ["prepare={}", "grid.models=[vit_s16]", "grid.datasets=[two]", "grid.untrained=false"]
STREAM = ["datasets.two.order=stream", "datasets.two.stream={lanes: 2, crops: 2, block: 4}"]


@pytest.fixture
def server(tiny_recipe: Recipe):
    shards = tiny_recipe.datasets["two"].shards
    assert isinstance(shards, Path)
    with serving(shards) as found:
        yield found


def behind(server: FaultyServer) -> list[str]:
    """Overrides that put every set of the tiny study behind the server."""
    return [*(f"{name}.shards={server.url}" for name in ("datasets.one", "datasets.two", "embed")), "remote.seconds=2"]


def study(file: Path, output: Path, *overrides: str) -> Recipe:
    return load(file, "laptop", [f"output={output}", *BUILT, *overrides])


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_a_study_behind_a_url_ends_in_the_files_of_the_local_one(
    tiny_recipe_file: Path, server: FaultyServer, tmp_path: Path, stream: bool
) -> None:
    """In both orders, and through answers that fail."""
    order = STREAM if stream else []
    local = study(tiny_recipe_file, tmp_path / "local", *order)
    remote = study(
        tiny_recipe_file, tmp_path / "remote", *order, *behind(server), "remote.attempts=12",
        f"remote.cache={tmp_path}/cache",
    )  # fmt: skip
    server.faults = iter(random.Random(3).choices(["500", "truncated", "reset", *[None] * 20], k=100_000))
    for recipe in (local, remote):
        for cell in cells(recipe):
            run_cell(recipe.model_dump_json(), cell.id)
    stages: tuple[Stage, ...] = ("train", "embed", "evaluate")
    prints = [
        {(row.cell, stage): row.fingerprint for stage in stages for row in rows(recipe.output, stage)}
        for recipe in (local, remote)
    ]
    assert prints[0] == prints[1] != {}
    (cell,) = (cell for cell in cells(local) if cell.kind != "pixel_statistics")
    near, far = (load_file(cell_folder(recipe, cell) / WEIGHTS) for recipe in (local, remote))
    assert near.keys() == far.keys()
    assert all(torch.equal(near[name], far[name]) for name in near)
    assert (cell_folder(remote, cell) / EMBEDDINGS).is_file()
    assert any((tmp_path / "cache").glob("*")) == stream


def test_the_plan_and_the_digest_ask_for_the_manifest_once(
    tiny_recipe_file: Path, server: FaultyServer, tmp_path: Path
) -> None:
    recipe = study(tiny_recipe_file, tmp_path / "out", *behind(server))
    assert training_images(recipe, "two") == training_images(study(tiny_recipe_file, tmp_path), "two")
    assert len(open_shards(recipe, recipe.datasets["two"].shards).wells) == 48
    before = server.times("manifest.json")
    assert [missing_stages(recipe, cell).missing for cell in cells(recipe)]
    manifest_of(recipe, recipe.datasets["two"].shards)
    assert server.times("manifest.json") == before


def test_a_server_that_has_no_set_or_refuses_is_named(
    tiny_recipe_file: Path, server: FaultyServer, tmp_path: Path
) -> None:
    absent = [one.replace(server.url, f"{server.url}/nowhere") for one in behind(server)]
    recipe = study(tiny_recipe_file, tmp_path / "out", *absent)
    with pytest.raises(StageError, match=f"{server.url}/nowhere: no shards here"):
        missing_stages(recipe, cells(recipe)[0])
    server.faults = iter(["500"] * 9)
    refused = study(tiny_recipe_file, tmp_path / "out", *behind(server), "remote.attempts=2")
    with pytest.raises(StageError, match=r"manifest.json cannot be read \(attempt 2\)"):
        missing_stages(refused, cells(refused)[0])


def test_how_crops_are_read_is_the_recipes_to_say(
    tiny_recipe: Recipe, tiny_recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [
        "launch.loader_read=span",
        "launch.loader_open_shards=2",
        "launch.loader_ahead=5",
        "launch.loader_workers=0",
    ]
    recipe = study(tiny_recipe_file, tmp_path, *said)
    found = open_shards(recipe, recipe.datasets["two"].shards)
    assert (found.reader.mode, found.reader.max_open_shards) == ("span", 2)
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(run_spec, "training_batches", lambda *_, **options: asked.append(options))
    (cell,) = (cell for cell in cells(recipe) if cell.kind != "pixel_statistics")
    run_spec.build_run_spec(recipe, cell).batches(0, 32, 0, Ranks(0, 1, torch.device("cpu")), recipe.launch)
    assert (asked[0]["workers"], asked[0]["ahead"]) == (0, 5)


def test_a_stream_behind_a_url_must_say_where_it_keeps_its_shards(tiny_recipe_file: Path, tmp_path: Path) -> None:
    far = ["datasets.two.shards=s3://bucket/set", *STREAM]
    with pytest.raises(RecipeError, match=r"datasets\.two\.order.*set remote\.cache to a folder"):
        study(tiny_recipe_file, tmp_path, *far)
    kept = study(tiny_recipe_file, tmp_path, *far, f"remote.cache={tmp_path}", "remote.options={anon: true}")
    assert kept.datasets["two"].shards == "s3://bucket/set"
    assert kept.remote.options == {"anon": True}


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"channels": [NaN]}', b"\xff"])
def test_a_manifest_that_is_not_json_is_refused(tiny_recipe: Recipe, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"nested too deeply|NaN|decode"):
        manifest_of(tiny_recipe, tmp_path)


def test_a_pipe_in_place_of_a_manifest_is_refused_and_not_waited_for(tiny_recipe: Recipe, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(ValueError, match=r"manifest\.json is a FIFO, not a regular file"):
        manifest_of(tiny_recipe, tmp_path)
