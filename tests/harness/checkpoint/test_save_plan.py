"""A save is planned once, and later saves of the same run hold the tensors of their own time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from small_run import SmallRun
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import SavePlanner

from benchmarks.save_plan import local_plans, measure
from harness.checkpoint.save_plan import PlanCache


def saved(cache: PlanCache, folder: Path, value: float, rows: int = 3) -> torch.Tensor:
    """Save a tensor of one value through the cache, and return what is loaded."""
    dcp.save({"x": torch.full((rows, 2), value)}, checkpoint_id=folder, planner=cache.planner(), no_dist=True)
    loaded = {"x": torch.zeros(rows, 2)}
    dcp.load(loaded, checkpoint_id=folder, no_dist=True)
    return loaded["x"]


def test_later_saves_hold_their_own_values_also_when_shapes_change(tmp_path: Path) -> None:
    cache, other = PlanCache(), PlanCache()
    for number, (one, rows) in enumerate([(cache, 3), (cache, 3), (other, 5), (cache, 3), (cache, 4)]):
        found = saved(one, tmp_path / str(number), float(number), rows)
        assert torch.equal(found, torch.full((rows, 2), float(number)))


def test_a_run_joins_its_plans_once_and_forgets_them_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined, real = list[int](), DefaultSavePlanner._create_global_plan

    def count(planner: DefaultSavePlanner, plans: list[object]) -> object:
        joined.append(len(plans))
        return real(planner, plans)  # type: ignore[arg-type]

    monkeypatch.setattr(DefaultSavePlanner, "_create_global_plan", count)
    before = len(SavePlanner._cached_all_plans)
    run = SmallRun()
    checkpoints = run.checkpoints(tmp_path)
    for _ in range(4):
        run.step()
        checkpoints.save(run, run.progress)
    checkpoints.wait(required=True)
    assert joined == [1]
    assert len(SavePlanner._cached_all_plans) == before + 1
    checkpoints.close()
    assert len(SavePlanner._cached_all_plans) == before


def test_the_benchmark_plans_every_part_of_every_tensor() -> None:
    """The chunks of a matrix add up to its rows; the first save sends all plans, a later one almost nothing."""
    plans = local_plans("miniature", 32)
    names = {item.index.fqn for plan in plans for item in plan.items}
    matrix = next(n for n in sorted(names) if n.startswith("model.") and n.endswith("proj.weight"))
    parts = [item for plan in plans for item in plan.items if item.index.fqn == matrix]
    assert sum(item.tensor_data.chunk.sizes[0] for item in parts) == parts[0].tensor_data.size[0]
    found = measure(plans)
    assert found["later sent"] < found["first sent"] / 50
    assert found["later planning"] < found["first planning"]
