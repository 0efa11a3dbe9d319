"""Covers `harness.sweep` on a tiny study: it finishes, repeats nothing, and being killed at any time changes no result.

Its local runs exercise `launch/local/` and `stages/run`. tests/slurm/test_sweep.py runs it on SLURM.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import psutil
import pytest

from harness import sweep
from harness.launch.owner import SWEEP_LOCK
from harness.recipe.load import default_profile, load
from harness.storage import ledger
from harness.storage.locks import locked

TIMES = {"stage_seconds", "train_seconds", "crops_per_second", "spent"}


def command(recipe: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "harness.sweep", str(recipe), "--profile", "laptop", *arguments]


def run(recipe: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run to the end, several cells in each process: importing torch takes longer than a cell."""
    shared = command(recipe, "launch.cells_per_job=4", *arguments)
    return subprocess.run(shared, capture_output=True, text=True, timeout=280)


def results(output: Path) -> dict[str, object]:
    """Every ledger row without its durations."""
    rows = {}
    for path in sorted(output.glob("ledger/*/*.json")):
        row = json.loads(path.read_text())
        row["values"] = {name: value for name, value in row["values"].items() if name not in TIMES}
        rows[f"{path.parent.name}/{path.name}"] = row
    return rows


def files(output: Path) -> dict[str, tuple[int, int]]:
    """Size and modification time of every file but logs."""
    kept = [p for p in output.rglob("*") if p.is_file() and "jobs" not in p.parts and p.suffix != ".lock"]
    return {str(p.relative_to(output)): (p.stat().st_size, p.stat().st_mtime_ns) for p in kept}


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL the process and everything below it, as a power failure would."""
    parent = psutil.Process(process.pid)
    for victim in [parent, *parent.children(recursive=True)]:
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


@pytest.fixture(scope="module")
def undisturbed(write_tiny_recipe: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an undisturbed sweep."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = run(write_tiny_recipe(folder))
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.mark.slow
def test_a_sweep_goes_from_images_to_plots(undisturbed: Path) -> None:
    output = undisturbed / "out"
    rows = results(output)
    stages = [name.split("/")[1] for name in rows]
    assert stages.count("train.json") == 2 * 2 + 2  # models × datasets, and an untrained one of each model
    assert stages.count("embed.json") == stages.count("evaluate.json") == 2 * 2 + 2 + 1  # pixel statistics too
    report = output / "report"
    for name in ("loss_versus_compute", "recall_versus_compute", "reconstructions"):
        assert (report / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "</svg>" in (report / f"{name}.svg").read_text()
    fits = json.loads((report / "fits.json").read_text())
    assert [fit["source"] for fit in fits] == ["complexes"]
    page = (report / "report.html").read_text()
    assert "cells are not finished" not in page
    assert page.count('<tr data-state="done">') == 7
    assert (report / "recall_versus_compute.pdf").read_bytes().startswith(b"%PDF")
    assert "\\toprule" in (report / "recall.tex").read_text()
    assert len(pd.read_parquet(report / "points.parquet")) == 7


@pytest.mark.slow
def test_the_report_of_an_unfinished_sweep_says_so(undisturbed: Path, tmp_path: Path) -> None:
    from harness.report.write import report

    half = tmp_path / "half"
    shutil.copytree(undisturbed / "out", half)
    rows = sorted(half.glob("ledger/*/evaluate.json"))
    for row in rows[:5]:
        row.unlink()
    recipe = load(undisturbed / "tiny.yaml", "laptop", [f"output={half}"])
    assert half / "report" / "report.html" in report(recipe)
    page = (half / "report" / "report.html").read_text()
    assert "5 of 7 cells are not finished" in page
    assert "Too few trained cells for a law" in page


@pytest.mark.slow
def test_a_second_sweep_changes_no_file_and_says_so(undisturbed: Path) -> None:
    before = files(undisturbed / "out")
    ended = run(undisturbed / "tiny.yaml")
    assert ended.returncode == 0
    assert "7 cells: 7 done, 0 to do; nothing to run" in ended.stdout
    assert files(undisturbed / "out") == before


@pytest.mark.slow
def test_another_evaluation_trains_nothing_again(undisturbed: Path) -> None:
    trained = {
        name: stat for name, stat in files(undisturbed / "out").items() if "/train" in name or name.endswith("tensors")
    }
    ended = run(undisturbed / "tiny.yaml", "evaluate.tails=[0.1, 0.9]")
    assert ended.returncode == 0, ended.stderr
    after = files(undisturbed / "out")
    assert {name: after[name] for name in trained} == trained
    chance = {row.values["recall"]["complexes"]["chance"] for row in ledger.rows(undisturbed / "out", "evaluate")}
    assert [round(value, 9) for value in chance] == [0.2]
    assert run(undisturbed / "tiny.yaml").returncode == 0  # and back, for the tests that follow


@pytest.mark.slow
def test_after_repeated_sigkill_the_same_command_gives_the_same_results(
    undisturbed: Path, write_tiny_recipe: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Killed early and late: while it imports, builds and trains, and while it embeds and evaluates."""
    recipe = write_tiny_recipe(tmp_path)
    for seconds in (1.0, 6.0, 9.0, 14.0):
        process = subprocess.Popen(command(recipe), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        kill_tree(process)
    ended = run(recipe)
    assert ended.returncode == 0, ended.stderr
    assert results(tmp_path / "out") == results(undisturbed / "out")


@pytest.mark.slow
def test_ctrl_c_leaves_a_sweep_that_resumes(
    undisturbed: Path, write_tiny_recipe: Callable[[Path], Path], tmp_path: Path
) -> None:
    recipe = write_tiny_recipe(tmp_path)
    default_sigint = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background job would ignore it
    process = subprocess.Popen(
        command(recipe), stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=default_sigint
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/ledger/*/train.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "the same command resumes from here" in errors
    assert run(recipe).returncode == 0
    assert results(tmp_path / "out") == results(undisturbed / "out")


@pytest.mark.slow
def test_a_cell_that_fails_is_named_and_the_others_are_done(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path
) -> None:
    recipe = write_tiny_recipe(tmp_path)
    ended = run(recipe, "train.batch={one: 10000, two: 8}", "grid.models=[vit_s16]", "--force")
    assert ended.returncode == 1
    assert "problem: train.batch: dataset one has 16 images" in ended.stderr
    assert "FAILED vit_s16-one-s0" in ended.stdout
    assert "do not fill one batch of 10000" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr
    assert len(list((tmp_path / "out").glob("ledger/vit_s16-two-*/evaluate.json"))) == 1


@pytest.mark.slow
def test_if_a_process_dies_only_the_cell_that_it_ran_fails(
    write_tiny_recipe: Callable[[Path], Path], tmp_path: Path
) -> None:
    arguments = ["launch.cells_per_job=7", "launch.parallel=1"]
    recipe = write_tiny_recipe(tmp_path)
    process = subprocess.Popen(command(recipe, *arguments), stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/ledger/*/train.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    max(children, key=lambda child: child.memory_info().rss).kill()
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 1
    assert printed.count("FAILED") == 1
    assert "the process was killed" in printed
    assert printed.count("done ") == 6


def test_two_sweeps_of_one_study_do_not_run_at_once(tiny_recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = load(tiny_recipe_file, "laptop").output
    with locked(output / SWEEP_LOCK, "this test"):
        assert sweep.main([str(tiny_recipe_file), "--profile", "laptop"]) == 2
    assert "another sweep of" in capsys.readouterr().err


def test_the_profile_follows_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert default_profile() == ("laptop", "there is no sbatch here")
    fake = tmp_path / "sbatch"
    fake.write_text("#!/bin/sh\necho slurm 22.05.8\n")
    fake.chmod(0o755)
    assert default_profile() == ("slurm", "sbatch answers (slurm 22.05.8)")
    fake.write_text("#!/bin/sh\nprintf 'Gr\\374\\337e\\r\\n\\033[1mslurm-wlm 23.11.4\\033[0m\\r\\nuse --help\\n'\n")
    assert default_profile() == ("slurm", "sbatch answers (slurm-wlm 23.11.4)")
    fake.write_text("#!/bin/sh\necho sbatch: fatal: Could not establish a configuration source >&2; exit 1\n")
    assert default_profile() == ("laptop", "sbatch is installed here, and no cluster is configured")


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exec /bin/sleep 60", r"does not answer within 0\.1 s"),
        (
            "echo sbatch: error: Unable to contact slurm controller >&2; exit 1",
            r"fails: sbatch: error: Unable to contact",
        ),
        ("exit 3", "fails: exit status 3"),
    ],
    ids=["slow", "unreachable", "silent"],
)
def test_a_cluster_that_does_not_answer_is_no_laptop(
    tiny_recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    script: str, why: str,
) -> None:  # fmt: skip
    fake = tmp_path / "sbatch"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("harness.recipe.load.PATIENCE", (0.1, 0.1))
    assert sweep.main([str(tiny_recipe_file)]) == 2
    assert re.search(rf"sbatch is installed here and {why}.*Choose: --profile slurm", capsys.readouterr().err)


@pytest.mark.slow
def test_help_plan_and_print_start_fast(tiny_recipe_file: Path) -> None:
    """They import neither torch nor pandas, whose imports are slow."""
    probe = (
        "import sys; from harness import sweep; sweep.main(sys.argv[1:]);"
        "sys.exit(bool({'torch', 'pandas', 'timm', 'submitit', 'matplotlib'} & set(sys.modules)))"
    )
    recipe = Path(__file__).parents[2] / "recipes" / "scaling.yaml"
    for arguments in (["plan", str(recipe), "--profile", "slurm"], [str(recipe), "--print-recipe"]):
        assert subprocess.run([sys.executable, "-c", probe, *arguments], capture_output=True).returncode == 0


def test_the_plan_counts_the_papers_study(capsys: pytest.CaptureFixture[str]) -> None:
    """A.3: L/8+ on RPI-93M for 37.6 epochs is 3.5 G crops; 50 epochs are 4.65 G, and 1,666 G each by touvron."""
    recipe = Path(__file__).parents[2] / "recipes" / "scaling.yaml"
    overrides = ["grid.datasets=[rpi_93m]", "grid.models=[vit_l8_plus]"]
    assert sweep.main(["plan", str(recipe), "--profile", "slurm", *overrides]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  rpi_93m-s0-"))
    assert "4.65G" in line
    assert "7.75e+21" in line  # 4.65e9 crops × 61.6e9 × 1.69 × 16


def test_a_dataset_of_unknown_size_is_a_clear_error(tiny_recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = [f"datasets.{name}.shards=/nowhere" for name in ("one", "two")]
    assert sweep.main(["plan", str(tiny_recipe_file), "--profile", "laptop", *missing]) == 2
    assert "datasets.one: no shards at /nowhere and no `images`" in capsys.readouterr().err


def test_an_unknown_option_of_the_assay_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "scaling.yaml"
    arguments = [f"output={tmp_path}/out", "prepare.assay.options={photos: 3}"]
    assert sweep.main([str(recipe), "--profile", "laptop", *arguments]) == 2
    assert "prepare.assay.options: 'photos' is not known; did you mean 'photons'?" in capsys.readouterr().err


@pytest.mark.slow
def test_a_grid_with_axes_trains_what_is_new_and_shares_what_is_not(undisturbed: Path, tmp_path: Path) -> None:
    """The study again, with a second mask ratio and batch as axes: its own cells are the points at the old values."""
    shutil.copytree(undisturbed / "out", tmp_path / "out")
    before = results(tmp_path / "out")
    axes = "grid.axes={mae.mask_ratio: [0.75, 0.5], train.batch: [8, 16]}"
    grid = ("grid.models=[vit_s16]", "grid.datasets=[one]", axes, f"output={tmp_path}/out")
    ended = run(undisturbed / "tiny.yaml", *grid)
    assert ended.returncode == 0, ended.stderr
    rows = results(tmp_path / "out")
    new = {name: row for name, row in rows.items() if name not in before}
    assert {name: row for name, row in rows.items() if name in before} == before
    trained = [row["values"] for name, row in new.items() if name.endswith("train.json") and "untrained" not in name]
    assert sorted((row["mae.mask_ratio"], row["train.batch"]) for row in trained) == [(0.5, 8), (0.5, 16), (0.75, 16)]
    assert sum("untrained" in name for name in new) == 3  # one, at the new mask ratio
    points = pd.read_csv(tmp_path / "out" / "report" / "points.csv")
    assert len(points[points["trained"]]) == 4
    status = [sys.executable, "-m", "harness.sweep", "status", *command(undisturbed / "tiny.yaml", *grid)[3:]]
    shown = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    assert "mask_ratio=0.5, batch=16" in shown
    assert "7 cells: 7 done" in shown
