"""What is alive on a rank between two steps: no whole copy of a weight that is sharded."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from distributed.processes import after_step, run, train
from distributed.tiny import launched, tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
LARGE = 4096  # numbers of the weights that are looked for: more than any batch of the tiny study has alike


class CountWholeWeights:
    """A hook: after step 2, each rank writes the shapes of large whole weights that have their memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> None:
        from harness.train import begin

        real, shapes = begin.engine_for_cell, set[tuple[int, ...]]()

        def building(recipe: object, cell: object, model: object, *others: object) -> object:
            parameters = list(model.parameters())  # type: ignore[attr-defined]
            assert all(parameter.is_meta for parameter in parameters)
            shapes.update(tuple(p.shape) for p in parameters if p.numel() >= LARGE)
            return real(recipe, cell, model, *others)  # type: ignore[arg-type]

        begin.engine_for_cell = building  # type: ignore[assignment]
        after_step(lambda step: self._count(shapes) if step == 2 else None)

    def _count(self, shapes: set[tuple[int, ...]]) -> None:
        import torch
        from torch.distributed.tensor import DTensor

        gc.unfreeze()  # else what was made before the loop is not listed
        gc.collect()
        tensors = [t for t in gc.get_objects() if isinstance(t, torch.Tensor) and not isinstance(t, DTensor)]
        whole = [
            tuple(t.shape) for t in tensors
            if tuple(t.shape) in shapes and t.untyped_storage().nbytes() >= t.numel() * t.element_size()
        ]  # fmt: skip
        (self.folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps([len(shapes), whole]))


@pytest.mark.parametrize(("engine", "is_sharded"), [("fsdp", True), ("ddp", False)])
def test_ranks_that_share_a_model_hold_no_whole_copy_of_it(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path, engine: str, *, is_sharded: bool
) -> None:
    """The state of the model as it was built used to live as long as the run: four bytes a parameter on each GPU."""
    larger = ["models.vit_s16.width=64", "models.vit_s16.depth=2"]
    recipe, cell = tiny(write_tiny_recipe, tmp_path, *larger)
    hook = CountWholeWeights(tmp_path)
    assert run(2, train, launched(recipe, engine=engine), cell, tmp_path / "cell", hook) == [0, 0]
    for rank in range(2):
        count, whole = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert count > 0
        assert (whole == []) == is_sharded, whole
