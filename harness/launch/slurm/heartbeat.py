"""Heartbeat files, which show that a job is alive on clusters without accounting."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from harness.storage.atomic import write_json

BEAT_SECONDS = 20


def job_id() -> str:
    """The SLURM id of this process's job, `123` or `123_4`; empty outside SLURM."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array else os.environ.get("SLURM_JOB_ID", "")


def heartbeat(folder: Path, task: str) -> Path:
    """The heartbeat file of a task's job."""
    return folder / f"heartbeat-{task}.json"


def start_heartbeat(path: Path) -> None:
    """Write a heartbeat every `BEAT_SECONDS` from a daemon thread, for as long as this process lives."""
    restart, code = int(os.environ.get("SLURM_RESTART_COUNT", "0")), str(Path(__file__).parents[3])
    beat: dict[str, Any] = {"job": job_id(), "restart": restart, "code": code}

    def beat_forever() -> None:
        while True:
            write_json(path, {**beat, "time": time.time()})
            time.sleep(BEAT_SECONDS)

    threading.Thread(target=beat_forever, daemon=True).start()
