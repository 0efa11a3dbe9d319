"""The outlook of cells in training, from logs and ledger, and the policy that stops them: `outlook` and `stop`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from harness import sweep
from harness.data.prepare import prepare
from harness.grid.cell import Cell
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import cells
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.stages.missing import missing_stages
from harness.storage import ledger
from harness.storage.ledger import LedgerRow
from harness.storage.train_log import read_log
from harness.train.outlook import rates_of, study_runs
from harness.train.schedule import learning_rate
from harness.train.stop import is_stoppable, reason_to_stop

RECIPE = Path(__file__).parents[3] / "recipes" / "scaling.yaml"
GRID = ["grid.models=[vit_s16, vit_b16, vit_s8]", "grid.datasets=[rxrx3]", "grid.seeds=[0, 1]", "grid.untrained=false",
        "grid.pixel_statistics=false"]  # fmt: skip
POLICY = "launch.stop_when={below_frontier: 0.99}"
STEPS, BATCH = 1000, 16384


def study(folder: Path, *overrides: str) -> tuple[Recipe, dict[tuple[str, int], Cell]]:
    recipe = load(RECIPE, "slurm", [f"output={folder}", *GRID, *overrides])
    return recipe, {(cell.model, cell.seed): cell for cell in cells(recipe)}


def write_log(recipe: Recipe, cell: Cell, end: float, until: float = 1.0, noise: float = 0.0) -> None:
    """The log of a run whose loss follows the area under its schedule, to a final loss."""
    assert cell.training is not None
    rates, rng = rates_of(cell), np.random.default_rng(len(cell.id))
    rows: list[dict[str, Any]] = []
    for share in np.arange(1, 21) / 20:
        if share > until + 1e-9:
            break
        step = round(share * STEPS)
        loss = end * (0.6 + 0.4 * float(rates.area(np.array([share]))[0]) ** -0.5) * np.exp(noise * rng.normal())
        rows.append({"kind": "train", "step": step, "progress": step / STEPS, "loss": loss})
        rows.append({"kind": "validation", "step": step, "crops": step * cell.training.batch, "validation_loss": loss})
    log = cell_folder(recipe, cell) / "train.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))


def finish(recipe: Recipe, cell: Cell, end: float, **values: Any) -> None:
    assert cell.training is not None
    write_log(recipe, cell, end)
    row = {"crops": STEPS * cell.training.batch, "steps": STEPS, "planned_steps": STEPS, "annealed": True,
           "validation_loss": end} | values  # fmt: skip
    ledger.record(recipe.output, LedgerRow(cell.id, "train", "x", row))


def test_rates_are_those_of_the_schedule_at_the_same_share_of_the_run(tmp_path: Path) -> None:
    cell = study(tmp_path)[1]["vit_s16", 0]
    rates = rates_of(cell)
    for share in (0.0, 0.05, 0.3, 0.7, 1.0):
        expected = learning_rate(round(share * 9999), 10_000, 1.0)
        assert float(np.interp(share, rates.share, rates.rate)) == pytest.approx(expected, abs=2e-3)
    stable = study(tmp_path, "train.schedule={name: warmup_stable_decay, ends: [0.5, 1.0]}")[1]["vit_s16", 0]
    assert stable.training is not None
    branch = rates_of(stable)
    assert branch.decays
    assert float(np.interp(0.79, branch.share, branch.rate)) == pytest.approx(1.0)  # the decay is its last fifth


def test_the_frontier_is_of_the_same_task_and_wells_at_no_more_compute(tmp_path: Path) -> None:
    recipe, by_name = study(tmp_path)
    finish(recipe, by_name["vit_s16", 0], 0.60)
    finish(recipe, by_name["vit_b16", 1], 0.40)
    finish(recipe, by_name["vit_s8", 0], 0.30)  # a finer patch: another task
    write_log(recipe, by_name["vit_s16", 1], 0.61, until=0.4)
    write_log(recipe, by_name["vit_b16", 0], 0.41, until=0.4)
    runs = study_runs(recipe, list(by_name.values()))
    small, large = (runs.outlook(by_name[model, seed]) for model, seed in (("vit_s16", 1), ("vit_b16", 0)))
    assert small is not None
    assert large is not None
    assert small.frontier is not None
    assert large.frontier is not None
    assert (small.frontier.loss, small.frontier.runs) == (0.60, 1)  # the larger model takes more compute
    assert (large.frontier.loss, large.frontier.runs) == (0.40, 2)
    assert small.siblings == large.siblings == 2
    assert small.low is not None
    assert small.high is not None
    assert small.low < 0.61 < small.high
    assert small.verdict == "open"


def test_runs_that_did_not_end_their_schedule_are_neither_frontier_nor_siblings(tmp_path: Path) -> None:
    recipe, by_name = study(tmp_path)
    finish(recipe, by_name["vit_s16", 0], 0.2, annealed=False, steps=500)
    finish(recipe, by_name["vit_b16", 0], 0.2, annealed=False, stopped={"probability": 0.99, "share": 0.5})
    path = ledger.row_path(recipe.output, by_name["vit_b16", 1].id, "train")
    path.parent.mkdir(parents=True)
    path.write_text("{torn")
    write_log(recipe, by_name["vit_s16", 1], 0.6, until=0.4)
    seen = study_runs(recipe, list(by_name.values())).outlook(by_name["vit_s16", 1])
    assert seen is not None
    assert (seen.frontier, seen.siblings) == (None, 0)


def test_a_cell_without_a_validation_has_no_outlook(tmp_path: Path) -> None:
    recipe, by_name = study(tmp_path)
    runs, cell = study_runs(recipe, list(by_name.values())), by_name["vit_s16", 0]
    assert runs.outlook(cell) is None
    log = cell_folder(recipe, cell) / "train.jsonl"
    log.parent.mkdir(parents=True)
    for text in ("", "{torn", '{"kind": "validation", "step": 5}\n', '{"kind": "train", "step": 5, "progress": 0.1}\n'):
        log.write_text(text)
        assert runs.outlook(cell) is None


def test_the_policy_asks_for_a_frontier_and_for_no_heirs(tmp_path: Path) -> None:
    recipe, by_name = study(tmp_path, POLICY)
    running = by_name["vit_s16", 1]
    write_log(recipe, running, 0.9, until=0.3)
    assert reason_to_stop(recipe, running, STEPS) is None  # nothing is finished
    finish(recipe, by_name["vit_s16", 0], 0.5)
    found = reason_to_stop(recipe, running, STEPS)
    assert found is not None
    assert found.above is not None
    assert found.above >= 0.99
    without = study(tmp_path)[0]
    assert reason_to_stop(without, running, STEPS) is None  # off by default
    write_log(recipe, running, 0.505, until=0.3)
    assert reason_to_stop(recipe, running, STEPS) is None
    write_log(recipe, running, 0.9, until=1.0)
    assert reason_to_stop(recipe, running, STEPS) is None  # it is at its end anyway
    branched = study(tmp_path, POLICY, "train.schedule={name: warmup_stable_decay, ends: [0.5, 1.0]}")[0]
    assert {cell.kind for cell in cells(branched) if is_stoppable(branched, cell)} == {"trained"}


def test_the_policy_changes_no_id(tmp_path: Path) -> None:
    with_policy, without = study(tmp_path, POLICY)[0], study(tmp_path)[0]
    assert [cell.id for cell in cells(with_policy)] == [cell.id for cell in cells(without)]


@pytest.mark.parametrize(
    ("policy", "missing"),
    [("{below_frontier: 0.98}", ()), ("{below_frontier: 0.995}", ("train", "embed", "evaluate")),
     ("null", ("train", "embed", "evaluate"))],
    ids=["as much", "more", "none"],
)  # fmt: skip
def test_a_run_stopped_at_99_per_cent_is_missing_without_a_policy_that_asks_for_as_much(
    tiny_recipe_file: Path, policy: str, missing: tuple[str, ...]
) -> None:
    recipe = load(tiny_recipe_file, "laptop", [f"launch.stop_when={policy}"])
    prepare(recipe)
    cell = next(cell for cell in cells(recipe) if cell.kind == "trained")
    fingerprint = missing_stages(recipe, cell).fingerprints["train"]
    ledger.record(recipe.output, LedgerRow(cell.id, "train", fingerprint, {"stopped": {"probability": 0.99}}))
    assert missing_stages(recipe, cell).missing == missing


TRAIN_CELL = """
import sys
from pathlib import Path
from harness.grid.cells import find_cell
from harness.grid.stage_run import StageRun
from harness.recipe.schema import Recipe
from harness.train.loop import train_cell
recipe = Recipe.model_validate_json(Path(sys.argv[1]).read_text(), strict=False)
values = train_cell(StageRun(recipe, find_cell(recipe, sys.argv[2]), Path(sys.argv[3]), "print"))
print(values["steps"], values["annealed"], values.get("stopped", {}).get("share"))
"""


@pytest.mark.slow
def test_all_ranks_stop_at_the_same_validation(tiny_recipe_file: Path, tmp_path: Path) -> None:
    """Only the first rank asks. The finished run that both are compared with is made up, with a loss out of reach."""
    fields = ["train.epochs=40", "train.validations=20", "grid.models=[vit_s16]", "grid.datasets=[two]",
              "grid.seeds=[0, 1]", POLICY]  # fmt: skip
    recipe = load(tiny_recipe_file, "laptop", fields)
    prepare(recipe)
    best, cell = (cell for cell in cells(recipe) if cell.kind == "trained")
    values = {"crops": 1280, "steps": 160, "planned_steps": 160, "annealed": True, "validation_loss": 0.1}
    ledger.record(recipe.output, LedgerRow(best.id, "train", "x", values))
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    folder = cell_folder(recipe, cell)
    folder.mkdir(parents=True)
    arguments = [sys.executable, "-c", TRAIN_CELL, str(tmp_path / "recipe.json"), cell.id, str(folder)]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [subprocess.Popen(arguments, env={**common, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
             for rank in range(2)]  # fmt: skip
    said = [rank.communicate(timeout=200)[0].split() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    steps = int(said[0][0])
    assert 0 < steps < 160
    assert said == [[str(steps), "False", str(steps / 160)], [str(steps), "False", "None"]]
    assert (folder / "checkpoints" / f"step-{steps:09d}").is_dir()


@pytest.mark.slow
def test_a_real_run_is_stopped_says_why_and_goes_on_without_the_policy(
    tiny_recipe_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two learning rates; one run learns nothing. The command runs both in processes of their own, one after another.

    Taken up again without the policy, the stopped run ends bit for bit like one that was never stopped.
    """
    axis = "grid.axes={train.learning_rate: [3e-3, 1e-6]}"
    fields = ["train.epochs=40", "train.validations=20", "grid.models=[vit_s16]", "grid.datasets=[two]",
              "grid.untrained=false", "grid.pixel_statistics=false", "launch.parallel=1", axis]  # fmt: skip
    policy = "launch.stop_when={below_frontier: 0.95}"
    arguments = [str(tiny_recipe_file), "--profile", "laptop", *fields]
    assert sweep.main(["run", *arguments, policy]) == 0
    recipe = load(tiny_recipe_file, "laptop", [*fields, policy])
    best, worst = (cell for cell in cells(recipe) if cell.kind == "trained")
    row = ledger.read(recipe.output, worst.id, "train")
    assert row is not None
    assert row.values["steps"] < row.values["planned_steps"] == 160
    assert (row.values["annealed"], row.stopped) == (False, row.values["stopped"]["probability"])
    assert row.stopped is not None
    assert row.stopped >= 0.95
    assert row.values["stopped"]["frontier"]["cell"] == best.id
    logged = [entry for entry in read_log(cell_folder(recipe, worst) / "train.jsonl") if entry["kind"] == "stop"]
    assert [(entry["step"], entry["probability"]) for entry in logged] == [(row.values["steps"], row.stopped)]
    assert ledger.read(recipe.output, worst.id, "embed") is None
    capfd.readouterr()
    assert sweep.main(["status", *arguments, policy]) == 0
    assert "stopped by launch.stop_when: at " in capfd.readouterr().out
    assert sweep.main(["report", *arguments, policy]) == 0
    page = (recipe.output / "report" / "report.html").read_text()
    assert "1 run was stopped by launch.stop_when before the end: censored, and left out of every law" in page
    assert sweep.main(["run", *arguments]) == 0
    resumed = ledger.read(recipe.output, worst.id, "train")
    assert resumed is not None
    assert (resumed.values["steps"], resumed.values["annealed"], resumed.stopped) == (160, True, None)
    assert sweep.main(["run", *arguments, f"output={tmp_path / 'never'}"]) == 0
    weights = [
        load_file(folder / "cells" / worst.id / "model.safetensors") for folder in (recipe.output, tmp_path / "never")
    ]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[1])
