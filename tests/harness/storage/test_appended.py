"""Covers `appended`: pieces are in the file whole and in order, whatever a disk refuses on the way."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.storage.appended import AppendedFile


class Disk:
    """A file that takes so many bytes in all, at most three at a time."""

    def __init__(self, file: object, room: int) -> None:
        self._file, self.room = file, room

    def write(self, data: memoryview) -> int:
        part = data[: min(3, self.room)]
        if not part:
            raise OSError(28, "No space left on device")
        self.room -= len(part)
        return int(self._file.write(part))  # type: ignore[attr-defined]

    def fileno(self) -> int:
        return int(self._file.fileno())  # type: ignore[attr-defined]

    def close(self) -> None:
        self._file.close()  # type: ignore[attr-defined]


@given(st.lists(st.binary(max_size=8), max_size=8), st.lists(st.integers(0, 40), min_size=8, max_size=8))
def test_pieces_are_whole_at_any_time_and_all_there_once_there_is_room(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], rooms: list[int]
) -> None:
    path = tmp_path_factory.mktemp("disk") / "log"
    file = AppendedFile(path)
    disk = Disk(file._file, 0)
    file._file = disk  # type: ignore[assignment]
    wholes = [b"".join(pieces[:count]) for count in range(len(pieces) + 1)]
    for piece, room in zip(pieces, rooms, strict=False):
        disk.room = room
        file.append(piece)
        assert path.read_bytes() in wholes
    disk.room = 100
    file.close()
    assert path.read_bytes() == wholes[-1]


def test_a_full_disk_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = AppendedFile(tmp_path / "log")
    file._file = disk = Disk(file._file, 2)  # type: ignore[assignment]
    for _ in range(3):
        file.append(b"row\n")
    assert capsys.readouterr().err.count(f"warning: {tmp_path / 'log'}: No space left on device") == 1
    disk.room = 100
    assert file.position() == 0
    file.close()
    assert (tmp_path / "log").read_bytes() == b"row\n" * 3
