"""Chromosome-arm correction: a CRISPR cut can lose a gene's whole arm, and then its neighbours appear similar.

Unexpressed genes should have no effect; the mean of those on an arm is the bias of that arm, and is subtracted from all
its genes ("proximity bias", Lazar et al. 2023).

Legend: G genes, D embedding width.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats, Mask
from analysis.embeddings.checks import checked_embeddings

UNEXPRESSED_BELOW = -3.0  # zFPKM (Hart et al. 2013)
MORE_THAN = 20  # unexpressed genes that an arm needs for its mean to be worth subtracting


@dataclass(frozen=True)
class ArmCorrection:
    """What to subtract from the genes of each arm, and the arms that are left as they are."""

    means: Mapping[str, Floats]  # arm → (D,)
    too_few: Mapping[str, int]  # arm → its unexpressed genes, where they are not more than MORE_THAN

    def apply(self, embeddings: npt.ArrayLike, arm: Sequence[str]) -> Floats:
        """Subtract each gene's arm mean from (G, D); genes of other arms, or of none (""), stay as they are.

        Raises:
            ValueError: shapes differ, or a value is not finite.
        """
        values = checked_embeddings(embeddings).copy()
        arms = _checked_arms(arm, len(values))
        for name, mean in self.means.items():
            values[arms == name] -= mean
        return values


def fit_arms(
    embeddings: npt.ArrayLike, arm: Sequence[str], zfpkm: npt.ArrayLike, more_than: int = MORE_THAN
) -> ArmCorrection:
    """Fit on the unexpressed genes (zFPKM below -3) of (G, D) embeddings.

    Args:
        embeddings: (G, D), one row per gene.
        arm: (G,) chromosome arm such as "1p"; "" where it is not known.
        zfpkm: (G,) expression; NaN where it was not measured, which counts as expressed.
        more_than: arms with more unexpressed genes than this are corrected.

    Raises:
        ValueError: shapes differ, a value is not finite, or no arm can be corrected.
    """
    values = checked_embeddings(embeddings)
    arms = _checked_arms(arm, len(values))
    expression = np.asarray(zfpkm, dtype=np.float64)
    if expression.shape != arms.shape:
        raise ValueError(f"{len(values)} embeddings, but zfpkm has shape {expression.shape}")
    unexpressed: Mask = np.less(expression, UNEXPRESSED_BELOW)
    counts = Counter({str(name): 0 for name in np.unique(arms) if name})
    counts.update(str(name) for name in arms[unexpressed] if name)
    enough = [name for name, count in counts.items() if count > more_than]
    if not enough:
        raise ValueError(f"no chromosome arm has more than {more_than} unexpressed genes (zFPKM < {UNEXPRESSED_BELOW})")
    means = {name: values[unexpressed & (arms == name)].mean(axis=0) for name in enough}
    return ArmCorrection(means, {name: count for name, count in counts.items() if name not in means})


def _checked_arms(arm: Sequence[str], genes: int) -> npt.NDArray[np.str_]:
    arms = np.asarray(arm, dtype=np.str_)
    if arms.shape != (genes,):
        raise ValueError(f"{genes} embeddings, but {len(arms)} chromosome arms")
    return arms
