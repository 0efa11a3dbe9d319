"""Covers `options`: requests follow the recipe, with one task per GPU, no option that is not set, and nothing unquoted.

What `commands` asks a running SLURM is in tests/slurm/test_sweep.py and tests/slurm/test_large.py.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from harness.grid.cells import cells
from harness.launch.slurm import options
from harness.launch.slurm.book.submissions import Submissions
from harness.launch.slurm.commands import SlurmError
from harness.launch.slurm.report_job import report_and_resume
from harness.launch.slurm.submit import submit
from harness.plan.resources import Resources, stage_resources
from harness.recipe.errors import RecipeError
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.stages.missing import CellWork
from harness.storage.health.slow_nodes import SlowNode, record_slow_node

SCALING = Path(__file__).parents[4] / "recipes" / "scaling.yaml"


def test_requests_follow_the_recipe() -> None:
    recipe = load(SCALING, "slurm", ["launch.slurm.partition=gpu", "launch.slurm.hours=1.5"])
    largest = next(cell for cell in cells(recipe) if cell.model == "vit_l8" and cell.kind == "trained")
    resources = stage_resources(recipe.launch, largest, "train")
    assert resources == Resources(nodes=32, tasks_per_node=8, gpus_per_node=8, cpus_per_task=12)
    assert options.options(recipe, resources) == {
        "nodes": 32, "ntasks_per_node": 8, "gpus_per_node": 8, "cpus_per_task": 12, "time": 90, "partition": "gpu",
    }  # fmt: skip
    assert stage_resources(recipe.launch, largest, "embed").nodes == 1
    assert stage_resources(recipe.launch, largest, "evaluate") == Resources(1, 1, 0, 12)


def test_nodes_that_were_slow_are_left_out_where_the_recipe_says_so(tmp_path: Path) -> None:
    for node in ("gpu-07", "gpu-11"):
        record_slow_node(tmp_path, SlowNode(node, "cell", 1.6, f"node {node} is slow", time.time()))
    study = load(SCALING, "slurm", [f"output={tmp_path}"])
    request = stage_resources(study.launch, cells(study)[0], "train")
    assert not any(argument.startswith("--exclude") for argument in options.arguments(study, request))
    study = load(SCALING, "slurm", [f"output={tmp_path}", "launch.slurm.exclude_slow=true"])
    assert "--exclude=gpu-07,gpu-11" in options.arguments(study, request)


def test_without_slurm_nothing_is_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    recipe = load(SCALING, "slurm", [f"output={tmp_path}/out"])
    work_items = [CellWork(cell, {}, ("train",)) for cell in cells(recipe)]
    with pytest.raises(SlurmError, match="is not installed here"):
        submit(recipe, work_items, report_and_resume)
    assert not (tmp_path / "out" / "jobs" / "book.jsonl").exists()


@pytest.mark.parametrize("field", ["partition", "account", "qos", "constraint"])
@pytest.mark.parametrize("value", ["gpu; rm -rf ~", "gpu\n#SBATCH --uid=0", "$(id)", "a b"])
def test_fields_passed_to_slurm_cannot_hold_shell_code(field: str, value: str) -> None:
    with pytest.raises(RecipeError, match=f"launch.slurm.{field}"):
        load(SCALING, "slurm", [f"launch.slurm.{field}={value!r}"])


def test_environment_and_code_reach_the_shell_quoted(tmp_path: Path) -> None:
    """bash runs the lines and prints what it understood."""
    hostile = 'it\'s $(touch stolen); `touch stolen` "x"'
    recipe = load(SCALING, "slurm", [])
    slurm = recipe.launch.slurm.model_copy(update={"environment": {"GREETING": hostile}})
    lines = options.setup_lines(slurm, tmp_path / "a b'c")
    script = "\n".join([*lines, 'printf "%s\\n" "$GREETING" "${PYTHONPATH%%:*}"'])
    printed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert printed.splitlines() == [hostile, str(tmp_path / "a b'c")]
    assert not (tmp_path / "stolen").exists()


def script(recipe: Recipe, code: Path, folder: Path) -> str:
    """The batch script that submitit writes for an array of this study."""
    from submitit.slurm.slurm import _make_sbatch_string

    values = options.parameters(recipe, Resources(1, 1, 0, 1), "tiny-train-0", code, "afterok:7")
    command: str = _make_sbatch_string(command="python -c pass", folder=folder, map_count=2, **values)
    return command


SBATCH = re.compile(r"#SBATCH --([a-z-]+)(=.*)?")
# Each is a valid folder name. None may end a line, start a command, or become another option.
FOLDERS = [
    "a b", "it's", 'say "x"', "$(touch stolen)", "`touch stolen`", "a;touch stolen", "a&b|c>d", "#SBATCH --uid=0",
    "-rf", "--help", "*", "~", "{a,b}", "é中", "a\u00a0b", "$HOME", "!!",
]  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_any_folder_reaches_srun_whole_and_runs_nothing(tmp_path: Path, name: str) -> None:
    """bash runs the script; in place of srun a program writes down its arguments."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "srun").write_text('#!/bin/bash\nprintf "%s\\0" "$@" > arguments\n')
    (tools / "srun").chmod(0o755)
    recipe = load(SCALING, "slurm", [f"output={json.dumps(str(tmp_path / name), ensure_ascii=False)}"])
    assert recipe.output == tmp_path / name
    folder = recipe.output / "jobs" / "tiny-train-0"
    text = script(recipe, recipe.output / "code", folder)
    for line in text.splitlines():
        if line.startswith("#SBATCH"):
            assert SBATCH.fullmatch(line)
            assert len(shlex.split(line.removeprefix("#SBATCH"))) == 1
    done = subprocess.run(
        ["bash", "-c", text], cwd=tmp_path, env={"PATH": f"{tools}:/usr/bin:/bin"}, capture_output=True, check=True
    )
    assert done.stderr == b""
    arguments = (tmp_path / "arguments").read_text().split("\0")
    assert arguments[arguments.index("--output") + 1] == str(folder / "%A_%a_%t_log.out")
    assert arguments[-4:] == ["python", "-c", "pass", ""]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arguments", "tools"]


@pytest.mark.parametrize("name", ["a\ntouch stolen", "a\rb", "a\tb", "a\0b", "a\x1bb", "a\u2028b", "a\x85b"])
@pytest.mark.parametrize("field", ["output", "embed.shards", "datasets.rxrx3.shards", "remote.cache"])
def test_a_path_that_ends_a_line_is_refused(field: str, name: str) -> None:
    with pytest.raises(RecipeError, match=rf"{field}: must not hold the control character"):
        load(SCALING, "slurm", [f"{field}={json.dumps(name)}"])


@pytest.mark.parametrize("name", ["runs/%j", "100%", "a\\b", "a:b"])
def test_what_does_not_arrive_as_it_is_in_a_path_of_a_job_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match=r"output: .*SLURM replaces % and .* PYTHONPATH is split at :"):
        load(SCALING, "slurm", [f"output={name}"])


def test_a_working_folder_that_slurm_cannot_take_is_refused_before_anything_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "line\nbreak"
    here.mkdir()
    monkeypatch.chdir(here)
    recipe = load(SCALING, "slurm", ["output=out"])
    work_items = [CellWork(cell, {}, ("train",)) for cell in cells(recipe)]
    with pytest.raises(SlurmError, match=r"output: .*nothing was submitted"):
        submit(recipe, work_items, report_and_resume)
    assert Submissions(recipe.output).entries == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("partition", "--uid=0"),
        ("account", "-x"),
        ("qos", "x" * 300),
        ("modules", ["-x"]),
        ("modules", ["a\nb"]),
        ("container", "-x"),
        ("container", "a\n--uid=0"),
        ("container", "a b"),
        ("environment", {"A B": "x"}),
        ("environment", {"A;id": "x"}),
        ("environment", {"A": "x\0y"}),
        ("setup", ["x\0y"]),
    ],
)
def test_what_would_be_another_option_or_line_is_refused(field: str, value: object) -> None:
    with pytest.raises(RecipeError, match=f"launch.slurm.{field}"):
        load(SCALING, "slurm", [f"launch.slurm.{field}={json.dumps(value)}"])


def test_several_lines_of_an_environment_variable_stay_one_value(tmp_path: Path) -> None:
    value = "first\n#SBATCH --uid=0\n'$(touch stolen)'\n"
    environment = json.dumps({"KEY": value})
    recipe = load(SCALING, "slurm", [f"launch.slurm.environment={environment}"])
    lines = options.setup_lines(recipe.launch.slurm, tmp_path)
    text = "\n".join([*lines, 'printf "%s" "$KEY"'])
    printed = subprocess.run(["bash", "-c", text], capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert printed == value
    assert list(tmp_path.iterdir()) == []


def test_short_limits_are_warned_about() -> None:
    recipe = load(SCALING, "slurm", ["launch.slurm.hours=0.1", "launch.slurm.signal_seconds=300"])
    messages = "\n".join(options.warnings(recipe))
    assert "ten minutes or less" in messages
    assert "signal_seconds" in messages
    assert options.warnings(load(SCALING, "slurm", [])) == []
