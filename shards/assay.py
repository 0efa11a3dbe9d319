"""Render the demo assay: a small screen in RxRx3's layout with known gene complexes, for use without real data.

`python -m shards.assay --output FOLDER` writes `<experiment>/Plate1/B02_s1_w1.png` ..., `metadata.csv`, and
`relationships/{complexes,clusters,pathways,network}.csv`. Every experiment has every gene once, with one of its
guides, and many negative controls. The images depend only on the options, not on the number of processes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from shards.demo.assay import AssayError, AssayOptions, render_assay


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m shards.assay", description="Render the demo assay.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=None)
    for name, value in asdict(AssayOptions()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = vars(parser.parse_args(arguments))
    output, workers = options.pop("output"), options.pop("workers")
    try:
        rendered = render_assay(AssayOptions(**options), output, workers)
    except (AssayError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"rendered {output}" if rendered else f"{output} is complete already")
    return 0


if __name__ == "__main__":
    sys.exit(main())
