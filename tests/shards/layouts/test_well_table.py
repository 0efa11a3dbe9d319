"""The table of well images: what is checked, and that checking lists each folder once."""

import pandas as pd
import pytest
from shard_files import edit

from shards.errors import LayoutError
from shards.layouts.registry import read_layout
from shards.layouts.well_table import LayoutOutput, check_images, table_of


def test_each_folder_is_listed_once_whatever_the_keys(folder, monkeypatch):
    """More plates than cached listings, under keys that begin with the well."""
    from shards.layouts import well_table

    rows = [f"w{well}-p{plate},e,p{plate:03d},w{well},plate{plate}" for well in range(2) for plate in range(300)]
    (folder / "wells.csv").write_text("\n".join(["key,experiment,plate,well,file", *rows]))
    listed = []
    monkeypatch.setattr(well_table, "_names_in", lambda folder: listed.append(folder) or frozenset({"A.png"}))
    check_images(read_layout("folder", folder, pattern="{file}/{channel}.png", channels="A"))
    assert len(listed) == len(set(listed)) == 300


def test_a_table_without_rows_is_refused(folder, screen):
    for table in (folder / "wells.csv", (root := screen()) / "metadata.csv"):
        table.write_text(table.read_text().partition("\n")[0] + "\n")
    for layout, images in (("folder", folder), ("rxrx3", root)):
        with pytest.raises(LayoutError, match="no well images found"):
            read_layout(layout, images)


def test_reserved_columns_are_refused(folder):
    edit(folder / "wells.csv", "dose", "shard")
    with pytest.raises(LayoutError, match="column 'shard' is reserved"):
        read_layout("folder", folder)


def test_a_missing_image_is_named_with_its_line(screen):
    root = screen()
    (root / "gene-001" / "Plate1" / "B03_s1_w4.png").unlink()
    with pytest.raises(LayoutError, match=r"^metadata.csv, line 3: image file .*B03_s1_w4.png does not exist$"):
        check_images(read_layout("rxrx3", root))


@pytest.mark.slow
def test_more_channels_than_a_set_may_have_are_refused():
    row = {"key": "a", "experiment": "e", "plate": "p", "well": "A01", "source:line": "t.csv, line 2"}
    for channels in (1000, 1001):
        frame = pd.DataFrame([{**row, **{f"channel:c{number}": f"{number}.png" for number in range(channels)}}])
        if channels > 1000:
            with pytest.raises(LayoutError, match="1001 channels; 1000 are the limit"):
                table_of(LayoutOutput([frame]))
        else:
            assert len(table_of(LayoutOutput([frame])).channels) == 1000
