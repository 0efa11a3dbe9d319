"""Relationship recall: the published definition, planted truth, and invariances."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.recall import cosine_null
from analysis.recall.cosine_null import Directions
from analysis.recall.pairs import Pairs
from analysis.recall.relationship_recall import relationship_recall


def pairs_of(*pairs, source="known"):
    unique = tuple(sorted({tuple(sorted(pair)) for pair in pairs}))
    return Pairs(source, unique, rows=len(pairs), duplicates=len(pairs) - len(unique), self_pairs=0, empty=0)


def gene_names(count):
    return [f"G{index:05}" for index in range(count)]


def recall_of(names, embeddings, pairs, low=0.05, high=0.95, **options):
    """The result of one source at one pair of thresholds."""
    (result,) = relationship_recall(names, embeddings, [pairs], thresholds=[(low, high)], **options)
    return result


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
    result = recall_of(names, embeddings, pairs, *tails, replicates=10)
    assert result.recall == pytest.approx(published_recall(names, embeddings, pairs, *tails))


def test_a_pair_exactly_at_five_percent_is_recalled():
    # 5 genes on a line of angles: 10 null pairs, so each pair is a tenth; with low = 0.1 the single lowest is recalled
    angles = np.array([0.0, 0.1, 0.3, 0.7, 1.5])
    embeddings = np.column_stack([np.cos(angles), np.sin(angles)])
    names = gene_names(5)
    lowest, second = pairs_of((names[0], names[4])), pairs_of((names[1], names[4]))
    assert recall_of(names, embeddings, lowest, 0.1, 1.0).recall == 1
    assert recall_of(names, embeddings, second, 0.1, 1.0).recall == 0


def test_a_null_too_large_to_hold_is_searched_exactly(monkeypatch):
    names, embeddings, pairs = random_map(400, 16, 300, seed=3)
    whole = recall_of(names, embeddings, pairs)
    for deviations in (6.0, 1e-9):  # the second brackets nothing and has to be widened
        monkeypatch.setattr(cosine_null, "WHOLE_NULL", 0)
        monkeypatch.setattr(cosine_null, "SAMPLE_GENES", (50, 50))
        monkeypatch.setattr(cosine_null, "BRACKET_DEVIATIONS", deviations)
        assert recall_of(names, embeddings, pairs) == whole


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_recall_ignores_gene_order_rotation_and_scale(seed):
    names, embeddings, pairs = random_map(60, 8, 100, seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(60)
    rotation, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    scale = rng.uniform(0.01, 100, size=(60, 1))
    plain = recall_of(names, embeddings, pairs, replicates=10).recall
    moved = recall_of(
        [names[index] for index in order], ((embeddings * scale) @ rotation)[order], pairs, replicates=10
    ).recall
    assert moved == plain


def test_random_embeddings_recall_at_chance_within_the_interval():
    covered = 0
    for seed in range(20):
        result = recall_of(*random_map(200, 32, 400, seed), replicates=300, seed=seed)
        assert result.chance == pytest.approx(0.10)
        covered += result.recall_low <= result.chance <= result.recall_high
    assert covered >= 16


def test_each_tail_alone_and_together():
    names, embeddings, pairs = random_map(80, 4, 200, seed=5)
    both = recall_of(names, embeddings, pairs, 0.1, 0.8)
    low, high = recall_of(names, embeddings, pairs, 0.1, 1.0), recall_of(names, embeddings, pairs, 0.0, 0.8)
    assert both.recall == pytest.approx(low.recall + high.recall)
    assert (both.low_tail, both.high_tail) == (low.recall, high.recall)
    assert (both.chance, low.chance, high.chance) == pytest.approx((0.3, 0.1, 0.2))


def test_several_sources_and_thresholds_in_one_pass_are_those_of_single_passes():
    names, embeddings, first = random_map(60, 6, 100, seed=1)
    _, _, second = random_map(60, 6, 40, seed=2)
    thresholds = [(0.05, 0.95), (0.1, 0.9), (0.0, 0.99)]
    together = relationship_recall(names, embeddings, [first, second], thresholds=thresholds, replicates=20)
    assert [(result.low, result.high) for result in together] == thresholds * 2
    assert together[:3] == [recall_of(names, embeddings, first, *pair, replicates=20) for pair in thresholds]


def test_random_pairs_of_a_source_s_genes_are_reported_with_its_recall():
    """Genes that are all similar recall each other whether or not they are known to work together."""
    rng = np.random.default_rng(0)
    names, embeddings = gene_names(200), rng.normal(size=(200, 32))
    embeddings[:20] = embeddings[0] + 0.1 * rng.normal(size=(20, 32))
    pairs = pairs_of(*((names[a], names[a + 1]) for a in range(0, 20, 2)))
    assert recall_of(names, embeddings, pairs).random_pairs == 1
    _, _, spread = random_map(200, 4, 500, seed=0)
    assert recall_of(names, rng.normal(size=(200, 32)), spread).random_pairs == pytest.approx(0.10, abs=0.01)


def test_no_replicates_means_no_interval():
    result = recall_of(*random_map(20, 4, 10, 0), replicates=0)
    assert (result.recall_low, result.recall_high) == (None, None)


# --- the legacy protocol ---------------------------------------------------------------------------------------------


def legacy_recall(names, embeddings, pairs, drawn):
    """EFAAR_benchmarking 0.1 in plain words: three nulls of 5,000 x 5,000 drawn genes, a gene with itself left out."""
    order = np.argsort(names)
    names, embeddings = [names[index] for index in order], embeddings[order]
    directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    position, seeds, recalls = {name: index for index, name in enumerate(names)}, random.Random(42), []
    for _ in range(3):
        draws = []
        for _ in range(2):
            np.random.seed(seeds.randint(0, 2**31 - 1))
            draws.append(np.random.choice(len(names), drawn))
        null = np.sort((directions[draws[0]] @ directions[draws[1]].T)[draws[0][:, None] != draws[1]])
        q = np.array([directions[position[a]] @ directions[position[b]] for a, b in pairs.pairs])
        low = np.searchsorted(null, q - 1e-12, "right") / len(null) <= 0.05
        recalls.append((low | (np.searchsorted(null, q + 1e-12, "left") / len(null) >= 0.95)).mean())
    return np.mean(recalls)


def test_the_legacy_null_is_that_of_the_first_release(monkeypatch):
    monkeypatch.setattr("analysis.recall.relationship_recall.LEGACY_GENES", 300)
    names, embeddings, pairs = random_map(150, 12, 400, seed=8)
    shuffled = np.random.default_rng(0).permutation(150)
    found = recall_of([names[index] for index in shuffled], embeddings[shuffled], pairs, protocol="legacy")
    assert found.recall == pytest.approx(legacy_recall(names, embeddings, pairs, 300), abs=0.005)
    assert found.protocol == "legacy/1"


def test_an_unknown_protocol_is_named():
    with pytest.raises(ValueError, match="no protocol 'paper'; known: current, legacy"):
        recall_of(*random_map(20, 4, 10, 0), protocol="paper")


def test_float32_embeddings_are_not_copied_to_float64():
    names, embeddings, pairs = random_map(200, 8, 300, seed=9)
    single = embeddings.astype(np.float32)
    assert Directions.of(single).values is single
    assert recall_of(names, single, pairs).recall == recall_of(names, single.astype(float), pairs).recall


def test_planted_complexes_are_found():
    rng = np.random.default_rng(1)
    names = gene_names(300)
    complex_of = np.arange(300) // 3
    shared = rng.normal(size=(100, 64))
    pairs = pairs_of(*((names[3 * c + i], names[3 * c + j]) for c in range(100) for i, j in ((0, 1), (0, 2), (1, 2))))
    strong = recall_of(names, shared[complex_of] + 0.3 * rng.normal(size=(300, 64)), pairs)
    opposite = shared[complex_of] * np.where(np.arange(300) % 3, 1, -1)[:, None]
    assert strong.recall == 1
    assert recall_of(names, opposite + 0.3 * rng.normal(size=(300, 64)), pairs).recall == 1  # low tail


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
        result = recall_of(names, embeddings, pairs, replicates=200)
        recalls.append(result.recall)
        widths.append((result.recall_high - result.recall_low) / (2 * 1.96))
    assert 0.9 < np.mean(widths) / np.std(recalls) < 1.9


def test_pairs_with_genes_outside_the_map_are_counted_not_dropped_silently():
    names, embeddings, _ = random_map(10, 4, 1, 0)
    result = recall_of(names, embeddings, pairs_of((names[0], names[1]), (names[0], "TP53")))
    assert (result.pairs, result.unknown_pairs, result.unknown_genes, result.genes) == (1, 1, 1, 10)


@pytest.mark.parametrize(
    ("names", "embeddings", "message"),
    [
        (["A", "B", "A"], np.eye(3), r"genes repeat \(A\)"),
        (["A", "B", "C"], np.diag([1.0, 1.0, 0.0]), "embedding of C is zero"),
        (
            ["A", "B", "C"],
            np.array([[1, 0], [np.nan, 1], [0, np.inf]]),
            r"2 of 3 embeddings hold .* \(B, C\)",
        ),
        (["A", "B"], np.eye(3), "2 genes, but 3 embeddings"),
        (["A", "B"], np.eye(2), "at least 3"),
        (["X", "Y", "Z"], np.eye(3), "known: none of its 1 pairs has both genes among the 3"),
    ],
)
def test_a_map_that_cannot_be_ranked_is_an_error(names, embeddings, message):
    with pytest.raises(ValueError, match=message):
        recall_of(names, embeddings, pairs_of(("A", "B")))


def test_no_source_is_an_error():
    with pytest.raises(ValueError, match="no relationship list was given"):
        relationship_recall(["A", "B", "C"], np.eye(3), [])


def test_thresholds_out_of_order_are_an_error():
    with pytest.raises(ValueError, match=r"low 0\.95, high 0\.05"):
        recall_of(["A", "B", "C"], np.eye(3), pairs_of(("A", "B")), 0.95, 0.05)
