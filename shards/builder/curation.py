"""Which wells are worth training on: perturbations with enough replicates, and fewer controls.

The follow-up to the paper (Kenyon-Dean et al. 2024, ViTally Consistent) trains its larger models on perturbations seen
in at least 3 experiments and 20 wells, with controls under-sampled. What is left out is counted, by reason.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shards.errors import LayoutError
from shards.layouts.well_table import WellTable

if TYPE_CHECKING:
    import pandas as pd

CONTROLS = ("", "EMPTY", "EMPTY_control", "CRISPR_control", "DMSO", "UNTREATED")
"""Treatments that count as negative controls unless told otherwise: what the public releases write, and nothing."""

WELL = ["experiment", "plate", "well"]


@dataclass(frozen=True)
class CurationRules:
    """What to keep. A perturbation is one value of `perturbation`; wells of a control treatment are never rare."""

    perturbation: str = "treatment"
    min_experiments: int = 1
    min_wells: int = 1
    controls: tuple[str, ...] = CONTROLS
    control_fraction: float = 1.0

    def __post_init__(self) -> None:
        if self.min_experiments < 1 or self.min_wells < 1:
            raise LayoutError(
                "curation: at least 1 experiment and 1 well per perturbation are needed, got "
                f"{self.min_experiments} and {self.min_wells}"
            )
        if not 0 <= self.control_fraction <= 1:
            raise LayoutError(f"curation: the fraction of controls must be 0 to 1, got {self.control_fraction}")


def curate(table: WellTable, rules: CurationRules, seed: int) -> tuple[WellTable, dict[str, int]]:
    """Keep the well images that the rules ask for; return them, and how many each rule removed.

    Wells count once, whatever the number of their sites. A control well is kept by a keyed hash of its own name, so
    what becomes of it does not depend on which others there are, and a smaller fraction keeps a subset. Raises
    LayoutError if the column is absent or nothing is left.
    """
    import pandas as pd

    if rules.perturbation not in table.columns:
        raise LayoutError(f"curation: no column {rules.perturbation!r}; the columns are {', '.join(table.columns)}")
    names = dict.fromkeys([*WELL, rules.perturbation])
    numbered, parts = {name: _Numbers() for name in names}, list[pd.DataFrame]()
    controls, surpluses = list[NDArray[np.bool_]](), list[NDArray[np.bool_]]()
    for wells in table.parts(*dict.fromkeys([*names, "treatment"])):
        parts.append(pd.DataFrame({name: numbered[name](wells[name]) for name in names}))
        control = wells["treatment"].isin(rules.controls)
        controls.append(control.to_numpy())
        surpluses.append((control & ~_drawn(wells, rules.control_fraction, seed)).to_numpy())
    gone = _rare(pd.concat(parts, ignore_index=True), np.concatenate(controls), rules)
    gone["control_fraction"] = np.concatenate(surpluses)
    kept = ~np.logical_or.reduce(list(gone.values()))
    if not kept.any():
        raise LayoutError("curation leaves no well image: its rules are too strict for this table")
    return replace(table, numbers=table.numbers[kept]), {rule: int(rows.sum()) for rule, rows in gone.items()}


def _rare(wells: pd.DataFrame, control: NDArray[np.bool_], rules: CurationRules) -> dict[str, NDArray[np.bool_]]:
    """Which well images of rare perturbations each rule removes, of a table whose texts are numbers."""
    perturbation = wells[rules.perturbation]
    places = wells.loc[~control, list(dict.fromkeys([*WELL, rules.perturbation]))].drop_duplicates()
    by_perturbation = places.groupby(places[rules.perturbation].to_numpy())
    experiments = perturbation.map(by_perturbation["experiment"].nunique())
    replicates = perturbation.map(by_perturbation.size())
    few_experiments = ~control & (experiments < rules.min_experiments).to_numpy()
    few_wells = ~control & ~few_experiments & (replicates < rules.min_wells).to_numpy()
    return {"min_experiments": few_experiments, "min_wells": few_wells}


class _Numbers:
    """A number for each text, given out as they are met: a column of them takes four bytes a row."""

    def __init__(self) -> None:
        self._known = dict[object, int]()

    def __call__(self, texts: pd.Series[str]) -> NDArray[np.int32]:
        import pandas as pd

        codes, found = pd.factorize(texts)
        return np.array([self._known.setdefault(text, len(self._known)) for text in found], np.int32)[codes]


def _drawn(wells: pd.DataFrame, fraction: float, seed: int) -> pd.Series[bool]:
    """Whether each well is among the `fraction` that a keyed hash of its experiment, plate and name draws."""
    import pandas as pd

    if fraction == 1:
        return pd.Series(True, index=wells.index)
    limit = int(fraction * 2**64)
    key = str(seed).encode()
    texts = (wells["experiment"] + "/" + wells["plate"] + "/" + wells["well"]).tolist()
    hashes = (int.from_bytes(blake2b(text.encode(), digest_size=8, key=key).digest()) for text in texts)
    return pd.Series([value < limit for value in hashes], index=wells.index)
