"""Replicate consistency: do replicates of a perturbation agree, and how far is it from the controls?

Consistency: cosines between replicates against cosines between wells of different perturbations, by the two-sample
statistics of Kolmogorov-Smirnov and Cramér-von Mises; and for each perturbation its mean cosine, with a p value from
random sets of as many unrelated wells. Magnitude: the energy distance to the controls, with a p value from random sets
of controls. A perturbation in one well has neither; it is counted, and no NaN enters a null distribution.

Legend: W wells, w some of them, D embedding width, R replicates, G perturbations, K draws.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.arrays import Features, Floats, Mask, Rows
from analysis.embeddings.blocks import BLOCK, blocks_of, coded, group_sums, rows_of_groups
from analysis.embeddings.checks import checked_embeddings, checked_features
from analysis.embeddings.two_samples import two_samples

DRAWS = 1000
NULL_PAIRS = 100_000
PAIRED = 1024  # wells of a perturbation that are compared with the others at a time


@dataclass(frozen=True)
class Consistency:
    """How similar replicates are."""

    perturbations: list[str]  # with at least two wells
    mean_cosine: Floats  # of each
    p: Floats  # of each: share of random sets of as many unrelated wells that are at least as similar
    single: int  # perturbations in one well only
    ks: float  # Kolmogorov-Smirnov statistic of replicate pairs against unrelated pairs
    cramer_von_mises: float
    replicate_pairs: int

    def summary(self) -> dict[str, float | int]:
        """Numbers for a table or for JSON."""
        return {
            "ks": self.ks,
            "cramer_von_mises": self.cramer_von_mises,
            "median_cosine": float(np.median(self.mean_cosine)),
            "consistent": float((self.p < 0.05).mean()),
            "perturbations": len(self.perturbations),
            "single": self.single,
            "replicate_pairs": self.replicate_pairs,
        }


@dataclass(frozen=True)
class Magnitude:
    """How far perturbations are from the controls."""

    perturbations: list[str]
    distance: Floats  # energy distance
    p: Floats
    too_few: int  # perturbations with fewer wells than required


def replicate_consistency(
    embeddings: npt.ArrayLike, perturbation: Sequence[str], *, draws: int = DRAWS, seed: int = 0
) -> Consistency:
    """Consistency of every perturbation with at least two wells.

    Args:
        embeddings: (W, D), which are not copied.
        perturbation: (W,) names; wells without one ("") are ignored, so leave out controls, or give them one name.

    Raises:
        ValueError: shapes differ, a value is not finite, or there are not two perturbations, one of them replicated.
    """
    wells, code, names = _coded(embeddings, perturbation)
    rng = np.random.default_rng(seed)
    count = np.bincount(code, minlength=len(names))
    replicated = np.flatnonzero(count >= 2)
    if len(names) < 2 or not len(replicated):
        raise ValueError(f"{len(names)} perturbations: two are needed, one of them with replicates")
    mean = _mean_cosines(wells, code)[replicated]
    p = np.empty(len(replicated))
    members = rows_of_groups(code, len(names))
    for size in np.unique(count[replicated]):
        null = np.sort(_unrelated_means(wells, members, int(size), draws, rng))
        same_size = count[replicated] == size
        p[same_size] = (1 + len(null) - np.searchsorted(null, mean[same_size])) / (1 + len(null))
    alike = (_cosines_within(wells, members[which]) for which in replicated)
    compared = two_samples(alike, _unrelated_cosines(wells, code, rng))
    single = int((count == 1).sum())
    replicated_names = [names[index] for index in replicated]
    return Consistency(replicated_names, mean, p, single, compared.ks, compared.cramer_von_mises, compared.first)


def energy_distance(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of two sets of wells (Székely and Rizzo 2013); 0 for equal distributions.

    Raises:
        ValueError: an empty set, or values that are not finite.
    """
    from scipy.spatial.distance import cdist

    x, y = checked_embeddings(first), checked_embeddings(second)
    if not len(x) or not len(y):
        raise ValueError("an energy distance needs wells on both sides")
    return float(2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean())


def perturbation_magnitude(
    embeddings: npt.ArrayLike, perturbation: Sequence[str], control: npt.ArrayLike, *, least: int = 2,
    most_controls: int = 1000, draws: int = 200, seed: int = 0,
) -> Magnitude:  # fmt: skip
    """Energy distance of each perturbation's wells to the controls.

    The p value of R wells is from random sets of R controls against the other controls.

    Args:
        embeddings: (W, D).
        perturbation: (W,) names; those of controls are ignored.
        control: (W,) true for negative controls.
        least: perturbations with fewer wells are counted and left out.
        most_controls: at most this many are used, drawn at random.

    Raises:
        ValueError: shapes differ, a value is not finite, or too few controls or replicates.
    """
    from scipy.spatial.distance import cdist

    values, controls = checked_embeddings(embeddings), np.asarray(control, dtype=bool)
    names = np.asarray(perturbation, dtype=object)
    if not len(values) == len(controls) == len(names):
        raise ValueError(f"{len(values)} embeddings, but {len(names)} perturbations and {len(controls)} controls")
    rng = np.random.default_rng(seed)
    control_rows = rng.permutation(np.flatnonzero(controls))[:most_controls]
    labels, code = np.unique(names[~controls].astype(str), return_inverse=True)
    count = np.bincount(code, minlength=len(labels))
    kept = np.flatnonzero(count >= least)
    if not len(kept) or len(control_rows) < 2 * count[kept].max():
        counts = f"{len(control_rows)} controls and {len(kept)} perturbations of {least} wells"
        raise ValueError(f"{counts}: too few to compare")
    among = cdist(values[control_rows], values[control_rows])
    treated = np.flatnonzero(~controls)
    wells_of = [values[treated[code == which]] for which in kept]
    distance = np.array([_to_controls(wells, values[control_rows], among) for wells in wells_of])
    p = np.empty(len(kept))
    for size in np.unique(count[kept]):
        null = np.sort(_control_distances(among, int(size), draws, rng))
        same_size = count[kept] == size
        p[same_size] = (1 + len(null) - np.searchsorted(null, distance[same_size])) / (1 + len(null))
    return Magnitude([str(labels[which]) for which in kept], distance, p, int((count < least).sum()))


@dataclass(frozen=True)
class _Directions:
    """Wells as unit vectors, made when they are asked for: W wells among all the rows of `values`."""

    values: Features
    rows: npt.NDArray[np.int64]  # (W,)
    norms: Floats  # (W,) infinite where a vector is zero, which stays so

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, wells: Rows) -> Floats:
        """(w, D) of these wells."""
        directions: Floats = self.values[self.rows[wells]].astype(np.float64)
        directions /= self.norms[wells, None]
        return directions

    def blocks(self) -> Iterator[tuple[Rows, Floats]]:
        """All wells."""
        for start in range(0, len(self), BLOCK):
            wells = slice(start, start + BLOCK)
            yield wells, self.of(wells)


def _coded(
    embeddings: npt.ArrayLike, perturbation: Sequence[str]
) -> tuple[_Directions, npt.NDArray[np.int64], list[str]]:
    """The wells that have a name, the number of each one's name, and the names."""
    values = checked_features(embeddings)
    given = np.asarray(perturbation, dtype=object)
    if len(given) != len(values):
        raise ValueError(f"{len(values)} embeddings, but {len(given)} perturbations")
    rows = np.flatnonzero(given != "")
    norms = np.concatenate([np.empty(0), *(np.linalg.norm(block, axis=1) for _, block in blocks_of(values, rows))])
    names, code = coded(given[rows])
    return _Directions(values, rows, np.where(norms, norms, np.inf)), code, names


def _mean_cosines(wells: _Directions, code: npt.NDArray[np.int64]) -> Floats:
    """Mean cosine between the wells of each code; |sum|² holds every pair twice and every well once. 0 for one well."""
    count, with_itself = np.bincount(code), np.bincount(code, np.isfinite(wells.norms))
    sums = group_sums(wells.blocks(), code, (len(count), wells.values.shape[1]))
    twice: Floats = np.einsum("gd,gd->g", sums, sums) - with_itself
    twice /= np.maximum(count * (count - 1), 1)
    return twice


def _cosines_within(wells: _Directions, members: npt.NDArray[np.int64]) -> Iterator[Floats]:
    """Cosines of all pairs of a perturbation's wells, of some wells with all later ones at a time."""
    inside = wells.of(members)
    for start in range(0, len(inside), PAIRED):
        products = inside[start : start + PAIRED] @ inside[start:].T
        yield products[np.triu_indices(len(products), 1, products.shape[1])]


def _unrelated_cosines(wells: _Directions, code: npt.NDArray[np.int64], rng: np.random.Generator) -> Floats:
    first, second = rng.integers(len(wells), size=(2, NULL_PAIRS))
    apart: Mask = code[first] != code[second]
    chunks = np.array_split(np.flatnonzero(apart), 50)
    return np.concatenate([np.einsum("pd,pd->p", wells.of(first[part]), wells.of(second[part])) for part in chunks])


def _unrelated_means(
    wells: _Directions, members: Sequence[npt.NDArray[np.int64]], size: int, draws: int, rng: np.random.Generator
) -> Floats:
    """Mean cosine of `size` wells of different perturbations, as far as there are that many: (K,)."""
    order, count = np.concatenate(members), np.array([len(one) for one in members])
    starts = np.cumsum(count) - count
    means = np.empty(draws)
    for draw in range(draws):
        which = rng.choice(len(count), size, replace=size > len(count))
        drawn = wells.of(order[starts[which] + rng.integers(count[which])])
        total = drawn.sum(axis=0)
        means[draw] = (total @ total - (drawn**2).sum()) / (size * (size - 1))
    return means


def _to_controls(wells: Floats, controls: Floats, among: Floats) -> float:
    from scipy.spatial.distance import cdist

    return float(2 * cdist(wells, controls).mean() - cdist(wells, wells).mean() - among.mean())


def _control_distances(among: Floats, size: int, draws: int, rng: np.random.Generator) -> Floats:
    """Energy distances of `size` controls to the others, (K,), from the distances between controls."""
    distances = np.empty(draws)
    for draw in range(draws):
        order = rng.permutation(len(among))
        few, rest = order[:size], order[size:]
        between, inside = among[np.ix_(few, rest)].mean(), among[np.ix_(few, few)].mean()
        distances[draw] = 2 * between - inside - among[np.ix_(rest, rest)].mean()
    return distances
