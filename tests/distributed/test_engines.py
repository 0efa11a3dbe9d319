"""All engines give the same losses to five decimals in float32, in real processes over gloo.

Covers `engine`, `ddp`, `fsdp`, `deepspeed`, `build_engine`, `agreement` and `ranks` of `harness/distributed`.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import engine_work, processes
from distributed.engine_work import CONFIG, RATE, STEPS, Trial

from harness.data.prepare import prepare
from harness.distributed.deepspeed import Zero
from harness.distributed.engine import EngineOptions
from harness.distributed.optimiser import build_optimiser
from harness.distributed.ranks import process_group
from harness.grid.cells import cells
from harness.grid.stage_run import StageRun
from harness.models.mae import MaskedAutoencoder
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.storage.train_log import read_log
from harness.train.loop import train_cell

HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(not HAS_DEEPSPEED, reason="deepspeed is not installed")
pytestmark = pytest.mark.slow

SHARED = [Trial("ddp"), Trial("fsdp"), Trial("ddp", micro_batches=2), Trial("fsdp", "adamw", micro_batches=2)]
ON_TWO = [*SHARED, Trial("ddp", micro_batches=4), Trial("ddp", precision="bf16"), Trial("fsdp", precision="bf16")]
ON_FOUR = [Trial("ddp", micro_batches=2), Trial("fsdp"), Trial("hsdp"), Trial("hsdp", "adamw", micro_batches=2)]
ON_TWO += [Trial("ddp", "muon"), Trial("fsdp", "muon", micro_batches=2)]
ON_FOUR += [Trial("fsdp", "muon", parametrisation="mup"), Trial("hsdp", "muon", micro_batches=2)]
ON_TWO += [Trial("fsdp", name, parametrisation="mup") for name in ("lion", "adamw")]
ON_TWO += [Trial("fsdp", "adamw", micro_batches=2, reduce_at="pass")]
ON_TWO += [Trial("ddp", "adamw", micro_batches=2, ddp_gradients="bf16")]
ON_FOUR += [Trial("hsdp", "adamw", micro_batches=2, reduce_at="pass")]
ZERO = [Trial("deepspeed", "adamw", stage, parametrisation="mup") for stage in (2, 3)]
ZERO += [Trial("deepspeed", zero_stage=1), Trial("deepspeed", "adamw"), Trial("deepspeed", "adamw", 3, micro_batches=2)]
ZERO += [Trial("deepspeed", zero_stage=3), Trial("deepspeed", precision="bf16")]
ON_FOUR += [Trial("deepspeed"), Trial("deepspeed", "adamw", 3, micro_batches=2)] if HAS_DEEPSPEED else []
ALL = [(2, t) for t in ON_TWO] + [(4, t) for t in ON_FOUR]
ALL += [(2, t) for t in ZERO] if HAS_DEEPSPEED else []

# Softmax ignores a shift that all keys share, so the gradients of these are rounding noise.
NO_GRADIENT = ("k_norm.bias", "attn.qkv.bias")
Results = dict[tuple[int, str], dict[str, Any]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The results of every trial, by number of ranks and name."""
    results: Results = {}
    for world in (2, 4):
        folder = tmp_path_factory.mktemp(f"ranks{world}")
        trials = [trial for trial_world, trial in ALL if trial_world == world]
        codes = processes.run(world, engine_work.run_trials, trials, folder, timeout=480)
        assert codes == [0] * world
        results |= {(world, t.name): json.loads((folder / f"{t.name}.json").read_text()) for t in trials}
    return results


@pytest.fixture(scope="module")
def single() -> dict[Trial, dict[str, Any]]:
    """The same steps in one process, by optimiser and parametrisation."""
    with process_group("cpu") as ranks:
        return {trial: engine_work.run_trial(trial, ranks) for trial in {trial.alone for _, trial in ALL}}


@pytest.mark.parametrize(("world", "trial"), ALL, ids=lambda value: getattr(value, "name", value))
def test_losses_equal_those_of_one_process(
    world: int, trial: Trial, shared: Results, single: dict[Trial, dict[str, Any]]
) -> None:
    expected, results = single[trial.alone], shared[world, trial.name]
    tolerance = 2e-2 if trial.rounds else 5e-6
    assert results["losses"] == pytest.approx(expected["losses"], abs=tolerance)
    assert results["norm"] == pytest.approx(expected["norm"], rel=3e-2 if trial.rounds else 1e-5)
    assert results["repeated"] == pytest.approx(results["losses"][-2:], abs=1e-6)  # from a state, in a new engine
    if not trial.rounds:
        np.testing.assert_allclose(results["embedding"], expected["embedding"], atol=1e-3)


@pytest.mark.parametrize(("world", "trial"), ALL, ids=lambda value: getattr(value, "name", value))
def test_weights_equal_those_of_one_process(
    world: int, trial: Trial, shared: Results, single: dict[Trial, dict[str, Any]]
) -> None:
    expected, weights = single[trial.alone]["weights"], shared[world, trial.name]["weights"]
    assert weights.keys() == expected.keys()
    for name in expected.keys() - {name for name in expected if name.endswith(NO_GRADIENT)}:
        difference = np.abs(np.asarray(weights[name]) - np.asarray(expected[name]))
        assert difference.max() <= 2 * RATE * STEPS * 1.05  # the sign of a gradient that is only noise may differ
        assert difference.mean() < (2e-3 if trial.rounds else 2e-5)


@pytest.mark.parametrize(("world", "trial"), ALL, ids=lambda value: getattr(value, "name", value))
def test_initial_weights_are_the_same_to_the_last_bit(
    world: int, trial: Trial, shared: Results, single: dict[Trial, dict[str, Any]]
) -> None:
    """Each rank makes the values of its own shards."""
    assert shared[world, trial.name]["initial"] == single[trial.alone]["initial"]


@needs_deepspeed
def test_deepspeed_refuses_muon() -> None:
    """Before anything is communicated, so one process is enough to see it."""
    with process_group("cpu") as ranks, pytest.raises(ValueError, match="muon needs whole matrices, and DeepSpeed"):
        Zero(MaskedAutoencoder(CONFIG), lambda module: build_optimiser(module, "muon", peak=RATE, weight_decay=0.0),
             ranks, EngineOptions("deepspeed"))  # fmt: skip


def test_all_ranks_see_a_flag_at_the_same_step(tmp_path: Path) -> None:
    assert processes.run(3, engine_work.agree_on_a_stop, tmp_path) == [0, 0, 0]
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == ["4", "4", "4"]


def tiny(file: Path, *overrides: str) -> Recipe:
    recipe = load(file, "laptop", [*overrides])
    prepare(recipe)
    return recipe


@pytest.mark.parametrize(
    ("world", "overrides"),
    [
        (4, ["launch.engine=hsdp", "launch.shard_gpus=2", "train.validation_view=tiles", "train.validation_wells=3"]),
        pytest.param(2, ["launch.engine=deepspeed", "launch.zero_stage=3"], marks=needs_deepspeed),
    ],
    ids=["hsdp", "deepspeed"],
)
def test_losses_are_the_same_if_some_ranks_have_no_validation_crops(
    tiny_recipe_file: Path, tmp_path: Path, world: int, overrides: list[str]
) -> None:
    """With fewer validation wells than ranks, ranks without wells use blank crops that do not count."""
    common = ["train.validation_wells=1", *[o for o in overrides if o.startswith("train")]]
    one_process, several = tiny(tiny_recipe_file, *common), tiny(tiny_recipe_file, *common, *overrides)
    cell = next(c for c in cells(one_process) if (c.model, c.dataset) == ("vit_s16", "one"))
    assert cell.id in {c.id for c in cells(several)}  # the engine is not part of a grid cell's identity
    train_cell(StageRun(one_process, cell, tmp_path / "single", "print"))
    codes = processes.run(world, processes.train, several.model_dump_json(), cell.id, tmp_path / "shared")
    assert codes == [0] * world
    single_log, shared_log = (read_log(tmp_path / name / "train.jsonl") for name in ("single", "shared"))
    for kind, value in (("train", "loss"), ("validation", "validation_loss")):
        expected = [row[value] for row in single_log if row["kind"] == kind]
        assert [row[value] for row in shared_log if row["kind"] == kind] == pytest.approx(expected, abs=1e-5)
    assert (tmp_path / "shared" / "model.safetensors").stat().st_size > 0
