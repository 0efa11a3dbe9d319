"""Every kind of network takes the same steps on one rank and on two, whole or in shards.

In float64, so that rounding has no room: in float32 a DenseNet's sub-batches of a few crops amplify it step by step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import kind_work, processes

from harness.distributed.ranks import process_group

pytestmark = pytest.mark.slow
ENGINES = ["ddp", "fsdp"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    assert processes.run(2, kind_work.run_kinds, ENGINES, folder, timeout=240) == [0, 0]
    return folder


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    with process_group("cpu") as ranks:
        return {kind: kind_work.run_kind(kind, "single", ranks) for kind in kind_work.KINDS}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", kind_work.KINDS)
def test_two_ranks_take_the_steps_of_one(
    kind: str, engine: str, shared: Path, alone: dict[str, dict[str, Any]]
) -> None:
    one, two = alone[kind], json.loads((shared / f"{kind}-{engine}.json").read_text())
    assert two.keys() == one.keys()
    assert len(set(one["losses"])) == kind_work.STEPS
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=0, atol=1e-10)
    for name in one.keys() - {"losses", "weights"}:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-7, atol=1e-8, err_msg=name)
    assert two["weights"].keys() == one["weights"].keys()
    for name, value in one["weights"].items():
        assert two["weights"][name] == pytest.approx(value, rel=1e-7, abs=1e-6), name
