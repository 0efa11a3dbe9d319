"""Evaluate embeddings from the command line: relationship recall, JUMP-CP retrieval, CellProfiler prediction.

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

from analysis.figures.text_table import text_table

if TYPE_CHECKING:
    from analysis.embeddings.feature_tables import FeatureTable

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
NOTHING_TO_TEST = {
    "perturbations": "no perturbation has a second well",
    "siblings": "no perturbation shares a known target",
}
CORRECTIONS = ("none", "centre_scale", "pca_centre_scale", "tvn")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; exit status 2 and a one-line message for input that cannot be used."""
    options = _parser().parse_args(arguments)
    try:
        result = options.run(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(result, indent=1, allow_nan=False))
    else:
        options.show(result)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.evaluate",
        description=(__doc__ or "").partition("\n")[0],
        epilog="See docs/evaluation.md for the meaning of each number.",
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
    command.add_argument(
        "--prefix", help='prefix of feature columns (default: "feature_", else what docs/evaluation.md says)'
    )
    return command


def _recall_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "embeddings",
        nargs="+",
        type=Path,
        help="tables of wells or of genes: CSV, TSV or the like, compressed or not, or Parquet",
    )
    command.add_argument(
        "--pairs", nargs="+", type=Path, required=True, help="tables with the columns entity1 and entity2"
    )
    command.add_argument("--key", default="gene", help="column of gene symbols (default: gene)")
    command.add_argument("--guide", help="column of guides, averaged before the genes")
    command.add_argument("--average", choices=("mean", "median"), default="mean", help="of wells and of guides")
    command.add_argument("--protocol", choices=("current", "legacy"), default="current", help="null distribution")
    command.add_argument("--correct", choices=CORRECTIONS, default="none", help="batch correction, fitted on controls")
    command.add_argument("--batch", help="column of batches (experiments)")
    command.add_argument("--control", metavar="COLUMN=VALUE", help="which wells are negative controls")
    command.add_argument(
        "--thresholds", nargs="+", default=["0.05:0.95"], metavar="LOW:HIGH",
        help="quantiles of the null, below and above which a pair is recalled (default: 0.05:0.95)",
    )  # fmt: skip
    command.add_argument("--bootstrap", type=int, default=1000, help="resamples of genes for the interval; 0: none")


def _retrieval_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("profiles", nargs="+", type=Path, help="the plates of one modality, cell type and time")
    command.add_argument(
        "--compounds", type=Path,
        help="table with broad_sample and target_list (default: the column Metadata_gene of the profiles)",
    )  # fmt: skip
    command.add_argument("--protocol", choices=("paper", "copairs"), default="paper", help="how significance is tested")
    command.add_argument("--seed", type=int, default=0, help="seed of random ranks, where they are not enumerated")


def _cellprofiler_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("embeddings", nargs="+", type=Path, help="tables of wells")
    command.add_argument("--features", nargs="+", type=Path, required=True, help="tables of CellProfiler features")
    command.add_argument(
        "--on", nargs="+", required=True, metavar="COLUMN", help="columns that identify a well in both tables"
    )
    command.add_argument("--experiment", required=True, metavar="COLUMN", help="column of the embeddings' experiments")
    command.add_argument("--train", required=True, help="experiment to train on")
    command.add_argument("--test", required=True, help="experiment to test on")
    command.add_argument(
        "--standardise", choices=("train", "each"), default="train",
        help="by the training experiment's mean and deviation, or each experiment by its own (default: train)",
    )  # fmt: skip
    command.add_argument("--output", type=Path, help="CSV of predictions; an interrupted run continues from it")
    command.add_argument("--compare", type=Path, help="another model's CSV: draws Figure 9 next to --output")


def _recall(options: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import asdict

    from analysis.embeddings.aggregate import aggregate
    from analysis.embeddings.feature_tables import read_wells
    from analysis.recall.pairs import read_pairs
    from analysis.recall.relationship_recall import relationship_recall

    thresholds = [_thresholds(text) for text in options.thresholds]
    lists = [read_pairs(path) for path in options.pairs]
    wells = read_wells(options.embeddings, options.prefix)
    names = wells.column(options.key).tolist()
    guides = wells.column(options.guide).tolist() if options.guide else None
    corrected, control = _corrected(options, wells)
    genes = ["" if is_control else name for name, is_control in zip(names, control, strict=True)]
    gene_map = aggregate(corrected, genes, guides, options.average)
    results = relationship_recall(
        gene_map.genes, gene_map.embeddings, lists,
        protocol=options.protocol, thresholds=thresholds, replicates=options.bootstrap,
    )  # fmt: skip
    set_aside = {
        pairs.source: {name: getattr(pairs, name) for name in ("rows", "duplicates", "self_pairs", "empty")}
        for pairs in lists
    }
    return {
        "wells": len(set(wells.wells().tolist())),
        "fields": len(wells.metadata),
        "genes": len(gene_map.genes),
        "wells_without_gene": sum(name == "" for name in genes),
        "wells_without_control_value": _without_control_value(options, wells),
        "correction": options.correct,
        **wells.describe(),
        "excluded": asdict(wells.excluded),
        "lists": set_aside,
        "recall": [asdict(result) for result in results],
    }


def _without_control_value(options: argparse.Namespace, wells: FeatureTable) -> int:
    """Rows that leave open whether they are controls."""
    from analysis.embeddings.feature_tables import parse_control

    if not options.control:
        return 0
    column, value = parse_control(options.control)
    return int((wells.column(column) == "").sum()) if value else 0


def _corrected(options: argparse.Namespace, wells: FeatureTable) -> tuple[Any, Any]:
    """The corrected embeddings, and which wells are controls."""
    import numpy as np

    from analysis.embeddings.corrections import apply_named
    from analysis.embeddings.feature_tables import controls, filled, parse_control

    no_control = np.zeros(len(wells.metadata), dtype=bool)
    control = controls(wells, parse_control(options.control)) if options.control else no_control
    if options.correct == "none":
        return wells.features, control
    if not options.control or (options.correct != "centre_scale" and not options.batch):
        needs = "--control COLUMN=VALUE" + ("" if options.correct == "centre_scale" else " and --batch COLUMN")
        raise ValueError(f"--correct {options.correct} needs {needs}: it is fitted on control wells")
    batch = filled(wells, options.batch).to_numpy(str) if options.batch else no_control
    return apply_named(options.correct, wells.features, control, batch), control


def _thresholds(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise ValueError(f"--thresholds are LOW:HIGH such as 0.05:0.95, not {text!r}") from None


def _show_recall(result: dict[str, Any]) -> None:
    fields = f" ({result['fields']} fields of view)" if result["fields"] > result["wells"] else ""
    print(f"{result['genes']} genes from {result['wells']} wells{fields}, correction {result['correction']}")
    _show_features(result)
    _show_excluded(result["excluded"] | {"wells_without_gene": result["wells_without_gene"]})
    if blank := result["wells_without_control_value"]:
        print(f"{blank} wells have no value in the column of controls, and are not taken for controls")
    print(text_table([_recall_row(row) for row in result["recall"]], left=["source"]))
    for source, counts in result["lists"].items():
        left_out = ", ".join(
            f"{counts[name]} {name.replace('_', ' ')}" for name in ("duplicates", "self_pairs", "empty")
        )
        print(f"{source}: {counts['rows']} rows, of which {left_out} left out")
    print(f"protocol {result['recall'][0]['protocol']}")


def _recall_row(row: dict[str, Any]) -> dict[str, str]:
    return {
        "source": row["source"],
        "tails": f"{row['low']:.3g}/{row['high']:.3g}",
        "recall": f"{row['recall']:.4f}",
        "interval": "-" if row["recall_low"] is None else f"{row['recall_low']:.4f}-{row['recall_high']:.4f}",
        "low": f"{row['low_tail']:.4f}",
        "high": f"{row['high_tail']:.4f}",
        "random": f"{row['random_pairs']:.4f}",
        "chance": f"{row['chance']:.4f}",
        "pairs": str(row["pairs"]),
        "unknown": str(row["unknown_pairs"]),
    }


def _retrieval(options: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import asdict

    from analysis.embeddings.feature_tables import read_wells
    from analysis.retrieval.jump import jump_retrieval, read_targets

    targets = read_targets(options.compounds) if options.compounds else None
    wells = read_wells(options.profiles, options.prefix)
    result = jump_retrieval(wells, targets, protocol=options.protocol, seed=options.seed)
    return {**wells.describe(), "excluded": asdict(wells.excluded), **result.summary()}


def _show_retrieval(result: dict[str, Any]) -> None:
    print(f"{result['wells']} wells on {result['plates']} plates")
    _show_features(result)
    _show_excluded(result["excluded"] | {"empty_wells": result["empty_wells"]})
    tested = {kind: row for kind in NOTHING_TO_TEST if (row := result[kind]) and row["tested"]}
    print(text_table([_retrieval_row(kind, row) for kind, row in tested.items()], left=["queries of"]))
    for kind, reason in NOTHING_TO_TEST.items():
        if kind not in tested:
            print(f"{kind}: nothing to test: {reason}")
    print(f"protocol {result['protocol']}")


def _retrieval_row(kind: str, row: dict[str, Any]) -> dict[str, str]:
    return {
        "queries of": kind,
        "fraction retrieved": f"{row['fraction_retrieved']:.4f}",
        "mAP": f"{row['mean_average_precision']:.4f}",
        "retrieved": str(row["retrieved"]),
        "tested": str(row["tested"]),
        "queries": str(row["queries"]),
        "fraction by valid p": f"{row['fraction_retrieved_valid_p']:.4f}",
    }


def _cellprofiler(options: argparse.Namespace) -> dict[str, Any]:
    from analysis.cellprofiler.files import predict_from_files

    return predict_from_files(
        options.embeddings, options.features, on=options.on,
        experiment=(options.experiment, options.train, options.test), prefix=options.prefix,
        standardise=options.standardise, output=options.output, compare=options.compare,
    )  # fmt: skip


def _show_cellprofiler(result: dict[str, Any]) -> None:
    print(f"{result['train_wells']} training wells, {result['test_wells']} test wells, {result['features']} features")
    for table, described in result["columns"].items():
        _show_features(described, f"features of {table}")
    _show_excluded({name: result[name] for name in ("constant_features", "wells_without_match")})
    rows = [
        {"category": row["category"], "features": str(row["features"]), "median R2": f"{row['median_r2']:.3f}",
         "MAD": f"{row['median_absolute_deviation']:.3f}"}
        for row in result["table7"]
    ]  # fmt: skip
    print(text_table(rows, left=["category"]))
    print(f"protocol {result['protocol']}")


def _show_features(result: dict[str, Any], kind: str = "features") -> None:
    """How many columns were taken for features, and which columns of numbers were not."""
    for label, count, first in (
        (kind, result["features"], result["first_features"]),
        ("not features, though numbers", result["not_features"], result["first_not_features"]),
    ):
        if count:
            print(f"{label}: {count} ({', '.join(first)}{', ...' if count > len(first) else ''})")


def _show_excluded(counts: dict[str, int]) -> None:
    left_out = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count)
    if left_out:
        print(f"left out: {left_out}")


if __name__ == "__main__":
    sys.exit(main())
