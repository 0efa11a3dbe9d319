"""`auto` shards only a model that does not fit, and an engine that cannot run names the valid choices.

Covers `engine_choice`, `build_engine`, `ranks` and the configuration of `deepspeed`. `engine`, `ddp`, `fsdp` and the
rest of `deepspeed` need several processes: `tests/distributed/test_engines.py` runs them.
"""

from __future__ import annotations

import sys

import pytest
import torch

from harness.distributed.build_engine import build_engine
from harness.distributed.deepspeed import import_deepspeed, zero_config
from harness.distributed.engine import EngineOptions
from harness.distributed.engine_choice import choose_engine
from harness.distributed.ranks import Ranks

GIB = 2**30
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("world", "parameters", "memory", "shard", "expected"),
    [
        (1, 10**12, 80 * GIB, 8, "single"),
        (256, 328_000_000, 80 * GIB, 8, "ddp"),  # ViT-L/8: 5 GiB of state on an 80 GiB GPU
        (256, 10**12, None, 8, "ddp"),  # memory unknown
        (256, 4_000_000_000, 80 * GIB, 8, "hsdp"),  # 60 GiB: more than half a GPU, less than half a node
        (256, 40_000_000_000, 80 * GIB, 8, "fsdp"),
        (8, 4_000_000_000, 80 * GIB, 8, "fsdp"),  # one node: hsdp needs at least two copies
    ],
)
def test_auto_by_size(world: int, parameters: int, memory: int | None, shard: int, expected: str) -> None:
    assert choose_engine("auto", world, parameters, memory, shard) == expected


def test_an_explicit_engine_is_kept() -> None:
    assert choose_engine("fsdp", 2, 1, None, 1) == "fsdp"


@pytest.mark.parametrize(
    ("engine", "world", "message"),
    [("single", 2, "launch.engine is single, but 2 ranks run"), ("fsdp", 1, "launch.engine is fsdp, but there is one")],
)
def test_an_engine_that_does_not_fit_the_ranks_is_refused(engine: str, world: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_engine(None, None, Ranks(0, world, CPU), EngineOptions(engine))


def test_shards_must_divide_the_ranks() -> None:
    with pytest.raises(ValueError, match=r"launch\.shard_gpus is 3, which does not divide 8 ranks"):
        Ranks(0, 8, CPU).mesh(3)


def test_missing_deepspeed_raises_an_error_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(RuntimeError, match=r"launch\.engine is deepspeed, but .* pip install"):
        import_deepspeed(CPU)


def test_deepspeed_sums_gradients_in_float32() -> None:
    config = zero_config(EngineOptions("deepspeed", "bf16", zero_stage=3), Ranks(0, 2, CPU))
    assert config["torch_autocast"] == {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    assert config["zero_optimization"]["stage"] == 3
