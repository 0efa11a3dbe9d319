"""Layouts by name: RxRx3's table, unknown layouts and options."""

import pytest
from shard_files import edit

from shards.errors import LayoutError
from shards.layouts.registry import read_layout
from shards.layouts.well_table import check_images


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
    assert row["source:line"] == "metadata.csv, line 7"
    assert row["channel:Phalloidin"] == f"{root}/gene-002/Plate1/B03_s1_w3.png"
    control = wells.loc["gene-001_1_B02"]
    assert (control["gene"], control["treatment"]) == ("", "EMPTY_control")


def test_rxrx3_images_may_be_in_their_own_folder(screen):
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


def test_two_columns_for_one_of_ours_are_refused(screen):
    root = screen()
    edit(root / "metadata.csv", "SMILES", "well")
    with pytest.raises(LayoutError, match=r"metadata.csv, line 1: column 'address' would become 'well', which exists"):
        read_layout("rxrx3", root)
