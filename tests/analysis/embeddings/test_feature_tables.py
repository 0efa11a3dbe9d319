"""Tables of wells: which columns are features, what is left out, and which wells are controls."""

from pathlib import Path

import pandas as pd
import pytest

from analysis.embeddings.feature_tables import FeatureTableError, controls, parse_control, read_wells


def write(path: Path, **columns: list[object]) -> Path:
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def test_features_are_the_prefixed_columns_else_the_numeric_ones_that_are_not_metadata(tmp_path: Path) -> None:
    keys = {"key": ["a", "b"], "Metadata_Row": [1, 2]}
    prefixed = write(tmp_path / "prefixed.csv", **keys, feature_0=[1.0, 2.0], age=[3, 4])
    assert read_wells([prefixed]).names == ["feature_0"]
    assert read_wells([prefixed], "age").names == ["age"]
    plain = write(tmp_path / "plain.csv", **keys, age=[3, 4], stain=["x", "y"])
    assert read_wells([plain]).names == ["age"]


def test_features_that_a_file_lacks_are_counted_and_left_out(tmp_path: Path) -> None:
    first = write(tmp_path / "first.csv", key=["a"], feature_0=[1.0], feature_1=[2.0])
    second = write(tmp_path / "second.csv", key=["b"], feature_1=[3.0])
    wells = read_wells([first, second])
    assert (wells.names, wells.features.tolist()) == (["feature_1"], [[2.0], [3.0]])
    assert wells.excluded.features_not_everywhere == 1


def test_controls_are_selected_by_column_and_value(tmp_path: Path) -> None:
    path = write(tmp_path / "wells.csv", key=["a", "b"], treatment=["EMPTY", "x"], feature_0=[1.0, 2.0])
    wells = read_wells([path])
    assert controls(wells, parse_control("treatment=EMPTY")).tolist() == [True, False]
    with pytest.raises(FeatureTableError, match="no well has treatment=DMSO; treatment holds"):
        controls(wells, parse_control("treatment=DMSO"))
