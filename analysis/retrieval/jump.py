"""JUMP-CP retrieval: do replicates of a perturbation find each other, and perturbations with a common target?

The JUMP-CP benchmark (supplement, Tables 8 and 9; Chandrasekaran et al. 2024), for the plates of one modality, cell
type and time. Perturbations: a well's positives are the other wells of its perturbation on all plates, its negatives
the negative controls of its own plate. Siblings: the retrieved perturbations' median profiles, positives share a
target, negatives share none. Similarity is cosine; the result is the fraction with q < 0.05.

Protocol `paper`: a p value for each average precision; per perturbation p = 10^mean(log10 p). Protocol `copairs`, as
copairs does since 0.4: a p value for the mean average precision of a perturbation, whose wells share random ranks.

Legend: W wells, D features, Q queries, P positives, T targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from analysis.arrays import Floats, Mask
from analysis.embeddings.feature_tables import FeatureTable, FeatureTableError, filled
from analysis.retrieval.average_precision import (
    NULL_SIZE,
    TIE,
    Indices,
    average_precision,
    benjamini_hochberg,
    drawn_precisions,
    p_values,
    padded,
    unit_rows,
)
from analysis.tables.errors import TableError
from analysis.tables.names import base_name
from analysis.tables.read_table import read_table

RetrievalProtocol = Literal["paper", "copairs"]
VERSIONS: dict[RetrievalProtocol, str] = {"paper": "paper/1", "copairs": "copairs/1"}
SIGNIFICANT = 0.05
VEHICLE = "DMSO"
PERTURBATION, PLATE, CONTROL_TYPE = "Metadata_broad_sample", "Metadata_Plate", "Metadata_control_type"
GENE, SMILES, NEGATIVE = "Metadata_gene", "Metadata_smiles", "negcon"
TARGET_COLUMNS = ("target_list", "target", "gene")


@dataclass(frozen=True)
class Queries:
    """Ranked queries: the group each belongs to, its average precision, and how many it was ranked among."""

    group: npt.NDArray[np.object_]  # (Q,)
    precision: Floats  # (Q,)
    positives: Indices  # (Q,)
    candidates: Indices  # (Q,)


@dataclass(frozen=True)
class Retrieval:
    """Retrieved perturbations, or retrieved targets."""

    groups: list[str]  # perturbations, or targets
    mean_precision: Floats  # of each
    p: Floats  # by the protocol: too small where ranks tie with chance, or where queries depend on each other
    q: Floats
    p_valid: Floats  # ties counted, and any dependence between the queries of a group allowed for
    queries: int
    without_positives: int  # groups that could not be tested: a perturbation in one well

    @property
    def retrieved(self) -> Mask:
        """True where q < 0.05."""
        return self.q < SIGNIFICANT

    @property
    def retrieved_validly(self) -> Mask:
        """The same by valid p values."""
        return benjamini_hochberg(self.p_valid) < SIGNIFICANT

    def summary(self) -> dict[str, Any]:
        """Numbers for a table or for JSON."""
        tested = len(self.groups)
        return {
            "fraction_retrieved": float(self.retrieved.mean()) if tested else None,
            "retrieved": int(self.retrieved.sum()),
            "fraction_retrieved_valid_p": float(self.retrieved_validly.mean()) if tested else None,
            "retrieved_valid_p": int(self.retrieved_validly.sum()),
            "tested": tested,
            "mean_average_precision": float(self.mean_precision.mean()) if tested else None,
            "queries": self.queries,
            "without_positives": self.without_positives,
        }


@dataclass(frozen=True)
class JumpResult:
    """Both benchmarks on one set of plates."""

    protocol: str
    perturbations: Retrieval
    siblings: Retrieval | None  # None where no perturbation has a known target
    plates: int
    wells: int
    empty_wells: int

    def summary(self) -> dict[str, Any]:
        """Numbers for a table or for JSON."""
        counts = {name: getattr(self, name) for name in ("protocol", "plates", "wells", "empty_wells")}
        siblings = self.siblings.summary() if self.siblings else None
        return {**counts, "perturbations": self.perturbations.summary(), "siblings": siblings}


def jump_retrieval(
    wells: FeatureTable,
    targets: Mapping[str, Sequence[str]] | None = None,
    *,
    protocol: RetrievalProtocol = "paper",
    seed: int = 0,
) -> JumpResult:
    """Perturbation and siblings retrieval of the plates of one modality, cell type and time.

    Args:
        wells: profiles with the columns Metadata_broad_sample, Metadata_Plate and Metadata_control_type. On compound
            plates a missing perturbation is the vehicle, DMSO; on gene plates it is an empty well and left out.
        targets: target genes of each perturbation; without them the column Metadata_gene, where there is one.
        protocol: `paper` or `copairs`.
        seed: of the random ranks.

    Raises:
        FeatureTableError: a column is missing, a plate has no negative control, or nothing can be tested.
    """
    if protocol not in get_args(RetrievalProtocol):
        raise FeatureTableError(f"no protocol {protocol!r}; known: {', '.join(get_args(RetrievalProtocol))}")
    wells = wells.of_wells()
    total = len(wells.metadata)
    wells = _without_empty(wells, targets)
    control = (wells.column(CONTROL_TYPE) == NEGATIVE).to_numpy(bool)
    name = wells.column(PERTURBATION).to_numpy(object)
    plate = filled(wells, PLATE).to_numpy(object)
    rows = unit_rows(wells.features)
    queries, single_wells = replicate_queries(rows, name, plate, control)
    perturbations = significance(queries, single_wells, protocol, seed)
    known = targets if targets is not None else _genes(wells)
    outcomes = zip(perturbations.groups, perturbations.retrieved, strict=True)
    retrieved = [group for group, kept in outcomes if kept and known.get(group)]
    siblings = None
    if known:
        consensus = np.stack([np.median(wells.features[name == group], axis=0) for group in retrieved] or [rows[0]])
        siblings = significance(*sibling_queries(consensus, [set(known[group]) for group in retrieved]), protocol, seed)
    return JumpResult(VERSIONS[protocol], perturbations, siblings, len(np.unique(plate)), len(name), total - len(name))


def read_targets(path: Path) -> dict[str, list[str]]:
    """Targets of each broad_sample from a tab- or comma-separated table; several in a field are separated by "|".

    Raises:
        FeatureTableError: the file cannot be read, or lacks its columns.
    """
    try:
        table = read_table(path)
    except TableError as error:
        raise FeatureTableError(str(error)) from error
    by_base = {base_name(name): name for name in table.names}
    column = next((by_base[name] for name in TARGET_COLUMNS if name in by_base), None)
    if "broad_sample" not in by_base or column is None:
        needed = f"broad_sample and one of {', '.join(TARGET_COLUMNS)}"
        raise FeatureTableError(f"{path}: needs the columns {needed}; it has {', '.join(table.names)}")
    return _listed(table.texts(by_base["broad_sample"]), table.texts(column))


def replicate_queries(
    rows: Floats, name: npt.NDArray[np.object_], plate: npt.NDArray[np.object_], control: Mask
) -> tuple[Queries, int]:
    """Each perturbed well against its replicates anywhere and the controls of its plate; rows (W, D) of length 1.

    Returns the queries, and how many perturbations have one well only.

    Raises:
        FeatureTableError: a plate without controls, no perturbed well, or no replicates.
    """
    perturbed = np.flatnonzero(~control)
    if not len(perturbed):
        raise FeatureTableError("every well is a negative control; there is nothing to retrieve")
    groups, code = np.unique(name[perturbed].astype(str), return_inverse=True)
    members = padded([perturbed[code == group] for group in range(len(groups))])
    own = members[code]  # (Q, P)
    positive = np.stack([np.einsum("qd,qd->q", rows[perturbed], rows[column]) for column in own.T], axis=1)
    positive[(own < 0) | (own == perturbed[:, None])] = np.nan
    precision, negatives = np.empty(len(perturbed)), np.empty(len(perturbed), np.int64)
    for plate_name in np.unique(plate):
        on_plate, plate_controls = plate[perturbed] == plate_name, control & (plate == plate_name)
        if on_plate.any() and not plate_controls.any():
            raise FeatureTableError(f"plate {plate_name} has no negative control ({CONTROL_TYPE}={NEGATIVE})")
        precision[on_plate] = average_precision(positive[on_plate], rows[perturbed[on_plate]] @ rows[plate_controls].T)
        negatives[on_plate] = plate_controls.sum()
    positives = (~np.isnan(positive)).sum(axis=1)
    if not positives.any():
        raise FeatureTableError(
            f"no perturbation ({PERTURBATION}) has a second well; there are no replicates to retrieve"
        )
    kept = positives > 0
    queries = Queries(groups[code][kept], precision[kept], positives[kept], (positives + negatives)[kept])
    return queries, int((np.bincount(code) == 1).sum())


def sibling_queries(consensus: Floats, targets: Sequence[set[str]]) -> tuple[Queries, int]:
    """Each (target, perturbation) against the others with that target and those that share no target with it.

    Args:
        consensus: (Q, D) one profile per perturbation.
        targets: its targets, not empty.

    Returns:
        The queries, grouped by target, and how many targets have only one perturbation or no negatives.
    """
    all_targets = sorted(set().union(*targets))
    has = np.array([[target in known for target in all_targets] for known in targets], dtype=bool)
    has = has.reshape(-1, len(all_targets))
    share = (has.astype(np.int64) @ has.T) > 0
    rows = unit_rows(consensus)
    similarity = rows @ rows.T
    group, precision, positives, negatives = [], [], [], []
    for column, target in enumerate(all_targets):
        with_it = np.flatnonzero(has[:, column])
        for query in with_it:
            others, unrelated = with_it[with_it != query], ~share[query]
            if len(others) and unrelated.any():
                group.append(target)
                precision.append(average_precision(similarity[None, query, others], similarity[None, query, unrelated]))
                positives.append(len(others))
                negatives.append(int(unrelated.sum()))
    counts = np.array(positives, dtype=np.int64)
    all_precisions = np.concatenate(precision) if precision else np.empty(0)
    candidates = counts + np.array(negatives, dtype=np.int64)
    queries = Queries(np.array(group, dtype=object), all_precisions, counts, candidates)
    return queries, len(all_targets) - len(set(group))


def significance(
    queries: Queries, without_positives: int, protocol: RetrievalProtocol = "paper", seed: int = 0
) -> Retrieval:
    """Group the queries, and test each group by the protocol."""
    groups, code = np.unique(queries.group.astype(str), return_inverse=True)
    count = np.bincount(code, minlength=len(groups))
    mean = np.bincount(code, queries.precision, len(groups)) / np.maximum(count, 1)
    if protocol == "paper":
        p = p_values(queries.precision, queries.positives, queries.candidates, seed)
        grouped = 10 ** (np.bincount(code, np.log10(p), len(groups)) / np.maximum(count, 1))
    else:
        grouped = _p_of_means(queries, code, mean, seed)
    q = benjamini_hochberg(grouped)
    valid = _valid(queries, code, count, seed)
    return Retrieval(groups.tolist(), mean, grouped, q, valid, len(code), without_positives)


def _valid(queries: Queries, code: Indices, count: Indices, seed: int) -> Floats:
    """A valid p for each group: e times the geometric mean of its queries' valid p, however these depend on each other.

    Two perturbations that rank each other first among 200 do so by chance in one of 200 cases, not in one of 40,000:
    their similarity is the same seen from either (Vovk and Wang 2020, proposition 4, for the factor e). One query needs
    no factor.
    """
    p = p_values(queries.precision, queries.positives, queries.candidates, seed, count_ties=True)
    mean = np.exp(np.bincount(code, np.log(p), len(count)) / np.maximum(count, 1))
    return np.asarray(np.minimum(np.where(count > 1, np.e, 1.0) * mean, 1.0))


def _p_of_means(queries: Queries, code: Indices, mean: Floats, seed: int) -> Floats:
    """p of each group's mean; queries ranked among equally many share their draws, as in copairs."""
    sizes, which = np.unique(np.stack([queries.positives, queries.candidates], axis=1), axis=0, return_inverse=True)
    nulls = np.stack([drawn_precisions(int(a), int(b), seed) for a, b in sizes]) if len(sizes) else np.empty((0, 0))
    result = np.empty(len(mean))
    for group in range(len(mean)):
        weight = np.bincount(which[code == group], minlength=len(sizes))
        null = weight @ nulls / weight.sum()
        result[group] = (1 + np.count_nonzero(null > mean[group] + TIE)) / (1 + NULL_SIZE)
    return result


def _without_empty(wells: FeatureTable, targets: Mapping[str, Sequence[str]] | None) -> FeatureTable:
    """Wells whose perturbation is named, or is the vehicle."""
    names = wells.column(PERTURBATION)
    if _is_compound(wells, targets):
        names = names.where(names != "", VEHICLE)
    named = wells.metadata.assign(**{wells.column_name(PERTURBATION): names})
    return replace(wells, metadata=named).where((names != "").to_numpy(bool))


def _is_compound(wells: FeatureTable, targets: Mapping[str, Sequence[str]] | None) -> bool:
    """Whether these are compound plates: their perturbations have a structure, or are in the list of compounds."""
    if _has(wells, SMILES):
        return bool((wells.column(SMILES) != "").any())
    return targets is not None and bool(wells.column(PERTURBATION).isin(list(targets)).any())


def _has(wells: FeatureTable, name: str) -> bool:
    return base_name(name) in map(base_name, wells.metadata.columns)


def _genes(wells: FeatureTable) -> dict[str, list[str]]:
    if not _has(wells, GENE):
        return {}
    return _listed(wells.column(PERTURBATION), wells.column(GENE))


def _listed(names: Iterable[str], targets: Iterable[str]) -> dict[str, list[str]]:
    listed: dict[str, list[str]] = {}
    for name, text in zip(names, targets, strict=True):
        if name:
            symbols = (part.strip() for part in text.split("|"))
            listed.setdefault(name, []).extend(part for part in symbols if part and part not in listed[name])
    return listed
