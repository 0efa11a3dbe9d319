"""The gain of one table of wells over another, from Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.from_tables.recall import MapOptions, gains_of_tables
from analysis.recall.pairs import read_pairs


def test_a_map_that_sees_complexes_gains_over_one_that_does_not(folder: Path) -> None:
    options = MapOptions(correct="tvn", batch="plate", control="treatment=control")
    lists = [read_pairs(folder / "pairs.csv")]
    trained, initial, other = ([folder / f"{name}.parquet"] for name in ("trained", "initial", "other"))
    (found,) = gains_of_tables([trained], [initial], lists, options)
    assert found.low > 0.2
    assert found.gain == pytest.approx(found.recall - found.initial)
    (none,) = gains_of_tables([trained], [other], lists, options)
    assert none.low < 0 < none.high
    (both,) = gains_of_tables([trained, other], [initial, initial], lists, options)
    assert both.seeds == 2
    with pytest.raises(ValueError, match="2 trained maps and 1 initial ones"):
        gains_of_tables([trained, other], [initial], lists, options)
