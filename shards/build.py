"""Build a shard set: a layout's well images → tar shards, split by experiment, in parallel, resumable.

    python -m shards.build --layout rxrx3 --root DIR_OR_URL --output DIR

The build is planned first; the plan depends only on the table and the options. Running again keeps every shard whose
record still matches its inputs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from shards.builder.build_set import build
from shards.builder.curation import CurationRules
from shards.errors import BuildError, ImageError, LayoutError, ShardError
from shards.format.codecs import CODECS
from shards.format.manifest import SPLITS, Manifest
from shards.format.writer import DEFAULT_CHUNK, DEFAULT_CODEC
from shards.images.planes import Plane
from shards.layouts.registry import LAYOUTS


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(prog="python -m shards.build", description="Build tar shards of well images.")
    add = arguments.add_argument
    add("--layout", required=True, choices=list(LAYOUTS), help="how images and metadata are stored")
    add("--root", required=True, help="folder or fsspec URL of the images and their metadata")
    add("--output", required=True, type=Path, help="folder to build into")
    add("--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the layout; may be repeated")
    split = arguments.add_mutually_exclusive_group()
    split.add_argument("--validation-experiments", metavar="A,B", help="experiments kept for validation")
    split.add_argument(
        "--validation-fraction", type=float, default=0.1, help="or a fraction of them (default %(default)s)"
    )
    add("--wells-per-shard", type=int, default=64, help="well images per tar file (default %(default)s)")
    add("--eight-bit", metavar="shift|LOW:HIGH", help="convert 16-bit pixels to 8 bits (default: keep them as stored)")
    add(
        "--plane",
        metavar="N|max",
        help="of a stack of planes, in one file or several, take the one of this number, from 1, or the maximum "
        "(default: stacks are refused)",
    )
    add(
        "--codec",
        default=DEFAULT_CODEC,
        help=f"{', '.join(CODECS)}, or trial: the best one on a sample (default %(default)s)",
    )
    add("--chunk", type=int, default=DEFAULT_CHUNK, help="side of the chunks, in pixels (default %(default)s)")
    add(
        "--seed", type=int, default=0, help="random seed of the split, the order and the controls (default %(default)s)"
    )
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: one per core)")
    add(
        "--on-error",
        choices=["stop", "quarantine"],
        default="stop",
        help="what to do about an unreadable image, a blank cell in its place, or a well that no table describes "
        "(default %(default)s)",
    )
    add(
        "--unlabelled",
        choices=["refuse", "keep"],
        default="refuse",
        help="keep wells that no plate map describes, with an empty treatment (default %(default)s)",
    )
    curation = arguments.add_argument_group("curation: which wells to leave out (default: none)")
    curation.add_argument("--min-experiments", type=int, help="minimum number of experiments of a perturbation")
    curation.add_argument("--min-wells", type=int, help="minimum number of wells of a perturbation")
    curation.add_argument(
        "--perturbation", metavar="COLUMN", help="column that names perturbations (default treatment)"
    )
    curation.add_argument(
        "--controls", metavar="A,B", help="treatments that are negative controls (default: those of public releases)"
    )
    curation.add_argument("--control-fraction", type=float, help="fraction of the control wells to keep")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args = parser().parse_args(argv)
    start = time.monotonic()
    try:
        manifest, changed = build(
            args.layout,
            args.root,
            args.output,
            options=dict(_option(text) for text in args.option),
            curation=_curation(args),
            validation_experiments=args.validation_experiments.split(",") if args.validation_experiments else None,
            validation_fraction=args.validation_fraction,
            wells_per_shard=args.wells_per_shard,
            eight_bit=args.eight_bit,
            plane=_plane(args.plane),
            codec=args.codec,
            chunk=args.chunk,
            seed=args.seed,
            workers=args.workers,
            on_error=args.on_error,
            unlabelled=args.unlabelled,
        )
    except (BuildError, LayoutError, ImageError, ShardError, OSError) as error:
        print(f"shards.build: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("shards.build: interrupted; run the same command to continue", file=sys.stderr)
        return 130
    print(_summary(args.output, manifest, changed, time.monotonic() - start))
    return 0


def _option(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or not value:
        raise BuildError(f"--option {text}: expected NAME=VALUE")
    return name, value


def _plane(text: str | None) -> Plane | None:
    """The plane that a text names; what is no number is left to `build` to refuse."""
    if text is None:
        return None
    if text == "max":
        return "max"
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise BuildError(f"--plane {text}: expected a number from 1, or max")
    return int(text)


def _curation(args: argparse.Namespace) -> CurationRules | None:
    """The curation rules of the command line, if there are any."""
    rules: dict[str, Any] = {
        field.name: tuple(value.split(",")) if field.name == "controls" else value
        for field in fields(CurationRules)
        if (value := getattr(args, field.name)) is not None
    }
    return CurationRules(**rules) if rules else None


def _summary(output: Path, manifest: Manifest, changed: bool, seconds: float) -> str:
    size = sum(shard.bytes for shard in manifest.shards) / 1e6
    parts = [f"{manifest.wells[s]} {s} wells of {len(manifest.experiments[s])} experiments" for s in SPLITS]
    lines = [f"{output}: {len(manifest.shards)} shards, {size:.1f} MB, {' and '.join(parts)}"]
    lines += [f"left out {count} well images by {rule}" for rule, count in manifest.removed.items()]
    lines += [f"turned {manifest.turned} images in which 0 was white"] if manifest.turned else []
    lines += [f"quarantined {well.key}: {well.origin}: {well.error}" for well in manifest.quarantined]
    lines += manifest.notes
    lines.append(f"built in {seconds:.1f} s" if changed else "already complete: nothing was changed")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
