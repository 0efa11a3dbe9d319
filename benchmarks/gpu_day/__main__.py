"""Everything that must be measured on a GPU, in runs of ten minutes.

    python -m benchmarks.gpu_day [--minutes 9] [--out runs/gpu_day] [--device cpu] [--json]

Each section runs in its own process and leaves a JSON file under `out`; the next run does the sections that are still
missing, the most valuable first. A section starts only if its estimate fits into the time that is left. Sections:
parity of attention kernels, optimisers, compiled code and the fp32 loss with the CPU; the step of every network, each
way to compile and each peer at its best batch; waiting for data, checkpoints, embedding; profiles. Without a GPU all
of them run with miniature networks, which shows that they work and measures nothing of interest. To measure a section
again, delete its file. After each run, `gpu_day.json` and `gpu_day.md` there hold all figures so far.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu_day.day import Day, Entry, Section, Store, slug
from benchmarks.gpu_day.report import all_rows, markdown
from benchmarks.gpu_day.run import in_process, run_sections
from benchmarks.gpu_day.sections import sections
from harness.storage.atomic import write_atomic, write_json

MINUTE = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else "cpu"
    store, known = Store(options.out / slug(name)), sections(small=not on_gpu)
    if options.section is not None:
        section = next((section for section in known if section.name == options.section), None)
        if section is None:
            names = ", ".join(section.name for section in known)
            print(f"error: no section {options.section!r}: one of {names}", file=sys.stderr)
            return 2
        return _one(section, device, store, known)
    passed = ["--device", options.device, "--out", str(options.out)]
    missing = 0
    for outcome in run_sections(known, store, options.minutes * MINUTE, in_process(passed)):
        missing += outcome.what not in ("kept", "done")
        print(f"{outcome.what:<8} {outcome.seconds:>6.0f} s  {outcome.name}", file=sys.stderr, flush=True)
    found = store.found(known)
    rows, text = all_rows(found, on_gpu), markdown(found, known, store)
    write_json(store.folder / "gpu_day.json", rows)
    write_atomic(store.folder / "gpu_day.md", lambda file: file.write(text.encode()))
    print(json.dumps(rows, indent=1) if options.json else text)
    left = f"; {missing} of {len(known)} sections are missing: run it again" if missing else ""
    print(f"{store.folder}/gpu_day.json and gpu_day.md are written{left}", file=sys.stderr)
    return 0


def _one(section: Section, device: torch.device, store: Store, known: list[Section]) -> int:
    """Run one section in this process and keep what it found, or why it failed."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu_day_") as scratch:
        day = Day(device, device.type != "cuda", Path(scratch))
        try:
            found = section.work(day, store.found(known))
        except Exception as error:  # whatever a section fails of is kept, and does not end the day
            traceback.print_exc()
            last = (str(error).strip().splitlines() or [""])[-1][:200]
            store.write(Entry(section.name, time.monotonic() - began, None, f"{type(error).__name__}: {last}"))
            return 1
    store.write(Entry(section.name, time.monotonic() - began, found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_day", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="of this run")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_day"), help="where sections are kept between runs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON in place of the table")
    parser.add_argument("--section", help="run this section alone, in this process")
    return parser


if __name__ == "__main__":
    sys.exit(main())
