"""Heartbeat files, which show that a job is alive: on clusters without accounting, and to users who cannot see it."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.storage.atomic import write_json
from harness.storage.json_files import is_number, read_json
from harness.storage.locks import file_owner, user_name

BEAT_SECONDS = 20
SILENT_SECONDS = 10 * BEAT_SECONDS  # a job that gave no sign of life for so long is taken for dead
MOST_RESTARTS = 1_000_000


def job_id() -> str:
    """The SLURM id of this process's job, `123` or `123_4`; empty outside SLURM."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array else os.environ.get("SLURM_JOB_ID", "")


def restarts() -> int:
    """How often SLURM has restarted this process's job."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def heartbeat(folder: Path, task: str) -> Path:
    """The heartbeat file of a task's job."""
    return folder / f"heartbeat-{task}.json"


@dataclass(frozen=True)
class Beat:
    """The last sign of life of a job: when it was given, and how often SLURM had restarted the job."""

    time: float = 0.0
    restart: int = 0
    job: str = ""
    user: str = ""
    host: str = ""

    @property
    def age(self) -> float:
        """Seconds since the sign was given."""
        return time.time() - self.time

    @property
    def is_recent(self) -> bool:
        return self.age < SILENT_SECONDS


def read_beat(path: Path, job: str | None = None) -> Beat:
    """The last heartbeat of a job, or of any if None; one of long ago if the file has none."""
    try:
        value = read_json(path)
    except (FileNotFoundError, ValueError):
        return Beat()
    if not isinstance(value, dict) or not isinstance(value.get("job"), str) or job not in (None, value["job"]):
        return Beat()
    seconds, restart = value.get("time"), value.get("restart")
    if not is_number(seconds) or not is_number(restart, 0, MOST_RESTARTS):
        return Beat()
    user, host = (str(value.get(name, ""))[:256] for name in ("user", "host"))
    return Beat(float(seconds), int(restart), value["job"], user or file_owner(path), host)


def start_heartbeat(path: Path) -> None:
    """Write a heartbeat every `BEAT_SECONDS` from a daemon thread, for as long as this process lives."""
    code = str(Path(__file__).parents[3])
    who = {"job": job_id(), "user": user_name(), "host": socket.gethostname()}
    beat: dict[str, Any] = {**who, "restart": restarts(), "code": code}

    def beat_forever() -> None:
        while True:
            with suppress(OSError):  # a full disk: the next beat may be written
                write_json(path, {**beat, "time": time.time()})
            time.sleep(BEAT_SECONDS)

    threading.Thread(target=beat_forever, daemon=True).start()
