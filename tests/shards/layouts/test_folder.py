"""The `folder` layout: images by column, by pattern, and as rows of a Parquet file."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from shard_files import edit

from shards.errors import LayoutError
from shards.images.decode import read_well
from shards.layouts.registry import read_layout
from shards.layouts.well_table import check_images


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
