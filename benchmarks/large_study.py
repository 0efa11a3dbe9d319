"""What each command costs in a study of thousands of cells: CPU time, opened files, memory, and the size of the page.

    python -m benchmarks.large_study [--sizes 10 500 5000] [--entries 50000] [--json]

Files are those of `study_files`, without training. Each command is a process of its own; `status` is run twice, and the
second run is the one that counts. `run` is measured without `check`, for which shards and space would have to be there.
Peers are the same commands before they were made to read only what has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.study_files import StudySize, write_slurm, write_study
from harness.recipe.load import load

SIZES = {10: StudySize(1), 500: StudySize(10, 5), 2000: StudySize(200, done=1.0), 5000: StudySize(500)}
COUNTED = """\
import sys, resource
opened = [0]
sys.addaudithook(lambda event, _: opened.__setitem__(0, opened[0] + (event == "open")))
from harness.check import command
from harness import sweep
command.before_run = lambda *_, **__: None  # the shards are a manifest alone
sweep.check_fit = lambda *_, **__: None  # no disk here has the space
status = sweep.main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(opened[0], used.ru_maxrss, used.ru_utime + used.ru_stime, file=sys.stderr)
sys.exit(status)
"""
LONG = "a long submissions file"
BEFORE = {("plan", "5,000 cells"): 10.1, ("status", "5,000 cells"): 31.5, ("run", LONG): 25.0}  # s of CPU
GOALS = {("status", "5,000 cells"): 1.0, ("run", LONG): 2.0, ("report", "2,000 cells"): 20.0}


@dataclass(frozen=True)
class Cost:
    """What one command took: seconds of CPU without SLURM's programs, opened files, and bytes of memory."""

    seconds: float
    opened: int
    memory: int


def measure(recipe: Path, binaries: Path, verb: str) -> Cost:
    """Run a command in a process of its own.

    Raises:
        RuntimeError: it fails.
    """
    environment = os.environ | {"PATH": f"{binaries}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", COUNTED, verb, str(recipe), "--profile", "slurm"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    words = (done.stderr.splitlines() or [""])[-1].split()
    if done.returncode or len(words) != 3:
        raise RuntimeError(f"{verb}: {done.stderr}")
    return Cost(float(words[2]), int(words[0]), 1024 * int(words[1]))


def rows_of(study: str, verb: str, cost: Cost) -> list[dict[str, Any]]:
    """The rows of a command, with what it was before and the goal where there are any."""
    name = f"{verb}, {study}"
    before, goal = BEFORE.get((verb, study)), GOALS.get((verb, study))
    peer = {"peer": before, "peer_name": "before" if before else None, "ratio": before and before / cost.seconds}
    met = None if goal is None else cost.seconds < goal
    none = {"peer": None, "peer_name": None, "ratio": None, "goal": None, "met": None}
    return [
        {"name": name, "unit": "s of CPU", "ours": round(cost.seconds, 2), **peer, "goal": goal, "met": met},
        {"name": name, "unit": "opened files", "ours": cost.opened, **none},
        {"name": name, "unit": "MB of memory", "ours": round(cost.memory / 1e6), **none},
    ]


def measured(study: str, size: StudySize, verbs: list[str]) -> list[dict[str, Any]]:
    """The rows of a study."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = write_study(Path(folder), size)
        binaries = write_slurm(Path(folder), load(recipe, "slurm"), size)
        rows = []
        for verb in verbs:
            if verb == "status":
                measure(recipe, binaries, verb)  # what it has read is kept
            rows += rows_of(study, verb, measure(recipe, binaries, verb))
        page = Path(folder) / "out" / "report" / "report.html"
        if page.exists():
            page_row = {"name": f"page, {study}", "unit": "MB", "ours": round(page.stat().st_size / 1e6, 1)}
            rows.append(page_row | {"peer": None, "peer_name": None, "ratio": None, "goal": None, "met": None})
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", choices=SIZES, default=[10, 500, 2000, 5000])
    parser.add_argument("--entries", type=int, default=50_000, help="of the submissions file; 0: do not measure it")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for cells in options.sizes:
        verbs = ["report"] if cells == 2000 else ["plan", "status", "run"]
        rows += measured(f"{cells:,} cells", SIZES[cells], [*verbs, *(["report"] if cells < 2000 else [])])
    if options.entries:
        rows += measured(LONG, StudySize(10, 5, entries=options.entries), ["run"])
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        goal = "" if row["goal"] is None else f"   goal {row['goal']:g}: {'met' if row['met'] else 'missed'}"
        before = "" if row["peer"] is None else f"   before {row['peer']:g}"
        print(f"{row['name']:<32}{row['ours']:>12,g} {row['unit']}{before}{goal}")


if __name__ == "__main__":
    main()
