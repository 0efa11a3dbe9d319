"""A profile holds the steps asked for, does not change the training, and does not stand in the way of a resume."""

from __future__ import annotations

import gzip
import json
import re
import signal
from pathlib import Path

import pytest
import torch

from harness.distributed.preemption import Preempted, RunControl, StopFlag
from harness.distributed.ranks import Ranks
from harness.grid.cells import cells
from harness.grid.stage_run import StageRun
from harness.recipe.errors import RecipeError
from harness.recipe.launch import Profile
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.storage.fencing import Unfenced
from harness.storage.train_log import read_log
from harness.train.loop import train_cell
from harness.train.profiling.step_trace import StepTrace
from harness.train.run import Run

CPU = torch.device("cpu")


def profiled(recipe: Recipe, first: int, last: int) -> Recipe:
    launch = recipe.launch.model_copy(update={"profile": Profile(steps=[first, last])})
    return recipe.model_copy(update={"launch": launch})


def train(recipe: Recipe, folder: Path, control: RunControl | None = None) -> list[float]:
    cell = next(cell for cell in cells(recipe) if cell.kind == "trained")
    train_cell(StageRun(recipe, cell, folder, "print"), control)
    return [row["loss"] for row in read_log(folder / "train.jsonl") if row["kind"] == "train"]


def steps_of(path: Path) -> list[int]:
    """The numbers of the steps in a trace, in the order of their time."""
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    named = [(event["ts"], event["name"]) for event in events if re.fullmatch(r"step \d+", str(event.get("name")))]
    assert any(str(event.get("name")).startswith("aten::") for event in events)
    return [int(name.split()[1]) for _, name in sorted(set(named))]


@pytest.mark.slow
def test_a_profile_holds_its_steps_and_changes_no_loss(
    tiny_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = train(tiny_recipe, tmp_path / "plain")
    assert train(profiled(tiny_recipe, 3, 5), tmp_path / "traced") == plain
    (trace,) = (tmp_path / "traced" / "profile").iterdir()
    assert trace.name == "steps-3-5-rank-0.trace.json.gz"
    assert steps_of(trace) == [3, 4, 5]
    assert "no memory snapshot: only GPUs have one" in capsys.readouterr().err
    assert not (tmp_path / "plain" / "profile").exists()


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> RunControl:
    """A control that is told to stop after a step, as by a signal."""
    control, real = RunControl(StopFlag(), Unfenced()), Run.step

    def then_stop(run: Run, *arguments: object) -> None:
        real(run, *arguments)  # type: ignore[arg-type]
        if run.progress.step == step:
            control.stop.set(signal.SIGTERM)

    monkeypatch.setattr(Run, "step", then_stop)
    return control


@pytest.mark.slow
def test_a_run_stopped_within_the_range_profiles_both_parts(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = profiled(tiny_recipe, 3, 6)
    with monkeypatch.context() as patch, pytest.raises(Preempted):
        train(recipe, tmp_path, stop_after(4, patch))
    losses = train(recipe, tmp_path)
    assert losses == train(tiny_recipe, tmp_path / "plain")
    traces = {path.name.partition("-rank")[0]: steps_of(path) for path in (tmp_path / "profile").iterdir()}
    assert traces == {"steps-3-4": [3, 4], "steps-5-6": [5, 6]}


def test_a_rank_that_is_not_named_and_a_run_behind_the_range_record_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for ranks, numbers in ((Ranks(1, 2, CPU), range(1, 9)), (Ranks(0, 2, CPU), range(5, 9))):
        trace = StepTrace(Profile(steps=[3, 4], ranks=[0, 7]), tmp_path, ranks)
        for number in numbers:
            with trace.step(number):
                torch.zeros(1).add(1)
        trace.close()
    assert list(tmp_path.iterdir()) == []
    assert "this run has 2 ranks, so none is 7" in capsys.readouterr().err


def test_a_full_disk_costs_the_trace_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", full)
    trace = StepTrace(Profile(steps=[1, 1]), tmp_path, Ranks(0, 1, CPU))
    with trace.step(1):
        torch.zeros(1).add(1)
    assert "the profile could not be written: [Errno 28] No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "profile").iterdir()) == []


@pytest.mark.parametrize("steps", ["[5, 3]", "[1, 101]", "[4]", "[0, 3]"])
def test_a_range_that_cannot_be_profiled_is_refused(tiny_recipe_file: Path, steps: str) -> None:
    with pytest.raises(RecipeError, match="profile"):
        load(tiny_recipe_file, "laptop", [f"launch.profile={{steps: {steps}}}"])
