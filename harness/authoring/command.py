"""`init`: write a first recipe for a shard set, and never over a file that is there."""

from __future__ import annotations

import re
from pathlib import Path

from harness.authoring.draft import CROPS, Machine, draft
from harness.authoring.set_facts import read_facts
from harness.recipe.errors import RecipeError
from harness.recipe.load import load

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # as a path, which has one slash of the two


def init(shards: Path, output: Path | None, machine: Machine) -> int:
    """Write the recipe and say what to do next.

    Raises:
        RecipeError: nothing can be trained on the set, or the file exists.
        ShardError: it is no set of shards.
    """
    if URL.match(str(shards)):
        raise RecipeError("init reads a folder of shards, and this is a URL: write `datasets` by hand (docs/recipe.md)")
    facts = read_facts(shards)
    if facts.side < CROPS[-1]:
        raise RecipeError(f"{shards}: has images of {facts.side} pixels; at least {CROPS[-1]} are needed")
    name = name_of(shards)
    path = output or Path(f"{name}.yaml")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(draft(facts, name, machine))
    except FileExistsError:
        raise RecipeError(f"{path} exists and was left as it is: name another file with --output") from None
    load(path, "laptop")
    print(f"wrote {path}; look through it, then: python -m harness.sweep check {path}")
    return 0


def name_of(shards: Path) -> str:
    """A study's name from the folder of its shards: «my-screen» is my_screen, «shards» and numbers are no names."""
    words = [part for part in reversed(shards.absolute().parts) if part.lower() not in ("shards", "set", "/")]
    name = re.sub(r"\W+", "_", words[0] if words else "study", flags=re.ASCII).strip("_")[:48]
    return name if re.match(r"[A-Za-z]", name) else f"study_{name}".rstrip("_")
