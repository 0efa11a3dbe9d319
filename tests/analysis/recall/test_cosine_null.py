"""The null distribution of cosines: exact order statistics."""

import numpy as np
import pytest

from analysis.recall import cosine_null
from analysis.recall.cosine_null import AllPairs, Directions, DrawnPairs, order_statistics


@pytest.mark.parametrize("whole", [True, False], ids=["held whole", "bracketed"])
@pytest.mark.parametrize("kind", ["all", "drawn"])
def test_order_statistics_are_those_of_float64_though_products_are_float32(kind, whole, monkeypatch):
    """Embeddings so similar that float32 cannot order their cosines."""
    rng = np.random.default_rng(4)
    embeddings = 1 + 1e-4 * rng.normal(size=(300, 64))
    directions = Directions.of(embeddings)
    null = AllPairs(300) if kind == "all" else DrawnPairs(*rng.integers(300, size=(2, 200)))
    if not whole:
        monkeypatch.setattr(cosine_null, "WHOLE_NULL", 0)
        monkeypatch.setattr(cosine_null, "SAMPLE_GENES", (40, 40))
    if kind == "all":
        first, second = np.triu_indices(300, 1)
    else:
        first, second = (grid.ravel() for grid in np.meshgrid(null.rows, null.columns, indexing="ij"))
        first, second = first[first != second], second[first != second]
    expected = np.sort(directions.cosines(first, second))
    assert null.size == len(expected)
    ranks = [0, 7, len(expected) // 20, len(expected) // 2, len(expected) - 1]
    found = order_statistics(directions, null, ranks)
    assert found == {rank: expected[rank] for rank in ranks}
