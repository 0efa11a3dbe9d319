"""How fast and how big evaluation is, beside its peers on the same data, each in a process of its own.

    python -m benchmarks.evaluation [--json] [--only recall,tvn] [--peer-python PYTHON]

Peers: EFAAR_benchmarking (recall, TVN; its other dependencies are heavy, so its modules are loaded with those that it
does not need here left empty), copairs, scikit-learn. One that cannot be imported is named as missing; --peer-python
names an interpreter that has it. Embeddings are drawn, the gene pairs are those under SCALING_TEST_DATA/annotations
(without them, drawn). Memory is the peak of the whole process above what it was before the job, inputs included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Job:
    """One row of the table: what is run, by whom, and what is wanted."""

    name: str
    ours: str  # functions of `benchmarks.evaluation_jobs`
    peer: str | None
    peer_name: str
    faster: float | None = None  # wanted ratio of seconds
    smaller: float | None = None  # wanted ratio of memory
    below_gb: float | None = None  # wanted memory


JOBS = {
    "recall": Job("recall, 17,000 genes x 1,024, four sources", "recall_17k", "recall_17k_efaar",
                  "EFAAR_benchmarking", faster=5, smaller=10),
    "recall60k": Job("recall, 60,000 perturbations x 1,024", "recall_60k", None, "none: EFAAR_benchmarking needs 43 GB",
                     below_gb=2),
    "tvn": Job("TVN, 16,560 wells x 1,024, 12 batches", "tvn", "tvn_efaar", "EFAAR_benchmarking", faster=20),
    "ap": Job("average precision, 8,000 wells x 384", "precision", "precision_copairs", "copairs", faster=40,
              smaller=20),
    "cellprofiler": Job("CellProfiler prediction, a target at 16,560 x 1,024", "elastic_net", "elastic_net_sklearn",
                        "scikit-learn ElasticNetCV", faster=4),
}  # fmt: skip


def rows(names: Sequence[str], peer_python: str) -> list[dict[str, Any]]:
    """The measurements, as {name, unit, ours, peer, peer_name, ratio, goal, met} and what both found."""
    found: list[dict[str, Any]] = []
    for name in names:
        job = JOBS[name]
        ours = _measured(job.ours, sys.executable)
        peer = _measured(job.peer, peer_python) if job.peer else None
        missing = peer is not None and "missing" in peer
        title = f"{job.peer_name} (missing: {peer['missing']})" if peer and missing else job.peer_name
        timed = None if peer is None or missing else peer
        agree = None if timed is None else _agree(ours["result"], timed["result"])
        common = {"peer_name": title, "results_agree": agree, "load": ours["load"]}
        found.append({**_row(f"{job.name}: time", "s", ours, timed, "seconds", job.faster, None), **common})
        found.append(
            {**_row(f"{job.name}: memory", "GB", ours, timed, "gigabytes", job.smaller, job.below_gb), **common}
        )
    return found


def _row(
    name: str, unit: str, ours: dict[str, Any], peer: dict[str, Any] | None, key: str, ratio: float | None,
    below: float | None,
) -> dict[str, Any]:  # fmt: skip
    reached = None if peer is None else round(peer[key] / ours[key], 1)
    met = None
    if below is not None:
        met = ours[key] < below
    elif ratio is not None and reached is not None:
        met = reached >= ratio
    goal = f"< {below} GB" if below is not None else None if ratio is None else f">= {ratio:g} x"
    theirs = None if peer is None else round(peer[key], 3)
    return {"name": name, "unit": unit, "ours": round(ours[key], 3), "peer": theirs, "ratio": reached, "goal": goal,
            "met": met}  # fmt: skip


def _measured(function: str, python: str) -> dict[str, Any]:
    """Run one job in a fresh interpreter; it prints its seconds, peak memory and result as JSON."""
    code = f"from benchmarks import evaluation_jobs; evaluation_jobs.run({function!r})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{function} failed:\n{done.stderr[-2000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _agree(ours: list[float], theirs: list[float]) -> bool:
    return len(ours) == len(theirs) and all(
        abs(a - b) <= 1e-6 * max(1, abs(b)) for a, b in zip(ours, theirs, strict=True)
    )


def _print(found: Sequence[dict[str, Any]], write: Callable[[str], None] = print) -> None:
    write(f"{'':62} {'ours':>9} {'peer':>9} {'ratio':>7}  goal")
    for row in found:
        theirs, ratio = ("-" if row[key] is None else f"{row[key]:g}" for key in ("peer", "ratio"))
        met = {True: "met", False: "NOT met", None: ""}[row["met"]]
        agree = {True: ", same results", False: ", OTHER results", None: ""}[row["results_agree"]]
        numbers = f"{row['ours']:7.3f} {row['unit']:>2} {theirs:>9} {ratio:>7}"
        write(f"{row['name']:62} {numbers}  {row['goal'] or '-':8} {met}  ({row['peer_name']}{agree})")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--json", action="store_true", help="a list of rows instead of a table")
    parser.add_argument("--only", default=",".join(JOBS), help="jobs, by comma")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has the peers installed")
    given = parser.parse_args(arguments)
    found = rows(given.only.split(","), given.peer_python)
    if given.json:
        print(json.dumps(found, indent=1))
    else:
        _print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
