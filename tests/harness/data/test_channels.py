"""Covers `channels`: a model and a set meet by the names of their channels, wherever they meet."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open

from harness.data.channels import (
    ChannelError,
    ChannelOrder,
    match,
    renamed,
    set_channels,
    training_channels,
    value_ranges,
)
from harness.data.prepare import prepare
from harness.data.to_device import to_model_input
from harness.distributed.ranks import Ranks
from harness.export import export_cell, load_encoder, load_transform
from harness.grid.cell import Cell
from harness.grid.cell_folder import EMBEDDINGS, RECONSTRUCTIONS, WEIGHTS, cell_folder
from harness.grid.cells import cells
from harness.models.encoder_file import EncoderFileError
from harness.probe import block_features
from harness.recipe.errors import RecipeError
from harness.recipe.load import load
from harness.recipe.models import Mae
from harness.recipe.schema import Recipe
from harness.stages.missing import missing_stages
from harness.stages.run import run_cell
from harness.storage import ledger
from harness.storage.embeddings import read_embeddings
from harness.storage.weights import WeightsError

STAINS = ("DNA", "ER", "RNA", "AGP", "Mito", "Brightfield")
SHUFFLED = ("Mito", "DNA", "Brightfield", "AGP", "ER", "RNA")
OTHERS = ("DAPI", "Actin", "Tubulin", "AGP", "Mito", "Brightfield")


def test_the_same_names_in_another_order_are_reordered() -> None:
    assert match(STAINS, STAINS, None, "set", "f") == ChannelOrder(STAINS)
    order = match(STAINS, SHUFFLED, None, "set", "f")
    assert order.names == STAINS
    assert order.positions == (1, 4, 5, 3, 0, 2)
    assert tuple(SHUFFLED[position] for position in order.positions) == STAINS


def test_mapped_names_are_taken_and_further_channels_only_if_all_are_mapped() -> None:
    mapping = {"DNA": "DAPI", "RNA": "SYTO"}
    assert match(["RNA", "DNA"], ["DAPI", "SYTO"], mapping, "set", "f").positions == (1, 0)
    assert match(["DNA", "RNA"], ["DAPI", "SYTO", "BF"], mapping, "set", "f").positions == (0, 1)
    with pytest.raises(ChannelError, match=r"set has the channels DNA, RNA, BF, the model DNA, RNA"):
        match(["DNA", "RNA"], ["DNA", "RNA", "BF"], None, "set", "f")


@pytest.mark.parametrize(
    ("names", "stored", "mapping", "message"),
    [
        (STAINS, OTHERS, None, r"f: \{DNA: \.\.\., ER: \.\.\., RNA: \.\.\., AGP: AGP, Mito: Mito, Brightfield: Bright"),
        (["a"], ["A"], None, "set has the channels A, the model a"),
        (["a", "b"], ["a"], None, "set has the channels a, the model a, b"),
        (["a"], ["b"], {"a": "c"}, r"f: set has no channel 'c'.*it has b"),
        (["a", "b"], ["b", "c"], {"b": "c"}, "set has two channels called 'b'"),
        (["a", "b"], ["c", "d"], {"a": "c", "b": "c"}, "f: names one channel of set twice"),
        (["a"], ["a", "a"], None, "set has two channels called 'a'"),
    ],
)
def test_other_names_are_refused_with_what_to_write(
    names: Sequence[str], stored: Sequence[str], mapping: dict[str, str] | None, message: str
) -> None:
    with pytest.raises(ChannelError, match=message):
        match(names, stored, mapping, "set", "f")


def test_a_mapping_swaps_two_names() -> None:
    assert renamed(["a", "b", "c"], {"a": "b", "b": "a"}, "set", "f") == ("b", "a", "c")


@pytest.mark.parametrize("pixel_type", [torch.uint8, torch.uint16])
def test_pixels_reach_the_network_in_its_order(tiny_recipe: Recipe, pixel_type: torch.dtype) -> None:
    cell, ranks = cells(tiny_recipe)[-1], Ranks(0, 1, torch.device("cpu"))
    images = torch.randint(0, 250, (2, 6, 8, 8), generator=torch.Generator().manual_seed(0)).to(pixel_type)
    order = match(STAINS, SHUFFLED, None, "set", "f")
    assert order.positions is not None
    as_trained = to_model_input(images[:, list(order.positions)], cell, ranks, ChannelOrder(STAINS))
    assert torch.equal(to_model_input(images, cell, ranks, order), as_trained)


Study = Callable[..., Recipe]


@pytest.fixture
def study(tiny_recipe_file: Path, tiny_images: Path, tmp_path: Path) -> Study:
    """The tiny study on its own images, in sets of the folder layout whose channels have the names given."""
    rows = pd.read_csv(tiny_images / "images" / "metadata.csv", dtype=str, keep_default_na=False)
    table = pd.DataFrame({
        "key": rows["well_id"], "experiment": rows["experiment_name"], "plate": rows["plate"], "well": rows["address"],
        "gene": rows["gene"], "treatment": rows["treatment"],
    })  # fmt: skip

    def shard_set(name: str, channels: Sequence[str], files: Sequence[int]) -> str:
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        paths = tiny_images / "images" / table["experiment"] / "Plate1"
        images = {}
        for channel, number in zip(channels, files, strict=True):
            images[f"channel:{channel}"] = [
                f"{path}/{well}_s1_w{number}.png" for path, well in zip(paths, table["well"], strict=True)
            ]
        table.assign(**images).to_csv(root / "wells.csv", index=False)
        return f"{{layout: folder, root: {root}, output: {root}/shards, validation_fraction: 0.34}}"

    def build(trained: Sequence[str], embedded: Sequence[str], *overrides: str) -> Recipe:
        files = [STAINS.index(name) + 1 if name in STAINS else n for n, name in enumerate(embedded, 1)]
        sets = [shard_set("trained", trained, range(1, 7)), shard_set("embedded", embedded, files)]
        recipe = load(tiny_recipe_file, "laptop", [
            f"prepare.build=[{', '.join(sets)}]", f"datasets.one.shards={tmp_path}/trained/shards",
            f"datasets.two.shards={tmp_path}/trained/shards", f"embed.shards={tmp_path}/embedded/shards",
            "grid.models=[vit_s16]", "grid.datasets=[two]", "train.epochs=1", "mae.layer_scale=0.5", *overrides,
        ])  # fmt: skip
        prepare(recipe)
        return recipe

    return build


def trained_cell(recipe: Recipe) -> Cell:
    return next(cell for cell in cells(recipe) if cell.kind == "trained")


def embedded(recipe: Recipe, cell: Cell) -> np.ndarray:
    """Features in the order of the wells' keys, after running all stages of the cell."""
    run_cell(recipe.model_dump_json(), cell.id)
    wells, features = read_embeddings(cell_folder(recipe, cell) / EMBEDDINGS)
    return features[np.argsort(wells["key"].to_numpy())]


@pytest.mark.slow
def test_a_set_in_another_order_gives_the_same_embeddings_everywhere(study: Study, tmp_path: Path) -> None:
    """Embedding, linear probe, reconstructions; and each place says the model's names."""
    same = study(STAINS, STAINS)
    cell = trained_cell(same)
    expected, expected_blocks = embedded(same, cell), block_features(same, cell)[1]
    (tmp_path / "embedded").rename(tmp_path / "as_trained")
    (cell_folder(same, cell).parents[1]).rename(tmp_path / "first")
    shuffled = study(STAINS, SHUFFLED)
    np.testing.assert_allclose(embedded(shuffled, cell), expected, atol=1e-5)
    keys = block_features(shuffled, cell)[0]["key"].to_numpy()
    blocks = block_features(shuffled, cell)[1]
    assert blocks.shape == expected_blocks.shape
    assert len(set(keys)) == len(keys)
    with np.load(cell_folder(shuffled, cell) / RECONSTRUCTIONS, allow_pickle=False) as arrays:
        assert tuple(arrays["channels"]) == STAINS
    with safe_open(cell_folder(shuffled, cell) / WEIGHTS, "pt") as file:
        assert json.loads(file.metadata()["channels"]) == list(STAINS)
    for stage in ("train", "embed"):
        row = ledger.read(shuffled.output, cell.id, stage)
        assert row is not None
        assert row.values["channels"] == list(STAINS)


@pytest.mark.slow
def test_other_stains_are_refused_before_anything_is_trained(study: Study) -> None:
    recipe = study(STAINS, OTHERS)
    with pytest.raises(ChannelError, match=r"the model DNA, ER, RNA, AGP, Mito, Brightfield.*embed\.channels: \{DNA: "):
        run_cell(recipe.model_dump_json(), trained_cell(recipe).id)
    assert ledger.read(recipe.output, trained_cell(recipe).id, "train") is None


@pytest.mark.slow
def test_a_cell_with_damaged_weights_does_not_stop_the_study(study: Study) -> None:
    """Its own embedding names them; the other cells are planned as ever."""
    recipe = study(STAINS, SHUFFLED)
    cell = trained_cell(recipe)
    run_cell(recipe.model_dump_json(), cell.id)
    ledger.row_path(recipe.output, cell.id, "embed").unlink()
    weights = cell_folder(recipe, cell) / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:100])
    assert missing_stages(recipe, cell).missing == ("embed",)
    with pytest.raises(WeightsError, match="not a safetensors file, or cut off in its header"):
        run_cell(recipe.model_dump_json(), cell.id)


@pytest.mark.slow
def test_a_mapping_in_the_recipe_lets_other_names_in(study: Study) -> None:
    mapping = "embed.channels={DNA: DAPI, ER: Actin, RNA: Tubulin}"
    plain, mapped = study(STAINS, OTHERS), study(STAINS, OTHERS, mapping)
    cell = trained_cell(mapped)
    assert trained_cell(plain).id == cell.id
    embedded(mapped, cell)
    row = ledger.read(mapped.output, cell.id, "embed")
    assert row is not None
    assert row.values["channels"] == list(STAINS)
    swapped = study(STAINS, OTHERS, "embed.channels={DNA: Actin, ER: DAPI, RNA: Tubulin}")
    assert missing_stages(swapped, cell).missing == ("embed", "evaluate")


@pytest.mark.slow
def test_a_study_may_fix_the_order_for_all_of_its_datasets(study: Study) -> None:
    recipe = study(SHUFFLED, SHUFFLED, f"mae.channel_names=[{', '.join(STAINS)}]")
    cell = trained_cell(recipe)
    run_cell(recipe.model_dump_json(), cell.id)
    row = ledger.read(recipe.output, cell.id, "train")
    assert row is not None
    assert row.values["channels"] == list(STAINS)
    assert cell.id != trained_cell(study(SHUFFLED, SHUFFLED)).id
    wrong = study(SHUFFLED, SHUFFLED, "mae.channel_names=[DNA, ER, RNA, Golgi, Mito, Brightfield]")
    with pytest.raises(ChannelError, match=r"datasets\.two\.channels: \{DNA: DNA, ER: ER, RNA: RNA, Golgi: \.\.\."):
        missing_stages(wrong, trained_cell(wrong))


@pytest.mark.slow
def test_a_continued_run_takes_the_channels_of_the_run_before_it(study: Study, tmp_path: Path) -> None:
    """Its own set has them in another order, or others."""
    continued = [
        "grid.datasets=[one, two]",
        "train.start_from={two: one}",
        f"datasets.two.shards={tmp_path}/embedded/shards",
    ]
    branches = "train.schedule={name: warmup_stable_decay, ends: [0.5, 1.0]}"
    recipe = study(STAINS, SHUFFLED, *continued, branches)
    runs = [cell for cell in cells(recipe) if cell.dataset == "two"]
    assert [cell.kind for cell in runs] == ["segment", "trained", "trained"]
    stored = set_channels(recipe, recipe.datasets["two"])
    assert stored == SHUFFLED
    for cell in runs:
        order = training_channels(recipe, cell, stored)
        assert (order.names, order.positions) == (STAINS, (1, 4, 5, 3, 0, 2))
    others = study(STAINS, SHUFFLED, *continued, "datasets.two.channels={Nucleus: DNA}")
    with pytest.raises(
        ChannelError, match=r"the model DNA, ER, RNA, AGP, Mito, Brightfield.*datasets\.two\.channels: "
    ):
        missing_stages(others, next(cell for cell in cells(others) if cell.dataset == "two"))


def test_channel_names_must_be_as_many_as_the_channels(tiny_recipe_file: Path) -> None:
    for wrong in ("[DNA, ER]", "[a, a, b, c, d, e]"):
        with pytest.raises(RecipeError, match=r"mae\.channel_names: must be 6 different names, as mae\.channels says"):
            load(tiny_recipe_file, "laptop", [f"mae.channel_names={wrong}"])


@pytest.mark.slow
def test_an_exported_encoder_knows_its_channels(study: Study, tmp_path: Path) -> None:
    recipe = study(STAINS, STAINS)
    cell = trained_cell(recipe)
    run_cell(recipe.model_dump_json(), cell.id)
    path = export_cell(recipe, cell, tmp_path / "export")[0]
    encoder = load_encoder(path)
    assert json.loads(encoder.pretrained_cfg["channels"]) == list(STAINS)
    assert "DNA, ER, RNA, AGP, Mito, Brightfield" in (path.parent / "README.md").read_text()
    crops = torch.randint(0, 255, (2, 6, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    stored = crops[:, [STAINS.index(name) for name in SHUFFLED]]
    with torch.no_grad():
        expected = encoder(load_transform(path)(crops))
        torch.testing.assert_close(encoder(load_transform(path, SHUFFLED)(stored)), expected, atol=0, rtol=0)
    with pytest.raises(EncoderFileError, match=r"was trained on DNA, ER.*the images have DAPI, Actin"):
        load_transform(path, OTHERS)


CHANNEL_AGNOSTIC = "models.vit_s16={kind: channel_agnostic, width: 16, depth: 1, heads: 2, patch: 16}"


@pytest.mark.slow
def test_a_channel_agnostic_model_embeds_any_channels_and_says_which_it_was_trained_on(
    study: Study, tmp_path: Path
) -> None:
    recipe = study(STAINS, OTHERS, CHANNEL_AGNOSTIC, "models.vit_s16.train_channels=[5, 0, 1]")
    cell = trained_cell(recipe)
    run_cell(recipe.model_dump_json(), cell.id)
    trained, embed = (ledger.read(recipe.output, cell.id, stage) for stage in ("train", "embed"))
    assert trained is not None
    assert embed is not None
    assert trained.values["channels"] == list(STAINS)
    assert embed.values["channels"] == list(OTHERS)
    assert not (cell_folder(recipe, cell) / RECONSTRUCTIONS).exists()  # its decoders know other channels
    path = export_cell(recipe, cell, tmp_path / "export")[0]
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["channels"]) == list(STAINS)
        assert json.loads(file.metadata()["trained_channels"]) == ["Brightfield", "DNA", "ER"]


def test_a_value_range_by_channel_follows_the_channels_and_must_name_each() -> None:
    assert value_ranges(Mae(), ["DNA"]) is None
    assert value_ranges(Mae(value_range=4095.0), ["DNA"]) == 4095.0
    mae = Mae(value_range={"ER": 900.0, "DNA": 400.0})
    assert value_ranges(mae, ["DNA", "ER"]) == (400.0, 900.0)
    with pytest.raises(ChannelError, match=r"mae\.value_range has no value for the channel 'RNA'; .*it has ER, DNA"):
        value_ranges(mae, ["DNA", "RNA"])
