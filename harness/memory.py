"""What one rank's memory holds while a sharded model trains, found in seconds without the machines.

The rank is one of many in a fake process group, its tensors have shapes but no values, and torch's tracker adds up
what lives at each moment of a forward and a backward pass, the optimiser's moments included. The count is of tensors:
the allocator's gaps and libraries' buffers come on top.

    python -m harness.memory --model vit_l8 --world 256 --crops 16

Shapes: B crops of one micro-batch, L tokens.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from harness.plan.memory_tracker import model_named, rank_memory

if TYPE_CHECKING:
    pass

MIB = 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what a rank holds, as a table or as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.memory", description="Memory of one rank of a sharded model."
    )
    parser.add_argument("--model", default="vit_l8", help="vit_s16 ... vit_l8_plus")
    parser.add_argument("--world", type=int, default=256, help="ranks")
    parser.add_argument("--shard", type=int, help="ranks that hold one copy (hsdp); default: all (fsdp)")
    parser.add_argument("--crops", type=int, default=16, help="crops in one forward pass")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--recompute", choices=["none", "selective", "full"], default="none")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    try:
        config = model_named(options.model)
        found = rank_memory(
            config, world=options.world, crops=options.crops, shard=options.shard, precision=options.precision,
            recompute=options.recompute,
        )  # fmt: skip
    except ValueError as error:
        parser.error(str(error))
    if options.json:
        print(json.dumps(asdict(found)))
        return 0
    print(f"{options.model}, {found.world} ranks, {found.shard} to a copy, {found.crops} crops a pass: MiB on one rank")
    for kind, size in sorted(found.at_peak.items(), key=lambda pair: -pair[1]):
        print(f"  {kind:<18}{size / MIB:>10.1f}")
    print(f"  {'peak':<18}{found.peak / MIB:>10.1f}   ({time.perf_counter() - began:.1f} s to find)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
