"""Operations that an eager training step sends to the device, counted without one.

    python -m benchmarks.kernel_launches [--models S/16,L/8] [--json]

A step runs on fake tensors, which have shapes and no memory, and every operation that is not a view counts as one
kernel launch. Multi-tensor (foreach) operations count as the launches their CUDA kernels need: at most 36 to 110
tensors (by how many lists go in) and 320 blocks of 65,536 elements each. The bf16 count uses the CPU's autocast rules,
whose casts are nearly those of CUDA's. The count is what the host must send, not how long it takes.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.peers import EAGER, StepSetting, ours
from benchmarks.train_step import config_of

BATCH = 2
_SILENT = {
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_local_scalar_dense", "lift_fresh",
    "detach", "_unsafe_view", "_fused_sdp_choice",
}  # fmt: skip
_TENSORS_PER_LAUNCH = {1: 110, 2: 64, 3: 48, 4: 36}
_BLOCKS_PER_LAUNCH, _BLOCK = 320, 65_536


class Counting(TorchDispatchMode):
    """Counts launches by operation."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        name = func.overloadpacket.__name__
        if name.startswith("_foreach"):
            self.launches[name] += _foreach_launches(args)
        elif func.namespace == "aten" and not func.is_view and name not in _SILENT:
            self.launches[name] += 1
        return func(*args, **(kwargs or {}))


def _foreach_launches(args: tuple[Any, ...]) -> int:
    lists = [value for value in args if isinstance(value, list | tuple) and value and isinstance(value[0], Tensor)]
    tensors = lists[0]
    blocks = sum(math.ceil(t.numel() / _BLOCK) for t in tensors)
    return max(
        math.ceil(len(tensors) / _TENSORS_PER_LAUNCH[min(len(lists), 4)]), math.ceil(blocks / _BLOCKS_PER_LAUNCH)
    )


def count(setting: StepSetting, build: Any = ours) -> Counter[str]:  # noqa: ANN401
    """Launches of one step, by operation; the first step, which makes the optimiser's state, is not counted."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        step = build(setting)
        step()
        counting = Counting()
        with counting:
            step()
    return counting.launches


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=lambda text: text.split(","), default=["S/16", "L/8", "L/8+"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    out = sys.stderr if options.json else sys.stdout
    measurements: list[dict[str, Any]] = []
    for model in options.models:
        for bf16 in (False, True):
            setting = StepSetting(config_of(model), torch.device("cpu"), bf16, BATCH)
            own, peers = count(setting), count(setting, EAGER.build)
            precision = "bf16" if bf16 else "fp32"
            print(f"{model} {precision}: ours {own.total()}, {EAGER.name} {peers.total()} launches a step", file=out)
            print("  ours: " + ", ".join(f"{name} {n}" for name, n in own.most_common(14)), file=out)
            measurements.append({
                "name": f"{model} {precision} launches", "unit": "launches a step", "ours": own.total(),
                "peer": peers.total(), "peer_name": EAGER.name, "ratio": own.total() / peers.total(), "goal": None,
                "met": None,
            })  # fmt: skip
    if options.json:
        print(json.dumps(measurements, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
