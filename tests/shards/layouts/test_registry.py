"""Layouts: what each one finds on disk, and how it words what is wrong there."""

import gzip
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import Image

from shards.errors import LayoutError
from shards.images.decode import read_well
from shards.layouts.registry import read_layout
from shards.layouts.well_table import check_images


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_rxrx3_rows_channels_and_controls(screen):
    root = screen()
    table = read_layout("rxrx3", root)
    check_images(table)
    assert table.channels == ("Hoechst", "ConA", "Phalloidin", "Syto14", "MitoTracker", "WGA")
    wells = table.located(table.wells).set_index("key")
    assert len(wells) == 12
    row = wells.loc["gene-002_1_B03"]
    assert (row["experiment"], row["plate"], row["well"], row["gene"]) == ("gene-002", "1", "B03", "G1")
    assert row["SMILES"] == "CC(=O)O,[Na]"
    assert row["origin"] == "metadata.csv, line 7"
    assert row["channel:Phalloidin"] == f"{root}/gene-002/Plate1/B03_s1_w3.png"
    control = wells.loc["gene-001_1_B02"]
    assert (control["gene"], control["treatment"]) == ("", "EMPTY_control")


def test_rxrx3_images_may_lie_in_a_folder_of_their_own(screen):
    root = screen()
    (root / "images").mkdir()
    for folder in root.glob("gene-*"):
        folder.rename(root / "images" / folder.name)
    check_images(read_layout("rxrx3", root))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("well_id,", "wellid,", r"metadata.csv, line 1: no column 'well_id' \(did you mean 'wellid'\?\)"),
        ("gene-001_1_B04", "gene-001_1_B03", r"line 4: duplicate well key 'gene-001_1_B03', first at .*line 3"),
        ("gene-001_1_B04", "gene-001.1/B04", r"line 4: well key 'gene-001.1/B04' must be"),
        ('"CC(=O)O,[Na]"', "CC(=O)O,[Na]", r"metadata.csv, line 3: 11 cells, but the header has 10 columns"),
        ("gene-001_1_B04,gene-001,1,", "gene-001_1_B04,gene-001,,", r"line 4: column 'plate' is empty"),
        (",CRISPR,HUVEC", ",CRISPR", r"line 2: 9 cells, but the header has 10 columns"),
    ],
)
def test_rxrx3_names_the_line_of_a_bad_table(screen, old, new, message):
    root = screen()
    edit(root / "metadata.csv", old, new)
    with pytest.raises(LayoutError, match=message):
        read_layout("rxrx3", root)


def test_a_missing_image_is_named_with_its_line(screen):
    root = screen()
    (root / "gene-001" / "Plate1" / "B03_s1_w4.png").unlink()
    with pytest.raises(LayoutError, match=r"^metadata.csv, line 3: image file .*B03_s1_w4.png does not exist$"):
        check_images(read_layout("rxrx3", root))


@pytest.mark.parametrize(
    ("layout", "options", "message"),
    [
        ("rxrx4", {}, "no layout 'rxrx4'; there are rxrx1, rxrx2, "),
        ("rxrx3", {"table": "x"}, "layout 'rxrx3' has no option 'table'; it has metadata, images, pattern"),
        ("rxrx3", {"metadata": "none.csv"}, "none.csv: no such table"),
        ("jump", {}, "no images named like r01c01f01p01-ch1sk1fk1fl1.tiff"),
    ],
)
def test_unknown_layouts_and_options(screen, layout, options, message):
    with pytest.raises(LayoutError, match=message):
        read_layout(layout, screen(), **options)


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


def test_jump_channels_may_be_named_and_chosen_by_hand(jump):
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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a_DNA", "a_ER", "b_DNA", "b_ER"):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros((4, 4), np.uint8))
    rows = "e1,p1,A01,a_DNA.tif,a_ER.tif,10\ne2,p1,A01,b_DNA.tif,b_ER.tif,20\n"
    (tmp_path / "wells.csv").write_text(f"experiment,plate,well,channel:DNA,channel:ER,dose\n{rows}")
    (tmp_path / "named.csv").write_text("experiment,plate,well,file\ne1,p1,A01,a\ne2,p1,A01,b\n")
    return tmp_path


def test_folder_by_columns_and_by_pattern_agree(folder):
    columns = read_layout("folder", folder)
    pattern = read_layout("folder", folder, table="named.csv", pattern="{file}_{channel}.tif", channels="DNA,ER")
    assert columns.channels == pattern.channels == ("DNA", "ER")
    for name in ("channel:DNA", "channel:ER"):
        assert columns.wells[name].tolist() == pattern.wells[name].tolist()
    assert columns.wells["key"].tolist() == ["e1_p1_A01_1", "e2_p1_A01_1"]
    assert columns.wells["dose"].tolist() == ["10", "20"]
    check_images(columns)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": "named.csv"}, "named.csv, line 1: no column 'channel:<name>'"),
        ({"pattern": "{dose}_{channel}.tif"}, "also needs channels"),
        ({"pattern": "{dosage}_{channel}.tif", "channels": "DNA"}, r"no column 'dosage' \(did you mean 'dose'\?\)"),
        ({"pattern": "{dose}.tif", "channels": "DNA"}, "names no {channel}"),
    ],
)
def test_folder_says_what_is_missing(folder, options, message):
    with pytest.raises(LayoutError, match=message):
        read_layout("folder", folder, **options)


def test_each_folder_is_listed_once_whatever_the_keys(folder, monkeypatch):
    """More plates than listings are kept, under keys that begin with the well."""
    from shards.layouts import well_table as wells

    rows = [f"w{well}-p{plate},e,p{plate:03d},w{well},plate{plate}" for well in range(2) for plate in range(300)]
    (folder / "wells.csv").write_text("\n".join(["key,experiment,plate,well,file", *rows]))
    listed = []
    monkeypatch.setattr(wells, "_names_in", lambda place: listed.append(place) or frozenset({"A.png"}))
    check_images(read_layout("folder", folder, pattern="{file}/{channel}.png", channels="A"))
    assert len(listed) == len(set(listed)) == 300


def test_a_table_without_rows_is_refused(folder, screen):
    for table in (folder / "wells.csv", (root := screen()) / "metadata.csv"):
        table.write_text(table.read_text().partition("\n")[0] + "\n")
    for layout, place in (("folder", folder), ("rxrx3", root)):
        with pytest.raises(LayoutError, match="no well images found"):
            read_layout(layout, place)


def test_two_columns_for_one_of_ours_are_refused(screen):
    root = screen()
    edit(root / "metadata.csv", "SMILES", "well")
    with pytest.raises(LayoutError, match=r"metadata.csv, line 1: column 'address' would become 'well', which exists"):
        read_layout("rxrx3", root)


def test_reserved_columns_are_refused(folder):
    edit(folder / "wells.csv", "dose", "shard")
    with pytest.raises(LayoutError, match="column 'shard' is reserved"):
        read_layout("folder", folder)


def test_folder_images_may_be_rows_of_a_parquet_file(folder, tmp_path):
    """An image dataset's file beside plain ones; one that is missing is named by its own path."""
    png = io.BytesIO()
    Image.fromarray(np.full((4, 4), 7, np.uint8)).save(png, "png")
    pq.write_table(pa.table({"png": [b"", png.getvalue()]}), folder / "images.parquet")
    edit(folder / "wells.csv", "a_DNA.tif", "images.parquet#1.png")
    table = read_layout("folder", folder)
    check_images(table)
    (first, _) = table.rows(np.arange(2))
    assert read_well(first["images"])[:, 0, 0].tolist() == [7, 0]
    (folder / "images.parquet").unlink()
    with pytest.raises(LayoutError, match=r"wells.csv, line 2: image file .*images.parquet#1.png does not exist"):
        check_images(table)
