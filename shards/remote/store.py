"""Read the files of a set from an object store or a web server: range requests with time limits, checks and retries.

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

from shards.errors import ShardError
from shards.format.source import LocalFolder, Source
from shards.remote.cache import CacheFullError, FileCache, WrongContentError
from shards.remote.http_range import RangesIgnoredError, check_length, http_range

Result = TypeVar("Result")
log = logging.getLogger(__name__)

DOWNLOAD_BYTES = 16 << 20
"""Bytes per request while a complete file is downloaded: what is in memory at a time, and what a retry repeats."""

MAX_REQUESTS = 64
"""Concurrent requests of one process for parts of files."""

TRANSIENT = {408, 425, 429}
"""HTTP statuses below 500 that may be transient."""


class RemoteError(OSError):
    """A request failed permanently; the message names the URL, the number of attempts and the last reason."""


@dataclass(frozen=True)
class Patience:
    """When to give up: `attempts` of at most `seconds` each, with pauses that double from `pause` seconds."""

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
            size: int | None = self._retry(name, lambda path: self._call("info", path)["size"])
        except FileNotFoundError:
            return None
        if size is None:
            raise RemoteError(f"{self.locate(name)}: the server does not state its size")
        return size

    def read(self, name: str, begin: int, end: int) -> bytes:
        """Bytes `begin` to `end` (exclusive) of a file.

        Raises FileNotFoundError, PermissionError, or RemoteError after the last attempt.
        """
        return self._retry(name, lambda path: self._get(path, begin, end))

    def load(self, name: str, limit: int) -> bytes:
        """A complete file; errors as in `read`, and ShardError if it has more than `limit` bytes."""
        size = self.size(name)
        if size is None:
            raise FileNotFoundError(f"{self.locate(name)}: no such file")
        if not 0 <= size <= limit:
            raise ShardError(f"{self.locate(name)}: {size} bytes; {limit} are the limit")
        return self.read(name, 0, size)

    def read_many(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Byte ranges (file, begin, end), with many concurrent requests; errors as in `read`."""
        return list(_requests(os.getpid()).map(lambda span: self.read(*span), ranges))

    def download(self, name: str, size: int, file: IO[bytes]) -> None:
        """Write a complete file of known size; errors as in `read`."""
        file.seek(0)
        for begin in range(0, size, DOWNLOAD_BYTES):
            file.write(self.read(name, begin, min(size, begin + DOWNLOAD_BYTES)))

    def cached(self, cache: FileCache, name: str, size: int, sha256: str) -> BufferedReader:
        """The complete file, open, downloaded if it is not in the cache; errors as in `read` and `FileCache.get`."""
        try:
            return cache.get(sha256, size, lambda file: self.download(name, size, file))
        except WrongContentError as error:
            raise WrongContentError(f"{self.locate(name)}: {error}") from None

    def _retry(self, name: str, act: Callable[[str], Result]) -> Result:
        """Call `act` with the path of a file, for at most the attempts that `patience` allows."""
        url = self.locate(name)
        for number in range(1, self.patience.attempts + 1):
            try:
                return act(self._files()._strip_protocol(url))
            except (FileNotFoundError, PermissionError) as error:
                raise type(error)(f"{url}: {error}") from error
            except Exception as error:  # each file system raises errors of its own
                if number == self.patience.attempts or not _is_transient(error):
                    reason = f"{type(error).__name__}: {error}".rstrip(": ")
                    raise RemoteError(f"{url} cannot be read (attempt {number}): {reason}") from error
                time.sleep(self.patience.pause * 2 ** (number - 1) * random.uniform(0.5, 1))
        raise ValueError(f"{url}: {self.patience.attempts} attempts: at least 1 is needed")

    def _get(self, path: str, begin: int, end: int) -> bytes:
        """One request. Raises the file system's errors, EOFError for too few bytes, RangesIgnoredError for others."""
        if begin == end:
            return b""
        files = self._files()
        if isinstance(files.protocol, tuple) and "http" in files.protocol:
            return http_range(files, path, begin, end, self.patience.seconds)
        data: bytes = self._call("cat_file", path, start=begin, end=end)
        return check_length(data, begin, end)

    def _call(self, method: str, path: str, **arguments: object) -> Any:  # noqa: ANN401  (anything that fsspec returns)
        """Call the file system, with the time limit of `patience` if the call can be interrupted."""
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

    Parts of files are requested one by one. A file in `downloads` (size and checksum by name) is downloaded completely
    when it is first opened, or earlier by `fetch`, and read from the cache.
    """

    store: Store
    cache: FileCache | None = None
    downloads: Mapping[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """The URL."""
        return self.store.url.rstrip("/")

    def size(self, name: str) -> int | None:
        """See Source."""
        return self.store.size(name)

    def load(self, name: str, limit: int) -> bytes:
        """See Source; downloaded each time."""
        return self.store.load(name, limit)

    def ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """See Source."""
        return self.store.read_many(ranges)

    def descriptor(self, name: str) -> int | None:
        """See Source: of the complete file in the cache; None if it is not in `downloads`, or does not fit there."""
        file = self._cached_file(name)
        if file is None:
            return None
        with file:
            return os.dup(file.fileno())

    def fetch(self, name: str) -> None:
        """Download a file of `downloads` into the cache, before it is opened."""
        if file := self._cached_file(name):
            file.close()

    def _cached_file(self, name: str) -> BufferedReader | None:
        if self.cache is None or name not in self.downloads:
            return None
        size, sha256 = self.downloads[name]
        try:
            return self.store.cached(self.cache, name, size, sha256)
        except CacheFullError as error:
            log.warning("%s: %s; reading it in parts", self.store.locate(name), error)
            return None


def _is_transient(error: Exception) -> bool:
    """Whether another attempt may succeed: not if the request itself is refused, or cannot be made."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500:
        return status in TRANSIENT
    return not isinstance(error, (RangesIgnoredError, RemoteError, IsADirectoryError, NotImplementedError))


@lru_cache(16)
def _file_system(url: str, options: str, process: int) -> Any:  # noqa: ANN401  (fsspec has no types)
    """One file system for all threads of a process, where fsspec itself would create one per thread."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url, skip_instance_cache=True, **json.loads(options))[0]
    except (ImportError, ValueError) as error:
        raise RemoteError(f"{url} cannot be opened: {error}") from error


@lru_cache(1)
def _requests(process: int) -> ThreadPoolExecutor:
    """Threads that wait for responses; a forked process gets its own."""
    return ThreadPoolExecutor(MAX_REQUESTS, thread_name_prefix="shard-request")


def source_of(place: str | Path) -> Source:
    """The source of a set at a folder's path, or at any URL that fsspec knows."""
    text = str(place)
    if "://" not in text or text.startswith("file://"):
        return LocalFolder(Path(text.removeprefix("file://")))
    return RemoteFolder(Store(text))
