"""Planning of a sharded save, and writing its metadata, as the first of many ranks does it: first save and later ones.

    python -m benchmarks.save_plan [--world 256] [--model L/8] [--json]

No rank runs: the plans of all are made here, of a state in which every tensor (weights and the optimiser's one moment)
is sharded over the first dimension, as FSDP2 does. Messages between ranks are not measured, only their sizes.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import time
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

from benchmarks.train_step import config_of
from harness.checkpoint.save_plan import PlanCache
from harness.models.mae import MaskedAutoencoder

GOAL = 1.0  # seconds of a save after the first


def local_plans(model: str, world: int) -> list[SavePlan]:
    """Each rank's plan: its chunk of every tensor that is long enough to have one."""
    with torch.device("meta"):
        state = MaskedAutoencoder(config_of(model)).state_dict()
    shapes = {f"{part}.{name}": value.shape for part in ("model", "optimiser") for name, value in state.items()}
    plans = [SavePlan([], planner_data={name: (name,) for name in shapes}) for _ in range(world)]
    for name, shape in shapes.items():
        chunk = -(-shape[0] // world)
        for rank, begin in enumerate(range(0, shape[0], chunk)):
            size = torch.Size([min(chunk, shape[0] - begin), *shape[1:]])
            offset = torch.Size([begin, *[0] * (len(shape) - 1)])
            data = TensorWriteData(ChunkStorageMetadata(offset, size), TensorProperties(torch.float32), shape)
            plans[rank].items.append(WriteItem(MetadataIndex(name, offset), WriteItemType.SHARD, tensor_data=data))
    return plans


def measure(plans: list[SavePlan]) -> dict[str, float]:
    """Seconds of the first rank's planning and metadata, and bytes that all ranks send it: first save, then a later."""
    cache, found = PlanCache(), dict[str, float]()
    for save in ("first", "later"):
        planner = cache.planner()
        sent = plans if save == "first" else [SavePlan([], usable=False)] * len(plans)  # as `create_local_plan` does
        found[f"{save} sent"] = sum(len(pickle.dumps(plan)) for plan in sent)
        start = time.perf_counter()
        _, metadata = planner.create_global_plan(sent)
        found[f"{save} planning"] = time.perf_counter() - start
        start = time.perf_counter()
        pickle.dumps(metadata)
        found[f"{save} metadata"] = time.perf_counter() - start
    cache.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=int, default=256)
    parser.add_argument("--model", default="L/8")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    plans = local_plans(options.model, options.world)
    found = measure(plans)
    what = f"{options.model} over {options.world} ranks, {sum(len(plan.items) for plan in plans):,} parts"
    rows: list[dict[str, Any]] = []
    for part, unit, goal in (
        ("planning", "s", GOAL),
        ("metadata", "s", GOAL),
        ("sent", "bytes to the first rank", None),
    ):
        first, later = found[f"first {part}"], found[f"later {part}"]
        rows.append({
            "name": f"{part} of a save, {what}", "unit": unit, "ours": later, "peer": first,
            "peer_name": "the first save", "ratio": first / later if later else None, "goal": goal,
            "met": None if goal is None else later <= goal,
        })  # fmt: skip
    for row in rows:
        print(f"{row['name']}: {row['ours']:.3g} {row['unit']}, {row['peer_name']} {row['peer']:.3g}", file=sys.stderr)
    if options.json:
        print(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
