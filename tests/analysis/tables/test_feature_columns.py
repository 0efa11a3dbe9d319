"""Which columns are features, and what is said of those that are not."""

import numpy as np
import pyarrow as pa
import pytest

from analysis.tables.errors import TableError
from analysis.tables.feature_columns import feature_columns
from analysis.tables.read_table import Table


def table(**columns: list[object]) -> Table:
    return Table("t.csv", tuple(columns), tuple(pa.chunked_array([values]) for values in columns.values()))


def family(stem: str, count: int, begin: int = 0) -> dict[str, list[object]]:
    return {f"{stem}{n}": [0.5 * n, 1.0] for n in range(begin, begin + count)}


KEYS = {"plate": [1, 2], "well": ["A1", "A2"], "gene": ["NA", ""]}


METADATA = ["row", "col", "guide", "cell_count", "concentration", "Unnamed: 0", "ImageNumber", "Count_Cells",
            "Metadata_Dose", "dose_um", "index", "Plate_ID", "Site"]  # fmt: skip


@pytest.mark.parametrize("metadata", METADATA)
@pytest.mark.parametrize("stem", ["emb_", "PC", "", "dino.", "X-", "x", "well_emb_", "gene_embedding_", "image_"])
def test_numbered_columns_are_features_and_numbers_beside_them_are_not(stem: str, metadata: str) -> None:
    chosen = feature_columns(table(**KEYS, **{metadata: [3, 4]}, **family(stem, 8)))
    assert chosen.names == tuple(family(stem, 8))
    assert chosen.left_out == ((metadata,) if metadata not in ("Site", "Metadata_Dose") else ())


UNNUMBERED = [
    *METADATA,
    "well_row", "Plate Row", "WellRow", "pos_x", "PositionX", "Position X [\u00b5m]", "day", "plateid",
    "PlateID", "BatchNumber", "Replicate Number", "passage_number", "Cell Count", "Concentration (uM)", "dose (nM)",
    "log10_conc", "compound_concentration", "mmoles_per_liter", "is_control", "EntrezGene", "chrom", "...1", "guide_1",
    "barcode2", "timepoint", "seeding_density", "feature_count",
]  # fmt: skip


@pytest.mark.parametrize("metadata", UNNUMBERED)
def test_metadata_are_known_by_name_beside_features_of_any_name(metadata: str) -> None:
    features = [
        "x",
        "Y",
        "n",
        "area",
        "mean_dna",
        "AreaShape_Center_X",
        "Number_Object_Number",
        "weight",
        "x1",
        "Texture_x_y_DNA_3",
    ]
    chosen = feature_columns(table(**{metadata: [3, 4]}, **{name: [0.5, 1.0] for name in features}))
    assert chosen.names == tuple(features)


@pytest.mark.parametrize("name", ["emb[{}]", "dim_{}_mean", "emb-{}", "{}"])
def test_a_family_may_have_its_number_anywhere(name: str) -> None:
    features = [name.format(n) for n in range(8)]
    chosen = feature_columns(table(viability=[1.0, 2.0], q=[0.5, 1.0], **{name: [0.5, 1.0] for name in features}))
    assert chosen.names == tuple(features)


def test_numbered_metadata_are_no_family() -> None:
    chosen = feature_columns(table(**family("guide_", 5), **family("barcode", 5, 1), **family("emb_", 8)))
    assert chosen.names == tuple(family("emb_", 8))


def test_words_and_counts_of_features_are_not_this_project_s_features() -> None:
    described = {"feature_set": ["dino", "dino"], "feature_count": [384, 384]}
    assert feature_columns(table(**described, **family("feature_", 8))).names == tuple(family("feature_", 8))
    assert feature_columns(table(**described, **family("emb_", 8))).names == tuple(family("emb_", 8))
    assert feature_columns(table(**described, embedding=[[1.0], [2.0]])).names == ("embedding",)
    assert feature_columns(table(**described), "feature_").names == ("feature_set", "feature_count")


def test_other_numbers_beside_a_numbered_family_are_not_features_by_any_name() -> None:
    chosen = feature_columns(table(**family("z", 16, begin=1), confluency=[0.5, 0.6], viability=[1.0, 1.0]))
    assert (chosen.names, chosen.left_out) == (tuple(family("z", 16, begin=1)), ("confluency", "viability"))


def test_this_project_s_prefix_and_a_prefix_that_was_asked_for_come_first() -> None:
    mixed = table(**family("feature_", 2), **family("emb_", 9))
    assert feature_columns(mixed).names == ("feature_0", "feature_1")
    assert feature_columns(mixed, "emb_").names == tuple(family("emb_", 9))
    with pytest.raises(TableError, match="no column starts with 'dino'"):
        feature_columns(mixed, "dino")


def test_lists_are_features_and_no_other_column_in_their_place() -> None:
    chosen = feature_columns(table(**KEYS, concentration=[1.0, 2.0], n=[3, 4], embedding=[[1.0, 2.0], [3.0, 4.0]]))
    assert (chosen.names, chosen.left_out) == (("embedding",), ("concentration", "n"))


def test_boxes_and_lists_of_whole_numbers_beside_an_embedding_are_not_features() -> None:
    lists = {"bbox": [[0.5, 1.5]] * 2, "sites": [[1], [1, 2]], "embedding": [[1.0, 2.0], [3.0, 4.0]]}
    chosen = feature_columns(table(**lists))
    assert (chosen.names, chosen.left_out) == (("embedding",), ("bbox", "sites"))
    assert feature_columns(table(embedding=[[1, 2], [3, 4]])).names == ("embedding",)


def test_short_lists_are_not_features_beside_many_columns() -> None:
    pairs = {"channels": [[1, 2]] * 2, "mean": [[0.5, 1.5]] * 2}
    for features in (family("emb_", 8), {f"Cells_{name}": [0.5, 1.0] for name in "abc"}):
        assert feature_columns(table(**pairs, **features)).names == tuple(features)
    unnumbered = {name: [0.5, 1.0] for name in ("area", "roundness", "texture")}
    assert feature_columns(table(xy=[[1, 2]] * 2, **unnumbered)).names == tuple(unnumbered)
    assert feature_columns(table(viability=[0.5, 1.0], codes=[[1, 2, 3]] * 2)).names == ("codes",)


def test_compartments_are_features_and_other_numbers_are_not() -> None:
    chosen = feature_columns(table(Cells_Area=[1.0, 2.0], Nuclei_Number_Object_Number=[1, 2], Image_Count_Cells=[3, 4]))
    assert chosen.names == ("Cells_Area", "Nuclei_Number_Object_Number")
    assert chosen.left_out == ("Image_Count_Cells",)


def test_columns_without_structure_are_features_but_for_metadata() -> None:
    chosen = feature_columns(table(**KEYS, area=[1, 2], roundness=[0.5, 0.6], replicate=[1, 2], stain=["x", "y"]))
    assert (chosen.names, chosen.left_out) == (("area", "roundness"), ("replicate",))


def test_a_cell_that_is_no_number_does_not_make_a_feature_metadata() -> None:
    texts = {f"emb_{n}": ["0.5", "1,5", "#DIV/0!", "oops"] for n in range(4)}
    assert feature_columns(table(**texts, note=["a", "b", "c", "1"])).names == tuple(texts)


def test_values_that_begin_late_are_seen() -> None:
    late = [""] * 100 + [str(n) for n in range(100)]
    assert feature_columns(table(area=late, words=["x"] * 200)).names == ("area",)


def test_a_table_without_features_says_what_it_has() -> None:
    with pytest.raises(TableError, match=r"t.csv: no column is numeric.* it has plate, well, gene"):
        feature_columns(table(**KEYS))


def test_booleans_and_missing_values_of_other_types() -> None:
    chosen = feature_columns(table(control=[True, False], a=[None, 1], b=[np.nan, 2.0]))
    assert chosen.names == ("a", "b")


def test_a_family_from_which_features_were_selected_is_one_still() -> None:
    selected = {f"emb_{n}": [0.5, 1.0] for n in (0, 3, 4, 9, 17, 30, 31, 60)}
    chosen = feature_columns(table(**selected, confluency=[0.5, 0.6]))
    assert (chosen.names, chosen.left_out) == (tuple(selected), ("confluency",))
