"""Covers `jump` and `platemaps`: channels and perturbations of Opera Phenix folders."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import tifffile
from shard_files import edit

from shards.errors import LayoutError
from shards.images.decode import read_well
from shards.layouts.registry import read_layout
from shards.layouts.well_table import check_images


def write_fields(folder: Path, wells: dict[str, tuple[int, ...]]) -> None:
    """Write one tiny image per field name and channel number; its pixels hold the channel's number."""
    folder.mkdir(parents=True)
    for field, channels in wells.items():
        for channel in channels:
            name = f"{field}p01-ch{channel}sk1fk1fl1.tiff"
            tifffile.imwrite(folder / name, np.full((4, 4), channel, np.uint16))


@pytest.fixture
def jump(tmp_path: Path) -> Path:
    """Two plates of one batch whose channel numbers differ, with load_data.csv and plate maps."""
    root = tmp_path / "source_x"
    stains = {"BR1": {"DNA": 3, "Mito": 1}, "BR2": {"DNA": 1, "Mito": 2}}
    for plate, numbers in stains.items():
        images = root / "images" / "2020_Batch" / "images" / f"{plate}__2020-11-05T19_51_35-Measurement1" / "Images"
        write_fields(images, {"r01c01f01": (1, 2, 3), "r16c24f02": (1, 2, 3)})
        folder = root / "workspace" / "load_data_csv" / "2020_Batch" / plate
        folder.mkdir(parents=True)
        files = [f"r01c01f01p01-ch{number}sk1fk1fl1.tiff" for number in numbers.values()]
        if plate == "BR1":
            text = f"Metadata_Plate,Metadata_Well,FileName_OrigDNA,FileName_OrigMito\nBR1,A01,{','.join(files)}\n"
            (folder / "load_data.csv").write_text(text)
        else:
            text = (
                f"Metadata_Plate,Metadata_Well,URL_OrigDNA,URL_OrigMito\nBR2,A01,s3://b/{files[0]},s3://b/{files[1]}\n"
            )
            (folder / "load_data.csv.gz").write_bytes(gzip.compress(text.encode()))
    maps = root / "workspace" / "metadata" / "platemaps" / "2020_Batch"
    (maps / "platemap").mkdir(parents=True)
    (maps / "barcode_platemap.csv").write_text("Assay_Plate_Barcode,Plate_Map_Name\nBR1,mapA\nBR2,mapA\n")
    (maps / "platemap" / "mapA.txt").write_text("well_position\tbroad_sample\tgene\nA01\tBRD-1\tPLK1\nP24\t\t\n")
    return root


def test_jump_takes_channels_by_name_and_perturbations_from_the_plate_map(jump):
    table = read_layout("jump", jump)
    check_images(table)
    assert table.channels == ("Mito", "DNA")
    wells = table.wells.set_index("key")
    assert list(wells.index) == ["BR1_A01_f01", "BR1_P24_f02", "BR2_A01_f01", "BR2_P24_f02"]
    assert set(wells["experiment"]) == {"2020_Batch"}
    assert wells.loc["BR1_A01_f01", ["treatment", "gene"]].tolist() == ["BRD-1", "PLK1"]
    assert wells.loc["BR1_P24_f02", "treatment"] == "DMSO"
    assert wells.loc["BR2_P24_f02", "site"] == 2
    # Mito is channel 1 on the first plate and channel 2 on the second; DNA 3 and 1.
    images = ["channel:Mito", "channel:DNA"]
    assert read_well(wells.loc["BR1_A01_f01", images].tolist())[:, 0, 0].tolist() == [1, 3]
    assert read_well(wells.loc["BR2_A01_f01", images].tolist())[:, 0, 0].tolist() == [2, 1]


def test_jump_channels_may_be_named_and_selected_by_an_option(jump):
    table = read_layout("jump", jump, channels="ch2=ER,ch1=AGP")
    assert table.channels == ("AGP", "ER")
    with pytest.raises(LayoutError, match=r"no image of ch9 \(ER\); there are \[1, 2, 3\]"):
        read_layout("jump", jump, channels="ch9=ER")
    with pytest.raises(LayoutError, match="option channels: expected ch1=Name"):
        read_layout("jump", jump, channels="w1=ER")


def test_jump_reports_what_its_tables_lack(jump):
    edit(next(jump.rglob("mapA.txt")), "P24", "P23")
    with pytest.raises(LayoutError, match=r"no plate map or load_data.csv describes well P24 of BR1"):
        read_layout("jump", jump)
    edit(next(jump.rglob("barcode_platemap.csv")), "BR2,mapA", "BR2,mapB")
    with pytest.raises(LayoutError, match=r"barcode_platemap.csv, line 3: plate map .*mapB.txt does not exist"):
        read_layout("jump", jump)


def test_jump_without_tables_names_plates_after_folders(tmp_path):
    write_fields(tmp_path / "any" / "AMG900", {"r14c09f05": (1, 2), "r14c09f06": (1,)})
    table = read_layout("jump", tmp_path)
    assert table.channels == ("ch1", "ch2")
    assert table.wells["key"].tolist() == ["AMG900_N09_f05", "AMG900_N09_f06"]
    assert table.wells["treatment"].tolist() == ["AMG900", "AMG900"]
    with pytest.raises(
        LayoutError, match=r"well N09 field 6: image file .*r14c09f06p01-ch2sk1fk1fl1.tiff does not exist"
    ):
        check_images(table)
