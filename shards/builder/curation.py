"""Select the wells to train on: perturbations with enough replicates, and fewer controls.

The follow-up to the paper (Kenyon-Dean et al. 2024, ViTally Consistent) trains its larger models on perturbations seen
in at least 3 experiments and 20 wells, with controls under-sampled. Removed well images are counted by rule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shards.errors import LayoutError
from shards.layouts.well_table import WellTable
from shards.tables.columns import INTERNAL

if TYPE_CHECKING:
    import pandas as pd

CONTROLS = ("", "EMPTY", "EMPTY_control", "CRISPR_control", "DMSO", "UNTREATED")
"""Treatments that count as negative controls by default: the names in the public releases, and the empty name."""

MOST = 10**9
"""Experiments or wells that a perturbation may be required to have."""
WELL = ["experiment", "plate", "well"]


@dataclass(frozen=True)
class CurationRules:
    """Which wells to keep. A perturbation is a value of the column `perturbation`; controls are never too rare."""

    perturbation: str = "treatment"
    min_experiments: int = 1
    min_wells: int = 1
    controls: tuple[str, ...] = CONTROLS
    control_fraction: float = 1.0

    def __post_init__(self) -> None:
        if not (1 <= self.min_experiments <= MOST and 1 <= self.min_wells <= MOST):
            raise LayoutError(
                f"curation: at least 1 experiment and 1 well per perturbation are needed, and at most {MOST}, got "
                f"{self.min_experiments} and {self.min_wells}"
            )
        if not 0 <= self.control_fraction <= 1:
            raise LayoutError(f"curation: the fraction of controls must be 0 to 1, got {self.control_fraction}")


def curate(table: WellTable, rules: CurationRules, seed: int) -> tuple[WellTable, dict[str, int]]:
    """Keep the well images that satisfy the rules; return them, and how many each rule removed.

    A well counts once, whatever its number of sites. Whether a control well is kept depends on a keyed hash of its
    name, not on the other wells, and a smaller fraction keeps a subset. Raises LayoutError if the column is absent or
    nothing is left.
    """
    import pandas as pd

    if rules.perturbation not in table.columns:
        columns = ", ".join(name for name in table.columns if name not in INTERNAL)
        raise LayoutError(f"curation: no column {rules.perturbation!r}; the columns are {columns}")
    names = dict.fromkeys([*WELL, rules.perturbation])
    numbered, parts = {name: _Numbers() for name in names}, list[pd.DataFrame]()
    controls, surplus = list[NDArray[np.bool_]](), list[NDArray[np.bool_]]()
    for wells in table.parts(*dict.fromkeys([*names, "treatment"])):
        parts.append(pd.DataFrame({name: numbered[name](wells[name]) for name in names}))
        control = wells["treatment"].isin(rules.controls)
        controls.append(control.to_numpy())
        surplus.append((control & ~_drawn(wells, rules.control_fraction, seed)).to_numpy())
    removed_by = _rare(pd.concat(parts, ignore_index=True), np.concatenate(controls), rules)
    removed_by["control_fraction"] = np.concatenate(surplus)
    kept = ~np.logical_or.reduce(list(removed_by.values()))
    if not kept.any():
        raise LayoutError("curation leaves no well image: its rules are too strict for this table")
    return replace(table, numbers=table.numbers[kept]), {rule: int(rows.sum()) for rule, rows in removed_by.items()}


def _rare(wells: pd.DataFrame, control: NDArray[np.bool_], rules: CurationRules) -> dict[str, NDArray[np.bool_]]:
    """Which well images of rare perturbations each rule removes, for a table with numbers in place of texts."""
    perturbation = wells[rules.perturbation]
    distinct = wells.loc[~control, list(dict.fromkeys([*WELL, rules.perturbation]))].drop_duplicates()
    by_perturbation = distinct.groupby(distinct[rules.perturbation].to_numpy())
    experiments = perturbation.map(by_perturbation["experiment"].nunique())
    replicates = perturbation.map(by_perturbation.size())
    few_experiments = ~control & (experiments < rules.min_experiments).to_numpy()
    few_wells = ~control & ~few_experiments & (replicates < rules.min_wells).to_numpy()
    return {"min_experiments": few_experiments, "min_wells": few_wells}


class _Numbers:
    """Numbers texts in the order of their first use: a column of numbers takes four bytes a row."""

    def __init__(self) -> None:
        self._known = dict[object, int]()

    def __call__(self, texts: pd.Series[str]) -> NDArray[np.int32]:
        import pandas as pd

        codes, distinct = pd.factorize(texts)
        return np.array([self._known.setdefault(text, len(self._known)) for text in distinct], np.int32)[codes]


def _drawn(wells: pd.DataFrame, fraction: float, seed: int) -> pd.Series[bool]:
    """Whether each well is in the `fraction` drawn by a keyed hash of its experiment, plate and name."""
    import pandas as pd

    if fraction == 1:
        return pd.Series(True, index=wells.index)
    limit = int(fraction * 2**64)
    key = str(seed).encode()
    texts = (wells["experiment"] + "/" + wells["plate"] + "/" + wells["well"]).tolist()
    hashes = (int.from_bytes(blake2b(text.encode(), digest_size=8, key=key).digest()) for text in texts)
    return pd.Series([value < limit for value in hashes], index=wells.index)
