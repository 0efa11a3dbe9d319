"""Relationship lists: duplicates, self pairs and malformed files."""

from collections import Counter

import pytest

from analysis.recall.pairs import PairFileError, read_pairs


def test_what_is_left_out_is_counted(tmp_path):
    path = tmp_path / "CORUM.csv"
    path.write_text("entity1,entity2\nB,A\nA,B\nA, B \nC,C\nD,\nNA,nan\n\n")
    pairs = read_pairs(path)
    assert pairs.source == "CORUM"
    assert pairs.pairs == (("A", "B"), ("NA", "nan"))  # symbols that look like missing values are symbols
    assert (pairs.rows, pairs.duplicates, pairs.self_pairs, pairs.empty) == (6, 2, 1, 1)


@pytest.mark.parametrize(
    "text",
    [",entity1,entity2\n0,A,B\n", "entity1,entity2,score\nA,B,1\n", "Entity2\tEntity 1\nB\tA\n"],
)
def test_columns_are_found_among_others(tmp_path, text):
    (tmp_path / "list.csv").write_text(text)
    assert read_pairs(tmp_path / "list.csv").pairs == (("A", "B"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the header is ''"),
        ("gene1,gene2\nA,B\n", "line 1: the header is 'gene1,gene2', it must be 'entity1,entity2'"),
        ("entity1,entity2\nA,B\nA,B,C\n", "line 3: 3 fields, the header has 2"),
        ("entity1,entity2\nA,A\n", "none of its 1 rows is a pair"),
    ],
)
def test_a_malformed_list_is_an_error_with_its_line(tmp_path, text, message):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(PairFileError, match=f"list.csv.*{message}"):
        read_pairs(path)


def test_the_benchmark_s_lists_hold_the_pairs_their_readme_counts(real_data):
    sources = ("CORUM", "HuMAP", "Reactome", "SIGNOR", "StringDB")
    lists = [read_pairs(real_data / "annotations" / f"{source}.txt") for source in sources]
    seen = Counter(pair for pairs in lists for pair in pairs.pairs)
    assert len(seen) == 143_252
    assert sum(count >= 2 for count in seen.values()) == 29_600
    assert sum(count == 5 for count in seen.values()) == 54
