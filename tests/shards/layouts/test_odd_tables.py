"""Tables as users have them: columns of spreadsheets, names in another case, files that are named twice."""

import numpy as np
import pandas as pd
import pytest
import tifffile

from shards.errors import LayoutError
from shards.layouts.image_paths import joined
from shards.layouts.plate_folders import plate_folders
from shards.layouts.registry import read_layout
from shards.layouts.row_faults import shared_file
from shards.layouts.well_names import wells_of
from shards.tables.csv_tables import csv_parts

HEADER = "Metadata_Plate,Metadata_Well,Metadata_Site,FileName_DNA"


def screen(root, header=HEADER, rows=("P,A01,1,a.tif", "P,A02,1,b.tif")):
    for name in "ab":
        tifffile.imwrite(root / f"{name}.tif", np.zeros((4, 4), np.uint8))
    (root / "load_data.csv").write_text("\n".join([header, *rows, ""]))


def barcodes(root, name, separator, columns="well_position,broad_sample"):
    (root / "platemap").mkdir()
    (root / name).write_text("Assay_Plate_Barcode,Plate_Map_Name\nP,m\n".replace(",", separator))
    (root / "platemap" / "m.csv").write_text(f"{columns}\nA1,X \nA1,X\nA2, \n")


def test_blank_columns_without_names_are_left_out_and_others_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,,\n1,2,,\n")
    (part,) = csv_parts(str(path))
    assert part.drop(columns="source:line").to_dict("list") == {"a": ["1"], "b": ["2"]}
    path.write_text("a,b,,\n1,2,,\n1,2,,3\n")
    with pytest.raises(LayoutError, match="line 3: the value '3' is in a column without a name"):
        list(csv_parts(str(path)))


@pytest.mark.parametrize(("row", "column"), [("0", "1"), ("1", "0"), ("A", "0.0")])
def test_rows_and_columns_counted_from_zero_are_refused(row, column):
    table = pd.DataFrame({"Row": [row], "Column": [column], "source:line": ["t.csv, line 2"]})
    with pytest.raises(LayoutError, match=r"t.csv, line 2: .* 0: rows and columns are counted from 1"):
        wells_of(table, ())


@pytest.mark.parametrize(("name", "separator"), [("barcode_platemap.txt", "\t"), ("barcode_platemap.tsv", "\t")])
def test_a_barcode_table_may_be_separated_by_tabs(tmp_path, name, separator):
    screen(tmp_path)
    barcodes(tmp_path, name, separator)
    assert read_layout("load_data", tmp_path).wells["treatment"].tolist() == ["X", "DMSO"]


def test_describing_columns_in_another_case(tmp_path):
    screen(tmp_path)
    barcodes(tmp_path, "barcode_platemap.csv", ",", "well_position,Broad_Sample")
    assert read_layout("load_data", tmp_path).wells["treatment"].tolist() == ["X", "DMSO"]


def test_genes_without_treatments(tmp_path):
    screen(tmp_path, HEADER + ",Metadata_Gene", ["P,A01,1,a.tif,TP53"])
    wells = read_layout("load_data", tmp_path).wells
    assert wells[["gene", "treatment"]].to_numpy().tolist() == [["TP53", ""]]


def test_the_option_platemap_needs_barcodes(tmp_path):
    screen(tmp_path)
    with pytest.raises(LayoutError, match=r"option platemap needs a barcode_platemap.csv"):
        read_layout("load_data", tmp_path, platemap="map.txt")


def test_tables_with_similar_names_are_told(tmp_path):
    screen(tmp_path)
    (tmp_path / "load_data_2.csv").write_text("x")
    assert "load_data_2.csv: not read" in read_layout("load_data", tmp_path).notes[0]


def test_one_file_of_two_wells_is_told(tmp_path):
    screen(tmp_path, rows=("P,A01,1,a.tif", "P,A02,1,.//a.tif"))
    assert read_layout("load_data", tmp_path).notes == (
        "channel 'DNA': 1 well images have the file of another one, such as load_data.csv, line 3: "
        "as load_data.csv, line 2",
    )
    assert shared_file(lambda: [(pd.Series(["a", "", ""]), pd.Series(["1", "2", "3"]))]) is None


def test_a_file_with_a_complete_path_needs_no_folder():
    for file in ("/a/b.tif", "file:///a/b.tif", "s3://a/b.tif", "D:\\a\\b.tif"):
        assert joined("/a", file) == file


def test_a_measurement_in_lower_case():
    (place,) = plate_folders("/r", ["/r/b/images/P__x-measurement 1/images"]).values()
    assert place == ("b", "P", "")
