"""Relationship recall: the published definition, planted truth, invariances, and untidy relationship lists."""

import itertools
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import cosines
from analysis.recall import PairFileError, Pairs, aggregate, read_pairs, relationship_recall


def pairs_of(*pairs, source="known"):
    unique = tuple(sorted({tuple(sorted(pair)) for pair in pairs}))
    return Pairs(source, unique, rows=len(pairs), duplicates=len(pairs) - len(unique), self_pairs=0, empty=0)


def gene_names(count):
    return [f"G{index:05}" for index in range(count)]


def random_map(genes, width, known, seed):
    rng = np.random.default_rng(seed)
    names = gene_names(genes)
    drawn = {tuple(sorted(rng.choice(genes, 2, replace=False))) for _ in range(known)}
    return names, rng.normal(size=(genes, width)), pairs_of(*((names[a], names[b]) for a, b in drawn))


def published_recall(names, embeddings, pairs, low, high):
    """The definition in plain words: rank each known pair in the list of all pairs' cosines."""
    directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosine = directions @ directions.T
    null = [cosine[a, b] for a, b in itertools.combinations(range(len(names)), 2)]
    position = {name: index for index, name in enumerate(names)}
    recalled = []
    for a, b in pairs.pairs:
        if a in position and b in position:
            q = cosine[tuple(sorted((position[a], position[b])))]
            at_or_below = sum(value <= q for value in null) / len(null)
            below = sum(value < q for value in null) / len(null)
            recalled.append(at_or_below <= low or below >= high)
    return np.mean(recalled)


@settings(max_examples=30, deadline=None)
@given(
    genes=st.integers(3, 30),
    seed=st.integers(0, 2**32 - 1),
    tails=st.sampled_from([(0.05, 0.95), (0.1, 0.8), (0.0, 0.9), (0.2, 1.0), (0.5, 0.5)]),
)
def test_recall_is_that_of_the_published_definition(genes, seed, tails):
    names, embeddings, pairs = random_map(genes, 5, 15, seed)
    result = relationship_recall(names, embeddings, pairs, *tails, replicates=10)
    assert result.recall == pytest.approx(published_recall(names, embeddings, pairs, *tails))


def test_a_pair_exactly_at_five_percent_is_recalled():
    # 5 genes on a line of angles: 10 null pairs, so each pair is a tenth; with low = .1 the single lowest is recalled
    angles = np.array([0.0, 0.1, 0.3, 0.7, 1.5])
    embeddings = np.column_stack([np.cos(angles), np.sin(angles)])
    names = gene_names(5)
    lowest, second = pairs_of((names[0], names[4])), pairs_of((names[1], names[4]))
    assert relationship_recall(names, embeddings, lowest, 0.1, 1.0).recall == 1
    assert relationship_recall(names, embeddings, second, 0.1, 1.0).recall == 0


def test_a_null_too_large_to_hold_is_searched_exactly(monkeypatch):
    names, embeddings, pairs = random_map(400, 16, 300, seed=3)
    whole = relationship_recall(names, embeddings, pairs)
    for deviations in (8.0, 1e-9):  # the second brackets nothing and has to be widened
        monkeypatch.setattr(cosines, "WHOLE_NULL", 0)
        monkeypatch.setattr(cosines, "SAMPLED_PAIRS", 2000)
        monkeypatch.setattr(cosines, "BRACKET_DEVIATIONS", deviations)
        assert relationship_recall(names, embeddings, pairs) == whole


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_recall_sees_neither_gene_order_nor_rotation_nor_scale(seed):
    names, embeddings, pairs = random_map(60, 8, 100, seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(60)
    rotation, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    scale = rng.uniform(0.01, 100, size=(60, 1))
    plain = relationship_recall(names, embeddings, pairs, replicates=10).recall
    moved = relationship_recall(
        [names[index] for index in order], ((embeddings * scale) @ rotation)[order], pairs, replicates=10
    ).recall
    assert moved == plain


def test_random_embeddings_recall_at_chance_within_the_interval():
    covered = 0
    for seed in range(20):
        result = relationship_recall(*random_map(200, 32, 400, seed), replicates=300, seed=seed)
        assert result.chance == pytest.approx(0.10)
        covered += result.recall_low <= result.chance <= result.recall_high
    assert covered >= 16


def test_planted_complexes_are_found():
    rng = np.random.default_rng(1)
    names = gene_names(300)
    complex_of = np.arange(300) // 3
    shared = rng.normal(size=(100, 64))
    pairs = pairs_of(*((names[3 * c + i], names[3 * c + j]) for c in range(100) for i, j in ((0, 1), (0, 2), (1, 2))))
    strong = relationship_recall(names, shared[complex_of] + 0.3 * rng.normal(size=(300, 64)), pairs)
    opposite = shared[complex_of] * np.where(np.arange(300) % 3, 1, -1)[:, None]
    assert strong.recall == 1
    assert relationship_recall(names, opposite + 0.3 * rng.normal(size=(300, 64)), pairs).recall == 1  # low tail


def test_the_interval_is_no_narrower_than_repeating_the_study_would_show():
    # The spread of recall over independent maps of the same kind is what one map's interval estimates. Theory puts the
    # ratio between 1 and the square root of 3; sampling 60 maps blurs it by a tenth.
    recalls, widths = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        names, shared = gene_names(160), rng.normal(size=(40, 24))
        embeddings = shared[np.arange(160) // 4] + 2.5 * rng.normal(size=(160, 24))
        members = [range(4 * c, 4 * c + 4) for c in range(40)]
        pairs = pairs_of(*((names[a], names[b]) for m in members for a, b in itertools.combinations(m, 2)))
        result = relationship_recall(names, embeddings, pairs, replicates=200)
        recalls.append(result.recall)
        widths.append((result.recall_high - result.recall_low) / (2 * 1.96))
    assert 0.9 < np.mean(widths) / np.std(recalls) < 1.9


def test_pairs_with_genes_outside_the_map_are_counted_not_dropped_silently():
    names, embeddings, _ = random_map(10, 4, 1, 0)
    result = relationship_recall(names, embeddings, pairs_of((names[0], names[1]), (names[0], "TP53")))
    assert (result.pairs, result.unknown_pairs, result.genes) == (1, 1, 10)


@pytest.mark.parametrize(
    ("names", "embeddings", "message"),
    [
        (["A", "B", "A"], np.eye(3), r"genes repeat \(A\)"),
        (["A", "B", "C"], np.diag([1.0, 1.0, 0.0]), "embedding of C is zero"),
        (["A", "B", "C"], np.full((3, 2), np.nan), "3 of 3 embeddings hold NaN"),
        (["A", "B"], np.eye(3), "2 genes, but 3 embeddings"),
        (["A", "B"], np.eye(2), "at least 3"),
        (["X", "Y", "Z"], np.eye(3), "known: none of its 1 pairs has both genes among the 3"),
    ],
)
def test_a_map_that_cannot_be_ranked_is_an_error(names, embeddings, message):
    with pytest.raises(ValueError, match=message):
        relationship_recall(names, embeddings, pairs_of(("A", "B")))


def test_thresholds_out_of_order_are_an_error():
    with pytest.raises(ValueError, match=r"low 0\.95, high 0\.05"):
        relationship_recall(["A", "B", "C"], np.eye(3), pairs_of(("A", "B")), 0.95, 0.05)


# --- aggregation -----------------------------------------------------------------------------------------------------


def test_guides_weigh_alike_whatever_their_number_of_replicates():
    embeddings = np.array([[0.0], [2.0], [4.0], [10.0], [7.0], [99.0]])
    genes = ["B", "B", "B", "B", "A", ""]
    names, values = aggregate(embeddings, genes, ["b1", "b1", "b1", "b2", "a1", ""])
    assert names == ["A", "B"]
    np.testing.assert_allclose(values, [[7], [6]])  # guide b1 averages 2, b2 10
    np.testing.assert_allclose(aggregate(embeddings, genes)[1], [[7], [4]])  # without guides: all wells alike


def test_columns_of_a_filtered_table_are_taken_by_position():
    wells = pd.DataFrame({"gene": ["A", "B", "B"], "guide": ["a1", "b1", "b2"]}, index=[7, 3, 0])
    names, values = aggregate(np.array([[1.0], [2.0], [4.0]]), wells["gene"], wells["guide"])
    assert (names, values.tolist()) == (["A", "B"], [[1.0], [3.0]])


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        (["A"], "2 embeddings, but 1 genes"),
        (["", ""], "no well has a gene"),
        (["A", None], "well 1 has a missing gene"),
    ],
)
def test_aggregation_needs_a_gene_per_well(genes, message):
    with pytest.raises(ValueError, match=message):
        aggregate(np.eye(2), genes)


# --- relationship lists ----------------------------------------------------------------------------------------------


def test_what_is_set_aside_is_counted(tmp_path):
    path = tmp_path / "CORUM.csv"
    path.write_text("entity1,entity2\nB,A\nA,B\nA, B \nC,C\nD,\nNA,nan\n\n")
    pairs = read_pairs(path)
    assert pairs.source == "CORUM"
    assert pairs.pairs == (("A", "B"), ("NA", "nan"))  # symbols that look like missing values are symbols
    assert (pairs.rows, pairs.duplicates, pairs.self_pairs, pairs.empty) == (6, 2, 1, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the header is ''"),
        ("gene1,gene2\nA,B\n", "line 1: the header is 'gene1,gene2', it must be 'entity1,entity2'"),
        ("entity1,entity2\nA,B\nA,B,C\n", "line 3: 3 fields, a pair has 2"),
        ("entity1,entity2\nA,A\n", "none of its 1 rows is a pair"),
    ],
)
def test_a_malformed_list_is_an_error_that_says_where(tmp_path, text, message):
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
