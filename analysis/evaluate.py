"""Evaluate embeddings from the command line: relationship recall, JUMP-CP retrieval, CellProfiler prediction.

    python -m analysis.evaluate recall EMBEDDINGS.parquet --pairs CORUM.csv HuMAP.csv --key gene
        --correct tvn --batch experiment --control treatment=EMPTY_control
    python -m analysis.evaluate gain --trained TRAINED.parquet --initial UNTRAINED.parquet --pairs CORUM.csv
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
from typing import Any, TypeAlias

from analysis.figures.text_table import text_table
from analysis.from_tables import recall_command as recalls
from analysis.from_tables.shown import show_excluded, show_features

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
NOTHING_TO_TEST = {
    "perturbations": "no perturbation has a second well",
    "siblings": "no perturbation shares a known target",
}


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
    commands = parser.add_subparsers(required=True, metavar="recall | gain | retrieval | cellprofiler")
    recall = _command(commands, "recall", "recall of known gene relationships (Table 6)")
    recall.set_defaults(run=recalls.recall, show=recalls.show_recall)
    recalls.recall_arguments(recall)
    gain = _command(commands, "gain", "recall of trained maps less that of their own initialisations, or of others")
    gain.set_defaults(run=recalls.gain, show=recalls.show_gain)
    recalls.gain_arguments(gain)
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
    show_features(result)
    show_excluded(result["excluded"] | {"empty_wells": result["empty_wells"]})
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
        show_features(described, f"features of {table}")
    show_excluded({name: result[name] for name in ("constant_features", "wells_without_match")})
    rows = [
        {"category": row["category"], "features": str(row["features"]), "median R2": f"{row['median_r2']:.3f}",
         "MAD": f"{row['median_absolute_deviation']:.3f}"}
        for row in result["table7"]
    ]  # fmt: skip
    print(text_table(rows, left=["category"]))
    print(f"protocol {result['protocol']}")


if __name__ == "__main__":
    sys.exit(main())
