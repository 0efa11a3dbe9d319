"""load_data tables as pipelines write them: names of files and columns, dialects, paths, batches, faults."""

import urllib.parse
from pathlib import Path

import pandas as pd
import pytest
from dialects import WELLS, dialects, written_well
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import LayoutError
from shards.layouts.registry import read_layout
from shards.layouts.row_faults import Tolerance

HEADER = "Metadata_Plate,Metadata_Well,Metadata_Site,FileName_OrigDNA,PathName_OrigDNA,FileName_OrigER,PathName_OrigER"


def write(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows, ""]))
    return path


def row(plate: str = "P1", well: str = "A01", site: int = 1, folder: str = "images") -> str:
    return f"{plate},{well},{site},{plate}_{well}_{site}_d.tif,{folder},{plate}_{well}_{site}_e.tif,{folder}"


def places(root: Path, **options: str) -> list[tuple[str, str, str]]:
    wells = read_layout("load_data", root, **options).wells
    return sorted(zip(wells["experiment"], wells["plate"], wells["well"], strict=True))


PATHS = {
    "relative": lambda root, path: path,
    "absolute": lambda root, path: f"{root}/{path}",
    "file url": lambda root, path: "file://" + urllib.parse.quote(f"{root}/{path}"),
    "java url": lambda root, path: "file:" + urllib.parse.quote(f"{root}/{path}"),
    "windows": lambda root, path: "D:\\screens\\" + path.replace("/", "\\"),
    "backslashes": lambda root, path: path.replace("/", "\\"),
}


@settings(max_examples=25)
@given(
    dialect=dialects(),
    style=st.sampled_from(sorted(PATHS)),
    url=st.booleans(),
    orig=st.sampled_from(["Orig", ""]),
    prefix=st.sampled_from(["", "Image_"]),
    name=st.sampled_from(["load_data.csv", "load_data_with_illum.csv", "load_data.csv.gz", "load_data.parquet"]),
    wells=st.lists(
        st.tuples(st.sampled_from(["A", "P", "AB"]), st.integers(1, 48), st.sampled_from(WELLS)),
        min_size=1, max_size=4, unique_by=lambda well: well[:2],
    ),
)  # fmt: skip
def test_the_same_wells_come_back_from_any_dialect(tmp_path_factory, dialect, style, url, orig, prefix, name, wells):
    root = tmp_path_factory.mktemp("screen")
    kinds = ["URL"] if url else ["FileName", "PathName"]
    header = [f"{prefix}{kind}_{orig}{stain}" for stain in ("DNA", "ER", "IllumDNA") for kind in kinds]
    rows, expected = [], []
    for letters, column, written in wells:
        well, cells = f"{letters}{column:02d}", []
        for stain in ("DNA", "ER", "illum"):
            path = PATHS[style](root, f"images/plate 1/{well} é_{stain}.tif")
            at = max(path.rfind("/"), path.rfind("\\"))
            cells += [path] if url else [urllib.parse.unquote(path[at + 1 :]), path[:at]]
        rows.append(["001", written_well(written, letters, column), "1", *cells])
        expected.append(["B1", "001", well, *(f"{root}/images/plate 1/{well} é_{s}.tif" for s in ("DNA", "ER"))])
    names = [f"{prefix}Metadata_{column}" for column in ("Plate", "Well", "Site")]
    dialect.write(root / "tables" / "B1" / "001" / name, [*names, *header], rows)
    table = read_layout("load_data", root, replace=f"D:\\screens={root}")
    assert table.channels == ("DNA", "ER")
    columns = ["experiment", "plate", "well", "channel:DNA", "channel:ER"]
    assert sorted(table.wells[columns].to_numpy().tolist()) == sorted(expected)


def test_one_table_of_each_folder_is_read(tmp_path):
    for name in ("load_data_with_illum.csv", "load_data.csv.gz", "load_data.csv"):
        write(tmp_path / "B1" / "P1" / name, row("P1"))
    frame = pd.DataFrame([row("P2").split(",")], columns=HEADER.split(","))
    frame.assign(Metadata_Site=1).to_parquet(write(tmp_path / "B1" / "P2" / "load_data_with_illum.parquet"))
    write(tmp_path / "B1" / "P2" / "load_data_with_illum.csv", row("P3"))
    table = read_layout("load_data", tmp_path)
    assert set(table.wells["plate"]) == {"P1", "P3"}
    assert table.notes == (
        f"3 tables lie beside a load_data table that was read, such as {tmp_path}/B1/P1/load_data.csv.gz",
    )


def test_the_experiment_is_never_the_name_of_a_folder_above_the_root(tmp_path):
    root = tmp_path / "screen"
    table = write(root / "load_data.csv", row("P1"), row("P2"))
    assert places(root) == [("P1", "P1", "A01"), ("P2", "P2", "A01")]
    table.rename(write(root / "tables" / "load_data.csv"))
    assert places(root) == [("screen", "P1", "A01"), ("screen", "P2", "A01")]  # the root may be a batch's folder
    (root / "tables").rename(tmp_path / "tables")
    root.joinpath("empty").mkdir()
    for elsewhere in ("../tables", "../tables/load_data.csv"):
        assert places(root, load_data=str((root / elsewhere).resolve())) == [("P1", "P1", "A01"), ("P2", "P2", "A01")]


def test_a_batch_is_named_by_the_table_or_else_by_its_folder(tmp_path):
    write(tmp_path / "B7" / "P1" / "load_data.csv", row("P1"))
    write(tmp_path / "load_data_csv" / "P2" / "load_data.csv", row("P2"))  # says what is in it, not which batch
    write(
        tmp_path / "x" / "P3" / "load_data.csv",
        f"{row('P3')},B9",
        f"{row('P3', 'A02')}, ",
        header=f"{HEADER},Metadata_Batch",
    )
    assert places(tmp_path) == [("B7", "P1", "A01"), ("B9", "P3", "A01"), ("P2", "P2", "A01"), ("x", "P3", "A02")]


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("Plate,Well,Site,URL_DNA", "P1,a1,1,x.tif"),
        ("Image_Metadata_Plate,Image_Metadata_Well,Image_Metadata_Site,Image_FileName_DNA", "P1,A1,1.0,x.tif"),
        ("Metadata_Barcode,Metadata_Row,Metadata_Col,Metadata_Field,URL_OrigDNA", "P1,1,1,1, x.tif "),
        ("Metadata_Plate,Barcode,Metadata_Well,Metadata_Site,URL_OrigDNA", "P1,other, A001 ,1,x.tif"),
        (
            "Metadata_Plate,Metadata_Well,Metadata_Site,URL_OrigDNA,FileName_OrigDNA,PathName_OrigDNA",
            "P1,A01,1,,x.tif,",
        ),
    ],
)
def test_columns_may_have_other_usual_names(tmp_path, header, cells):
    write(tmp_path / "B1" / "P1" / "load_data.csv", cells, header=header)
    table = read_layout("load_data", tmp_path)
    assert table.wells[["plate", "well", "site"]].to_numpy().tolist() == [["P1", "A01", 1]]
    assert table.channels == ("DNA",)
    assert table.wells["channel:DNA"].tolist() == [f"{tmp_path}/x.tif"]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "Metadata_plate,Metadata_Well,Metadata_Site,URL_DNA",
            r"no column 'Metadata_Plate' \(did you mean 'Metadata_plate'",
        ),
        ("Metadata_Plate,Metadata_Wel,Metadata_Site,URL_DNA", "no column 'Metadata_Well'"),
        (
            "Metadata_Plate,Metadata_Well,Metadata_Site,URL_IllumDNA",
            "no column FileName_<Name> or URL_<Name> of a channel",
        ),
        ("Metadata_Plate,Metadata_Well,Metadata_Site,FileName_NucleiOutlines", "no column FileName_<Name> or URL_"),
    ],
)
def test_columns_that_are_not_there_are_named(tmp_path, header, message):
    write(tmp_path / "load_data.csv", "P1,A01,1,x.tif", header=header)
    with pytest.raises(LayoutError, match=rf"load_data.csv, line 1: {message}"):
        read_layout("load_data", tmp_path)


def test_columns_of_images_that_are_not_used_are_named(tmp_path):
    header = "Metadata_Plate,Metadata_Well,Metadata_Site,URL_OrigDNA,URL_Brightfield,URL_IllumDNA"
    write(tmp_path / "load_data.csv", "P1,A01,1,a,b,c", header=header)
    table = read_layout("load_data", tmp_path)
    assert table.channels == ("DNA",)
    assert table.notes == (
        f"{tmp_path}/load_data.csv: columns without Orig in their names are not used: URL_Brightfield",
    )


def test_plates_of_one_name_in_two_batches(tmp_path):
    """Their keys have the batch; those of other plates stay as they are."""
    for batch, plates in {"B1": ("P1", "P2"), "B2": ("P1", "P3")}.items():
        for plate in plates:
            write(tmp_path / batch / plate / "load_data.csv", row(plate), row(plate, "A02"))
    keys = read_layout("load_data", tmp_path).wells["key"].tolist()
    assert keys == [
        "B1_P1_A01_s1", "B1_P1_A02_s1", "B2_P1_A01_s1", "B2_P1_A02_s1", "P2_A01_s1", "P2_A02_s1", "P3_A01_s1",
        "P3_A02_s1",
    ]  # fmt: skip
    write(tmp_path / "B2" / "again" / "load_data.csv", row("P1"))
    with pytest.raises(LayoutError, match="duplicate well key 'B2_P1_A01_s1'"):
        read_layout("load_data", tmp_path)


def test_two_ways_to_write_a_well_are_one_well(tmp_path):
    """Keys are of the text as it is written, so those of existing sets stay; the same site twice is refused."""
    table = write(tmp_path / "B1" / "P1" / "load_data.csv", row(well="A1"), row(well="A01", site=2), row(well="a2"))
    wells = read_layout("load_data", tmp_path).wells
    assert wells[["key", "well"]].to_numpy().tolist() == [
        ["P1_A01_s2", "A01"], ["P1_A1_s1", "A01"], ["P1_a2_s1", "A02"],
    ]  # fmt: skip
    write(table, row(well="A1"), row(well="A02"), row(well="A001"))
    with pytest.raises(LayoutError, match=r"line [24]: a second image of well A01 site 1, first at .*line [24]$"):
        read_layout("load_data", tmp_path)


def test_rows_with_a_fault(tmp_path):
    blank = row(site=2).replace("P1_A01_2_e.tif", " ")
    same = row(site=3).replace("_e.tif", "_d.tif")
    write(tmp_path / "B1" / "P1" / "load_data.csv", row(), blank, same)
    with pytest.raises(
        LayoutError, match=r"line 3: column 'FileName_OrigER' is empty \(and 1 more such rows\); --on-err"
    ):
        read_layout("load_data", tmp_path)
    wells = read_layout("load_data", tmp_path, None, None, Tolerance(quarantine=True)).wells.set_index("key")
    assert wells["source:fault"].tolist() == [
        "", "column 'FileName_OrigER' is empty",
        f"channels 'DNA' and 'ER' name one file, {tmp_path}/images/P1_A01_3_d.tif",
    ]  # fmt: skip


def test_a_table_without_rows_is_named(tmp_path):
    write(tmp_path / "B1" / "P1" / "load_data.csv", row())
    write(tmp_path / "B1" / "P2" / "load_data.csv")
    assert read_layout("load_data", tmp_path).notes == (f"{tmp_path}/B1/P2/load_data.csv: no rows",)
    write(tmp_path / "B1" / "P1" / "load_data.csv")
    with pytest.raises(LayoutError, match="no well images found"):
        read_layout("load_data", tmp_path)


def test_a_channel_that_is_chosen_twice_is_refused(tmp_path):
    write(tmp_path / "load_data.csv", row())
    for channels in ("DNA,DNA", "DNA,,ER"):
        with pytest.raises(
            LayoutError, match=f"option channels: expected DNA,ER with each name once, got '{channels}'"
        ):
            read_layout("load_data", tmp_path, channels=channels)


def test_a_windows_path_names_the_option_that_it_needs(tmp_path):
    write(tmp_path / "load_data.csv", row(folder="D:\\screens\\B1"))
    with pytest.raises(
        LayoutError, match=r"load_data.csv, line 2: D:\\screens\\B1\\P1_A01_1_d.tif .* replace=D:\\screens="
    ):
        read_layout("load_data", tmp_path)
    location = read_layout("load_data", tmp_path, replace="d:\\Screens=s3://bucket").wells["channel:DNA"].iloc[0]
    assert location == "s3://bucket/B1/P1_A01_1_d.tif"


def test_a_table_without_sites_numbers_the_images_of_a_well_as_they_come(tmp_path):
    """BBBC021's table: plate and well were read off the names of one channel's files, and there is no site."""
    header = ("ImageNumber,Image_FileName_DAPI,Image_PathName_DAPI,Image_FileName_Actin,Image_PathName_Actin,"
              "Image_Metadata_Plate_DAPI,Image_Metadata_Well_DAPI")  # fmt: skip
    rows = [f"{n},{n}_w1.tif,Week1,{n}_w4.tif,Week1,Week1_22123,{well}" for n, well in enumerate(("B02", "B02", "B03"))]
    write(tmp_path / "load_data.csv", *rows, header=header)
    wells = read_layout("load_data", tmp_path).wells
    assert list(zip(wells["plate"], wells["well"], wells["site"], strict=True)) == [
        ("Week1_22123", "B02", 1), ("Week1_22123", "B02", 2), ("Week1_22123", "B03", 1)
    ]  # fmt: skip
    assert [name for name in wells if name.startswith("channel:")] == ["channel:Actin", "channel:DAPI"]
