"""A run's scalars as TensorBoard reads them: one record of its event file for each row of the log."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from harness.storage.appended import AppendedFile

VERSION = "brain.Event:2"


class EventFile:
    """Written by the thread that logs. TensorBoard's own writer has a thread, which a full disk ends."""

    def __init__(self, folder: Path, step: int) -> None:
        """Begin a file, which hides what earlier files of this folder have at `step` and later."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = AppendedFile(folder / name)
        self._add(Event(wall_time=time.time(), step=step, file_version=VERSION).SerializeToString())
        start = SessionLog(status=SessionLog.START)
        self._add(Event(wall_time=time.time(), step=step, session_log=start).SerializeToString())

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add numbers by their names in TensorBoard."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._add(Event(wall_time=time.time(), step=step, summary=summary).SerializeToString())

    def close(self) -> None:
        self._file.close()

    def _add(self, event: bytes) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = io.BytesIO()
        RecordWriter(record).write(event)
        self._file.append(record.getvalue())
