"""Which recipe an output belongs to: `owner.json` in it. Two recipes with one output would cancel each other's jobs."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path

from harness.recipe.load import KEPT, to_yaml
from harness.recipe.schema import Recipe
from harness.storage.atomic import write_atomic, write_json
from harness.storage.json_files import read_json
from harness.storage.locks import user_name

FILE = "owner.json"
SWEEP_LOCK = "sweep.lock"  # in the output; held by a sweep that runs cells on this machine


class OwnerError(RuntimeError):
    """The output belongs to another recipe; the text says which, and whose."""


@dataclass(frozen=True)
class Owner:
    """The recipe that has an output.

    Attributes:
        recipe: its path, absolute.
        study: its name in the recipe.
        since: local time, ISO 8601.
    """

    recipe: str
    study: str
    user: str
    since: str

    def __str__(self) -> str:
        return f"{self.recipe} ({self.study}) of {self.user}, since {self.since}"


def claim(output: Path, study: str, recipe: Path) -> None:
    """Make the output this recipe's, unless it is another's. A recipe file that was moved keeps its output.

    Raises:
        OwnerError: it is another's, or `owner.json` is damaged.
    """
    now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    owner, path = Owner(str(recipe.resolve()), study, user_name(), now), output / FILE
    if _created(path, owner):
        return
    check(output, recipe)
    earlier = _read(path)
    if earlier is None or earlier.recipe != owner.recipe:
        write_json(path, asdict(owner))


def check(output: Path, recipe: Path) -> None:
    """Check that the output is not another recipe's.

    Raises:
        OwnerError: it is, or `owner.json` is damaged.
    """
    owner = _read(output / FILE)
    if owner is not None and owner.recipe != str(recipe.resolve()) and _may_exist(Path(owner.recipe)):
        raise OwnerError(
            f"{output} belongs to another recipe, {owner}; nothing was done. Set `output` in {recipe} to another "
            f"folder; or, if it replaces that recipe, cancel the jobs of that one and delete {output / FILE}"
        )


def recipe_of(output: Path) -> Path:
    """The path of the recipe that an output belongs to; that of the recipe kept in it where none has claimed it.

    Raises:
        OwnerError: `owner.json` is damaged.
    """
    owner = _read(output / FILE)
    return output / KEPT if owner is None else Path(owner.recipe)


def keep_recipe(recipe: Recipe) -> None:
    """Write the resolved recipe into its output, from which the verbs read it if they are given that folder."""
    path, text = recipe.output / KEPT, to_yaml(recipe).encode()
    if not path.exists() or path.read_bytes() != text:
        write_atomic(path, lambda file: file.write(text))


def _may_exist(path: Path) -> bool:
    """Whether a file exists, or is in a folder that this user may not read."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _created(path: Path, owner: Owner) -> bool:
    """Write the file whole unless it exists; whether it was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.write_text(json.dumps(asdict(owner), indent=1) + "\n", encoding="utf-8")
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _read(path: Path) -> Owner | None:
    try:
        value = read_json(path)
        texts = {field.name: value[field.name] for field in fields(Owner)}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise OwnerError(
            f"{path} does not say whose this output is ({error}): delete it if no other recipe uses it"
        ) from error
    if not all(isinstance(text, str) and text.isprintable() for text in texts.values()):
        raise OwnerError(f"{path} does not say whose this output is: delete it if no other recipe uses it")
    return Owner(**texts)
