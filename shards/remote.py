"""Files of a shard set on an object store or a web server: ranged requests that time out, are checked, and tried again.

Any URL that fsspec knows: `s3://bucket/set` (needs s3fs), `https://host/set`, `gs://...`, `file:///...`.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from io import BufferedReader
from typing import IO, Any

from shards.cache import FileCache, WrongContentError

PIECE = 16 << 20
"""Bytes of one request while a whole file is downloaded: all that is held in memory, and all that a retry repeats."""

PASSING = {408, 425, 429}
"""HTTP statuses below 500 that may pass."""


class RemoteError(OSError):
    """A request failed for good; the message names the URL, the number of attempts and the last reason."""


class RangesIgnoredError(OSError):
    """The server answers a request for some bytes with more than these."""


@dataclass(frozen=True)
class Patience:
    """How long to insist: `attempts` of at most `seconds` each, after pauses that double from `pause` seconds."""

    attempts: int = 5
    seconds: float = 60.0
    pause: float = 0.5


@dataclass(frozen=True)
class Store:
    """A folder of files behind a URL. `options` go to fsspec's file system: endpoint, keys, client settings (JSON)."""

    url: str
    patience: Patience = Patience()
    options: Mapping[str, Any] = field(default_factory=dict)

    def locate(self, name: str) -> str:
        """The URL of a file."""
        return f"{self.url.rstrip('/')}/{name}"

    def read(self, name: str, begin: int = 0, end: int | None = None) -> bytes:
        """Bytes `begin` to `end` (exclusive) of a file, or to its end.

        Raises FileNotFoundError, PermissionError, or RemoteError once patience is at its end.
        """
        url = self.locate(name)
        for number in range(1, self.patience.attempts + 1):
            try:
                return self._get(url, begin, end)
            except (FileNotFoundError, PermissionError) as error:
                raise type(error)(f"{url}: {error}") from error
            except Exception as error:  # each file system raises errors of its own
                if number == self.patience.attempts or not _may_pass(error):
                    reason = f"{type(error).__name__}: {error}".rstrip(": ")
                    raise RemoteError(f"{url} cannot be read (attempt {number}): {reason}") from error
                time.sleep(self.patience.pause * 2 ** (number - 1) * random.uniform(0.5, 1))
        raise ValueError(f"{url}: patience of {self.patience.attempts} attempts allows none")

    def read_many(self, ranges: Sequence[tuple[str, int, int]], at_once: int = 32) -> list[bytes]:
        """Ranges (file, begin, end) of bytes, `at_once` requests at one time; errors as in `read`."""
        with ThreadPoolExecutor(max(1, min(at_once, len(ranges)))) as pool:
            return list(pool.map(lambda place: self.read(*place), ranges))

    def download(self, name: str, size: int, file: IO[bytes]) -> None:
        """Write the whole of a file of known size; errors as in `read`."""
        file.seek(0)
        for begin in range(0, size, PIECE):
            file.write(self.read(name, begin, min(size, begin + PIECE)))

    def cached(self, cache: FileCache, name: str, size: int, sha256: str) -> BufferedReader:
        """The whole file, open on this machine, downloaded if it is not there; errors as in `read` and `hold`."""
        try:
            return cache.hold(sha256, size, lambda file: self.download(name, size, file))
        except WrongContentError as error:
            raise WrongContentError(f"{self.locate(name)}: {error}") from None

    def _get(self, url: str, begin: int, end: int | None) -> bytes:
        """One request; whatever the file system raises, EOFError if too little came, RangesIgnoredError if too much."""
        if begin == end:
            return b""
        from fsspec.asyn import sync

        fs = _file_system(self.url, json.dumps(dict(self.options), sort_keys=True), os.getpid())
        path = fs._strip_protocol(url)
        data: bytes
        if fs.async_impl:
            data = sync(fs.loop, fs._cat_file, path, start=begin, end=end, timeout=self.patience.seconds)
        else:
            data = fs.cat_file(path, start=begin, end=end)
        if end is not None and len(data) != end - begin:
            error = RangesIgnoredError if len(data) > end - begin else EOFError
            raise error(f"{len(data)} bytes came for bytes {begin} to {end}")
        return data


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may succeed: not where the request itself is refused, or cannot even be made."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status in PASSING
    return not isinstance(error, (RangesIgnoredError, RemoteError, IsADirectoryError, NotImplementedError))


@lru_cache(16)
def _file_system(url: str, options: str, process: int) -> Any:  # noqa: ANN401  (fsspec has no types)
    """One file system for all threads of a process, where fsspec itself would make one for each."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url, skip_instance_cache=True, **json.loads(options))[0]
    except (ImportError, ValueError) as error:
        raise RemoteError(f"{url} cannot be opened: {error}") from error
