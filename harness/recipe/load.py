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

from harness.recipe.axes import problems_of_axes
from harness.recipe.errors import RecipeError, SourceLine, SourceLines, dotted, explain, is_other_arm, message, shown
from harness.recipe.fields import FieldPath
from harness.recipe.old_names import accept_old_names, current_path
from harness.recipe.schema import Recipe
from harness.recipe.yaml_text import MAX_DEPTH, parse_value, read_yaml

KEPT = "resolved.yaml"  # in the output of a study: its recipe with the profile and the overrides that it was run with
INDEX = re.compile(r"[0-9]{1,6}")  # of a list
MAX_ERRORS_SHOWN = 12
PATIENCE = (10.0, 30.0)  # seconds of each try
UNCONFIGURED = re.compile(
    r"configuration source|unable to (?:process|read|open) configuration|slurm\.conf.*(?:not found|no such file)",
    re.IGNORECASE,
)
"""What sbatch says on a machine that belongs to no cluster."""
VERSION = re.compile(r"slurm[a-z-]{0,20} \d[\w.-]{0,40}")  # `slurm 22.05.8`, `slurm-wlm 22.05.8`
PROFILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


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
    for name in profiles:
        if not isinstance(name, str) or not PROFILE.fullmatch(name):
            place = places.get(("profiles", str(name)), places[("profiles",)])
            raise RecipeError(f"{place}: profiles: {shown(name)} must be letters, digits, '_', '.' and '-', at most 64")
    if profile not in profiles:
        known = ", ".join(profiles) or "none"
        cure = f"; add `profiles: {{{profile}: {{}}}}` to run it as it is" if not profiles else ""
        raise RecipeError(f"{path}: has no profile {shown(profile)}; its profiles: {known}{cure}")
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


def load_kept(output: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a study that was run, from its output, with `overrides` on top.

    Raises:
        RecipeError: the folder holds no recipe, or it was run from another folder, which its paths are relative to.
    """
    path = output / KEPT
    if not path.is_file():
        raise RecipeError(f"{output} is a folder without {KEPT}: name a recipe, or the output of a study that was run")
    tree, places = read_yaml(path)
    notes = [note for override in overrides for note in _apply_override(tree, places, override)]
    recipe = _validated(tree, places, path, "as it was run")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if recipe.output.resolve() != output.resolve():
        raise RecipeError(
            f"{path}: its output is {recipe.output}, which is not this folder from here: go to the folder that the "
            "study was run from, which its paths are relative to, or name the recipe"
        )
    return recipe


def _with_profile(
    tree: dict[str, Any], places: SourceLines, name: str, changes: dict[str, Any]
) -> tuple[dict[str, Any], SourceLines]:
    """`changes` laid over `tree`: mappings merge, everything else is replaced."""
    changed = {p[2:]: place for p, place in places.items() if p[:2] == ("profiles", name) and len(p) > 2}
    kept = {p: place for p, place in places.items() if p[:1] != ("profiles",)}
    replaced = {path for path in changed if not isinstance(_at(changes, path), dict)}
    kept = {p: place for p, place in kept.items() if not any(p[:n] in replaced for n in range(1, len(p)))}
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
    source = SourceLine(f"argument {shown(override)}")
    if not equals or not dotted_path or dotted_path.count(".") >= MAX_DEPTH:
        raise RecipeError(f"{source}: an override is written field.path=value, as in train.epochs=2")
    value = parse_value(text, str(source))
    path, note = current_path(tuple(int(k) if INDEX.fullmatch(k) else k for k in dotted_path.split(".")))
    *parents, last = path
    holder: Any = tree
    for depth, key in enumerate(parents):
        holder = _step_into(holder, key, source, dotted((*parents[: depth + 1],)))
    if isinstance(holder, list) and not (isinstance(last, int) and last < len(holder)):
        raise RecipeError(f"{source}: {dotted(tuple(parents))} is a list of {len(holder)}")
    holder[last] = value
    _forget_below(places, (*parents, last))
    places[(*parents, last)] = source
    for depth in range(1, len(parents) + 1):
        places.setdefault((*parents[:depth],), source)
    return [] if note is None else [f"{source}: {note}"]


def _step_into(holder: Any, key: str | int, source: SourceLine, path: str) -> Any:  # noqa: ANN401
    if isinstance(holder, list) and isinstance(key, int) and key < len(holder):
        inner = holder[key]
    elif isinstance(holder, dict):
        inner = holder.setdefault(key, {})
        if inner is None:
            inner = holder[key] = {}
    else:
        raise RecipeError(f"{source}: {path} does not exist")
    if not isinstance(inner, dict | list):
        raise RecipeError(f"{source}: {path} is a value ({shown(inner)}), not a section")
    return inner


def _validated(tree: dict[str, Any], places: SourceLines, path: Path, context: str) -> Recipe:
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        relevant: list[dict[str, Any]] = [dict(e) for e in error.errors() if not is_other_arm(dict(e))]
        wrong: Iterator[tuple[FieldPath, str]] = ((e["loc"], explain(e["loc"], e)) for e in relevant)
        count = len(relevant)
    except RecursionError as error:
        raise RecipeError(f"{path}: nested too deeply") from error
    else:
        inconsistencies = recipe.inconsistencies() or problems_of_axes(recipe)
        if not inconsistencies:
            return recipe
        wrong, count = iter(inconsistencies), len(inconsistencies)
    # Only those that are shown are written out: a message takes milliseconds, and there may be thousands.
    messages = list(dict.fromkeys(message(loc, text, places, path) for loc, text in islice(wrong, MAX_ERRORS_SHOWN)))
    more = [f"... and {count - MAX_ERRORS_SHOWN} more"] if count > MAX_ERRORS_SHOWN else []
    raise RecipeError("\n".join([f"recipe refused ({context}):", *messages, *more]))


def to_yaml(recipe: BaseModel) -> str:
    """The resolved recipe as YAML that `load` can read."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, width=100)


def json_schema() -> dict[str, Any]:
    """A JSON schema for editors: a recipe whose every field is optional at the top, with `profiles`."""
    schema = Recipe.model_json_schema()
    profile = {"type": "object", "description": "fields laid over the recipe when this profile is chosen"}
    text = "{name: fields}: what --profile changes; without it, slurm where sbatch answers, else laptop"
    schema["properties"]["profiles"] = {"type": "object", "additionalProperties": profile, "description": text}
    return schema


def default_profile() -> tuple[str, str]:
    """`slurm` if `sbatch` responds, `laptop` if there is none or it has no cluster to speak to; and the reason.

    A slow one is asked twice, for 40 s together.

    Raises:
        RecipeError: it is installed and does not answer. A study must not run on a login node because SLURM was slow.
    """
    if shutil.which("sbatch") is None:
        return "laptop", "there is no sbatch here"
    why = ""
    for seconds in PATIENCE:
        try:
            return "slurm", f"sbatch answers ({_slurm_version(seconds)})"
        except subprocess.TimeoutExpired:
            why = f"does not answer within {seconds:g} s"
        except subprocess.CalledProcessError as error:
            words = (error.stderr or b"").decode(errors="replace").strip()
            if UNCONFIGURED.search(words):
                return "laptop", "sbatch is installed here, and no cluster is configured"
            why = f"fails: {words.splitlines()[-1] if words else f'exit status {error.returncode}'}"
            break
        except OSError as error:
            why = f"cannot be run: {error.strerror}"
            break
    raise RecipeError(
        f"sbatch is installed here and {why}. Choose: --profile slurm for the cluster, or --profile laptop"
    )


def _slurm_version(seconds: float) -> str:
    """The version that `sbatch --version` prints, without what a site prints around it."""
    command = ["sbatch", "--version"]
    done = subprocess.run(command, capture_output=True, timeout=seconds, check=True, stdin=subprocess.DEVNULL)
    version = VERSION.search(done.stdout.decode(errors="replace"))
    return version[0] if version else "without its version"
