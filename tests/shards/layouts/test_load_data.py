"""load_data.csv: images where the table says, in a bucket or on disk, channels and perturbations by name."""

import gzip
from pathlib import Path

import fsspec
import numpy as np
import pytest
import tifffile

from shards.builder.build_set import build
from shards.errors import LayoutError
from shards.layouts.registry import read_layout
from shards.layouts.well_table import check_images
from shards.reader.shard_set import ShardSet

BATCHES = {"BR1": "2020_Batch1", "BR2": "2020_Batch2"}
VALUES = {"DNA": 11, "ER": 22}


def write_screen(root: Path, header: str, row: str) -> Path:
    """Two plates of two batches: a load_data.csv each (one compressed), plate maps, and images of constant value."""
    for number, (plate, batch) in enumerate(BATCHES.items()):
        folder = root / "workspace" / "load_data_csv" / batch / plate
        folder.mkdir(parents=True)
        rows = [row.format(plate=plate, well=well, site=site) for well in ("A01", "P24") for site in (1, 2)]
        text = "\r\n".join([header, *rows, ""])
        if number:
            (folder / "load_data.csv.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / "load_data.csv").write_text("\ufeff" + text)
        (root / "images" / plate).mkdir(parents=True)
        for well in ("A01", "P24"):
            for site in (1, 2):
                for stain, value in VALUES.items():
                    pixels = np.full((8, 8), value + 100 * site + number, np.uint16)
                    tifffile.imwrite(root / "images" / plate / f"{well}_{site}_{stain}.tif", pixels)
    maps = root / "workspace" / "metadata" / "platemaps" / "all"
    (maps / "platemap").mkdir(parents=True)
    (maps / "barcode_platemap.csv").write_text("Assay_Plate_Barcode,Plate_Map_Name\nBR1,mapA\nBR2,mapA\n")
    (maps / "platemap" / "mapA.txt").write_text(
        "well_position\tbroad_sample\tgene\tmmoles_per_liter\tsmiles\tpert_type\nA01\tBRD-1\tPLK1\t5.0\tC,C\ttrt\nP24\t\t\t\t\tcontrol\n"
    )
    return root


FILES = (
    "Metadata_Plate,Metadata_Well,Metadata_Site,FileName_OrigDNA,PathName_OrigDNA,FileName_OrigER,PathName_OrigER",
    "{plate},{well},{site},{well}_{site}_DNA.tif,/their/disk/images/{plate}/,{well}_{site}_ER.tif,/their/disk/images/{plate}",
)
URLS = (
    "Metadata_Plate,Metadata_Well,Metadata_Site,URL_OrigER,URL_OrigDNA",
    "{plate},{well},{site},memory://bucket/{plate}/{well}_{site}_ER.tif,memory://bucket/{plate}/{well}_{site}_DNA.tif",
)


def check(shards: ShardSet) -> None:
    assert shards.manifest.channels == ("DNA", "ER")
    assert shards.manifest.experiments == {"train": ("2020_Batch1",), "validation": ("2020_Batch2",)}
    wells = shards.wells.set_index("key")
    assert sorted(wells.index) == [f"{p}_{w}_s{s}" for p in ("BR1", "BR2") for w in ("A01", "P24") for s in (1, 2)]
    described = ["treatment", "gene", "concentration", "SMILES", "perturbation_type"]
    assert wells.loc["BR2_A01_s2", described].tolist() == ["BRD-1", "PLK1", "5.0", "C,C", "trt"]
    assert wells.loc["BR1_P24_s1", described].tolist() == ["DMSO", "", "", "", "control"]
    for index, row in shards.wells.iterrows():
        expected = [value + 100 * row["site"] + (row["plate"] == "BR2") for value in VALUES.values()]
        assert shards.read_well(index)[:, 5, 5].tolist() == expected


def test_files_and_paths_moved_from_another_machine(tmp_path):
    root = write_screen(tmp_path / "in", *FILES)
    options = {"replace": f"/their/disk={root}"}
    check_images(read_layout("load_data", root, **options))
    build("load_data", root, tmp_path / "out", options=options, validation_experiments=["2020_Batch2"], progress=False)
    check(ShardSet.open(tmp_path / "out"))
    with pytest.raises(
        LayoutError, match=r"load_data.csv, line 2: image file /their/disk/images/BR1/A01_1_DNA.tif does"
    ):
        check_images(read_layout("load_data", root))


def test_urls_and_tables_in_a_bucket(tmp_path):
    root = write_screen(tmp_path / "in", *URLS)
    memory = fsspec.filesystem("memory")
    for file in root.rglob("*"):
        if file.is_file():
            path = file.relative_to(root)
            memory.pipe(f"/bucket/{Path(*path.parts[1:]) if path.parts[0] == 'images' else path}", file.read_bytes())
    try:
        build(
            "load_data", "memory://bucket/workspace", tmp_path / "out",
            validation_experiments=["2020_Batch2"], progress=False,
        )  # fmt: skip
    finally:
        memory.rm("/bucket", recursive=True)
    check(ShardSet.open(tmp_path / "out"))


def test_channels_may_be_selected(tmp_path):
    root = write_screen(tmp_path, *FILES)
    assert read_layout("load_data", root, channels="ER").channels == ("ER",)
    with pytest.raises(LayoutError, match=r"load_data.csv, line 1: no channel 'RNA'; there are DNA, ER"):
        read_layout("load_data", root, channels="RNA")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Metadata_Site", "Metadata_site", r"no column 'Metadata_Site' \(did you mean 'Metadata_site'\?\)"),
        ("_OrigDNA", "_DNA", r"load_data.csv.gz, line 1: other channels than in .*load_data.csv; choose with"),
        ("BR1,A01,1,A01_1_DNA.tif", "BR1,A01,1,", r"load_data.csv, line 2: column 'FileName_OrigDNA' is empty"),
        ("BR1,A01,1,", "BR1,A01,x,", r"load_data.csv, line 2: Metadata_Site 'x' is not a whole number"),
        ("BR1,A01,1,", "BR1,B01,1,", r"load_data.csv, line 2: no plate map or load_data.csv describes well B01 of BR1"),
        ("BR1,A01,2,", "BR1,A01,1,", r"load_data.csv, line 3: duplicate well key 'BR1_A01_s1', first at .*line 2"),
    ],
)
def test_what_is_wrong_in_a_load_data_table(tmp_path, old, new, message):
    root = write_screen(tmp_path, *FILES)
    path = next(root.rglob("load_data.csv"))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(LayoutError, match=message):
        read_layout("load_data", root)
