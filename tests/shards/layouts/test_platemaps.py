"""Plate maps: dialects, ways to write a well, contradictions, batches, and wells that none of them describes."""

from pathlib import Path

import pandas as pd
import pytest
from dialects import WELLS, dialects, written_well
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import LayoutError
from shards.layouts.platemaps import MAP, describe, find_platemaps, perturbations
from shards.tables.columns import UNDESCRIBED


def write(root: Path, batch: str, barcodes: str, **maps: str) -> Path:
    """A barcode table and its plate maps; rows of text, commas instead of tabs."""
    folder = root / batch / "platemap"
    folder.mkdir(parents=True, exist_ok=True)
    (root / batch / "barcode_platemap.csv").write_text(f"Assay_Plate_Barcode,Plate_Map_Name\n{barcodes}")
    for name, text in maps.items():
        (folder / f"{name}.txt").write_text(text.replace(",", "\t"))
    return root


def wells(*rows: str) -> pd.DataFrame:
    return pd.DataFrame([row.split(",") for row in rows], columns=["experiment", "plate", "well"])


def treatments(root: Path, *rows: str) -> list[str]:
    return describe(wells(*rows), find_platemaps(str(root), None, None, []))["treatment"].tolist()


@settings(max_examples=15)
@given(
    dialect=dialects(),
    name=st.sampled_from(["map1", "map1.txt", "map1.csv", "map1.csv.gz"]),
    styles=st.lists(st.tuples(st.sampled_from(WELLS), st.sampled_from(WELLS)), min_size=1, max_size=6),
    treatment=st.sampled_from(["BRD-1", "NA", "None", "nan", "001", "1.0"]),
)
def test_the_same_treatments_come_back_from_any_dialect(tmp_path_factory, dialect, name, styles, treatment):
    root = tmp_path_factory.mktemp("maps")
    file = name if "." in name else f"{name}.txt"
    rows = [[written_well(style, "B", n + 1), f"{treatment}{n}"] for n, (style, _) in enumerate(styles)]
    dialect.write(root / "platemap" / file, ["well_position", "broad_sample"], rows)
    dialect.write(root / "barcode_platemap.csv", ["Assay_Plate_Barcode", "Plate_Map_Name"], [["001", name]])
    imaged = [f"e,001,{written_well(style, 'B', n + 1)}" for n, (_, style) in enumerate(styles)]
    assert treatments(root, *imaged) == [f"{treatment}{n}" for n in range(len(styles))]


def test_barcodes_are_numbers_where_they_are_numbers(tmp_path):
    write(tmp_path, "b", "1,map1\n001,map2\n", map1="well_position,broad_sample\nA01,x\n",
          map2="well_position,broad_sample\nA01,y\n")  # fmt: skip
    assert treatments(tmp_path, "e,1.0,A01", "e,1,A01", "e,001,A01") == ["x", "x", "y"]


def test_two_treatments_of_one_well_are_refused_with_both_lines(tmp_path):
    text = "well_position,broad_sample\nA01,x\nA02,y\nA2,z\nA01,x\nB01,u\nB01,v\n"
    write(tmp_path, "b", "P1,map1\n", map1=text)
    path = f"{tmp_path}/b/platemap/map1.txt"
    message = f"{path}, line 4: treatment 'z' of well A02 of P1, but 'y' at {path}, line 3: one description per well"
    with pytest.raises(LayoutError, match=message):
        treatments(tmp_path, "e,P1,A02")
    assert treatments(tmp_path, "e,P1,A01") == ["x"]  # the same twice; and B01 has no image
    write(tmp_path, "b", "P1,map1\nP1,map2\n", map1="well_position,broad_sample\nA01,x\n",
          map2="well_position,broad_sample,gene\nA01,x,PLK1\n")  # fmt: skip
    with pytest.raises(
        LayoutError, match=r"map2.txt, line 2: gene 'PLK1' of well A01 of P1, but '' at .*map1.txt, line 2"
    ):
        treatments(tmp_path, "e,P1,A01")


def test_plates_of_one_name_have_the_map_of_their_batch(tmp_path):
    write(tmp_path, "B1", "P1,map\n", map="well_position,broad_sample\nA01,x\n")
    write(tmp_path, "B2", "P1,map\n", map="well_position,broad_sample\nA01,y\n")
    assert treatments(tmp_path, "B2,P1,A01", "B1,P1,A01") == ["y", "x"]
    with pytest.raises(LayoutError, match=r"B2/platemap/map.txt, line 2: treatment 'y' .* but 'x' at .*B1/platemap"):
        treatments(tmp_path, "other,P1,A01")


def test_a_map_in_a_folder_that_is_no_batch_holds_for_all_plates_of_its_name(tmp_path):
    write(tmp_path, "all", "P1,map\n", map="well_position,broad_sample\nA01,x\nA02,\n")
    assert treatments(tmp_path, "B2,P1,A01", "B1,P1,A01", "B1,P1,A02") == ["x", "x", "DMSO"]


def test_wells_that_none_describes_are_marked(tmp_path):
    write(tmp_path, "B1", "P1,map\nP2, \n", map="well_position,broad_sample\nA01,x\n,lost\n")
    rows = describe(wells("B1,P1,A1", "B1,P1,H08", "B1,P2,A01"), find_platemaps(str(tmp_path), None, None, []))
    assert rows["treatment"].tolist() == ["x", "", ""]
    assert rows[UNDESCRIBED].tolist() == [
        "", "no plate map or load_data.csv describes well H08 of P1",
        "no plate map or load_data.csv describes well A01 of P2",
    ]  # fmt: skip


def test_a_map_by_row_and_column_and_one_named_by_an_option(tmp_path):
    write(tmp_path, "B1", "P1,map\nP2,map\n", map="row,column,treatment\nA,1,x\n2,3,y\n")
    assert treatments(tmp_path, "B1,P1,A01", "B1,P2,B03") == ["x", "y"]
    (tmp_path / "B1" / "platemap" / "map.txt").rename(tmp_path / "one.csv")
    described = find_platemaps(str(tmp_path), "one.csv", "B1", [])
    assert describe(wells("B1,P2,B03"), described)["treatment"].tolist() == ["y"]


def test_commas_in_the_names_of_other_columns_are_no_separators(tmp_path):
    write(tmp_path, "B1", "P1,map\n", map="well_position,broad_sample,doses (1;2;3;4)\nA01,x,1\n")
    path = tmp_path / "B1" / "platemap" / "map.txt"
    path.write_text(path.read_text().replace(";", ","))
    assert treatments(tmp_path, "B1,P1,A01") == ["x"]


def test_what_a_map_lacks_is_named(tmp_path):
    write(tmp_path, "B1", "P1,map\n", map="wel_position,broad_sample\nA01,x\n")
    with pytest.raises(LayoutError, match=r"map.txt, line 1: no column 'well_position' \(did you mean 'wel_position'"):
        treatments(tmp_path, "B1,P1,A01")
    write(tmp_path, "B1", "P1,map\n", map="well_position,sample\nA01,x\n")
    with pytest.raises(LayoutError, match=r"map.txt, line 1: no column 'broad_sample'"):
        treatments(tmp_path, "B1,P1,A01")


def test_columns_with_and_without_the_prefix():
    table = pd.DataFrame({"Metadata_gene": ["PLK1"], "gene": ["other"], "Image_Metadata_broad_sample": ["x"]})
    where = pd.DataFrame({"well": ["a1"], "source:line": ["t.csv, line 2"]})
    row = perturbations(table, where, MAP).iloc[0]
    assert row[["well", "gene", "treatment"]].tolist() == ["A01", "PLK1", "x"]
