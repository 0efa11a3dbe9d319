"""A printed table's heads and cells agree."""

import pytest

from analysis.figures.text_table import text_table


def test_a_column_is_as_wide_as_its_longest_entry():
    rows = [{"cell": "a", "steps": "1,234,567/2,000,000", "ETA": ""}, {"cell": "a-long-name", "steps": "3", "ETA": "9"}]
    assert text_table(rows, left=["cell"]).splitlines() == [
        "cell                       steps  ETA",
        "a            1,234,567/2,000,000",
        "a-long-name                    3    9",
    ]
    assert text_table([]) == ""


@pytest.mark.parametrize("row", [{"b": "2", "a": "1"}, {"a": "1"}, {"a": "1", "b": "2", "c": "3"}])
def test_a_row_with_other_heads_is_refused(row):
    with pytest.raises(ValueError, match="under the heads a, b"):
        text_table([{"a": "1", "b": "2"}, row])
