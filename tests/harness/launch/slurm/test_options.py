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
    words = [f"output={tmp_path}", "launch.slurm.exclude_slow=true", "launch.slurm.options={exclude: 'old[1-3]'}"]
    assert "--exclude=old[1-3],gpu-07,gpu-11" in options.arguments(load(SCALING, "slurm", words), request)


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


FURTHER = (
    "launch.slurm.options={comment: \"it's $(id) #1\", mail_user: a@b.ch, gres: 'gpu:a100:8,tmp:4', exclusive: true, "
    "hold: false, requeue: false, nice: 10}"
)


def test_further_options_reach_sbatch_and_gpus_only_the_stages_that_have_some() -> None:
    """`gres` replaces the request for GPUs, which has no type; a flag that is false is left out."""
    recipe = load(SCALING, "slurm", [FURTHER])
    with_gpus, without = (options.arguments(recipe, Resources(1, n, gpus, 12)) for n, gpus in ((8, 8), (1, 0)))
    assert with_gpus[4:] == [
        "--comment=it's $(id) #1", "--mail-user=a@b.ch", "--gres=gpu:a100:8,tmp:4", "--exclusive", "--nice=10",
        "--no-requeue",
    ]  # fmt: skip
    assert with_gpus[:4] == ["--nodes=1", "--ntasks-per-node=8", "--cpus-per-task=12", "--time=1440"]
    assert [word for word in without if "gres" in word or "gpu" in word] == ["--gres=tmp:4"]
    only_others = load(SCALING, "slurm", ["launch.slurm.options={gres: 'tmp:4'}"])
    words = options.arguments(only_others, Resources(1, 8, 8, 12))
    assert {"--gpus-per-node=8", "--gres=tmp:4", "--requeue"} <= set(words)


def test_further_options_are_one_word_each_in_the_script(tmp_path: Path) -> None:
    text = script(load(SCALING, "slurm", [FURTHER]), tmp_path / "code", tmp_path)
    given = [shlex.split(line.removeprefix("#SBATCH")) for line in text.splitlines() if line.startswith("#SBATCH")]
    assert all(len(words) == 1 for words in given)
    words = {words[0] for words in given}
    assert {"--comment=it's $(id) #1", "--mail-user=a@b.ch", "--no-requeue", "--exclusive", "--nice=10"} <= words
    assert not words & {"--requeue", "--hold", "--hold=False"}


REFUSED = {
    "{nodes: 3}": "options.nodes: --nodes cannot be set here; use launch.nodes",
    "{part: gpu}": "options.part: --partition cannot be set here; use launch.slurm.partition",
    "{gpus_per_node: 4}": "options.gpus_per_node: --gpus-per-node cannot be set here; use launch.gpus_per_node",
    "{no-requeue: true}": "options.no-requeue: --no-requeue cannot be set here; use requeue: false",
    "{clusters: other}": "options.clusters: --clusters cannot be set here; jobs are looked for on this cluster only",
    "{wrap: 'rm -r .'}": "options.wrap: --wrap cannot be set here",
    '{comment: "a\\n#SBATCH --uid=0"}': "options.comment: must not hold the control character",
    '{comment: "a\\0b"}': "options.comment: must not hold the control character",
    "{comment: 'a\\\\b'}": "options.comment: must not hold a backslash",
    "{comment: ''}": "options.comment: should be text of at most 1,024 characters, a whole number, true or false",
    "{nice: 1.5}": "options.nice: should be text of at most",
    "{mail-user: a, mail_user: b}": "options: mail-user is given with hyphens and with underscores",
    "{'-x': 1}": "options.-x: string should match pattern",
    "{'a=b': 1}": "options.a=b: string should match pattern",
    "{requeue: 3}": "options: requeue is true or false",
    "{gres: 3}": "options: gres is text, such as gpu:a100:4",
    "{gres: 'gpu:a100:4'}": "gres asks for 4 GPUs of a node, and gpus_per_node is 8",
}


@pytest.mark.parametrize(("value", "message"), REFUSED.items(), ids=REFUSED)
def test_a_further_option_that_contradicts_or_cannot_be_quoted_is_refused(value: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        load(SCALING, "slurm", [f"launch.slurm.options={value}"])


def test_a_refused_option_is_named_with_its_line(tmp_path: Path) -> None:
    lines = SCALING.read_text().splitlines()
    where = next(number for number, line in enumerate(lines) if line.startswith("  slurm: {partition"))
    lines[where : where + 1] = ["  slurm:", "    options:", "      mail-user: me", "      mem-per-cpu: 4G"]
    path = tmp_path / "study.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(RecipeError, match=rf"study.yaml:{where + 4}: launch.slurm.options.mem-per-cpu: .*memory_gb"):
        load(path, "slurm", [])


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [("gpu", 1), ("gpu:4", 4), ("gpu:a100", 1), ("gpu:a100:4", 4), ("gres:gpu:4", 4), ("gpu:a100:2,gpu:h100:2", 4),
     ("gpu:1g.5gb:7", 7), ("gpu:4(S:0-1),tmp:5", 4)],
)  # fmt: skip
def test_the_gpus_of_gres_are_those_of_a_node(gres: str, gpus: int) -> None:
    settings = [f"launch.slurm.options={{gres: '{gres}'}}"]
    recipe = load(SCALING, "slurm", [*settings, f"launch.gpus_per_node={gpus}"])
    words = options.arguments(recipe, Resources(1, gpus, gpus, 1))
    assert f"--gres={gres}" in words
    assert not any("gpus-per-node" in word for word in words)
    with pytest.raises(RecipeError, match=f"asks for {gpus} GPUs"):
        load(SCALING, "slurm", [*settings, "launch.gpus_per_node=3"])


def test_a_refusal_names_the_further_option() -> None:
    named = {"reservation": "x", "gres": "gpu:2", "requeue": False}
    assert options.field_of("Requested reservation is invalid", named) == "launch.slurm.options.reservation"
    assert options.field_of("Invalid generic resource (gres) specification", named) == "launch.slurm.options.gres"
    assert options.field_of("Invalid generic resource (gres) specification") == "launch.gpus_per_node"
