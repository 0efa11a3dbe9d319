"""YAML of unknown origin is refused in under a second, by file and line, whatever it stands for. Covers `yaml_text`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from minimal_recipe import MINIMAL

from harness.recipe.errors import RecipeError
from harness.recipe.load import load
from harness.recipe.yaml_text import MAX_BYTES, MAX_DEPTH, MAX_FIELDS, read_yaml


def merges(levels: int) -> str:
    """Each mapping merges ten copies of the one before: 10**levels entries when they are written out."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, levels)]
    return "\n".join(lines)


def lists(levels: int) -> str:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, levels)]
    return "\n".join(lines)


def keys(levels: int) -> str:
    """Aliases in the place of keys."""
    lines = ["a0: &a0 {x: 1}"] + [f"a{i}: &a{i} {{? *a{i - 1} : *a{i - 1}}}" for i in range(1, levels)]
    return "\n".join(lines)


def chain(levels: int) -> str:
    """Short to write, deep to build."""
    return "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, levels))])


BOMBS = {
    "merged mappings": (merges(12), "once its anchors are expanded"),
    "nested lists": (lists(28), "once its anchors are expanded"),
    "aliases as keys": (keys(28), "once its anchors are expanded"),
    "a deep chain of aliases": (chain(1000), "levels deep once its anchors are expanded"),
    "an anchor that holds itself": ("a: &a\n  b: [1, *a]", ":1: an anchor that holds itself"),
    "a merge that holds itself": ("a: &a\n  <<: *a", ":1: "),
    "deep lists": ("a: " + "[" * 50_000, f":1: not valid YAML: nested more than {MAX_DEPTH} levels deep"),
    "deep mappings": ("\n".join(" " * i + "a:" for i in range(400)), f"nested more than {MAX_DEPTH} levels deep"),
    "deep dashes": ("a:\n  " + "- " * 40_000, f"nested more than {MAX_DEPTH} levels deep"),
    "many fields": ("a: [" + "1," * (MAX_FIELDS + 1) + "]", f"more than {MAX_FIELDS} fields"),
    "a gigabyte of text": ("a: '" + "x" * 10_000_000 + "'", f"has more than {MAX_BYTES:,} bytes"),
    "a number without end": (MINIMAL + "fit: {bootstrap: " + "9" * 9_000 + "}", "a number of 9000 characters"),
    "a number without end, in hex": (MINIMAL + "fit: {bootstrap: 0x" + "f" * 9_000 + "}", "a number of 9002"),
    "base sixty": (MINIMAL + "fit: {bootstrap: " + ":".join(["59"] * 3_000) + "}", "a number of 8999 characters"),
    "a list as a key": ("? [a, b]\n: 1", ":1: "),
    "a date that is none": ("a: 2001-99-99", "not valid YAML"),
    "another tag": ("a: !!python/object/apply:os.system [id]", ":1: not valid YAML"),
}  # fmt: skip


@contextmanager
def within_three_seconds() -> Iterator[None]:
    """Processor time, so that other work on the machine does not count."""
    start = time.process_time()
    yield
    assert time.process_time() - start < 3  # half a second on a quiet machine


@pytest.mark.parametrize(("text", "why"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_at_once_with_its_place(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with within_three_seconds(), pytest.raises(RecipeError) as caught:
        load(path, "laptop")
    assert str(caught.value).startswith(str(path))
    assert why in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(("text", "why"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_in_an_override_is_refused_at_once(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL)
    with within_three_seconds(), pytest.raises(RecipeError) as caught:
        load(path, "laptop", [f"fit={text}"])
    assert "argument " in str(caught.value)
    assert len(str(caught.value)) < 4000


@pytest.mark.parametrize("profile", ["laptop", "other"])
def test_a_bomb_in_any_profile_is_refused(tmp_path: Path, profile: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL + f"  other: {{}}\n  {profile}2:\n    fit: " + "[" * 200)
    with within_three_seconds(), pytest.raises(RecipeError, match=":13: not valid YAML: nested more than"):
        load(path, "laptop")


@pytest.mark.parametrize("place", ["pipe", "/dev/zero", "/dev/tty", "link to a device", "folder", "nul\0byte"])
def test_what_is_no_file_is_not_read(tmp_path: Path, place: str) -> None:
    path = Path(place) if place.startswith("/") or "\0" in place else tmp_path / place
    if place == "pipe":
        os.mkfifo(path)
    elif place == "folder":
        path.mkdir()
    elif place == "link to a device":
        path.symlink_to("/dev/zero")
    with within_three_seconds(), pytest.raises(RecipeError, match="cannot be read"):
        load(path, "laptop")


def test_anchors_and_merges_of_a_normal_size_are_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\n")
    tree, places = read_yaml(path)
    assert tree == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": [{"x": 1, "y": 2}] * 2}
    assert places["b", "y"].line == 2


@pytest.mark.slow
def test_the_largest_file_that_is_read_takes_under_a_second(tmp_path: Path) -> None:
    """One mapping of the size limit with as many unknown fields as fit: each would have a message of its own."""
    path = tmp_path / "recipe.yaml"
    fields = "\n".join(f"  f{i}: 1" for i in range(9_000))
    path.write_text(f"{MINIMAL}fit:\n{fields}\n")
    assert 90_000 < path.stat().st_size < MAX_BYTES
    start = time.process_time()
    with pytest.raises(RecipeError, match=r"\.\.\. and 8988 more"):
        load(path, "laptop")
    assert time.process_time() - start < 3
