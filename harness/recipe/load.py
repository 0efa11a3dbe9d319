"""Load a recipe: YAML with line numbers, a profile, dotted overrides, and errors that name file, line and field.

`load` gives a valid `Recipe` or raises `RecipeError`, whose text names file, line, field and the nearest valid
name. `schema.py` has the fields; only this module knows the file.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from harness.recipe.errors import RecipeError, SourceLine, SourceLines, dotted, explain, is_other_arm, message
from harness.recipe.fields import FieldPath
from harness.recipe.old_names import accept_old_names, current_path
from harness.recipe.schema import Recipe

MAX_ERRORS_SHOWN = 12
MAX_FIELDS = 20_000


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 floats: `1e-4` is a number, as anyone who types it expects."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def load(path: Path, profile: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `path` under `profile`, with `overrides` (`train.epochs=2`) on top.

    The other profiles are checked too, without the overrides, so that a recipe is valid under each of them or refused.

    Raises:
        RecipeError: the file cannot be read, is no YAML, or does not fit the schema.
    """
    tree, places = read_yaml(path)
    profiles = tree.pop("profiles", None) or {}
    if not isinstance(profiles, dict) or not all(isinstance(p, dict) for p in profiles.values()):
        raise RecipeError(f"{places[('profiles',)]}: profiles: must map a profile's name to the fields it changes")
    if profile not in profiles:
        known = ", ".join(profiles) or "none"
        raise RecipeError(f"{path}: has no profile {profile!r}; its profiles: {known}")
    notes = accept_old_names(tree, places)
    notes += [note for name in profiles for note in accept_old_names(profiles[name], places, ("profiles", name))]
    for name in sorted(profiles, key=lambda name: name != profile):
        merged, merged_places = _with_profile(tree, places, name, profiles[name])
        if name == profile:
            for override in overrides:
                notes += _apply_override(merged, merged_places, override)
        validated = _validated(merged, merged_places, path, f"profile {name}")
        if name == profile:
            recipe = validated
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return recipe


def read_yaml(path: Path) -> tuple[dict[str, Any], SourceLines]:
    """The file's mapping, and the source line of each of its fields.

    Raises:
        RecipeError: unreadable, not YAML, not a mapping, or a key given twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        loader = _Loader(text)
        node = loader.get_single_node()
        tree = loader.construct_document(node) if node is not None else None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(_yaml_message(path, error)) from error
    if not isinstance(tree, dict) or node is None:
        raise RecipeError(f"{path}:1: a recipe is a mapping of fields (`name: ...`), this is {_kind(tree)}")
    try:
        lines = list(islice(_places(node, str(path), ()), MAX_FIELDS))
    except RecursionError as error:
        raise RecipeError(f"{path}: nested too deeply, or an anchor that holds itself") from error
    if len(lines) == MAX_FIELDS:
        raise RecipeError(f"{path}: more than {MAX_FIELDS} fields once its anchors are expanded")
    return tree, dict(lines)


def _yaml_message(path: Path, error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"{path}:{mark.line + 1}" if mark is not None else str(path)
    return f"{place}: not valid YAML: {getattr(error, 'problem', None) or error or type(error).__name__}"


def _places(node: yaml.Node, source: str, path: FieldPath) -> Iterator[tuple[FieldPath, SourceLine]]:
    yield path, SourceLine(source, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise RecipeError(
                    f"{source}:{line}: {dotted((*path, key.value))}: given twice (also line {seen[key.value]})"
                )
            seen[key.value] = line
            yield from _places(value, source, (*path, key.value))
            yield (*path, key.value), SourceLine(source, line)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            yield from _places(value, source, (*path, i))


def _with_profile(
    tree: dict[str, Any], places: SourceLines, name: str, changes: dict[str, Any]
) -> tuple[dict[str, Any], SourceLines]:
    """`changes` laid over `tree`: mappings merge, everything else is replaced."""
    changed = {p[2:]: place for p, place in places.items() if p[:2] == ("profiles", name) and len(p) > 2}
    kept = {p: place for p, place in places.items() if p[:1] != ("profiles",)}
    for path in changed:
        if not isinstance(_at(changes, path), dict):
            _forget_below(kept, path)
    return _merged(deepcopy(tree), changes), kept | changed


def _at(tree: Any, path: FieldPath) -> Any:  # noqa: ANN401  (any YAML value)
    for key in path:
        tree = tree[key]
    return tree


def _forget_below(places: SourceLines, path: FieldPath) -> None:
    """Remove the source lines of fields inside a value that is replaced."""
    for old in [p for p in places if p[: len(path)] == path and len(p) > len(path)]:
        del places[old]


def _merged(base: Any, change: Any) -> Any:  # noqa: ANN401  (any YAML value)
    if isinstance(base, dict) and isinstance(change, dict):
        return base | {k: _merged(base.get(k), v) for k, v in change.items()}
    return change


def _apply_override(tree: dict[str, Any], places: SourceLines, override: str) -> list[str]:
    """Set the field that an override names; return a note if it names it by an old name."""
    dotted_path, equals, text = override.partition("=")
    if not equals or not dotted_path:
        raise RecipeError(f"argument {override!r}: an override is written field.path=value, as in train.epochs=2")
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"argument {override!r}: its value is not valid YAML: {error}") from error
    path, note = current_path(tuple(int(k) if k.isdigit() else k for k in dotted_path.split(".")))
    *parents, last = path
    holder: Any = tree
    for depth, key in enumerate(parents):
        holder = _step_into(holder, key, override, dotted((*parents[: depth + 1],)))
    if isinstance(holder, list) and not (isinstance(last, int) and last < len(holder)):
        raise RecipeError(f"argument {override!r}: {dotted(tuple(parents))} is a list of {len(holder)}")
    holder[last] = value
    source = SourceLine(f"argument {override!r}")
    _forget_below(places, (*parents, last))
    places[(*parents, last)] = source
    for depth in range(1, len(parents) + 1):
        places.setdefault((*parents[:depth],), source)
    return [] if note is None else [f"argument {override!r}: {note}"]


def _step_into(holder: Any, key: str | int, override: str, path: str) -> Any:  # noqa: ANN401
    if isinstance(holder, list) and isinstance(key, int) and key < len(holder):
        inner = holder[key]
    elif isinstance(holder, dict):
        inner = holder.setdefault(key, {})
        if inner is None:
            inner = holder[key] = {}
    else:
        raise RecipeError(f"argument {override!r}: {path} does not exist")
    if not isinstance(inner, dict | list):
        raise RecipeError(f"argument {override!r}: {path} is a value ({inner!r}), not a section")
    return inner


def _validated(tree: dict[str, Any], places: SourceLines, path: Path, context: str) -> Recipe:
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        relevant: list[dict[str, Any]] = [dict(e) for e in error.errors() if not is_other_arm(dict(e))]
        messages = [message(e["loc"], explain(e["loc"], e), places, path) for e in relevant]
    except RecursionError as error:
        raise RecipeError(f"{path}: nested too deeply") from error
    else:
        messages = [message(loc, text, places, path) for loc, text in recipe.inconsistencies()]
        if not messages:
            return recipe
    messages = list(dict.fromkeys(messages))
    more = [f"... and {len(messages) - MAX_ERRORS_SHOWN} more"] if len(messages) > MAX_ERRORS_SHOWN else []
    raise RecipeError("\n".join([f"recipe refused ({context}):", *messages[:MAX_ERRORS_SHOWN], *more]))


def _kind(value: object) -> str:
    return "empty" if value is None else f"a {type(value).__name__}"


def to_yaml(recipe: BaseModel) -> str:
    """The resolved recipe as YAML that `load` can read."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, width=100)


def json_schema() -> dict[str, Any]:
    """A JSON schema for editors: a recipe whose every field is optional at the top, with `profiles`."""
    schema = Recipe.model_json_schema()
    profile = {"type": "object", "description": "fields laid over the recipe when this profile is chosen"}
    schema["properties"]["profiles"] = {"type": "object", "additionalProperties": profile}
    return schema


def default_profile() -> tuple[str, str]:
    """`slurm` if `sbatch` responds, else `laptop`; and the reason."""
    if shutil.which("sbatch") is None:
        return "laptop", "there is no sbatch here"
    try:
        answer = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return "laptop", f"sbatch does not answer ({error})"
    return "slurm", f"sbatch answers ({answer.stdout.strip()})"
