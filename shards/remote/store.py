"""Files of a shard set on an object store or a web server: ranged requests that time out, are checked, and tried again.

Any URL that fsspec knows: `s3://bucket/set` (needs s3fs), `https://host/set`, `gs://...`, `file:///...`.
"""

from __future__ import annotations

import json
import logging
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from shards.format.source import LocalFolder, Source
from shards.remote.cache import CacheFullError, FileCache, WrongContentError

Result = TypeVar("Result")
log = logging.getLogger(__name__)

PIECE = 16 << 20
"""Bytes of one request while a whole file is downloaded: all that is held in memory, and all that a retry repeats."""

AT_ONCE = 64
"""Requests of one process under way at one time, for parts of files."""

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

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is none. Errors as in `read`."""
        try:
            found: int | None = self._insist(name, lambda path: self._call("info", path)["size"])
        except FileNotFoundError:
            return None
        if found is None:
            raise RemoteError(f"{self.locate(name)}: the server does not say how many bytes it has")
        return found

    def read(self, name: str, begin: int = 0, end: int | None = None) -> bytes:
        """Bytes `begin` to `end` (exclusive) of a file, or to its end.

        Raises FileNotFoundError, PermissionError, or RemoteError once patience is at its end.
        """
        return self._insist(name, lambda path: self._get(path, begin, end))

    def read_many(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Ranges (file, begin, end) of bytes, many requests at one time; errors as in `read`."""
        return list(_requests(os.getpid()).map(lambda place: self.read(*place), ranges))

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

    def _insist(self, name: str, act: Callable[[str], Result]) -> Result:
        """Act on the path of a file, as often as patience allows."""
        url = self.locate(name)
        for number in range(1, self.patience.attempts + 1):
            try:
                return act(self._files()._strip_protocol(url))
            except (FileNotFoundError, PermissionError) as error:
                raise type(error)(f"{url}: {error}") from error
            except Exception as error:  # each file system raises errors of its own
                if number == self.patience.attempts or not _may_pass(error):
                    reason = f"{type(error).__name__}: {error}".rstrip(": ")
                    raise RemoteError(f"{url} cannot be read (attempt {number}): {reason}") from error
                time.sleep(self.patience.pause * 2 ** (number - 1) * random.uniform(0.5, 1))
        raise ValueError(f"{url}: patience of {self.patience.attempts} attempts allows none")

    def _get(self, path: str, begin: int, end: int | None) -> bytes:
        """One request; whatever the file system raises, EOFError if too little came, RangesIgnoredError if too much."""
        if begin == end:
            return b""
        data: bytes = self._call("cat_file", path, start=begin, end=end)
        if end is not None and len(data) != end - begin:
            error = RangesIgnoredError if len(data) > end - begin else EOFError
            raise error(f"{len(data)} bytes came for bytes {begin} to {end}")
        return data

    def _call(self, method: str, path: str, **arguments: object) -> Any:  # noqa: ANN401  (whatever fsspec returns)
        """Call the file system, within the time that patience allows where it can be interrupted."""
        from fsspec.asyn import sync

        files = self._files()
        if files.async_impl:
            return sync(files.loop, getattr(files, f"_{method}"), path, timeout=self.patience.seconds, **arguments)
        return getattr(files, method)(path, **arguments)

    def _files(self) -> Any:  # noqa: ANN401  (fsspec has no types)
        return _file_system(self.url, json.dumps(dict(self.options), sort_keys=True), os.getpid())


@dataclass(frozen=True)
class RemoteFolder:
    """A shard set behind a URL, as `shards.format.source.Source`.

    Parts of files are asked for one by one. But a file whose size and checksum stand in `whole` is downloaded as a
    whole when it is first opened, or ahead of that by `fetch`, and read from the cache.
    """

    store: Store
    cache: FileCache | None = None
    whole: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """The URL."""
        return self.store.url.rstrip("/")

    def size(self, name: str) -> int | None:
        """See Source."""
        return self.store.size(name)

    def load(self, name: str) -> NDArray[np.uint8]:
        """See Source; read anew each time."""
        return np.frombuffer(self.store.read(name), np.uint8)

    def ranges(self, wanted: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """See Source."""
        return self.store.read_many(wanted)

    def descriptor(self, name: str) -> int | None:
        """See Source: of the whole file in the cache; None if it is not among `whole`, or finds no room there."""
        file = self._held(name)
        if file is None:
            return None
        with file:
            return os.dup(file.fileno())

    def fetch(self, name: str) -> None:
        """Have a file of `whole` in the cache, for whoever opens it next."""
        if file := self._held(name):
            file.close()

    def _held(self, name: str) -> BufferedReader | None:
        if self.cache is None or name not in self.whole:
            return None
        size, sha256 = self.whole[name]
        try:
            return self.store.cached(self.cache, name, size, sha256)
        except CacheFullError as error:
            log.warning("%s: %s; reading it in parts", self.store.locate(name), error)
            return None


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


@lru_cache(1)
def _requests(process: int) -> ThreadPoolExecutor:
    """Threads that wait for answers; a forked process gets its own."""
    return ThreadPoolExecutor(AT_ONCE, thread_name_prefix="shard-request")


def source_of(place: str | Path) -> Source:
    """Where a set lies: a folder's path, or any URL that fsspec knows."""
    text = str(place)
    if "://" not in text or text.startswith("file://"):
        return LocalFolder(Path(text.removeprefix("file://")))
    return RemoteFolder(Store(text))
