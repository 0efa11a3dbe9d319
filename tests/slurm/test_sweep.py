"""The tiny study on a real SLURM: arrays, dependencies, repeated failures, and a ledger equal to the local run's.

Exercises `submit`, `submissions`, `job_chains`, `job`, `report_job`, `commands`, `heartbeat`, `failures` and `logs` of
harness/launch/slurm.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from slurm.slurm_cluster import Cluster, start, until

from harness.launch.slurm import job_states
from harness.launch.slurm.book.submissions import Submissions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
CELLS = 7  # two models on two datasets, two untrained, pixel statistics
FEW = "grid.datasets=[one]"


def sweep(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.sweep", *map(str, arguments), "--profile", "laptop"]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)


def statuses(recipe: Path, *words: str) -> list[dict[str, object]]:
    ended = sweep("status", recipe, "--json", *words)
    assert ended.returncode == 0, ended.stderr
    rows: list[dict[str, object]] = json.loads(ended.stdout)
    return rows


def rows(output: Path, drop: tuple[str, ...] = ()) -> dict[str, object]:
    """Every ledger row without its durations and its numbers of ranks and job shares."""
    kept = {}
    for path in sorted(output.glob("ledger/*/*.json")):
        row = json.loads(path.read_text())
        row["values"] = {
            name: value
            for name, value in row["values"].items()
            if "second" not in name and name not in ("ranks", "elements", "spent")
        }
        kept[f"{path.parent.name}/{path.name}"] = row
    return {name: row for name, row in kept.items() if not name.startswith(drop or ("-",))}


def leaves(tree: object, path: str = "") -> dict[str, object]:
    """Every value of nested rows by its path."""
    if isinstance(tree, dict | list):
        inner = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {k: v for name, value in inner for k, v in leaves(value, f"{path}/{name}").items()}
    return {path: tree}


def assert_same(actual: object, expected: object) -> None:
    """Assert equality up to the summation order of two ranks instead of one, which changes the last digits of a loss;
    whitening a dozen genes amplifies that."""
    actual_values, expected_values = leaves(actual), leaves(expected)
    assert actual_values.keys() == expected_values.keys()
    for path, value in expected_values.items():
        loose = 1e-3 if "/evaluate.json" in path else 1e-5
        near = pytest.approx(value, rel=loose, abs=1e-6, nan_ok=True) if isinstance(value, float) else value
        assert actual_values[path] == near, path


@pytest.fixture(scope="module")
def local_rows(
    write_tiny_recipe: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, object]:
    """The ledger of the study of one dataset run on this machine."""
    folder = tmp_path_factory.mktemp("local")
    ended = sweep(write_tiny_recipe(folder), "launch.cells_per_job=4", FEW)
    assert ended.returncode == 0, ended.stderr
    return rows(folder / "out")


def test_a_study_finishes_unattended_and_equals_the_local_one(
    cluster: Cluster, slurm_recipe: Path, local_rows: dict[str, object]
) -> None:
    """Two jobs share the embedding of each cell; local rows come from one process."""
    settings = [FEW, "launch.embed_jobs=2", "launch.embed_part_wells=16"]
    ended = sweep(slurm_recipe, *settings)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("submitted job") == 3 + 3 * 4 + 1, ended.stdout
    assert ended.stdout.count(": embed.1-of-2 of ") == 4, ended.stdout
    again = sweep(slurm_recipe, *settings)
    assert "submitted job" not in again.stdout
    assert "already queued or running" in again.stdout
    output = slurm_recipe.parent / "out"
    until(lambda: (output / "report" / "recall_versus_compute.png").exists(), 600, "the report")
    assert_same(rows(output), local_rows)
    jobs = ",".join(entry.array for entry in Submissions(output).entries if entry.array)  # the cluster has had others
    states = set(cluster.run("sacct", "-X", "-n", "-j", jobs, "-o", "state").split())
    assert states <= {"COMPLETED", "RUNNING"}, "no job failed on the way"
    ended = sweep("status", slurm_recipe, *settings, "--json")
    assert {row["state"] for row in json.loads(ended.stdout)} == {"done"}
    embedded = [json.loads(path.read_text())["values"] for path in output.glob("ledger/*/embed.json")]
    assert {(row["wells"], row["elements"]) for row in embedded} == {(48, 2)}
    assert not list(output.glob("ledger/*/embed.*-of-*")), "a share's row is removed once its stage has one"
    beats = [json.loads(path.read_text()) for path in output.glob("cells/*/heartbeat-*.json")]
    assert {Path(beat["code"]).parent for beat in beats} == {output.resolve() / "code"}, (
        "jobs run the code at submission"
    )
    nodes = cluster.run("sacct", "-X", "-n", "-j", jobs, "-P", "-o", "jobname,nnodes").splitlines()
    assert any("train" in line and line.endswith("|2") for line in nodes)


STORM = (
    "train.epochs=60", "train.validations=20", "launch.checkpoint_minutes=0.02", "launch.gpus_per_node=1",
    "grid.untrained=false", "train.batch={one: 8, two: 8, none: 100000}", "grid.datasets=[one, two, none]",
    "launch.slurm.partition=spot", "launch.slurm.signal_seconds=30", "train.optimiser.name=adamw",
    "train.schedule={name: warmup_stable_decay, ends: [0.5, 1.0]}",
)  # fmt: skip


BRANCHES = (
    "train.schedule={name: warmup_stable_decay, ends: [0.25, 0.5, 1.0]}", "train.epochs=60", "embed=null",
    "evaluate=null",
    "grid.models=[vit_s16]", "grid.datasets=[one, two]", "grid.untrained=false",
    "models.vit_s16.drop_path=0", "train.optimiser.name=adamw", "launch.checkpoint_minutes=0.02",
)  # fmt: skip


def test_branches_start_when_their_segment_is_done_and_survive_kills(
    cluster: Cluster, slurm_recipe: Path, write_tiny_recipe: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Two runs of two segments and three branches on two ranks. A trunk's rank is killed, a branch is cancelled."""
    ended = sweep(slurm_recipe, *BRANCHES)
    assert ended.returncode == 0, ended.stderr
    assert "10 cells: 0 done, 10 to do" in ended.stdout
    output = slurm_recipe.parent / "out"
    until(lambda: first_ranks(cluster), 120, "a segment runs")
    for process in first_ranks(cluster)[:1]:
        process.kill()
    cancelled = next(cell for cell in (row["cell"] for row in statuses_of(slurm_recipe)) if "end0.5" in str(cell))
    assert "cancelled" in sweep("cancel", slurm_recipe, *BRANCHES, str(cancelled)).stdout
    until(lambda: (output / "report" / "loss_versus_compute.png").exists(), 600, "a report")
    until(lambda: not cluster.run("squeue", "-h"), 600, "the queue is empty")
    resumed = sweep("resume", slurm_recipe, *BRANCHES, "--force")
    assert resumed.returncode == 0, resumed.stderr
    until(lambda: {row["state"] for row in statuses_of(slurm_recipe)} == {"done"}, 600, "all cells are done")
    until(lambda: not cluster.run("squeue", "-h"), 120, "the report is done")
    assert not list(output.glob("cells/*/checkpoints")), "states are deleted with their last child"
    folder = tmp_path / "alone"
    folder.mkdir()
    local = sweep(write_tiny_recipe(folder), *BRANCHES, "launch.cells_per_job=4")
    assert local.returncode == 0, local.stderr
    assert_same(rows(output, ("-",)), rows(folder / "out"))


def statuses_of(recipe: Path) -> list[dict[str, object]]:
    ended = sweep("status", recipe, *BRANCHES, "--json")
    assert ended.returncode == 0, ended.stderr
    found: list[dict[str, object]] = json.loads(ended.stdout)
    return found


def with_a_dataset_that_cannot_train(recipe: Path) -> Path:
    """Add a third dataset, the second under another name, which STORM gives a batch that it cannot fill."""
    text = recipe.read_text()
    shards = text.split("two: {shards: ")[1].split("}")[0]
    recipe.write_text(text.replace("models:", f"  none: {{shards: {shards}, fraction: 0.9}}\nmodels:", 1))
    return recipe


def first_ranks(cluster: Cluster) -> list[psutil.Process]:
    """The processes of this cluster's jobs that run a cell, first ranks only."""
    processes = []
    for process in psutil.process_iter(["environ", "cmdline"]):
        environment, command = process.info["environ"] or {}, process.info["cmdline"] or []
        is_cluster = environment.get("SLURM_CONF") == cluster.environment["SLURM_CONF"]
        if is_cluster and environment.get("SLURM_PROCID") == "0" and "submitit.core._submit" in command:
            processes.append(process)
    return processes


@pytest.mark.skipif(not os.environ.get("SLURM_STORM"), reason="takes ten minutes: set SLURM_STORM=1 to run it")
@pytest.mark.timeout(1500)
def test_repeated_failures_change_no_result_and_permanent_ones_are_named(
    cluster: Cluster, slurm_recipe: Path, write_tiny_recipe: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Preemption, requeue, lost nodes, a lost controller, a killed rank, a cancelled job, a cell that must fail."""
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    local = sweep(with_a_dataset_that_cannot_train(write_tiny_recipe(undisturbed)), "--force", *STORM)
    assert "do not fill one batch of 100000" in local.stdout
    recipe = with_a_dataset_that_cannot_train(slurm_recipe)
    output = recipe.parent / "out"
    assert sweep(recipe, "--force", *STORM).returncode == 0

    def wait_for(condition: Callable[[], object], what: str) -> None:
        until(lambda: cluster.hurry() or condition(), 300, what)

    def live() -> list[dict[str, object]]:
        rows = json.loads(sweep("status", recipe, "--json", *STORM).stdout)
        return [row for row in rows if row["stage"] == "train" and row["step"]]

    def disturb(targets: Callable[[], list[Any]], action: Callable[[Any], object], what: str) -> None:
        def acted() -> bool:
            candidates = targets()
            if candidates:
                action(candidates[0])
            return bool(candidates)

        wait_for(acted, what)

    wait_for(lambda: len(live()) >= 2, "two cells train")
    priority = ["--partition=main", "--nodes=4", "--ntasks-per-node=1", "--cpus-per-task=4", "--output=/dev/null"]
    cluster.run("sbatch", "--job-name=priority", *priority, "--wrap=sleep 1")
    wait_for(
        lambda: not cluster.run("squeue", "-h", "--name=priority"),
        "the job of higher priority takes the nodes and ends",
    )
    wait_for(lambda: len(live()) >= 2, "two cells train after the preemption")
    assert any(row["restarts"] for row in live()), "preempted cells came back under their own ids"
    disturb(live, lambda row: cluster.run("scontrol", "requeue", str(row["job"])), "a cell is requeued by hand")
    disturb(lambda: first_ranks(cluster), psutil.Process.kill, "a first rank is killed")
    cluster.kill_node(1)
    wait_for(live, "a cell trains on what is left")
    cluster.kill_node(2)
    cluster.stop_controller()
    cluster.start_controller()
    cluster.revive_node(1)
    cluster.revive_node(2)
    disturb(live, lambda row: cluster.run("scancel", str(row["job"])), "a cell that trains again is cancelled")
    for _ in range(6):  # the report job resubmits transient failures; if it was cancelled, resume is needed
        until(lambda: cluster.hurry() or not cluster.run("squeue", "-h"), 600, "the queue is empty")
        left = {str(row["cell"]) for row in json.loads(sweep("status", recipe, "--json", *STORM).stdout)
                if row["state"] != "done"}  # fmt: skip
        if all("-none-" in cell for cell in left):
            break
        sweep("resume", recipe, "--force", *STORM)
    assert_same(rows(output), rows(undisturbed / "out"))
    by_cell = {str(row["cell"]): row for row in json.loads(sweep("status", recipe, "--json", *STORM).stdout)}
    failed = {name: row for name, row in by_cell.items() if row["state"] != "done"}
    trunks = {name: row for name, row in failed.items() if "-until" in name}
    assert (len(failed), len(trunks)) == (6, 2), "two models: a segment and two branches of each"
    assert all("do not fill one batch of 100000" in str(row["reason"]) for row in trunks.values())
    assert {str(row["reason"]) for name, row in failed.items() if name not in trunks} == {
        f"starts from {name}, which failed" for name in trunks
    }
    logs = sweep("logs", recipe, next(iter(trunks)), *STORM).stdout
    assert "rank 0 failed first" in logs
    assert "ValueError" in logs


def test_two_simultaneous_runs_submit_each_cell_once(cluster: Cluster, slurm_recipe: Path) -> None:
    waits = ["launch.slurm.setup=[sleep 600]"]
    command = [sys.executable, "-m", "harness.sweep", str(slurm_recipe), "--profile", "laptop", *waits]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    outputs = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sorted("submitted job" in text for text in outputs) == [False, True]
    tasks = [(cell, entry.stage) for entry in Submissions(slurm_recipe.parent / "out").entries for cell in entry.cells]
    assert len(tasks) == len(set(tasks))
    cancelled = sweep("cancel", slurm_recipe)
    assert "stays so until resume" in cancelled.stdout
    until(lambda: not cluster.run("squeue", "-h"), 60, "everything is cancelled")
    assert {row["state"] for row in statuses(slurm_recipe)} == {"cancelled"}
    assert "submitted job" in sweep("resume", slurm_recipe, *waits).stdout


def test_accounting_has_the_states_of_jobs_that_left_the_queue(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    monkeypatch.setenv("PATH", cluster.environment["PATH"])
    monkeypatch.setattr(job_states, "_from_squeue", lambda *_: job_states._Records())
    batch = ["sbatch", "--parsable", f"--output={tmp_path}/%A_%a.log"]
    mixed = cluster.run(*batch, "--array=0-1", "--wrap=exit $SLURM_ARRAY_TASK_ID").strip()
    never = cluster.run(*batch, "--array=0-2", "--hold", "--wrap=true").strip()
    cluster.run("scancel", never)
    expected = {f"{mixed}_0": "COMPLETED", f"{mixed}_1": "FAILED"} | {f"{never}_{n}": "CANCELLED" for n in range(3)}
    until(
        lambda: {job: state.state for job, state in job_states.states(list(expected)).items()} == expected,
        60,
        "all accounted",
    )


def test_1500_cells_exceed_the_largest_array_and_still_submit(cluster: Cluster, slurm_recipe: Path) -> None:
    seeds = f"grid.seeds={list(range(375))}"
    many = [seeds, "grid.untrained=false", "grid.pixel_statistics=false", "launch.slurm.setup=[sleep 600]"]
    ended = sweep(slurm_recipe, *many)
    assert ended.returncode == 0, ended.stderr
    queued = [job for job, state in cluster.queue() if state in ("PENDING", "RUNNING")]
    assert len(queued) == 3 * 1500 + 1
    assert max(int(job.split("_")[1]) for job in queued if "_" in job) == 99  # MaxArraySize is 101
    began = time.monotonic()
    ended = sweep("status", slurm_recipe, *many)
    print(f"status of 1,500 cells: {time.monotonic() - began:.2f} s")
    assert "1500 cells: " in ended.stdout
    throttled = sweep("run", slurm_recipe, *many, "launch.parallel=2")
    assert throttled.returncode == 0
    shown = cluster.run("scontrol", "show", "job", queued[0].split("_")[0])
    assert "ArrayTaskThrottle=2" in shown, "the recipe's throttle is set on arrays that are already waiting"
    sweep("cancel", slurm_recipe, *many)


def test_an_impossible_request_is_refused_before_anything_is_queued(cluster: Cluster, slurm_recipe: Path) -> None:
    for override, field in (
        ("launch.slurm.partition=nowhere", "launch.slurm.partition"),
        ("launch.gpus_per_node=64", "launch.gpus_per_node"),
        ("launch.nodes=99", "launch.nodes"),
        ("launch.slurm.hours=1000", "launch.slurm.hours to that or less"),
    ):
        ended = sweep(slurm_recipe, override, "--force")
        assert ended.returncode == 2, ended.stdout
        assert field in ended.stderr, ended.stderr
        assert "Traceback" not in ended.stderr
    assert not cluster.run("squeue", "-h")


def test_without_accounting_the_same_works(slurm_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = start(accounting=False, nodes=2, port=20_000 + os.getpid() % 40 * 100)
    try:
        for name in ("SLURM_CONF", "PATH", "LC_ALL"):
            monkeypatch.setenv(name, bare.environment[name])
        few = ["grid.models=[vit_s16]", "grid.datasets=[one]", "grid.untrained=false"]
        assert sweep(slurm_recipe, *few).returncode == 0
        output = slurm_recipe.parent / "out"
        until(lambda: (output / "report" / "recall_versus_compute.png").exists(), 600, "the report")
        ended = sweep("status", slurm_recipe, *few)
        assert "2 cells: 2 done" in ended.stdout, ended.stdout
    finally:
        bare.down()
