"""The build command: its errors, its start, and a second run of it."""

import re
import subprocess
import sys

import pytest

from shards.build import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--root", "nowhere"], "nowhere: no such folder"),
        (["--option", "colour=red"], "layout 'rxrx3' has no option 'colour'"),
        (["--option", "colour"], "expected NAME=VALUE"),
        (["--wells-per-shard", "0"], "must be at least 1"),
        (["--validation-fraction", "1.5"], "must be at least 0 and below 1"),
    ],
)
def test_the_command_line_prints_its_errors(screen, tmp_path, capsys, arguments, message):
    command = ["--layout", "rxrx3", "--root", str(screen()), "--output", str(tmp_path / "out"), "--workers", "1"]
    assert main([*command, *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_help_does_not_wait_for_heavy_imports():
    code = "import sys, shards.build; print([m for m in ('torch', 'pandas', 'webdataset') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_complete_build_is_left_untouched(screen, tmp_path, capsys):
    root, output = screen(), tmp_path / "out"
    command = ["--layout", "rxrx3", "--root", str(root), "--output", str(output), "--workers", "1"]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "built in" in printed.out
    assert re.search(r"12/12 \[\d\d:\d\d<00:00, .* MB/s of pixels\]", printed.err)  # done, elapsed, remaining, speed
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    assert main(command) == 0
    assert "already complete: nothing was changed" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before
