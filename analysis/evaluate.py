"""Evaluate anyone's embeddings from the command line: relationship recall, JUMP-CP retrieval, CellProfiler prediction.

    python -m analysis.evaluate recall EMBEDDINGS.parquet --pairs CORUM.csv HuMAP.csv --key gene
        --correct tvn --batch experiment --control treatment=EMPTY_control
    python -m analysis.evaluate retrieval PLATE.csv.gz ... --compounds METADATA.tsv
    python -m analysis.evaluate cellprofiler EMBEDDINGS.parquet --features PROFILES.csv --on key
        --experiment experiment --train gene-001 --test gene-002 --output predictions.csv

What was left out (wells without values, unknown genes, duplicate pairs, ...) is counted and printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from analysis.embeddings.feature_tables import FeatureTable

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
CORRECTIONS = ("none", "centre_scale", "pca_centre_scale", "tvn")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 for input that cannot be used, with one line that says why."""
    given = _parser().parse_args(arguments)
    try:
        found = given.run(given)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps(found, indent=1, allow_nan=False))
    else:
        given.show(found)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.evaluate",
        description=(__doc__ or "").partition("\n")[0],
        epilog="docs/evaluation.md says what each number means.",
    )
    commands = parser.add_subparsers(required=True, metavar="recall | retrieval | cellprofiler")
    recall = _command(commands, "recall", "recall of known gene relationships (Table 6)")
    recall.set_defaults(run=_recall, show=_show_recall)
    _recall_arguments(recall)
    retrieval = _command(commands, "retrieval", "perturbation and siblings retrieval on JUMP-CP (Tables 8, 9)")
    retrieval.set_defaults(run=_retrieval, show=_show_retrieval)
    _retrieval_arguments(retrieval)
    cellprofiler = _command(commands, "cellprofiler", "prediction of CellProfiler features (Table 7, Figure 9)")
    cellprofiler.set_defaults(run=_cellprofiler, show=_show_cellprofiler)
    _cellprofiler_arguments(cellprofiler)
    return parser


def _command(commands: Commands, name: str, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    command.add_argument("--prefix", help='how feature columns start; else "feature_", else every numeric column')
    return command


def _recall_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("embeddings", nargs="+", type=Path, help="tables of wells or of genes: parquet, csv, csv.gz")
    command.add_argument("--pairs", nargs="+", type=Path, required=True, help="CSV files with entity1,entity2")
    command.add_argument("--key", default="gene", help="column of gene symbols (default: gene)")
    command.add_argument("--guide", help="column of guides, averaged before genes are")
    command.add_argument("--average", choices=("mean", "median"), default="mean", help="wells → guides → genes")
    command.add_argument("--protocol", choices=("current", "legacy"), default="current", help="which null")
    command.add_argument("--correct", choices=CORRECTIONS, default="none", help="batch correction, fitted on controls")
    command.add_argument("--batch", help="column of batches (experiments)")
    command.add_argument("--control", metavar="COLUMN=VALUE", help="which wells are negative controls")
    command.add_argument(
        "--thresholds", nargs="+", default=["0.05:0.95"], metavar="LOW:HIGH", help="default: 0.05:0.95"
    )
    command.add_argument("--bootstrap", type=int, default=1000, help="resamplings of genes for the interval; 0: none")


def _retrieval_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("profiles", nargs="+", type=Path, help="the plates of one modality, cell type and time")
    command.add_argument("--compounds", type=Path, help="broad_sample and target_list; else the column Metadata_gene")
    command.add_argument("--protocol", choices=("paper", "copairs"), default="paper", help="how significance is tested")
    command.add_argument("--seed", type=int, default=0, help="of random ranks, where they are not enumerated")


def _cellprofiler_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("embeddings", nargs="+", type=Path, help="tables of wells: parquet, csv, csv.gz")
    command.add_argument("--features", nargs="+", type=Path, required=True, help="tables of CellProfiler features")
    command.add_argument("--on", nargs="+", required=True, metavar="COLUMN", help="columns that name a well in both")
    command.add_argument("--experiment", required=True, metavar="COLUMN", help="column of the embeddings' experiments")
    command.add_argument("--train", required=True, help="experiment to train on")
    command.add_argument("--test", required=True, help="experiment to test on")
    command.add_argument("--standardise", choices=("train", "each"), default="train", help="by which wells")
    command.add_argument("--output", type=Path, help="CSV of predictions; a run that was stopped goes on from it")
    command.add_argument("--compare", type=Path, help="another model's CSV: draws Figure 9 beside --output")


def _recall(given: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import asdict

    from analysis.embeddings.aggregate import aggregate
    from analysis.embeddings.feature_tables import read_wells
    from analysis.recall.pairs import read_pairs
    from analysis.recall.relationship_recall import relationship_recall

    thresholds = [_thresholds(text) for text in given.thresholds]
    lists = [read_pairs(path) for path in given.pairs]
    wells = read_wells(given.embeddings, given.prefix)
    names = wells.column(given.key).fillna("").astype(str).tolist()
    guides = wells.column(given.guide).fillna("").astype(str).tolist() if given.guide else None
    corrected, control = _corrected(given, wells)
    genes = ["" if is_control else name for name, is_control in zip(names, control, strict=True)]
    found = aggregate(corrected, genes, guides, given.average)
    results = relationship_recall(
        found.genes, found.embeddings, lists,
        protocol=given.protocol, thresholds=thresholds, replicates=given.bootstrap,
    )  # fmt: skip
    set_aside = {
        pairs.source: {name: getattr(pairs, name) for name in ("rows", "duplicates", "self_pairs", "empty")}
        for pairs in lists
    }
    return {
        "wells": len(wells.metadata),
        "genes": len(found.genes),
        "wells_without_gene": sum(name == "" for name in genes),
        "correction": given.correct,
        "excluded": asdict(wells.excluded),
        "lists": set_aside,
        "recall": [asdict(result) for result in results],
    }


def _corrected(given: argparse.Namespace, wells: FeatureTable) -> tuple[Any, Any]:
    """The embeddings corrected as asked, and which wells are controls."""
    import numpy as np

    from analysis.embeddings.corrections import apply_named
    from analysis.embeddings.feature_tables import controls, parse_control

    everyone = np.zeros(len(wells.metadata), dtype=bool)
    control = controls(wells, parse_control(given.control)) if given.control else everyone
    if given.correct == "none":
        return wells.features, control
    if not given.control or (given.correct != "centre_scale" and not given.batch):
        needs = "--control COLUMN=VALUE" + ("" if given.correct == "centre_scale" else " and --batch COLUMN")
        raise ValueError(f"--correct {given.correct} needs {needs}: it is fitted on control wells")
    batch = wells.column(given.batch).astype(str).to_numpy() if given.batch else everyone
    return apply_named(given.correct, wells.features, control, batch), control


def _thresholds(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise ValueError(f"--thresholds are LOW:HIGH such as 0.05:0.95, not {text!r}") from None


def _show_recall(found: dict[str, Any]) -> None:
    print(f"{found['genes']} genes from {found['wells']} wells, correction {found['correction']}")
    _show_excluded(found["excluded"] | {"wells_without_gene": found["wells_without_gene"]})
    heads = ("recall", "interval", "low", "high", "random", "chance", "pairs", "unknown")
    print(f"{'source':12} {'tails':>11} " + " ".join(f"{head:>{15 if head == 'interval' else 8}}" for head in heads))
    for row in found["recall"]:
        ends = "-" if row["recall_low"] is None else f"{row['recall_low']:.4f}-{row['recall_high']:.4f}"
        tails = " ".join(f"{row[name]:8.4f}" for name in ("low_tail", "high_tail", "random_pairs", "chance"))
        counts = f"{row['recall']:8.4f} {ends:>15} {tails} {row['pairs']:8} {row['unknown_pairs']:8}"
        print(
            f"{row['source']:12} {row['low']:5.3g}/{row['high']:<5.3g} {row['recall']:8.4f} {ends:>15} {tails} {counts}"
        )
    for source, counts in found["lists"].items():
        left_out = ", ".join(
            f"{counts[name]} {name.replace('_', ' ')}" for name in ("duplicates", "self_pairs", "empty")
        )
        print(f"{source}: {counts['rows']} rows, of which {left_out} left out")
    print(f"protocol {found['recall'][0]['protocol']}")


def _retrieval(given: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import asdict

    from analysis.embeddings.feature_tables import read_wells
    from analysis.retrieval.jump import jump_retrieval, read_targets

    targets = read_targets(given.compounds) if given.compounds else None
    wells = read_wells(given.profiles, given.prefix)
    result = jump_retrieval(wells, targets, protocol=given.protocol, seed=given.seed)
    return {"features": len(wells.names), "excluded": asdict(wells.excluded), **result.summary()}


def _show_retrieval(found: dict[str, Any]) -> None:
    print(f"{found['wells']} wells on {found['plates']} plates, {found['features']} features")
    _show_excluded(found["excluded"] | {"empty_wells": found["empty_wells"]})
    print(f"{'':14} {'fraction retrieved':>18} {'mAP':>7} {'retrieved':>10} {'tested':>7} {'queries':>8}")
    for kind in ("perturbations", "siblings"):
        row = found[kind]
        if row is None or not row["tested"]:
            print(f"{kind:14} nothing to test: no perturbation shares a known target")
            continue
        print(f"{kind:14} {row['fraction_retrieved']:18.4f} {row['mean_average_precision']:7.4f} {row['retrieved']:10} "
              f"{row['tested']:7} {row['queries']:8}")  # fmt: skip
    print(f"protocol {found['protocol']}")


def _cellprofiler(given: argparse.Namespace) -> dict[str, Any]:
    from analysis.cellprofiler.files import predict_from_files

    return predict_from_files(
        given.embeddings, given.features, on=given.on, experiment=(given.experiment, given.train, given.test),
        prefix=given.prefix, standardise=given.standardise, output=given.output, compare=given.compare,
    )  # fmt: skip


def _show_cellprofiler(found: dict[str, Any]) -> None:
    print(f"{found['train_wells']} training wells, {found['test_wells']} test wells, {found['features']} features")
    _show_excluded({name: found[name] for name in ("constant_features", "wells_without_match")})
    print(f"{'category':20} {'features':>9} {'median R2':>10} {'MAD':>7}")
    for row in found["table7"]:
        spread = f"{row['median_absolute_deviation']:7.3f}"
        print(f"{row['category']:20} {row['features']:9} {row['median_r2']:10.3f} {spread}")
    print(f"protocol {found['protocol']}")


def _show_excluded(counts: dict[str, int]) -> None:
    left_out = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count)
    if left_out:
        print(f"left out: {left_out}")


if __name__ == "__main__":
    sys.exit(main())
