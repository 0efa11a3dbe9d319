"""The RxRx releases, with the names that their READMEs publish."""

import csv
import os
import re
from pathlib import Path

import imagecodecs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dialects import Dialect
from PIL import Image
from shard_files import edit

from shards.builder.build_set import build
from shards.errors import BuildError, LayoutError
from shards.layouts.registry import read_layout
from shards.layouts.well_table import check_images
from shards.reader.shard_set import ShardSet

SIX = ("Hoechst", "ConA", "Phalloidin", "Syto14", "MitoTracker", "WGA")
CXSMILES = "CC1=[N+](CCCC)C2=CC=CC=C2 |c:1,13,21,29,31,35,t:16,19,23,27|"
RELEASES = {
    "rxrx1": (
        "site_id,well_id,cell_type,dataset,experiment,plate,well,site,well_type,sirna,sirna_id",
        "HUVEC-01_1_M23_{s};HUVEC-01_1_M23;HUVEC;train;HUVEC-01;1;M23;{s};negative_control;EMPTY;1138",
        {"treatment": "EMPTY", "perturbation_type": "SIRNA", "well_type": "negative_control", "concentration": ""},
    ),
    "rxrx2": (
        "site_id,well_id,cell_type,experiment,plate,well,site,treatment,treatment_conc",
        "HUVEC-1_1_AA02_{s};HUVEC-1_1_AA02;HUVEC;HUVEC-1;1;AA02;{s};TNF alpha;0.5",
        {"treatment": "TNF alpha", "perturbation_type": "SOLUBLE_FACTOR", "concentration": "0.5", "SMILES": ""},
    ),
    "rxrx19a": (
        "site_id,well_id,cell_type,experiment,plate,well,site,disease_condition,treatment,treatment_conc,SMILES",
        f"HRCE-1_1_AA02_{{s}};HRCE-1_1_AA02;HRCE;HRCE-1;1;AA02;{{s}};Mock;Dequalinium;3.0;{CXSMILES}",
        {"treatment": "Dequalinium", "disease_condition": "Mock", "SMILES": CXSMILES, "concentration": "3.0"},
    ),
    "rxrx19b": (
        "site_id,well_id,cell_type,experiment,plate,well,site,disease_condition,treatment,treatment_conc,SMILES",
        "HUVEC-1_1_AA02_{s};HUVEC-1_1_AA02;HUVEC;HUVEC-1;1;AA02;{s};storm-severe;;;",
        {"treatment": "", "disease_condition": "storm-severe", "perturbation_type": "COMPOUND", "SMILES": ""},
    ),
}


def write_release(root: Path, name: str, sites: int) -> None:
    """One well of a release: its metadata, and a 16 x 16 image per site and channel that holds 10 * site + channel."""
    header, text, _ = RELEASES[name]
    row = text.split(";")
    experiment, well = ("HUVEC-01", "M23") if name == "rxrx1" else (row[3], "AA02")
    folder = root / "images" / experiment / "Plate1"
    folder.mkdir(parents=True)
    with (root / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerow(header.split(","))
        csv.writer(file).writerows([cell.format(s=s) for cell in row] for s in range(1, sites + 1))
    for s in range(1, sites + 1):
        for w in range(1, 6 if name == "rxrx19a" else 7):
            Image.fromarray(np.full((16, 16), 10 * s + w, np.uint8)).save(folder / f"{well}_s{s}_w{w}.png")


@pytest.mark.parametrize(("name", "sites"), [("rxrx1", 2), ("rxrx2", 4), ("rxrx19a", 4), ("rxrx19b", 1)])
def test_a_release_goes_from_its_folders_into_shards(tmp_path, name, sites):
    write_release(tmp_path / "in", name, sites)
    build(name, tmp_path / "in", tmp_path / "out", validation_fraction=0, progress=False)
    shards = ShardSet.open(tmp_path / "out")
    five = (*SIX[:4], "WGA")
    assert shards.manifest.channels == (five if name == "rxrx19a" else SIX)
    assert len(shards.wells) == sites
    for index, row in shards.wells.iterrows():
        assert {column: row[column] for column in RELEASES[name][2]} == RELEASES[name][2]
        assert (row["plate"], row["gene"], row["cell_type"]) == ("1", "", "HRCE" if name == "rxrx19a" else "HUVEC")
        assert row["key"] == f"{row['well_id']}_{row['site']}"
        expected = [10 * row["site"] + w for w in range(1, len(shards.manifest.channels) + 1)]
        assert shards.read_well(index)[:, 3, 3].tolist() == expected


def test_a_release_unpacked_into_other_folders(tmp_path):
    write_release(tmp_path, "rxrx19b", 1)
    (tmp_path / "images").rename(tmp_path / "png")
    check_images(read_layout("rxrx19b", tmp_path, images="png"))
    pattern = "png/{experiment}/Plate{plate}/{well}_s{site}_w{channel}.png"
    check_images(read_layout("rxrx19b", tmp_path, pattern=pattern))
    for pattern, message in {
        "{barcode}_{channel}": r"no column 'barcode'",
        "{plate}": r"names no \{channel\}",
        "{plate_{channel}": "pattern",
        "{plate.x}{channel}": r"'\{plate.x\}\{channel\}': \{plate.x\} is not the name of a column",
    }.items():
        with pytest.raises(LayoutError, match=message):
            read_layout("rxrx19b", tmp_path, pattern=pattern)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",site,", ",field,", r"metadata.csv, line 1: no column 'site'"),
        (",AA02,1,", ",AA02,one,", r"metadata.csv, line 2: site 'one' is not a whole number"),
        (f'"{CXSMILES}"', CXSMILES, r"metadata.csv, line 2: 20 cells, but the header has 11 columns"),
        ("HRCE-1_1_AA02_2,", "HRCE-1_1_AA02_1,", r"line 3: duplicate well key 'HRCE-1_1_AA02_1', first at .*line 2"),
        (",HRCE-1,1,", ",,1,", r"metadata.csv, line 2: column 'experiment' is empty"),
    ],
)
def test_a_bad_table_is_named_by_line(tmp_path, old, new, message):
    write_release(tmp_path, "rxrx19a", 2)
    text = (tmp_path / "metadata.csv").read_text()
    assert old in text
    (tmp_path / "metadata.csv").write_text(text.replace(old, new, 1))
    with pytest.raises(LayoutError, match=message):
        read_layout("rxrx19a", tmp_path)


WELLS = ("compound-001/Plate1/AA15", "compound-001/Plate2/B02", "gene-088/Plate9/Z43")


def core_images() -> dict[str, np.ndarray]:
    """A 64 x 64 image per key; noise, so that a lossy or wrong decoder is noticed."""
    random = np.random.default_rng(5)
    return {f"{w}_s1_{c}": random.integers(0, 256, (64, 64), dtype=np.uint8) for w in WELLS for c in range(1, 7)}


@pytest.fixture
def core(tmp_path) -> Path:
    """RxRx3-core in miniature: two Parquet files of real JPEG 2000 bytes, rows in no order, groups of four."""
    (tmp_path / "data").mkdir()
    images = core_images()
    keys = sorted(images, key=lambda key: (key[-1], key))
    for number, part in enumerate((keys[:7], keys[7:])):
        jp2 = [{"bytes": imagecodecs.jpeg2k_encode(images[key], reversible=True), "path": f"{key}.jp2"} for key in part]
        table = pa.table({"__key__": part, "jp2": jp2})
        pq.write_table(table, tmp_path / "data" / f"train-{number:05d}-of-00002.parquet", row_group_size=4)
    pq.write_table(pa.table({"well_id": ["x"], "feature_0": [1.0]}), tmp_path / "OpenPhenom_embeddings.parquet")
    with (tmp_path / "metadata_rxrx3_core.csv").open("w", newline="") as file:
        names = "well_id,experiment_name,plate,address,gene,treatment,SMILES,concentration,perturbation_type,cell_type"
        csv.writer(file).writerow(names.split(","))
        rows = [
            f"compound-001_1_AA15;compound-001;1;AA15;;Dequalinium;{CXSMILES};0.25;COMPOUND;HUVEC",
            "compound-001_2_B02;compound-001;2;B02;;EMPTY_control;;;COMPOUND;HUVEC",
            "gene-088_9_Z43;gene-088;9;Z43;EMPTY_control;EMPTY_control;;;CRISPR;HUVEC",
        ]
        csv.writer(file).writerows(row.split(";") for row in rows)
    return tmp_path


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_rxrx3_core_goes_from_parquet_into_shards(core, tmp_path, workers):
    options = {"validation_experiments": ["gene-088"], "workers": workers, "wells_per_shard": 1}
    build("rxrx3_core", core, tmp_path / "out", progress=False, **options)
    shards = ShardSet.open(tmp_path / "out")
    assert shards.manifest.channels == SIX
    images = core_images()
    by_key = shards.wells.set_index("key")
    assert by_key.loc["compound-001_1_AA15", ["treatment", "SMILES"]].tolist() == ["Dequalinium", CXSMILES]
    assert by_key.loc["gene-088_9_Z43", ["gene", "split"]].tolist() == ["", "validation"]
    for index, key in enumerate(shards.wells["key"]):
        experiment, plate, well = key.rsplit("_", 2)
        expected = np.stack([images[f"{experiment}/Plate{plate}/{well}_s1_{c}"] for c in range(1, 7)])
        assert np.array_equal(shards.read_well(index), expected)


def rewrite(core: Path, change) -> None:
    path = core / "data" / "train-00000-of-00002.parquet"
    table = pq.read_table(path).to_pydict()
    change(table)
    pq.write_table(pa.table(table), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["__key__"].__setitem__(2, "AA15_s1_1"), r"of-00002.parquet, row 2: key 'AA15_s1_1' is not like"),
        (lambda t: t["__key__"].__setitem__(1, t["__key__"][0]), r"parquet#1.jp2: a second image of channel 1 of well"),
        (lambda t: t["__key__"].__setitem__(0, t["__key__"][0].replace("s1", "s2")), "is of a second site"),
        (lambda t: t["__key__"].__setitem__(0, t["__key__"][0].replace("_1", "_7")), "instead of"),
        (
            lambda t: [cells.pop() for cells in t.values()],
            r": no image of channel 3 of well 'compound-001_1",
        ),
        (lambda t: t["__key__"].__setitem__(0, "new/Plate1/A01_s1_1"), "no image of channel"),
    ],
)
def test_rxrx3_core_says_what_is_wrong_with_its_rows(core, change, message):
    rewrite(core, change)
    with pytest.raises(LayoutError, match=message):
        read_layout("rxrx3_core", core)


def test_rxrx3_core_downloaded_in_part(core):
    for name in ("train-00000-of-00002", "train-00001-of-00002"):
        path = core / "data" / f"{name}.parquet"
        table = pq.read_table(path)
        pq.write_table(
            table.filter(pa.array([not key.startswith("gene") for key in table["__key__"].to_pylist()])), path
        )
    with pytest.raises(LayoutError, match=r"metadata_rxrx3_core.csv, line 4: no images of well 'gene-088_9_Z43' \(1 "):
        read_layout("rxrx3_core", core)
    assert set(read_layout("rxrx3_core", core, partial="yes").wells["experiment"]) == {"compound-001"}
    with pytest.raises(LayoutError, match="option partial: expected yes or no, got 'maybe'"):
        read_layout("rxrx3_core", core, partial="maybe")
    lines = (core / "metadata_rxrx3_core.csv").read_text().splitlines(keepends=True)
    (core / "metadata_rxrx3_core.csv").write_text("".join([lines[0], *lines[2:]]))
    with pytest.raises(LayoutError, match="does not describe well 'compound-001_1_AA15', which has images"):
        read_layout("rxrx3_core", core, partial="yes")


def test_rxrx3_core_damaged_image_is_named(core, tmp_path):
    rewrite(core, lambda t: t["jp2"][3].__setitem__("bytes", b"\0\0\0\x0cjP  \r\n\x87\nnothing more"))
    build("rxrx3_core", core, tmp_path / "out", validation_fraction=0, on_error="quarantine", progress=False)
    (bad,) = ShardSet.open(tmp_path / "out").manifest.quarantined
    assert re.search(r"train-00000-of-00002.parquet#3.jp2 cannot be decoded", bad.error)


@pytest.mark.parametrize(
    "write",
    [lambda path: path.write_bytes(b"PAR1 and nothing"), os.mkfifo, lambda path: path.symlink_to("/dev/zero")],
)
@pytest.mark.timeout(20)
def test_a_file_that_is_no_parquet_file_is_named(core, write):
    write(core / "data" / "other.parquet")
    with pytest.raises(LayoutError, match=r"other.parquet (cannot be read as Parquet|is a .*, not a regular file)"):
        read_layout("rxrx3_core", core)


def test_keys_of_any_length_are_not_read(core):
    rewrite(core, lambda t: t["__key__"].__setitem__(2, "A" * 201))
    with pytest.raises(LayoutError, match=r"of-00002.parquet: a key of 201 characters; 200 are the limit"):
        read_layout("rxrx3_core", core)


def test_rxrx3_core_wells_that_lack_a_channel_or_a_description(core, tmp_path):
    """Left out and listed, or kept without a treatment; the others are built."""
    rewrite(core, lambda t: [cells.pop() for cells in t.values()])
    edit(core / "metadata_rxrx3_core.csv", "gene-088_9_Z43", "gene-088_9_Z44")
    options = {"options": {"partial": "yes"}, "validation_fraction": 0, "progress": False, "on_error": "quarantine"}
    manifest, _ = build("rxrx3_core", core, tmp_path / "out", **options)
    (lacking, unknown) = sorted(manifest.quarantined, key=lambda well: well.key)
    assert lacking.origin == "metadata_rxrx3_core.csv, line 2"
    assert lacking.error == "no image of channel 3 of well 'compound-001_1_AA15'"
    assert unknown.origin == "metadata_rxrx3_core.csv"
    assert unknown.error == "does not describe well 'gene-088_9_Z43', which has images"
    manifest, _ = build("rxrx3_core", core, tmp_path / "kept", **options, unlabelled="keep")
    wells = ShardSet.open(tmp_path / "kept").wells.set_index("key")
    columns = ["experiment", "plate", "well", "treatment", "cell_type"]
    assert wells.loc["gene-088_9_Z43", columns].tolist() == ["gene-088", "9", "Z43", "", ""]
    assert [well.key for well in manifest.quarantined] == ["compound-001_1_AA15"]
    assert manifest.notes[-1] == "kept without a treatment, as no table describes their wells: 1 well images"
    assert manifest.notes[0] == f"2 Parquet files below {core} have no columns '__key__' and 'jp2'"


def test_wells_of_a_release_in_another_form(tmp_path):
    """Their images are named as the table writes them; the set has the normal name."""
    write_release(tmp_path, "rxrx19b", 1)
    edit(tmp_path / "metadata.csv", ",AA02,", ",aa2,")
    folder = tmp_path / "images" / "HUVEC-1" / "Plate1"
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("AA02", "aa2"))
    build("rxrx19b", tmp_path, tmp_path / "out", validation_fraction=0, progress=False)
    shards = ShardSet.open(tmp_path / "out")
    assert shards.wells[["key", "well"]].to_numpy().tolist() == [["HUVEC-1_1_AA02_1", "AA02"]]
    assert "source:well" not in {*shards.wells, *shards.metadata(0)}
    assert shards.read_well(0)[:, 0, 0].tolist() == [11, 12, 13, 14, 15, 16]
    edit(tmp_path / "metadata.csv", ",aa2,", ",AA2,")
    with pytest.raises(BuildError, match="differs in table"):
        build("rxrx19b", tmp_path, tmp_path / "out", validation_fraction=0, progress=False, on_error="quarantine")


def test_columns_of_a_release_table_that_have_our_names(tmp_path):
    write_release(tmp_path, "rxrx1", 1)
    edit(tmp_path / "metadata.csv", ",well_type,", ",perturbation_type,")
    assert read_layout("rxrx1", tmp_path).wells["perturbation_type"].tolist() == ["negative_control"]
    edit(tmp_path / "metadata.csv", ",perturbation_type,", ",channel:Hoechst,")
    with pytest.raises(LayoutError, match=r"metadata.csv, line 1: column 'channel:Hoechst': this layout finds"):
        read_layout("rxrx1", tmp_path)


def test_a_release_table_as_a_spreadsheet_saves_it(tmp_path):
    write_release(tmp_path, "rxrx19a", 4)
    with (tmp_path / "metadata.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    before = read_layout("rxrx19a", tmp_path).wells
    dialect = Dialect(";", csv.QUOTE_MINIMAL, "utf-8-sig", "\r\n", "zstd", False)
    dialect.write(tmp_path / "metadata.csv", rows[0], rows[1:])
    assert read_layout("rxrx19a", tmp_path).wells.equals(before)
