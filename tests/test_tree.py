"""The tree keeps its shape: commands on top, small folders, no import cycle, mirrored tests, fast commands.

Which folder may import which is import-linter's affair (`make lint`).
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

from harness.data.prepare import prepare
from harness.recipe.load import load

ROOT = Path(__file__).parents[1]
PACKAGES = ("harness", "shards", "analysis")
COMMANDS = {
    "harness": {"sweep", "export", "probe", "memory"},
    "shards": {"build", "verify", "inspect", "index", "assay"},
    "analysis": {"evaluate", "fit", "paper"},
}
AT_THE_BOTTOM = {"harness": set[str](), "shards": {"errors"}, "analysis": {"arrays"}}
MODULES_IN_A_FOLDER = 13
FOLDERS_IN_A_CHAIN = 8
LINES_OF_SIZE = 60
HEAVY = {"torch", "pandas", "scipy", "pyarrow", "matplotlib", "timm", "submitit", "numba", "plotly", "sklearn"}
WITHOUT_TORCH = (
    "harness.stages.missing", "harness.stages.tasks", "harness.launch.status", "harness.plan.cost",
    "harness.plan.step_time", "harness.plan.memory", "harness.plan.resources", "harness.plan.table",
    "harness.distributed.preemption", "harness.distributed.engine_choice", "harness.distributed.micro_batches",
    "harness.embed.parts", "harness.models.architecture", "harness.models.config", "harness.storage.ledger",
)  # fmt: skip


def modules(package: str) -> Iterator[Path]:
    """Every module of a package, relative to the root; not the `__init__` files."""
    paths = sorted((ROOT / package).rglob("*.py"))
    return (path.relative_to(ROOT) for path in paths if path.name != "__init__.py")


def folders(package: str) -> list[Path]:
    return sorted({path.parent for path in modules(package)})


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    """Who imports whom, lazy and type-only imports included."""
    return grimp.build_graph(*PACKAGES, cache_dir=None)


@pytest.mark.parametrize("package", PACKAGES)
def test_only_commands_lie_on_top_of_a_package(package: str) -> None:
    top = {path.stem for path in modules(package) if len(path.parts) == 2}
    assert top == COMMANDS[package] | AT_THE_BOTTOM[package]
    for command in COMMANDS[package]:
        assert 'if __name__ == "__main__":' in (ROOT / package / f"{command}.py").read_text()


@pytest.mark.parametrize("package", PACKAGES)
def test_folders_are_small_and_say_what_they_are_for(package: str) -> None:
    for folder in folders(package):
        count = sum(path.parent == folder for path in modules(package))
        assert count <= MODULES_IN_A_FOLDER, f"{folder} has {count} modules"
        body = ast.parse((ROOT / folder / "__init__.py").read_text()).body
        docstring = ast.get_docstring(ast.Module(body, []))
        assert docstring, f"{folder}/__init__.py says nothing"
        if folder != Path("shards"):  # which keeps `decode` for webdataset
            assert len(body) == 1, f"{folder}/__init__.py holds more than its docstring"
            assert "\n" not in docstring, f"{folder}/__init__.py: a line is enough"


def test_no_file_imports_itself_by_a_detour(imports: grimp.ImportGraph) -> None:
    """TopologicalSorter raises CycleError, which names the cycle."""
    TopologicalSorter({name: imports.find_modules_directly_imported_by(name) for name in imports.modules}).prepare()


def test_chains_of_folders_are_short(imports: grimp.ImportGraph) -> None:
    for package in PACKAGES:
        edges: dict[str, set[str]] = {}
        for name in imports.modules:
            for other in imports.find_modules_directly_imported_by(name):
                above, below = (".".join(module.split(".")[:2]) for module in (name, other))
                if above != below and above.startswith(f"{package}.") and below.startswith(f"{package}."):
                    edges.setdefault(above, set()).add(below)
        depth: dict[str, int] = {}
        for folder in TopologicalSorter(edges).static_order():
            depth[folder] = 1 + max((depth[below] for below in edges.get(folder, ())), default=0)
        assert max(depth.values()) <= FOLDERS_IN_A_CHAIN, {name: d for name, d in depth.items() if d > 6}


@pytest.mark.parametrize("package", PACKAGES)
def test_tests_mirror_the_tree(package: str) -> None:
    """A module of size has a test file of its name, or the docstring of a test file in its folder names it."""
    missing = []
    for path in modules(package):
        folder = ROOT / "tests" / path.parent
        if len((ROOT / path).read_text().splitlines()) < LINES_OF_SIZE or (folder / f"test_{path.name}").exists():
            continue
        docstrings = (ast.get_docstring(ast.parse(test.read_text())) or "" for test in folder.glob("test_*.py"))
        if not any(re.search(rf"`{path.stem}`", docstring) for docstring in docstrings):
            missing.append(str(path))
    assert not missing, "\n".join(missing)


def test_no_test_file_mirrors_a_module_that_is_gone() -> None:
    for package in PACKAGES:
        for folder in (ROOT / "tests" / package).rglob("*"):
            if folder.is_dir() and folder.name != "__pycache__":
                assert (ROOT / folder.relative_to(ROOT / "tests")).is_dir(), f"{folder} mirrors no folder"


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_what_plans_and_watches_needs_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(sorted({HEAVY!r} & set(sys.modules)))"
    assert _stdout("-c", code) == "[]\n"


@pytest.mark.parametrize("command", [f"{package}.{name}" for package in PACKAGES for name in sorted(COMMANDS[package])])
def test_help_starts_fast(command: str) -> None:
    """It imports nothing heavy, which is what makes a command slow."""
    code = (
        f"import sys, runpy\nsys.argv = ['{command}', '--help']\n"
        f"try:\n    runpy.run_module('{command}', run_name='__main__')\n"
        f"except SystemExit as end:\n    assert not end.code\n"
        f"heavy = sorted({HEAVY!r} & set(sys.modules))\nassert not heavy, heavy\n"
    )
    assert "usage:" in _stdout("-c", code)


@pytest.mark.parametrize("verb", ["plan", "status"])
def test_plan_and_status_start_fast(verb: str, tiny_recipe_file: Path) -> None:
    profile, recipe = "slurm", ROOT / "recipes" / "scaling.yaml"
    if verb == "status":  # which reads the manifests of shards
        profile, recipe = "laptop", tiny_recipe_file
        prepare(load(recipe, profile))
    code = (
        "import sys\nfrom harness import sweep\n"
        f"assert sweep.main(['{verb}', {str(recipe)!r}, '--profile', '{profile}']) == 0\n"
        f"heavy = sorted({HEAVY!r} & set(sys.modules))\nassert not heavy, heavy\n"
    )
    assert "cells" in _stdout("-c", code)


def _stdout(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_tests_are_found_without_the_project_on_the_path() -> None:
    """`pytest`, unlike `python -m pytest`, leaves the current folder off the path; `tests/harness` must not win."""
    command = [sys.executable, "-P", "-m", "pytest", "--collect-only", "-q", "tests/harness/recipe"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
