"""How fast and how big evaluation is, beside its peers on the same data, each in a process of its own.

    python -m benchmarks.evaluation [--jobs recall tvn] [--peer-python PYTHON] [--limit 240] [--save FILE.json]

Peers: EFAAR_benchmarking (recall, TVN; its other dependencies are heavy, so its modules are loaded with those that it
does not need here left empty), copairs, scikit-learn. One that cannot be imported is named as missing; --peer-python
names an interpreter that has it. One that has not ended after --limit seconds is stopped, and what it took until then
is given as a bound. With --save every job's rows are in the file as soon as they are known, in place of those that it
had: jobs may be run one by one, and an interruption costs the one that ran.

Embeddings are drawn, the gene pairs are those under SCALING_TEST_DATA/annotations (without them, drawn). Memory is the
peak of the whole process above an interpreter with NumPy, inputs included.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.evaluation_jobs import high_water
from harness.storage.atomic import write_json

ROOT = Path(__file__).parents[1]
LIMIT = 240.0
SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Job:
    """Two rows of the table: what is run, by whom, and what is wanted."""

    name: str
    ours: str  # functions of `benchmarks.evaluation_jobs`
    peer: str | None
    peer_name: str
    faster: float | None = None  # wanted ratio of seconds
    smaller: float | None = None  # wanted ratio of memory
    below_gb: float | None = None  # wanted memory


@dataclass(frozen=True)
class Measured:
    """One process: what it took and found. Stopped at the limit, `seconds` and `gigabytes` are lower bounds."""

    seconds: float
    gigabytes: float
    result: list[float] | None  # None: stopped at the limit
    load: float


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


class Missing(RuntimeError):  # noqa: N818  (it says what is missing)
    """A peer that cannot be imported."""


def rows(job: Job, peer_python: str, limit: float) -> list[dict[str, Any]]:
    """A job's time and memory, as {name, unit, ours, peer, peer_name, ratio, goal, met} and more."""
    ours = measured(job.ours, sys.executable)
    peer, title = None, job.peer_name
    if job.peer:
        try:
            peer = measured(job.peer, peer_python, limit)
        except Missing as error:
            title = f"{job.peer_name} (missing: {error})"
    apart = None if peer is None or peer.result is None else _largest_difference(ours, peer)
    common = {
        "peer_name": title,
        "peer_stopped": peer is not None and peer.result is None,
        "largest_difference": apart,
        "load": [ours.load, *([peer.load] if peer else [])],
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
    }
    seconds = _row(f"{job.name}: time", "s", ours.seconds, peer and peer.seconds, job.faster, None)
    memory = _row(f"{job.name}: memory", "GB", ours.gigabytes, peer and peer.gigabytes, job.smaller, job.below_gb)
    return [_judged({**row, **common}) for row in (seconds, memory)]


def _row(
    name: str, unit: str, ours: float, peer: float | None, ratio: float | None, below: float | None
) -> dict[str, Any]:
    reached = None if peer is None else round(peer / ours, 1)
    goal = f"< {below} {unit}" if below is not None else None if ratio is None else f">= {ratio:g} x"
    met = ours < below if below is not None else None if ratio is None or reached is None else reached >= ratio
    theirs = None if peer is None else round(peer, 3)
    return {"name": name, "unit": unit, "ours": round(ours, 3), "peer": theirs, "ratio": reached, "goal": goal,
            "met": met}  # fmt: skip


def _judged(row: dict[str, Any]) -> dict[str, Any]:
    """A bound can show that a goal is met, never that it is missed."""
    return {**row, "met": None} if row["peer_stopped"] and row["met"] is False else row


def measured(function: str, python: str, limit: float | None = None) -> Measured:
    """Run one job in a fresh interpreter, which ends itself after `limit` seconds of work.

    Raises:
        Missing: what it measures cannot be imported there.
        RuntimeError: it failed; the text is the end of what it said.
    """
    code = f"from benchmarks import evaluation_jobs; evaluation_jobs.run({function!r}, {limit})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryFile("w+") as lines, tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen([python, "-c", code], stdout=lines, stderr=complaints, text=True, env=environment)
        largest = 0.0
        while process.poll() is None:
            largest = max(largest, high_water(process.pid))
            time.sleep(SAMPLE_SECONDS)
        said: dict[str, Any] = {}
        for file in (lines, complaints):
            file.seek(0)
        for line in lines:
            said |= json.loads(line)
        complaint = complaints.read()
    if "missing" in said:
        raise Missing(said["missing"])
    if process.returncode == -signal.SIGALRM and limit is not None:
        return Measured(limit, (largest - said["base"]) / 1e9, None, said["load"])
    if process.returncode:
        raise RuntimeError(f"{function} failed:\n{complaint[-2000:]}")
    return Measured(said["seconds"], said["gigabytes"], said["result"], said["load"])


def _largest_difference(ours: Measured, peer: Measured) -> float:
    assert ours.result is not None
    assert peer.result is not None
    return max(abs(a - b) for a, b in zip(ours.result, peer.result, strict=True))


def table(found: Sequence[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = [f"{'':62} {'ours':>10} {'peer':>9} {'ratio':>8}  goal"]
    for row in found:
        bound = ">" if row["peer_stopped"] else ""
        theirs, ratio = ("-" if row[key] is None else f"{bound}{row[key]:g}" for key in ("peer", "ratio"))
        met = {True: "met", False: "NOT met", None: "not shown" if row["goal"] else ""}[row["met"]]
        apart = row["largest_difference"]
        agree = "" if apart is None else f", results within {apart:.1g}"
        numbers = f"{row['ours']:7.3f} {row['unit']:>2} {theirs:>9} {ratio:>8}"
        lines.append(f"{row['name']:62} {numbers}  {row['goal'] or '-':8} {met:9} ({row['peer_name']}{agree})")
    return "\n".join(lines)


def merged(path: Path, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that a file has, with those found in place of their earlier ones, in the order of the jobs."""
    held: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    named = {row["name"]: row for row in [*held, *found]}
    order = [f"{job.name}: {what}" for job in JOBS.values() for what in ("time", "memory")]
    return [named[name] for name in order if name in named]


def main(arguments: Sequence[str] | None = None, write: Callable[[str], None] = print) -> int:
    """The command line."""
    given = _parser().parse_args(arguments)
    found: list[dict[str, Any]] = []
    for name in given.jobs:
        of_job = rows(JOBS[name], given.peer_python, given.limit)
        found += of_job
        if given.save:
            write_json(given.save, merged(given.save, of_job))
    whole = merged(given.save, []) if given.save else found
    write(json.dumps(whole, indent=1) if given.json else table(whole))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS), help="default: all", metavar="JOB")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has the peers installed")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of work that a peer is given")
    parser.add_argument("--save", type=Path, help="JSON that keeps each job's rows as they come")
    parser.add_argument("--json", action="store_true", help="a list of rows instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
