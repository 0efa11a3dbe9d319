"""Covers `owner`: an output belongs to one recipe file, which may be edited and moved."""

from __future__ import annotations

import json
import os
import re
import threading
from pathlib import Path

import pytest

from harness.launch import owner
from harness.launch.owner import OwnerError, check, claim
from harness.storage.locks import user_name


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "a.yaml"
    path.touch()
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_a_second_recipe_is_refused_and_told_whose_the_output_is(recipe: Path, output: Path) -> None:
    check(output, recipe)
    claim(output, "study", recipe)
    claim(output, "renamed", recipe)
    other = recipe.with_name("b.yaml")
    whose = re.escape(f"{output} belongs to another recipe, {recipe} (study) of {user_name()}, since 20")
    for refused in (lambda: claim(output, "study", other), lambda: check(output, other)):
        with pytest.raises(OwnerError, match=whose):
            refused()
    assert [path.name for path in output.iterdir()] == ["owner.json"]


def test_a_recipe_that_was_moved_keeps_its_output(recipe: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent)
    claim(output, "study", Path("a.yaml"))
    moved = recipe.rename(recipe.with_name("moved.yaml"))
    check(output, moved)
    claim(output, "study", moved)
    assert json.loads((output / owner.FILE).read_text())["recipe"] == str(moved)


def test_a_recipe_in_a_folder_that_may_not_be_read_still_owns_its_output(
    recipe: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(output, "study", recipe)

    def refused(path: Path) -> os.stat_result:
        raise PermissionError

    monkeypatch.setattr(Path, "stat", refused)
    assert owner._may_exist(recipe)


def test_a_file_system_without_links_does(recipe: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refused)
    claim(output, "study", recipe)
    assert [path.name for path in output.iterdir()] == ["owner.json"]
    with pytest.raises(OwnerError, match="belongs to another recipe"):
        check(output, recipe.with_name("b.yaml"))


ODD = [b"", b"[" * 100_000, b"{}", b'{"recipe": 1, "study": "", "user": "", "since": ""}', b"\xff", b"null"]


@pytest.mark.parametrize("content", ODD, ids=range(len(ODD)))
def test_a_damaged_file_is_named(recipe: Path, output: Path, content: bytes) -> None:
    output.mkdir()
    (output / owner.FILE).write_bytes(content)
    with pytest.raises(OwnerError, match=r"owner\.json does not say whose this output is"):
        claim(output, "study", recipe)


def test_of_two_recipes_at_once_one_gets_the_output(recipe: Path, output: Path) -> None:
    paths = [recipe.with_name(f"{number}.yaml") for number in range(8)]
    refused = []

    def compete(path: Path) -> None:
        try:
            claim(output, "study", path)
        except OwnerError:
            refused.append(path)

    for path in paths:
        path.touch()
    threads = [threading.Thread(target=compete, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in output.iterdir()] == ["owner.json"]
    (winner,) = set(paths) - set(refused)
    assert json.loads((output / owner.FILE).read_text())["recipe"] == str(winner)
