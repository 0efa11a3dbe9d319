"""Every kind of network gives the same results on one rank and on two, replicated or sharded.

Runs in float64: in float32, a DenseNet's sub-batches of a few crops amplify rounding errors at every step.
Covers `engine`, `ddp` and `fsdp` of `harness/distributed` with every network of `harness/models`.
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
def single() -> dict[str, dict[str, Any]]:
    with process_group("cpu") as ranks:
        return {kind: kind_work.run_kind(kind, "single", ranks) for kind in kind_work.KINDS}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", kind_work.KINDS)
def test_two_ranks_give_the_results_of_one(
    kind: str, engine: str, shared: Path, single: dict[str, dict[str, Any]]
) -> None:
    expected, results = single[kind], json.loads((shared / f"{kind}-{engine}.json").read_text())
    assert results.keys() == expected.keys()
    assert len(set(expected["losses"])) == kind_work.STEPS
    np.testing.assert_allclose(results["losses"], expected["losses"], rtol=0, atol=1e-10)
    for name in expected.keys() - {"losses", "weights"}:
        np.testing.assert_allclose(results[name], expected[name], rtol=1e-7, atol=1e-8, err_msg=name)
    assert results["weights"].keys() == expected["weights"].keys()
    for name, value in expected["weights"].items():
        assert results["weights"][name] == pytest.approx(value, rel=1e-7, abs=1e-6), name
