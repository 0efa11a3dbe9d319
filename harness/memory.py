"""Estimate the memory of one rank that trains a sharded model, in seconds and without GPUs.

The rank is one of many in a fake process group, and its tensors are fake: they have shapes but no values. Torch's
memory tracker sums the live tensors through a forward and a backward pass, including the optimiser's moments.
Fragmentation in the allocator and the buffers of libraries are not counted.

    python -m harness.memory --model vit_l8 --world 256 --crops 16

Shapes: B crops of one micro-batch, L tokens.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict

from harness.plan.memory_tracker import model_named, rank_memory

MIB = 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the memory of a rank by kind of tensor, as a table or as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.memory", description="Estimate the memory of one rank of a sharded model."
    )
    parser.add_argument("--model", default="vit_l8", help="vit_s16 ... vit_l8_plus, vit_g16, vit_g8")
    parser.add_argument("--world", type=int, default=256, help="number of ranks")
    parser.add_argument("--shard", type=int, help="ranks that one copy is sharded over (hsdp); default: all (fsdp)")
    parser.add_argument("--crops", type=int, default=16, help="crops in one forward pass")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--recompute", choices=["none", "selective", "full"], default="none")
    parser.add_argument("--passes", type=int, default=1, help="forward and backward passes of one step")
    parser.add_argument("--reduce-at", choices=["step", "pass"], default="step", help="as launch.reduce_at")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    try:
        config = model_named(options.model)
        memory = rank_memory(
            config, world=options.world, crops=options.crops, shard=options.shard, precision=options.precision,
            recompute=options.recompute, passes=options.passes, reduce_at=options.reduce_at,
        )  # fmt: skip
    except ValueError as error:
        parser.error(str(error))
    if options.json:
        print(json.dumps(asdict(memory)))
        return 0
    settings = f"{memory.world} ranks, {memory.shard} per copy, {memory.crops} crops per pass"
    print(f"{options.model}, {settings}: MiB on one rank")
    for kind, size in sorted(memory.at_peak.items(), key=lambda pair: -pair[1]):
        print(f"  {kind:<18}{size / MIB:>10.1f}")
    print(f"  {'peak':<18}{memory.peak / MIB:>10.1f}   ({time.perf_counter() - start:.1f} s to compute)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
