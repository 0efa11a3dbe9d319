"""The options of `python -m analysis.fit`."""

from __future__ import annotations

import argparse

EXAMPLES = """examples:
  python -m analysis.fit runs.csv --x flops --y loss --predict-at 1e21 1e22 --json
  python -m analysis.fit curves.csv --x 'Seen Examples' --y Loss --group Task Model --train-where 'Training == 1'
  python -m analysis.fit grid.csv --x params tokens --y loss --predict-at 70e9,1.4e12 --frontier-at 5.76e23
  python -m analysis.fit recall.csv --x compute --y recall --factors flops_per_crop crops
  python -m analysis.fit grid.csv --x flops --y recall --architecture model patch --predict-at 1e21
  python -m analysis.fit runs.csv --x flops --y loss --variant optimiser --cell model dataset --seed seed
  python -m analysis.fit sweep.csv --best-rate learning_rate --y loss --group model --seed seed --plot rates
"""
LAWS_HELP = """auto (an average of laws; learning_curve where x counts examples seen), or one of: log_linear,
logit_linear, power_law (M1), power_offset (M2), m3, m4, soft_start, bnsl, saturating, joint, joint_tied,
data_constrained, overfitting"""


def fit_parser(about: str) -> argparse.ArgumentParser:
    """The parser, with the first paragraph of a text as its description."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.fit", description=about.split("\n\n")[0], epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("data", help="a CSV, TSV or Parquet file with a row per run or checkpoint")
    add("--x", nargs="+", action="extend", default=[], metavar="COLUMN", help="compute; two: model size, data")
    add("--y", required=True, metavar="COLUMN", help="the metric")
    add("--group", nargs="+", action="extend", default=[], metavar="COLUMN", help="one curve per value of these")
    add("--train-where", metavar="EXPR", help="rows to fit; the others are scored. For example 'Training==1'")
    add("--include-unannealed", action="store_true",
        help="fit rows too whose column `annealed` says that their learning rate had not decayed")  # fmt: skip
    add("--law", default="auto", help=LAWS_HELP)
    add("--predict-at", nargs="+", action="extend", default=[], metavar="X",
        help="values of x to predict at; with --variant: of the baseline, to compare at")  # fmt: skip
    add("--frontier-at", nargs="+", action="extend", default=[], metavar="C",
        help="compute budgets to split between model size and data, with a joint law")  # fmt: skip
    add(
        "--unique",
        metavar="U",
        help="unique data there are, for --frontier-at with a law of three inputs: what is seen beyond is repeated",
    )
    add("--flops-per-unit", type=float, default=6.0, metavar="K", help="k in C = k N D (default 6, FLOPs per token)")
    add("--metric", choices=["loss", "share", "score"], help="kind of y; by default guessed from name, range and trend")
    add("--bound", type=float, default=1.0, help="bound of a share: 1, or 100 for per cent (with --metric share)")
    add("--run", metavar="COLUMN", help="run of each row, where checkpoints of one run correlate (with --variant: the "
        "last of each run counts)")  # fmt: skip
    add("--architecture", nargs="+", action="extend", default=[], metavar="COLUMN",
        help="architecture of each run: runs of one share a level, and new ones scatter as these do")  # fmt: skip
    add("--of-architecture", metavar="NAME", help="predict runs of this architecture; default: those of a new one")
    add("--x-low", metavar="COLUMN", help="lower bound of x, where x is not known exactly")
    add("--x-high", metavar="COLUMN", help="upper bound of x")
    add("--factors", nargs=2, default=[], metavar="COLUMN", help="the two factors behind x, for the two-factor check")
    add("--variant", metavar="COLUMN", help="compare the runs of each value of this column with those of --baseline")
    add("--baseline", metavar="VALUE", help="the value of --variant to compare with; default: the first in the table")
    add("--cell", nargs="+", action="extend", default=[], metavar="COLUMN",
        help="design of a run, such as model and data set: equal ones are pairs; default: its x")  # fmt: skip
    add("--seed", metavar="COLUMN", help="seed of each run")
    add("--best-rate", metavar="COLUMN", help="read the best learning rate, or other positive setting, of each --group")
    add("--plot", metavar="NAME", help="with --best-rate: draw the parabolas to NAME.png and NAME.svg")
    add("--confidence", type=float, default=0.9, help="confidence of every interval, 0.5 to 0.99 (default 0.9)")
    add("--json", action="store_true", help="print JSON instead of text")
    return parser
