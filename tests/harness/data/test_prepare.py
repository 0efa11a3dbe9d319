"""What a recipe prepares: every option of the builder is reachable from it."""

from pathlib import Path

import numpy as np
import pytest

from harness.data.prepare import prepare
from harness.recipe.load import load
from shards.demo.assay import AssayOptions, render_assay
from shards.reader.shard_set import ShardSet

SCALING = Path(__file__).parents[3] / "recipes" / "scaling.yaml"


@pytest.fixture
def assay(tmp_path: Path) -> Path:
    """Two experiments of eight genes and six controls each."""
    options = AssayOptions(experiments=2, complexes=2, members=3, singles=2, controls=6, side=32, guides=1)
    render_assay(options, tmp_path / "images", workers=1)
    return tmp_path / "images"


def test_a_recipe_curates_and_quarantines(assay: Path, tmp_path: Path) -> None:
    rows = (line.split(",") for line in (assay / "metadata.csv").read_text().splitlines()[1:])
    address = next(row[3] for row in rows if row[1] == "gene-001" and row[4] != "EMPTY_control")
    bad = assay / "gene-001" / "Plate1" / f"{address}_s1_w1.png"
    bad.write_bytes(bad.read_bytes()[:50])
    build = (
        f"prepare.build=[{{layout: rxrx3, root: {assay}, output: {tmp_path}/shards, "
        "validation_experiments: [gene-002], "
        "curation: {min_experiments: 2, control_fraction: 0.0, controls: [EMPTY_control]}, "
        "on_error: quarantine, wells_per_shard: 5, codec: lz4, chunk: 32, workers: 1}]"
    )
    prepare(load(SCALING, "laptop", ["prepare.assay=null", build]))
    manifest = ShardSet.open(tmp_path / "shards").manifest
    assert manifest.removed == {"min_experiments": 0, "min_wells": 0, "control_fraction": 12}
    assert [well.key for well in manifest.quarantined] == [f"gene-001_1_{address}"]
    assert manifest.wells == {"train": 7, "validation": 8}
    assert manifest.experiments == {"train": ("gene-001",), "validation": ("gene-002",)}
    assert len(manifest.shards) == 4
    assert (manifest.codec, manifest.chunk) == ("lz4", 32)


def test_a_recipe_keeps_wells_without_a_treatment(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is kept or not used is logged once, when the set is built."""
    np.save(tmp_path / "a.npy", np.zeros((32, 32), np.uint8))
    rows = ["Metadata_Plate,Metadata_Well,Metadata_Site,URL_DNA", "P1,A01,1,a.npy", "P1,A02,1,a.npy"]
    (tmp_path / "load_data.csv").write_text("\n".join(rows))
    (tmp_path / "platemap").mkdir()
    (tmp_path / "platemap" / "map.txt").write_text("well_position\tbroad_sample\nA1\tx\n")
    (tmp_path / "barcode_platemap.csv").write_text("Assay_Plate_Barcode,Plate_Map_Name\nP1,map\n")
    build = (
        f"prepare.build=[{{layout: load_data, root: {tmp_path}, output: {tmp_path}/shards, workers: 1, "
        "validation_fraction: 0.0, unlabelled: keep}]"
    )
    for _ in range(2):
        prepare(load(SCALING, "laptop", ["prepare.assay=null", build]))
    wells = ShardSet.open(tmp_path / "shards").wells
    assert dict(zip(wells["well"], wells["treatment"], strict=True)) == {"A01": "x", "A02": ""}
    assert caplog.text.count("no table describes their wells: 1 well images") == 1


def test_eight_bit_rules_reach_the_builder(assay: Path, tmp_path: Path) -> None:
    build = f"prepare.build=[{{layout: rxrx3, root: {assay}, output: {tmp_path}/shards, eight_bit: '0:4095'}}]"
    with pytest.raises(ValueError, match="8-bit rule '0:4095' needs uint16 pixels"):
        prepare(load(SCALING, "laptop", ["prepare.assay=null", build]))


def test_the_plane_of_stacks_reaches_the_builder(tmp_path: Path) -> None:
    stack = np.arange(3 * 16 * 16, dtype=np.uint16).reshape(3, 16, 16)
    np.save(tmp_path / "a.npy", stack)
    (tmp_path / "wells.csv").write_text("experiment,plate,well,channel:DNA\ne,p,A01,a.npy\n")
    for plane, expected in (("2", stack[1]), ("max", stack[2])):
        output = tmp_path / f"shards{plane}"
        options = f"layout: folder, root: {tmp_path}, output: {output}, validation_fraction: 0, plane: {plane}"
        prepare(load(SCALING, "laptop", ["prepare.assay=null", f"prepare.build=[{{{options}}}]"]))
        assert np.array_equal(ShardSet.open(output).read_well(0)[0], expected)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("plane: 0", "plane"),
        ("plane: mean", "plane"),
        ("plane: true", "plane"),
        ("eight_bit: half", "eight_bit"),
        ("curation: {min_wells: 0}", "min_wells"),
        ("curation: {min_well: 3}", "did you mean 'min_wells'"),
        ("on_error: ignore", "on_error"),
        ("unlabelled: drop", "unlabelled"),
    ],
)
def test_wrong_options_are_named(field: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(SCALING, "laptop", [f"prepare.build=[{{layout: rxrx3, root: /x, output: /y, {field}}}]"])
