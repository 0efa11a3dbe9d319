"""Parse YAML of unknown origin: bounded in size, depth and expansion, with the source line of every field.

PyYAML's limits are those of Python's stack and memory. An alias costs a few bytes and stands for a whole tree, so a
file of a kilobyte can describe more fields than fit in memory, in lists as in merged mappings (`<<`). Here the tree is
counted before it is built.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from harness.recipe.errors import RecipeError, SourceLine, SourceLines, dotted
from harness.recipe.fields import FieldPath

MAX_BYTES = 100_000  # ten times the longest recipe of this project; PyYAML reads it in half a second
MAX_FIELDS = 20_000
MAX_DEPTH = 30
MAX_DIGITS = 40  # of a number


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 floats (`1e-4` is a number, as anyone who types it expects) and a bounded tree."""

    depth = nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401  (as in its base)
        """Compose a node unless it is one too many, or too deep."""
        self.depth, self.nodes = self.depth + 1, self.nodes + 1
        if self.depth > MAX_DEPTH:
            self._refuse(f"nested more than {MAX_DEPTH} levels deep")
        if self.nodes > MAX_FIELDS:
            self._refuse(f"more than {MAX_FIELDS} fields")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Make a number; one of more digits than any field permits may not be printable."""
        if len(node.value) > MAX_DIGITS:
            raise yaml.MarkedYAMLError(
                problem=f"a number of {len(node.value)} characters, at most {MAX_DIGITS} are permitted",
                problem_mark=node.start_mark,
            )
        kind = node.tag.rsplit(":", 1)[1]
        number: int | float = self.construct_yaml_int(node) if kind == "int" else self.construct_yaml_float(node)
        return number

    def _refuse(self, problem: str) -> None:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.peek_event().start_mark)  # type: ignore[no-untyped-call]


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)
for _kind_of_number in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind_of_number}", _Loader.construct_number)


def read_yaml(path: Path) -> tuple[dict[str, Any], SourceLines]:
    """The file's mapping, and the source line of each of its fields.

    Raises:
        RecipeError: unreadable, too large, not YAML, not a mapping, or a key given twice.
    """
    text = _read(path)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None or not isinstance(node, yaml.MappingNode):
            kind = {yaml.SequenceNode: "a list", yaml.ScalarNode: "a text"}.get(type(node), "empty")
            raise RecipeError(f"{path}:1: a recipe is a mapping of fields (`name: ...`), this is {kind}")
        _check_expansion(node, str(path))
        places = dict(_places(node, str(path), ()))  # before the tree is made, which adds merged fields to its nodes
        tree: dict[str, Any] = loader.construct_document(node)
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(_yaml_message(path, error)) from error
    return tree, places


def parse_value(text: str, source: str) -> Any:  # noqa: ANN401  (any YAML value)
    """The value of an override, which `source` names in errors.

    Raises:
        RecipeError: it is too long, or not YAML.
    """
    if len(text) > MAX_BYTES:
        raise RecipeError(f"{source}: its value has {len(text):,} characters, at most {MAX_BYTES:,} are permitted")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_expansion(node, source)
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError) as error:
        if isinstance(error, RecipeError):
            raise
        problem = getattr(error, "problem", None) or error or type(error).__name__
        raise RecipeError(f"{source}: its value is not valid YAML: {str(problem)[:300]}") from error


def _read(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # a pipe or a device may never end
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
            raise RecipeError(f"{path}: cannot be read: a recipe is a regular file, this is {kind}")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise RecipeError(f"{path}: has more than {MAX_BYTES:,} bytes, which no recipe needs")
        return content.decode("utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except ValueError as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"{str(path)!r}: cannot be read: {error}") from error  # a path with a NUL


def _check_expansion(root: yaml.Node, source: str) -> None:
    """Count fields and depth as if every alias were written out, without writing them out.

    Raises:
        RecipeError: more than MAX_FIELDS, deeper than MAX_DEPTH, or an anchor that holds itself.
    """
    sizes: dict[int, tuple[int, int]] = {}  # of each node: fields and levels, once its aliases are expanded

    deep = f"{source}: nested more than {MAX_DEPTH} levels deep once its anchors are expanded"

    def measure(node: yaml.Node, above: tuple[int, ...]) -> tuple[int, int]:
        if id(node) in above:
            raise RecipeError(f"{source}:{node.start_mark.line + 1}: an anchor that holds itself")
        if len(above) > MAX_DEPTH:
            raise RecipeError(deep)
        if id(node) not in sizes:
            inner = [measure(child, (*above, id(node))) for child in _children(node)]
            sizes[id(node)] = 1 + sum(size for size, _ in inner), 1 + max((levels for _, levels in inner), default=0)
        return sizes[id(node)]

    fields, levels = measure(root, ())
    if levels > MAX_DEPTH:
        raise RecipeError(deep)
    if fields > MAX_FIELDS:
        raise RecipeError(f"{source}: more than {MAX_FIELDS} fields once its anchors are expanded")


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _yaml_message(path: Path, error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"{path}:{mark.line + 1}" if mark is not None else str(path)
    return f"{place}: not valid YAML: {str(getattr(error, 'problem', None) or error or type(error).__name__)[:300]}"


def _places(node: yaml.Node, source: str, path: FieldPath) -> Iterator[tuple[FieldPath, SourceLine]]:
    yield path, SourceLine(source, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(f"{source}:{line}: {dotted(path) or 'the recipe'}: a field's name must be a text")
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
