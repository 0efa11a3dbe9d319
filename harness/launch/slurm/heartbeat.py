"""Heartbeats: how a job shows that it is alive on clusters without accounting."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from harness.storage.atomic import write_json

BEAT_SECONDS = 20


def job_id() -> str:
    array, element = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{element}" if array else os.environ.get("SLURM_JOB_ID", "")


def heartbeat(folder: Path, task: str) -> Path:
    """Where the job of a piece says that it lives."""
    return folder / f"heartbeat-{task}.json"


def start_heartbeat(path: Path) -> None:
    """Say every few seconds that this start lives, for clusters that keep no account of their jobs."""
    restart, code = int(os.environ.get("SLURM_RESTART_COUNT", "0")), str(Path(__file__).parents[3])
    beat: dict[str, Any] = {"job": job_id(), "restart": restart, "code": code}

    def go_on() -> None:
        while True:
            write_json(path, {**beat, "time": time.time()})
            time.sleep(BEAT_SECONDS)

    threading.Thread(target=go_on, daemon=True).start()
