"""The tutorial's commands are run as they are written, on the four real wells that it names, and print what it shows.

Numbers, dates and durations differ from run to run, so a line is compared by its words. The long command is shortened
by an override, which the page does not need.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
SHORTER = "train.epochs=50 embed.batch=64 'grid.models=[vit_s16]'"
RUN = "python -m harness.sweep four.yaml"
NUMBER = re.compile(r"[0-9][0-9.,:e+-]*")
ID = re.compile(r"-[0-9a-f]{8}\b")


@dataclass(frozen=True)
class Step:
    """A command of the page, and what the page says it prints."""

    command: str
    shown: list[str]


def steps() -> list[Step]:
    """The commands in ```console blocks; a command goes on after a backslash."""
    found: list[Step] = []
    for block in re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL):
        for text in re.split(r"^\$ ", block.replace("\\\n", ""), flags=re.MULTILINE)[1:]:
            command, *shown = text.rstrip().splitlines()
            found.append(Step(command, shown))
    return found


def table() -> str:
    """The wells.csv that the page shows."""
    (text,) = re.findall(r"```csv\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return text


def words(line: str) -> str:
    """A line without what differs from run to run."""
    return NUMBER.sub("#", ID.sub("-#", line)).strip()


def test_the_page_goes_from_a_folder_to_a_report() -> None:
    commands = [step.command for step in steps()]
    for verb in ("shards.build", "harness.sweep init", "harness.sweep check", "harness.sweep plan", RUN, "ls runs"):
        assert any(verb in command for command in commands), verb


@pytest.mark.slow
def test_its_commands_print_what_it_shows(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(real_data)
    (tmp_path / "wells.csv").write_text(table())
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for step in steps():
        command = f"{step.command} {SHORTER}" if step.command == RUN else step.command
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500, check=False
        )  # fmt: skip
        is_refused = any(line.startswith("problem:") for line in step.shown)
        assert done.returncode == int(is_refused), (command, done.stdout, done.stderr)
        printed = [words(line) for line in done.stdout.splitlines()]
        expected = [line for line in step.shown if line.strip() != "..." and not _is_left_out(step, line)]
        assert [line for line in expected if words(line) not in printed] == [], (command, printed)


def _is_left_out(step: Step, line: str) -> bool:
    """The shorter run has not the page's second model, nor its warnings on the machine of whoever runs the tests."""
    return line.startswith("profile ") or (step.command == RUN and "vit_b16" in line)
