"""Commands of our own in place of SLURM's: fixed answers, or a queue in a file that takes what sbatch is given."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from harness.launch.slurm import commands, executor

QUEUE = """\
case "$*" in
  *%j*) echo "ARRAY_JOB_ID|NAME|COMMAND"; /bin/cat {folder}/names ;;
  *) echo "JOBID|ARRAY_JOB_ID_ARRAY_TASK_ID|STATE|REASON"; /usr/bin/sed 's/|.*/|PENDING|None/; s/^\\([0-9]*\\)/\\1|\\1/' {folder}/names ;;
esac
"""  # noqa: E501
TAKE = """\
[ "$1" = --test-only ] && exit 0
id=$((4710 + $(/usr/bin/wc -l < {folder}/calls-sbatch)))
take() {{ echo "$id|$(/usr/bin/sed -n 's/^#SBATCH --job-name=//p' "$1")|$1" >> {folder}/names; }}
"""


class Stubs:
    """A folder that is all of PATH, with one script for each command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "names").write_text("")

    def script(self, name: str, text: str) -> None:
        """Run this shell code as a command; its arguments are recorded."""
        log = shlex.quote(str(self.folder / f"calls-{name}"))
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "$*" >> {log}\n{text}\n')
        path.chmod(0o755)

    def answer(self, name: str, printed: str | bytes = "", messages: str = "", status: int = 0) -> None:
        """Print this, whatever is asked."""
        for stream, text in (("out", printed), ("err", messages)):
            (self.folder / f"{name}.{stream}").write_bytes(text if isinstance(text, bytes) else text.encode())
        files = shlex.quote(str(self.folder / name))
        self.script(name, f"/bin/cat {files}.out; /bin/cat {files}.err >&2; exit {status}")

    def cluster(self, sbatch: str) -> None:
        """A SLURM that queues what `take "$1"` in sbatch's script is given, and knows no other job."""
        self.script("squeue", QUEUE.format(folder=self.folder))
        self.script("sbatch", TAKE.format(folder=self.folder) + sbatch)
        for name in ("sacct", "sinfo", "scontrol", "scancel"):
            self.answer(name)

    def calls(self, name: str) -> list[str]:
        """The arguments of each call of a command so far."""
        path = self.folder / f"calls-{name}"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def stubs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Stubs:
    """No SLURM but what a test defines, and no pauses between tries."""
    folder = tmp_path_factory.mktemp("bin")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(commands, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(executor, "LOOKS", (0.0, 0.0, 0.0))
    return Stubs(folder)
