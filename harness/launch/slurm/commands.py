"""SLURM's own commands: asked with a time limit, answered as text, refused in SLURM's words."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Sequence

SECONDS = 60
DEFAULT_MAX_ARRAY = 1001  # SLURM's own default


class SlurmError(RuntimeError):
    """A SLURM command that failed or did not answer; the text is SLURM's."""


def ask(*command: str) -> str:
    """What a SLURM command prints.

    Raises:
        SlurmError: it is not installed, fails, or does not answer within a minute.
    """
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
    except FileNotFoundError as error:
        raise SlurmError(f"{command[0]} is not installed here") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{command[0]} does not answer within {SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        raise SlurmError((error.stderr or error.stdout).strip() or f"{command[0]} failed") from error
    return done.stdout


def refusal(options: Sequence[str]) -> str | None:
    """Why `sbatch` would refuse a job of these options, in its own words; None if it would take it."""
    try:
        ask("sbatch", "--test-only", *options, "--wrap=true")
    except SlurmError as error:
        return str(error)
    return None


def longest_minutes(partition: str | None) -> float:
    """The longest time limit of a partition, or of the default one; infinite where there is none.

    Many clusters queue a job beyond it for ever instead of refusing it.
    """
    for line in ask("sinfo", "--noheader", "--format=%P %l").splitlines():
        name, _, limit = line.partition(" ")
        if name.rstrip("*") == partition or (partition is None and name.endswith("*")):
            return _minutes(limit.strip())
    return math.inf


def _minutes(limit: str) -> float:
    """`1-02:03:04`, `02:03:04`, `03:04` or `infinite`, in minutes."""
    days, _, clock = limit.rpartition("-")
    if not clock.replace(":", "").isdigit():
        return math.inf
    hours, minutes, seconds = ([0.0, 0.0] + [float(part) for part in clock.split(":")])[-3:]
    return float(days or 0) * 1440 + hours * 60 + minutes + seconds / 60


def max_array_size() -> int:
    """How many elements a job array may have here (`MaxArraySize` is one more than the highest index)."""
    for line in ask("scontrol", "show", "config").splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "MaxArraySize":
            return int(value)
    return DEFAULT_MAX_ARRAY


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs or array elements (`123`, `123_4`); those that have ended are left alone."""
    if jobs:
        ask("scancel", *jobs)


def throttle(array: str, parallel: int) -> None:
    """Let at most `parallel` elements of a queued array run at one time."""
    ask("scontrol", "update", f"JobId={array}", f"ArrayTaskThrottle={parallel}")


def requeue(job: str) -> None:
    """Put a running job back into the queue under its own id."""
    ask("scontrol", "requeue", job)
