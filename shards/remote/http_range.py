"""Request part of a file from a web server that may send anything: other bytes, too many, or bytes without end.

fsspec's own request reads whatever the server sends into memory before its length is looked at.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiohttp import ClientResponse

CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(?:\d{1,18}|\*)")
"""RFC 9110, section 14.4."""


class RangesIgnoredError(OSError):
    """The server answers a range request with other bytes than requested."""


def http_range(files: Any, url: str, begin: int, end: int, seconds: float) -> bytes:  # noqa: ANN401  (fsspec has no types)
    """Bytes `begin` to `end` (exclusive) of a URL, by one request of at most `seconds`; at most one more is read.

    `files` is fsspec's HTTP file system. Raises its errors and aiohttp's, EOFError for too few bytes, and
    RangesIgnoredError for others than requested.
    """
    from fsspec.asyn import sync

    data: bytes = sync(files.loop, _get, files, url, begin, end, timeout=seconds)
    return data


def check_length(data: bytes, begin: int, end: int) -> bytes:
    """The data, if there are `end - begin` bytes; EOFError for fewer, RangesIgnoredError for more."""
    if len(data) == end - begin:
        return data
    if len(data) > end - begin:
        raise RangesIgnoredError(f"more than {end - begin} bytes received for bytes {begin} to {end}")
    raise EOFError(f"{len(data)} bytes received for bytes {begin} to {end}")


async def _get(files: Any, url: str, begin: int, end: int) -> bytes:  # noqa: ANN401
    options = dict(files.kwargs)
    range_headers = {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
    options["headers"] = {**options.get("headers", {}), **range_headers}
    session = await files.set_session()
    async with session.get(files.encode_url(url), **options) as response:
        files._raise_not_found_for_status(response, url)
        _check_headers(response, begin, end)
        data = bytearray()
        while len(data) <= end - begin and (part := await response.content.read(end - begin + 1 - len(data))):
            data += part
    return check_length(bytes(data), begin, end)


def _check_headers(response: ClientResponse, begin: int, end: int) -> None:
    """Refuse a body that is compressed, which may grow without bound, or of another range than requested."""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise RangesIgnoredError(f"the server sends bytes {begin} to {end} as {encoding}, which was not asked for")
    stated = response.headers.get("Content-Range", "")
    sent = CONTENT_RANGE.fullmatch(stated)
    first = int(sent[1]) if sent else None if stated else 0 if response.status == 200 else begin
    if first != begin or (sent and int(sent[2]) >= end):
        answer = stated or f"the complete file (status {response.status})"
        raise RangesIgnoredError(f"the server sends {answer} for bytes {begin} to {end}")
