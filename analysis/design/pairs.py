"""Pairs of runs of two variants: means over seeds, and rows in which what both runs of a pair share is apart.

Noise that two runs of one design and one seed share (the order of data, initial weights, how far the design itself is
from the law) does not blur their difference. The difference and the sum of a pair are independent, with a variance
each; so they, and not the runs, are the rows of a fit.

Legend: n cells of both variants, a row each; P known pairs.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats
from analysis.laws.forms import Model, ValuesAndJacobian
from analysis.laws.metric import Metric
from analysis.recall.outcomes import PairOutcomes, aligned
from analysis.recall.pair_design import PairDesign

FEWEST_PAIRS = 3  # fewer do not tell the variance of a sum from that of a difference
SAME_COMPUTE = 6  # decimals of log compute up to which runs without a named cell are of one cell
DIFFERENCE, SUM, ALONE = 0, 1, 2
STEP = 1e-6  # of a finite difference of the metric
Kinds = npt.NDArray[np.int64]
Indices = list[int]


@dataclass(frozen=True)
class Variant:
    """Finished runs of one variant of a recipe."""

    name: str
    compute: Floats  # (runs,), positive
    y: Floats  # (runs,) the metric
    cells: tuple[Hashable, ...] = ()  # the design of each run, such as its model and data; default: its compute
    seeds: tuple[Hashable, ...] = ()  # of each run; default: runs of one cell are not matched
    outcomes: tuple[PairOutcomes, ...] = ()  # of each run, where y is a recall; default: not known

    def __len__(self) -> int:
        return len(self.y)

    def by_cell(self) -> dict[Hashable, Indices]:
        """Indices of the runs of each cell."""
        keys = self.cells or np.round(np.log(self.compute), SAME_COMPUTE).tolist()
        indices: dict[Hashable, Indices] = {}
        for index, key in enumerate(keys):
            indices.setdefault(key, []).append(index)
        return indices


@dataclass(frozen=True)
class PairNoise:
    """How much each known pair adds to the deviation of each row."""

    design: PairDesign
    deviations: Floats  # (n, P) of z


@dataclass(frozen=True)
class _Deviations:
    """Those of the runs of both variants, for the pairs of them all."""

    design: PairDesign
    of_runs: tuple[Floats, Floats]  # (runs, P) of y, of the baseline and of the variant

    @classmethod
    def of(cls, baseline: Variant, variant: Variant) -> _Deviations | None:
        """None unless the outcomes of all runs are known."""
        if not (baseline.outcomes and variant.outcomes):
            return None
        both = aligned([*baseline.outcomes, *variant.outcomes])
        deviations = both.deviations()
        return cls(both.design, (deviations[: len(baseline)], deviations[len(baseline) :]))

    def of_cell(self, side: int, indices: Indices, y: Floats, metric: Metric, space: str) -> Floats:
        """The mean (P,) over the runs of a cell, in a law's space."""
        slope = (metric.to_space(y + STEP, space) - metric.to_space(y - STEP, space)) / (2 * STEP)
        result: Floats = np.mean(slope[:, None] * self.of_runs[side][indices], axis=0)
        return result


@dataclass(frozen=True)
class Rows:
    """Cells of both variants, as means over their runs; a rotation makes differences and sums of the pairs of cells."""

    log_compute: Floats  # (n,)
    z: Floats  # (n,) the metric in a law's space
    is_variant: Floats  # (n,) 1, or 0 for the baseline's cells
    rotation: Floats  # (n, n), orthogonal
    kinds: Kinds  # (n,) of the rotated rows: DIFFERENCE, SUM or ALONE
    runs: int  # that the means are of
    pairs_noise: PairNoise | None = None  # None unless the outcomes of all runs are known

    @property
    def pairs(self) -> int:
        return int(np.sum(self.kinds == DIFFERENCE))

    def rotated(self, model: Model) -> Model:
        """A model of the cells as a model of their differences and sums."""
        return partial(_rotated, model, self.rotation)


def _rotated(model: Model, rotation: Floats, theta: Floats, inputs: Floats) -> ValuesAndJacobian:
    values, jacobian = model(theta, inputs)
    return values @ rotation.T, rotation @ jacobian


def rows_of(baseline: Variant, variant: Variant, metric: Metric, space: str) -> Rows:
    """The cells of both variants. Those of a pair are means over the seeds that both have, if there are such."""
    first, second = baseline.by_cell(), variant.by_cell()
    rows: list[tuple[float, float, float]] = []  # log compute, metric, whether of the variant
    pairs: list[int] = []  # the first row of each
    runs, parts = 0, list[Floats]()
    noise = _Deviations.of(baseline, variant)
    for key in {**first, **second}:
        members = _same_seeds(baseline, variant, first.get(key, []), second.get(key, []))
        if all(members):
            pairs.append(len(rows))
        for side, (of, indices) in enumerate(zip((baseline, variant), members, strict=True)):
            if indices:
                z = metric.to_space(of.y[indices], space)
                rows.append((float(np.log(of.compute[indices]).mean()), float(z.mean()), float(side)))
                runs += len(indices)
                parts += [] if noise is None else [noise.of_cell(side, indices, of.y[indices], metric, space)]
    log_compute, z, is_variant = np.array(rows).T
    rotation, kinds = _rotation(len(rows), pairs if len(pairs) >= FEWEST_PAIRS else [])
    return Rows(log_compute, z, is_variant, rotation, kinds, runs,
                None if noise is None else PairNoise(noise.design, np.stack(parts)))  # fmt: skip


def _same_seeds(baseline: Variant, variant: Variant, first: Indices, second: Indices) -> tuple[Indices, Indices]:
    """The runs of a cell that have a partner of the same seed; all, if none has one."""
    if not (baseline.seeds and variant.seeds):
        return first, second
    shared = {baseline.seeds[index] for index in first} & {variant.seeds[index] for index in second}
    if not shared:
        return first, second
    return [i for i in first if baseline.seeds[i] in shared], [i for i in second if variant.seeds[i] in shared]


def _rotation(n: int, pairs: Sequence[int]) -> tuple[Floats, Kinds]:
    """The rotation and the kind of each rotated row, where the two cells of a pair are neighbours."""
    rotation, kinds = np.eye(n), np.full(n, ALONE)
    for row in pairs:
        rotation[row : row + 2, row : row + 2] = np.array([[-1, 1], [1, 1]]) / np.sqrt(2)
        kinds[row : row + 2] = DIFFERENCE, SUM
    return rotation, kinds
