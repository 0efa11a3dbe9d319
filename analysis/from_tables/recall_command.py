"""`python -m analysis.evaluate recall` and `gain`: recall of known relationships, and what one map recalls more."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.figures.text_table import text_table
from analysis.from_tables.shown import show_excluded, show_features

if TYPE_CHECKING:
    from analysis.embeddings.feature_tables import FeatureTable
    from analysis.from_tables.recall import MapOptions
    from analysis.recall.pairs import Pairs
    from analysis.recall.placebos import PlaceboRecall
    from analysis.recall.relationship_recall import RecallResult

NOT_ENOUGH = "not enough to tell: the pairs count as fewer than two complexes of equal size; more complexes would be"
CORRECTIONS = ("none", "centre_scale", "pca_centre_scale", "tvn")


def recall_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "embeddings",
        nargs="+",
        type=Path,
        help="tables of wells or of genes: CSV, TSV or the like, compressed or not, or Parquet",
    )
    _map_arguments(command)
    command.add_argument(
        "--thresholds", nargs="+", default=["0.05:0.95"], metavar="LOW:HIGH",
        help="quantiles of the null, below and above which a pair is recalled (default: 0.05:0.95)",
    )  # fmt: skip
    command.add_argument("--bootstrap", type=int, default=1000, help="0: no interval (it needs no resampling)")
    command.add_argument("--well", metavar="COLUMN", help="column of the wells' names, for the placebo of position")
    command.add_argument("--count", metavar="COLUMN", help="column of the number of cells, for that placebo")
    command.add_argument("--no-placebos", action="store_true", help="measure the embeddings alone")


def gain_arguments(command: argparse.ArgumentParser) -> None:
    for name, text in (("--trained", "trained model"), ("--initial", "same seed's own initialisation")):
        command.add_argument(
            name, nargs="+", type=Path, action="append", required=True, metavar="TABLE",
            help=f"tables of wells of the {text}; give it once for each seed, in the same order",
        )  # fmt: skip
    _map_arguments(command)
    command.add_argument("--thresholds", default="0.05:0.95", metavar="LOW:HIGH", help="quantiles of the null")
    command.add_argument("--confidence", type=float, default=0.9, help="of the intervals (default: 0.9)")


def _map_arguments(command: argparse.ArgumentParser) -> None:
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


def recall(options: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import asdict

    from analysis.from_tables.recall import map_of_tables, placebos_of_tables
    from analysis.recall.relationship_recall import relationship_recall

    thresholds = [_thresholds(text) for text in options.thresholds]
    lists = _lists(options.pairs)
    found = map_of_tables(options.embeddings, _map_options(options))
    gene_map, wells = found.gene_map, found.wells
    results = relationship_recall(
        gene_map.genes, gene_map.embeddings, lists,
        protocol=options.protocol, thresholds=thresholds, replicates=options.bootstrap,
    )  # fmt: skip
    placebos: dict[str, Any] = {}
    if not options.no_placebos:
        panel = placebos_of_tables(
            found, lists, options.protocol, thresholds[0], well=options.well, count=options.count
        )
        measured = [asdict(one) | {"suspect": _is_suspect(one, results)} for one in panel.recalls]
        placebos = {"placebos": measured, "placebos_not_measured": dict(panel.not_measured)}
    set_aside = {
        pairs.source: {name: getattr(pairs, name) for name in ("rows", "duplicates", "self_pairs", "empty")}
        for pairs in lists
    }
    return {
        "wells": len(set(wells.wells().tolist())),
        "fields": len(wells.metadata),
        "genes": len(gene_map.genes),
        "wells_without_gene": sum(name == "" for name in found.genes),
        "wells_without_control_value": _without_control_value(options, wells),
        "correction": options.correct,
        **wells.describe(),
        "excluded": asdict(wells.excluded),
        "lists": set_aside,
        "recall": [asdict(result) for result in results],
        **placebos,
    }


def _lists(paths: Sequence[Path]) -> list[Pairs]:
    """The lists, each by the name of its file.

    Raises:
        ValueError: two have one name, so that their numbers could not be told apart.
    """
    from analysis.recall.pairs import read_pairs

    lists: dict[str, Pairs] = {}
    for path in paths:
        one = read_pairs(path)
        if one.source in lists:
            raise ValueError(f"--pairs: {path} is the second list named {one.source}; give it another file name")
        lists[one.source] = one
    return list(lists.values())


def _map_options(options: argparse.Namespace) -> MapOptions:
    from analysis.from_tables.recall import MapOptions

    return MapOptions(
        options.key, options.guide, options.average, options.correct, options.batch, options.control, options.prefix
    )


def _is_suspect(placebo: PlaceboRecall, results: Sequence[RecallResult]) -> bool:
    """Whether a placebo reaches half of the map's recall over chance, at the first thresholds."""
    return placebo.is_suspect(next(result.recall for result in results if result.source == placebo.source))


def gain(options: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import asdict

    from analysis.from_tables.recall import gains_of_tables

    lists = _lists(options.pairs)
    found = gains_of_tables(
        options.trained, options.initial, lists, _map_options(options),
        protocol=options.protocol, tails=_thresholds(options.thresholds), confidence=options.confidence,
    )  # fmt: skip
    return {"confidence": options.confidence, "gain": [asdict(one) for one in found]}


def _without_control_value(options: argparse.Namespace, wells: FeatureTable) -> int:
    """Rows that leave open whether they are controls."""
    from analysis.embeddings.feature_tables import parse_control

    if not options.control:
        return 0
    column, value = parse_control(options.control)
    return int((wells.column(column) == "").sum()) if value else 0


def _thresholds(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise ValueError(f"--thresholds are LOW:HIGH such as 0.05:0.95, not {text!r}") from None


def show_recall(result: dict[str, Any]) -> None:
    fields = f" ({result['fields']} fields of view)" if result["fields"] > result["wells"] else ""
    print(f"{result['genes']} genes from {result['wells']} wells{fields}, correction {result['correction']}")
    show_features(result)
    show_excluded(result["excluded"] | {"wells_without_gene": result["wells_without_gene"]})
    if blank := result["wells_without_control_value"]:
        print(f"{blank} wells have no value in the column of controls, and are not taken for controls")
    print(text_table([_recall_row(row) for row in result["recall"]], left=["source"]))
    for source, counts in result["lists"].items():
        left_out = ", ".join(
            f"{counts[name]} {name.replace('_', ' ')}" for name in ("duplicates", "self_pairs", "empty")
        )
        print(f"{source}: {counts['rows']} rows, of which {left_out} left out")
    print(f"protocol {result['recall'][0]['protocol']}")
    _show_placebos(result)


def _show_placebos(result: dict[str, Any]) -> None:
    """What placebos recall at the first thresholds, and which of them reach half of the map's recall over chance."""
    rows = [
        {"placebo": row["placebo"], "source": row["source"], "recall": f"{row['recall']:.4f}",
         "interval": f"{row['low']:.4f}-{row['high']:.4f}", "": "half of the map's or more" * row["suspect"]}
        for row in result.get("placebos", ())
    ]  # fmt: skip
    if rows:
        print(text_table(rows, left=["placebo", "source", ""]))
    for name, reason in result.get("placebos_not_measured", {}).items():
        print(f"{name}: not measured: {reason}")


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


def show_gain(result: dict[str, Any]) -> None:
    rows = [
        {"source": row["source"], "gain": f"{row['gain']:+.4f}", "interval": f"{row['low']:+.4f} to {row['high']:+.4f}",
         "trained": f"{row['recall']:.4f}", "initial": f"{row['initial']:.4f}", "pairs": str(row["pairs"]),
         "groups": f"{row['groups']:.0f}", "seeds": str(row["seeds"])}
        for row in result["gain"]
    ]  # fmt: skip
    print(text_table(rows, left=["source"]))
    print(f"{result['confidence']:.0%} intervals cover complexes, genes and wells, and seeds if there are several")
    for row in result["gain"]:
        if row["groups"] < 2:
            print(f"{row['source']}: {NOT_ENOUGH}")
