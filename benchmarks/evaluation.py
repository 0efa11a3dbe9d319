"""Time and memory of evaluation compared with peers on the same data, each in its own process.

    python -m benchmarks.evaluation [--jobs recall tvn] [--peer-python PYTHON] [--limit 240] [--save FILE.json]

Peers: EFAAR_benchmarking (recall, TVN; heavy dependencies that it does not need here are replaced by empty modules),
copairs, scikit-learn. A peer that cannot be imported is reported as missing; --peer-python names an interpreter that
has it. A peer that has not finished after --limit seconds is stopped, and its time and memory so far are reported as
bounds. With --save every job's rows replace its earlier rows in the file as soon as they are known, so that jobs can be
run one by one and an interruption loses only the running job.

Embeddings are random; gene pairs are those under SCALING_TEST_DATA/annotations, or random without them. Memory is the
peak of the complete process above an interpreter with NumPy, inputs included.
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
    """Two rows of the table: what is run, by which functions, and the goals."""

    name: str
    ours: str  # functions of `benchmarks.evaluation_jobs`
    peer: str | None
    peer_name: str
    faster: float | None = None  # goal for the ratio of seconds
    smaller: float | None = None  # goal for the ratio of memory
    below_gb: float | None = None  # goal for the memory


@dataclass(frozen=True)
class Measured:
    """One process: its time, memory and result. If stopped at the limit, `seconds` and `gigabytes` are lower bounds."""

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
    peer_value = None if peer is None else round(peer, 3)
    return {"name": name, "unit": unit, "ours": round(ours, 3), "peer": peer_value, "ratio": reached, "goal": goal,
            "met": met}  # fmt: skip


def _judged(row: dict[str, Any]) -> dict[str, Any]:
    """A bound can show that a goal is met, but not that it is missed."""
    return {**row, "met": None} if row["peer_stopped"] and row["met"] is False else row


def measured(function: str, python: str, limit: float | None = None) -> Measured:
    """Run one job in a fresh interpreter, which ends itself after `limit` seconds of work.

    Raises:
        Missing: the measured package cannot be imported.
        RuntimeError: it failed; the message is the end of its output.
    """
    code = f"from benchmarks import evaluation_jobs; evaluation_jobs.run({function!r}, {limit})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryFile("w+") as lines, tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen([python, "-c", code], stdout=lines, stderr=complaints, text=True, env=environment)
        largest = 0.0
        while process.poll() is None:
            largest = max(largest, high_water(process.pid))
            time.sleep(SAMPLE_SECONDS)
        reported: dict[str, Any] = {}
        for file in (lines, complaints):
            file.seek(0)
        for line in lines:
            reported |= json.loads(line)
        complaint = complaints.read()
    if "missing" in reported:
        raise Missing(reported["missing"])
    if process.returncode == -signal.SIGALRM and limit is not None:
        return Measured(limit, (largest - reported["base"]) / 1e9, None, reported["load"])
    if process.returncode:
        raise RuntimeError(f"{function} failed:\n{complaint[-2000:]}")
    return Measured(reported["seconds"], reported["gigabytes"], reported["result"], reported["load"])


def _largest_difference(ours: Measured, peer: Measured) -> float:
    assert ours.result is not None
    assert peer.result is not None
    return max(abs(a - b) for a, b in zip(ours.result, peer.result, strict=True))


def table(measurements: Sequence[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = [f"{'':62} {'ours':>10} {'peer':>9} {'ratio':>8}  goal"]
    for row in measurements:
        bound = ">" if row["peer_stopped"] else ""
        peer_value, ratio = ("-" if row[key] is None else f"{bound}{row[key]:g}" for key in ("peer", "ratio"))
        met = {True: "met", False: "NOT met", None: "not shown" if row["goal"] else ""}[row["met"]]
        apart = row["largest_difference"]
        agree = "" if apart is None else f", results within {apart:.1g}"
        numbers = f"{row['ours']:7.3f} {row['unit']:>2} {peer_value:>9} {ratio:>8}"
        lines.append(f"{row['name']:62} {numbers}  {row['goal'] or '-':8} {met:9} ({row['peer_name']}{agree})")
    return "\n".join(lines)


def merged(path: Path, new_rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that a file has, with new rows in place of their earlier ones, in the order of the jobs."""
    kept: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    named = {row["name"]: row for row in [*kept, *new_rows]}
    order = [f"{job.name}: {what}" for job in JOBS.values() for what in ("time", "memory")]
    return [named[name] for name in order if name in named]


def main(arguments: Sequence[str] | None = None, write: Callable[[str], None] = print) -> int:
    """The command line."""
    options = _parser().parse_args(arguments)
    measurements: list[dict[str, Any]] = []
    for name in options.jobs:
        of_job = rows(JOBS[name], options.peer_python, options.limit)
        measurements += of_job
        if options.save:
            write_json(options.save, merged(options.save, of_job))
    all_rows = merged(options.save, []) if options.save else measurements
    write(json.dumps(all_rows, indent=1) if options.json else table(all_rows))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS), help="default: all", metavar="JOB")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has the peers installed")
    parser.add_argument("--limit", type=float, default=LIMIT, help="time limit of a peer in seconds")
    parser.add_argument("--save", type=Path, help="JSON file that keeps the rows of every job")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
