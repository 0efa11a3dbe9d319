"""The `folder` layout: images by column, by pattern, and as rows of a Parquet file."""

import io
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from shard_files import edit

from shards.builder.build_set import build
from shards.errors import BuildError, LayoutError
from shards.images.decode import read_well
from shards.layouts.registry import read_layout
from shards.layouts.well_table import check_images
from shards.reader.shard_set import ShardSet


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


def test_folder_images_may_be_rows_of_a_parquet_file(folder, tmp_path):
    """An image dataset's file next to plain ones; a missing one is named by its location."""
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


def test_a_column_of_the_tables_own_is_never_overwritten(folder, tmp_path):
    """`origin` is a name that the set's table has, too: the user's is kept, and may be used in a pattern."""
    edit(folder / "wells.csv", "dose", "origin")
    (folder / "origins.csv").write_text("experiment,plate,well,origin\ne1,p1,A01,a\ne2,p1,A01,b\n")
    options = {"table": "origins.csv", "pattern": "{origin}_{channel}.tif", "channels": "DNA,ER"}
    check_images(read_layout("folder", folder, **options))
    build("folder", folder, tmp_path / "out", validation_fraction=0, progress=False)
    shards = ShardSet.open(tmp_path / "out")
    wells = shards.wells.set_index("experiment")
    assert wells["origin"].to_dict() == {"e1": "10", "e2": "20"}
    assert wells["source:line"].to_dict() == {"e1": "wells.csv, line 2", "e2": "wells.csv, line 3"}
    assert {shards.metadata(number)["origin"] for number in range(2)} == {"10", "20"}
    edit(folder / "wells.csv", "origin", "source:fault")
    with pytest.raises(LayoutError, match=r"wells.csv, line 1: column 'source:fault' is reserved: rename it"):
        read_layout("folder", folder)


def test_a_channel_that_column_and_pattern_name_is_refused(folder):
    with pytest.raises(LayoutError, match="line 1: column 'channel:DNA' names images, and so does the pattern"):
        read_layout("folder", folder, pattern="{dose}_{channel}.tif", channels="DNA")


def test_names_of_wells_are_normal_and_their_images_are_named_as_written(folder):
    (folder / "named.csv").write_text("experiment;plate;well;file\ne1; p1;a1;a\ne1;p1;top left;b\n")
    (folder / "a1_DNA.tif").touch()
    (folder / "top left_DNA.tif").touch()
    table = read_layout("folder", folder, table="named.csv", pattern="{well}_{channel}.tif", channels="DNA")
    check_images(table)
    assert set(zip(table.wells["plate"], table.wells["well"], strict=True)) == {("p1", "A01"), ("p1", "top left")}
    assert table.wells["key"].iloc[0] == "e1_p1_a1_1"


def test_two_ways_to_write_a_well_are_one_well_unless_it_has_keys(folder):
    (folder / "named.csv").write_text("experiment,plate,well,file\ne1,p1,A1,a\ne1,p1,A01,b\n")
    options = {"table": "named.csv", "pattern": "{file}_{channel}.tif", "channels": "DNA"}
    with pytest.raises(LayoutError, match=r"named.csv, line 3: a second image of well A01 site 1, first at .*line 2"):
        read_layout("folder", folder, **options)
    (folder / "named.csv").write_text("key,experiment,plate,well,file\nday1,e1,p1,A1,a\nday2,e1,p1,A01,b\n")
    assert read_layout("folder", folder, **options).wells["well"].tolist() == ["A01", "A01"]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("a_ER.tif", " ", "column 'channel:ER' is empty"),
        ("a_ER.tif", "./a_DNA.tif", "channels 'DNA' and 'ER' name one file, .*/a_DNA.tif"),
    ],
)
def test_a_row_with_a_fault_is_refused_or_left_out(folder, tmp_path, old, new, fault):
    edit(folder / "wells.csv", old, new)
    with pytest.raises(LayoutError, match=f"^wells.csv, line 2: {fault}; --on-error quarantine leaves"):
        build("folder", folder, tmp_path / "out", validation_fraction=0, progress=False)
    options = {"on_error": "quarantine", "codec": "trial", "validation_fraction": 0, "progress": False}
    for changed in (True, False):
        manifest, was_changed = build("folder", folder, tmp_path / "out", **options)
        assert was_changed is changed
    (left_out,) = manifest.quarantined
    assert (left_out.key, left_out.origin) == ("e1_p1_A01_1", "wells.csv, line 2")
    assert re.fullmatch(fault, left_out.error)
    edit(folder / "wells.csv", new, old)
    with pytest.raises(BuildError, match="differs in table"):
        build("folder", folder, tmp_path / "out", **options)


def test_images_by_file_url_and_a_table_as_parquet(folder):
    (folder / "plate 1").mkdir()
    (folder / "a_DNA.tif").rename(folder / "plate 1" / "a%.tif")
    edit(folder / "wells.csv", "a_DNA.tif", f" file:{folder}/plate%201/a%25.tif ")
    check_images(read_layout("folder", folder))
    frame = pd.read_csv(folder / "wells.csv").assign(plate=[1.0, 2.0])
    frame.to_parquet(folder / "wells.pq", index=False)
    table = read_layout("folder", f"file://{folder}", table="wells.pq")
    check_images(table)
    assert table.wells["plate"].tolist() == ["1", "2"]
    assert table.wells["source:line"].tolist() == ["wells.pq, row 0", "wells.pq, row 1"]


def test_paths_of_a_windows_machine(folder):
    edit(folder / "wells.csv", "a_DNA.tif", "E:\\x\\a_DNA.tif")
    edit(folder / "wells.csv", "a_ER.tif", ".\\a_ER.tif")
    check_images(read_layout("folder", folder, replace=f"E:\\x={folder}"))
    with pytest.raises(LayoutError, match=r"wells.csv, line 2: E:\\x\\a_DNA.tif is a path of a Windows machine"):
        read_layout("folder", folder)
