"""Covers `arguments`: the verb that a command line names, or that it means."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.launch.arguments import parse
from harness.sweep import main


def test_a_recipe_alone_is_run(tmp_path: Path) -> None:
    recipe = tmp_path / "statu"
    recipe.touch()
    assert parse([str(recipe)]).verb == "run"
    assert parse(["plan", "a.yaml", "train.epochs=2", "--wide"]).words == ["train.epochs=2"]


@pytest.mark.parametrize(("word", "verb"), [("statsu", "status"), ("cancle", "cancel"), ("Resume", "resume")])
def test_a_verb_that_is_spelt_wrong_is_suggested(word: str, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word, "recipes/scaling.yaml"]) == 2
    assert capsys.readouterr().err == f"error: {word!r} is no verb and no file; did you mean {verb}?\n"


def test_a_reader_that_has_enough_is_no_error() -> None:
    recipe = Path(__file__).parents[3] / "recipes" / "scaling.yaml"
    command = [sys.executable, "-u", "-m", "harness.sweep", "plan", str(recipe), "--profile", "laptop"]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
