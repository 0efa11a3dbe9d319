"""Channels, plates and perturbations of Opera Phenix folders."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from shard_files import edit

from shards.build import main
from shards.errors import ImageError, LayoutError
from shards.images.decode import read_well
from shards.layouts.registry import read_layout
from shards.layouts.well_table import check_images
from shards.reader.shard_set import ShardSet


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


@pytest.fixture
def planes(tmp_path: Path) -> Path:
    """Two fields of two channels in three planes; pixels are 10 times the channel plus the plane."""
    folder = tmp_path / "plates" / "P1"
    folder.mkdir(parents=True)
    for field in (1, 2):
        for channel in (1, 2):
            for plane in (1, 2, 3):
                pixels = np.full((4, 4), 10 * channel + plane, np.uint16)
                pixels[plane] = 50 + plane
                tifffile.imwrite(folder / f"r02c03f{field:02d}p{plane:02d}-ch{channel}sk1fk1fl1.tiff", pixels)
    return folder


def pixels_of(root: Path, plane: int | str | None) -> list[np.ndarray]:
    table = read_layout("jump", root, None, plane)
    check_images(table)
    return [read_well(row["images"], plane=plane) for row in table.rows(table.numbers)]


def test_a_plane_is_picked_by_its_number_in_the_name(planes):
    for plane in (1, 2, 3):
        first, second = pixels_of(planes.parent, plane)
        assert np.array_equal(first, second)
        assert first[:, 0, 0].tolist() == [10 + plane, 20 + plane]
        assert first[:, plane, 0].tolist() == [50 + plane] * 2


def test_the_maximum_is_of_all_planes(planes):
    for well in pixels_of(planes.parent, "max"):
        assert well[:, 0].tolist() == [[13] * 4, [23] * 4]
        assert well[0, 1:, 0].tolist() == [51, 52, 53]


def test_several_planes_are_refused_by_default_with_a_message_that_names_the_option(planes):
    message = "p02-ch1sk1fk1fl1.tiff: another plane of r02c03f01p01-ch1sk1fk1fl1.tiff; there are 3: choose one with "
    with pytest.raises(LayoutError, match=rf"{message}--plane N, or their maximum with --plane max"):
        read_layout("jump", planes.parent)
    with pytest.raises(LayoutError, match=r"P1: no image of plane 4; there are 3 planes, from 1 to 3"):
        read_layout("jump", planes.parent, None, 4)
    with pytest.raises(LayoutError, match=r"layout 'jump' has no option 'plane'"):
        read_layout("jump", planes.parent, plane="2")


def test_a_plane_that_one_channel_lacks_is_a_missing_image(planes):
    (planes / "r02c03f02p03-ch2sk1fk1fl1.tiff").unlink()
    for plane in (3, "max"):
        with pytest.raises(
            LayoutError, match=r"field 2: image file .*P1/r02c03f02p03-ch2sk1fk1fl1.tiff does not exist$"
        ):
            check_images(read_layout("jump", planes.parent, None, plane))
        rows = read_layout("jump", planes.parent, None, plane).rows(np.arange(2))
        with pytest.raises(ImageError, match=r"image file .*r02c03f02p03-ch2sk1fk1fl1.tiff does not exist"):
            read_well(rows[1]["images"], plane=plane)
    assert len(pixels_of(planes.parent, 2)) == 2


def test_a_channel_that_a_field_lacks_is_named_with_its_plane(planes):
    for plane in (1, 2, 3):
        (planes / f"r02c03f02p{plane:02d}-ch2sk1fk1fl1.tiff").unlink()
    for plane, missing in ((2, "p02"), ("max", "p01")):
        with pytest.raises(LayoutError, match=rf"image file .*r02c03f02{missing}-ch2sk1fk1fl1.tiff does not exist"):
            check_images(read_layout("jump", planes.parent, None, plane))


def test_files_that_differ_in_more_than_the_plane_are_refused(planes):
    (planes / "r02c03f01p01-ch1sk2fk1fl1.tiff").write_bytes(b"")
    for plane in (None, 1, "max"):
        with pytest.raises(
            LayoutError, match=r"ch1sk\d.*: the same field, channel and plane as .*; one image is needed"
        ):
            read_layout("jump", planes.parent, None, plane)


def test_where_all_files_are_plane_1_the_files_themselves_may_hold_several(tmp_path):
    write_fields(tmp_path / "P1", {"r01c01f01": (1, 2)})
    for path in (tmp_path / "P1").iterdir():
        planes = np.stack([np.full((4, 4), value, np.uint16) for value in (7, 9, 8)])
        tifffile.imwrite(path, planes, photometric="minisblack")
    assert pixels_of(tmp_path, 3)[0][:, 0, 0].tolist() == [8, 8]
    assert pixels_of(tmp_path, "max")[0][:, 0, 0].tolist() == [9, 9]
    with pytest.raises(ImageError, match=r"ch1sk1fk1fl1.tiff holds 3 planes; choose one with --plane N"):
        pixels_of(tmp_path, None)


def test_files_of_one_plane_of_a_stack_hold_one_each(planes):
    path = planes / "r02c03f01p02-ch1sk1fk1fl1.tiff"
    tifffile.imwrite(path, np.zeros((2, 4, 4), np.uint16), photometric="minisblack")
    with pytest.raises(ImageError, match=f"image file {path} holds 2 planes"):
        pixels_of(planes.parent, "max")
    tifffile.imwrite(path, np.zeros((5, 4), np.uint16))
    with pytest.raises(
        ImageError, match=r"p01-ch1sk1fk1fl1.tiff and the other planes of its field: has planes of \(4, 4\)"
    ):
        pixels_of(planes.parent, "max")


def measurement(root: Path, batch: str, plate: str, wells: dict[str, tuple[int, ...]]) -> Path:
    folder = root / batch / "images" / f"{plate}__2021-01-01T00_00_00-Measurement 1"
    write_fields(folder / "Images", wells)
    return folder


def test_folders_called_images_are_no_plates(tmp_path):
    for plate in ("plateA", "plateB"):
        write_fields(tmp_path / plate / "Images", {"r01c01f01": (1, 2)})
    columns = ["key", "experiment", "plate", "treatment"]
    wells = read_layout("jump", tmp_path).wells[columns].to_numpy().tolist()
    assert wells == [[f"{plate}_A01_f01", plate, plate, plate] for plate in ("plateA", "plateB")]
    assert read_layout("jump", tmp_path / "plateA").wells[columns].to_numpy().tolist() == wells[:1]


def test_a_plate_behind_a_link_has_the_batch_of_the_link(tmp_path):
    """The link leads to another disk; one to a plate that is there already, and one that leads nowhere, are named."""
    measurement(tmp_path / "screen", "B1", "BR01", {"r01c01f01": (1,)})
    elsewhere = measurement(tmp_path / "disk2", "other", "BR02", {"r01c01f01": (1,), "r01c02f01": (1,)})
    images = tmp_path / "screen" / "B1" / "images"
    (images / elsewhere.name).symlink_to(elsewhere)
    (images / "again").symlink_to(f"BR01{elsewhere.name[4:]}")
    (images / "up").symlink_to("..")
    (images / f"BR03{elsewhere.name[4:]}").symlink_to("nowhere")
    (images / f"BR04{elsewhere.name[4:]}").write_text("../../../disk2/BR04")
    table = read_layout("jump", tmp_path / "screen")
    check_images(table)
    assert table.wells["key"].tolist() == ["BR01_A01_f01", "BR02_A01_f01", "BR02_A02_f01"]
    assert set(table.wells["experiment"]) == {"B1"}
    for name, reason in {
        "again": "which is read already", "up": "which contains it", "BR03": "a link to nowhere, which is not there",
        "BR04": "a file, not the folder of a measurement",
    }.items():  # fmt: skip
        assert [note for note in table.notes if f"/{name}" in note and reason in note]


def test_images_of_other_names_and_channels_without_a_name_are_counted(jump):
    folder = next(jump.rglob("Images"))
    for name in ("BR1_A01_w1.TIF", "overview.png", "Index.idx.xml"):
        (folder / name).touch()
    assert read_layout("jump", jump).notes == (
        f"2 images are not named like r01c01f01p01-ch1sk1fk1fl1.tiff, such as {folder}/BR1_A01_w1.TIF",
        "channels [2] have no name in load_data.csv",
        "channels [3] have no name in load_data.csv",
    )
    (jump / "workspace" / "x.tiff").touch()
    with pytest.raises(LayoutError, match=r"no images named like .* below this folder; 1 images are not named like"):
        read_layout("jump", jump / "workspace")


def test_plates_of_one_name_in_two_batches_have_the_stains_of_their_own_table(tmp_path):
    for batch, number in (("B1", 1), ("B2", 2)):
        measurement(tmp_path, batch, "BR1", {"r01c01f01": (1, 2)})
        folder = tmp_path / "load_data_csv" / batch / "BR1"
        folder.mkdir(parents=True)
        name = f"D:\\x\\r01c01f01p01-ch{number}sk1fk1fl1.tiff"
        rows = [
            "Metadata_Plate,Metadata_Well,FileName_DNA,Metadata_treatment",
            f"BR1,A1,{name},{batch}",
            f"BR1,A02,,{batch}",
        ]
        (folder / "load_data_with_illum.csv").write_text("\n".join(rows))
    wells = read_layout("jump", tmp_path).wells.set_index("key")
    assert wells["treatment"].to_dict() == {"B1_BR1_A01_f01": "B1", "B2_BR1_A01_f01": "B2"}
    images = [read_well([path])[0, 0, 0] for path in wells["channel:DNA"]]
    assert images == [1, 2]


def test_two_stains_of_one_channel_are_refused(jump):
    edit(next(jump.rglob("load_data.csv")), "f01p01-ch3sk", "f01p01-ch1sk")
    with pytest.raises(LayoutError, match=r"BR1__.*, well A01 field 1: channels '\w+' and '\w+' name one file"):
        read_layout("jump", jump)


def test_a_well_that_no_table_describes_is_left_out_or_kept(jump, tmp_path, capsys):
    """The command says how to go on, and afterwards what it did."""
    edit(next(jump.rglob("mapA.txt")), "P24\t", "P23\t")
    command = ["--layout", "jump", "--root", str(jump), "--validation-fraction", "0", "--workers", "1"]
    assert main([*command, "--output", str(tmp_path / "stopped")]) == 1
    error = capsys.readouterr().err
    assert re.search("describes well P24 of BR1 .*--unlabelled keep .* and --on-error quarantine", error)
    for option, keys, printed in (
        ("--on-error=quarantine", [], "quarantined BR1_P24_f02: source_x|quarantined BR1_P24_f02: images/"),
        ("--unlabelled=keep", ["BR1_P24_f02", "BR2_P24_f02"], "as no table describes their wells: 2 well images"),
    ):
        output = tmp_path / option[2:6]
        for _ in range(2):  # the second finds a complete set
            assert main([*command, "--output", str(output), option]) == 0
        out = capsys.readouterr().out
        assert re.search(printed, out)
        assert "already complete" in out
        wells = ShardSet.open(output).wells.set_index("key")
        assert sorted(wells.index) == ["BR1_A01_f01", *keys[:1], "BR2_A01_f01", *keys[1:]]
        assert set(wells.loc[keys, "treatment"]) <= {""}


def test_tables_that_name_no_channels_still_describe_wells(jump):
    """Without any, channels have their numbers; other columns of files are counted as not used."""
    for table in [*jump.rglob("load_data.csv*")]:
        plate = table.parent.name
        table.unlink()
        header = "Metadata_Plate,Metadata_Well,FileName_Overview,Metadata_treatment"
        (table.parent / "load_data.csv").write_text(f"{header}\n{plate},A1,x.png,{plate}\n{plate},P24,y.png,{plate}\n")
    next(jump.rglob("barcode_platemap.csv")).unlink()
    table = read_layout("jump", jump)
    assert table.channels == ("ch1", "ch2", "ch3")
    assert table.wells["treatment"].tolist() == table.wells["plate"].tolist()
    assert "column FileName_Overview does not name images" in table.notes[0]
    edit(next(jump.rglob("load_data.csv")), "FileName_Overview", "Metadata_Overview")
    assert read_layout("jump", jump).channels == ("ch1", "ch2", "ch3")
