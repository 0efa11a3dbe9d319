"""A web server on loopback that serves a folder with ranges, and fails on request."""

from __future__ import annotations

import contextlib
import gzip
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULTS = ("500", "503", "429", "truncated", "reset", "slow", "wrong bytes")
LIES = ("other range", "longer range", "endless", "compressed", "more", "ignored range")
"""Answers of a hostile server. They are not among FAULTS: a second attempt is not made after them."""


class FaultyServer(ThreadingHTTPServer):
    """Serves `folder`; each request takes the next of `faults`, if there is one; None is a good response."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.faults: Iterator[str | None] = iter(())
        self.lock = threading.Lock()
        self.requests: list[str] = []
        self.bytes_sent = 0
        self.ignore_ranges = False
        self.missing = ""  # name of a file that is reported missing
        self.refuse = ""  # GETs of names with this ending fail with 500

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def times(self, name: str) -> int:
        return Counter(self.requests)[name]

    def handle_error(self, request, client_address) -> None:
        """Clients that gave up are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultyServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise each response waits for a delayed acknowledgement

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        name = self.path.lstrip("/")
        with self.server.lock:
            self.server.requests.append(name)
            fault = next(self.server.faults, None) if body else None
        path = self.server.folder / name
        if body and self.server.refuse and name.endswith(self.server.refuse):
            return self._status(500)
        if fault and fault.isdigit():
            return self._status(int(fault))
        if not path.is_file() or name == self.server.missing:
            return self._status(404)
        data = path.read_bytes()
        requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if fault in LIES and requested:
            return self._lie(fault, data, int(requested[1]), int(requested[2]))
        if requested and not self.server.ignore_ranges:
            begin, end = int(requested[1]), int(requested[2] or len(data) - 1)
            part = data[begin : end + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end}/{len(data)}")
        else:
            part = data
            self.send_response(200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        return self._send(part, fault) if body else None

    def _lie(self, lie: str, data: bytes, begin: int, end: int) -> None:
        part = data[begin : end + 1]
        stated = {"other range": f"{begin + 1}-{end + 1}", "longer range": f"{begin}-{end + 1000}"}
        self.send_response(200 if lie == "ignored range" else 206)
        if lie != "ignored range":
            self.send_header("Content-Range", f"bytes {stated.get(lie, f'{begin}-{end}')}/{len(data)}")
        if lie == "compressed":
            part = gzip.compress(bytes(1 << 24))
            self.send_header("Content-Encoding", "gzip")
        if lie == "endless":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(part) + (1 << 30 if lie == "more" else 0)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the client hangs up
            if lie == "endless":
                while True:
                    self._count(self.wfile.write(b"100000\r\n" + bytes(1 << 20) + b"\r\n"))
            self._count(self.wfile.write(part))
            while lie == "more":
                self._count(self.wfile.write(bytes(1 << 20)))
        self.close_connection = True

    def _count(self, sent: int) -> None:
        with self.server.lock:
            self.server.bytes_sent += sent

    def _send(self, part: bytes, fault: str | None) -> None:
        if fault == "slow":
            time.sleep(1.5)
        if fault == "wrong bytes":
            part = bytes(255 - byte for byte in part)
        if fault in ("truncated", "reset"):
            part = part[: len(part) // 2]
        with self.server.lock:
            self.server.bytes_sent += len(part)
        self.wfile.write(part)
        if fault in ("truncated", "reset"):
            self.wfile.flush()
            if fault == "reset":  # with a linger time of 0 s, closing sends a reset instead of an end
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RDWR) if fault == "truncated" else self.connection.close()
            self.close_connection = True

    def _status(self, code: int) -> None:
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Log nothing."""


@contextmanager
def serving(folder: Path) -> Iterator[FaultyServer]:
    """Serve a folder until the block ends."""
    server = FaultyServer(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
