"""Placebos: a planted effect of position is recalled by the wells' positions, and a clean assay by none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from analysis.embeddings.aggregate import aggregate
from analysis.embeddings.corrections import apply_named
from analysis.recall.pairs import Pairs
from analysis.recall.placebos import (
    PlaceboRecall,
    number_features,
    position_features,
    random_features,
    shuffled,
)
from analysis.recall.relationship_recall import RecallResult, relationship_recall

ROWS, COLUMNS, CONTROLS = 16, 24, 64  # of a 384-well plate
PLATES = 3
TRIANGLES = [(3 * c + i, 3 * c + j) for c in range(100) for i, j in ((0, 1), (0, 2), (1, 2))]
KNOWN = Pairs("list", tuple((f"g{a:03d}", f"g{b:03d}") for a, b in TRIANGLES), 0, 0, 0, 0)


def layout(rng: np.random.Generator, *, together: bool) -> list[str]:
    """300 genes and 64 controls on a plate, as '' ; genes of a complex side by side, or anywhere."""
    genes = [f"g{number:03d}" for number in range(300)]
    places = rng.permutation(ROWS * COLUMNS)
    controls, rest = places[:CONTROLS], np.sort(places[CONTROLS:])[:300]
    wells = [""] * (ROWS * COLUMNS)
    for gene, place in zip(genes, rest if together else rng.permutation(rest), strict=True):
        wells[place] = gene
    assert all(not wells[place] for place in controls)
    return wells


def measured(features: np.ndarray, genes: list[str]) -> RecallResult:
    control, batch = np.array([not gene for gene in genes]), np.repeat(np.arange(PLATES), ROWS * COLUMNS)
    corrected = apply_named("tvn", features, control, batch)
    gene_map = aggregate(corrected, genes)
    return relationship_recall(gene_map.genes, gene_map.embeddings, [KNOWN])[0]


@pytest.mark.parametrize("together", [True, False], ids=["planted", "clean"])
def test_a_planted_effect_of_position_is_flagged_and_a_clean_assay_is_not(together: bool) -> None:
    flags = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        genes = layout(rng, together=together) * PLATES
        wells = [f"{chr(ord('A') + row)}{column + 1:02d}" for row in range(ROWS) for column in range(COLUMNS)] * PLATES
        biology = rng.normal(size=(100, 24))
        of_gene = np.array([biology[int(gene[1:]) // 3] if gene else np.zeros(24) for gene in genes])
        place = np.array([(ord(well[0]) - ord("A"), int(well[1:])) for well in wells])
        tilt = np.cos(place @ rng.normal(size=(2, 24)) / 8)
        model = measured(of_gene + 3 * tilt * together + 2 * rng.normal(size=of_gene.shape), genes)
        position = position_features(wells)
        found = measured(position, genes)
        placebo = PlaceboRecall("well_position", "list", found.recall, found.recall_low, found.recall_high, 0.1)
        flags.append(placebo.is_suspect(model.recall))
    assert all(flags) if together else not any(flags)


def test_random_features_and_shuffled_pairs_recall_chance() -> None:
    rng = np.random.default_rng(0)
    genes = layout(rng, together=True) * PLATES
    chance = measured(random_features(len(genes)), genes)
    assert chance.recall_low <= 0.1 <= chance.recall_high
    other = shuffled(KNOWN, [f"g{number:03d}" for number in range(300)])
    assert len(other.pairs) > 290
    assert not {*other.pairs} & {*KNOWN.pairs}


def test_shuffled_pairs_of_few_complexes_hold_no_known_pair_unless_all_are_known() -> None:
    genes = [f"g{number}" for number in range(10)]
    fives = [(genes[a], genes[b]) for start in (0, 5) for a in range(start, start + 5) for b in range(a + 1, start + 5)]
    two = Pairs("two", (*fives, ("g0", "outside")), 0, 0, 0, 0)
    other = shuffled(two, genes)
    assert other.pairs
    assert not {*other.pairs} & {*two.pairs}
    one = Pairs("one", tuple(fives[:10]), 0, 0, 0, 0)
    assert shuffled(one, genes).pairs == one.pairs


def test_positions_are_read_from_the_usual_names() -> None:
    one = position_features(["A01", "B02", "AA12", "p24"])
    same = position_features(["r01c01", "R2C2", "r27c12", "R16C24"])
    assert one.shape == (4, 15)
    np.testing.assert_allclose(one, same)
    with pytest.raises(ValueError, match="all wells have one position"):
        position_features(["A01", "A01"])
    with pytest.raises(ValueError, match="2 of 3 wells have no position, such as 'A01_s1'; A01, AA12 and r01c01 are"):
        position_features(["A01", "A01_s1", ""])


def test_near_numbers_have_near_directions() -> None:
    bumps = number_features([10.0, 11.0, 500.0, 12.0, *range(600, 640)])
    cosine = bumps @ bumps.T / np.linalg.norm(bumps, axis=1) / np.linalg.norm(bumps, axis=1)[:, None]
    assert cosine[0, 1] > cosine[0, 3] > cosine[0, 2] > cosine[0, 40]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([3, 3, 3], "all wells have the number 3"),
        ([3, np.nan, 1], "1 of 3 wells have no number"),
        (["3", "many", "1"], "not a number in every well"),
        (pd.array([3, None, 1], dtype="Int64").astype(object), "not a number in every well"),
    ],
    ids=["constant", "missing", "text", "nullable"],
)
def test_a_number_that_tells_nothing_says_why(values: Sequence[object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        number_features(values)


@pytest.mark.parametrize(
    ("recall", "low", "model", "flagged"),
    [(0.20, 0.15, 0.30, True), (0.19, 0.15, 0.30, False), (0.20, 0.09, 0.30, False), (0.20, 0.15, 0.08, True),
     (0.10, 0.08, 0.08, False)],
    ids=["half", "less than half", "not above chance", "model below chance", "neither"],
)  # fmt: skip
def test_a_placebo_is_flagged_from_half_of_a_models_recall_over_chance(
    recall: float, low: float, model: float, flagged: bool
) -> None:
    assert PlaceboRecall("p", "s", recall, low, 1.0, 0.1).is_suspect(model) == flagged
