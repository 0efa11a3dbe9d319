"""Compress with zstd's Huffman coding only, without a search for matches, in frames that any zstd decoder reads.

Matches in the differences of noisy pixels are accidental and a few bytes long. Storing them saves next to nothing and
costs the decoder more than all the Huffman codes do (docs/lab-log.md). zstd's own fast levels, which search less, store
unmatched bytes without Huffman coding; the parameter that turns it on is missing from the Python bindings.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache, partial
from typing import Any

from shards.format.c_libraries import ZSTD, function

LEVEL, WINDOW_LOG, TARGET_LENGTH, STRATEGY, LITERAL_COMPRESSION = 100, 101, 106, 107, 1002
"""ZSTD_cParameter of zstd.h. The last is ZSTD_c_literalCompressionMode, under its permanent number."""

PARAMETERS = {
    LEVEL: 1,
    STRATEGY: 1,  # ZSTD_fast
    WINDOW_LOG: 17,
    TARGET_LENGTH: 1 << 17,  # bytes skipped after each failed search: the largest size of a block
    LITERAL_COMPRESSION: 1,  # always
}


class HuffmanCompressor:
    """Compresses one buffer after another. Not thread-safe."""

    def __init__(self) -> None:
        self._context = _call("ZSTD_createCCtx", ctypes.c_void_p)()
        for parameter, value in PARAMETERS.items():
            _checked(_set_parameter()(self._context, parameter, value))

    def compress(self, data: bytes) -> bytes:
        """One frame that states how many bytes it holds."""
        capacity = _call("ZSTD_compressBound", ctypes.c_size_t, ctypes.c_size_t)(len(data))
        into = ctypes.create_string_buffer(capacity)
        size = _checked(_compress()(self._context, into, capacity, data, len(data)))
        return ctypes.string_at(into, size)

    def __del__(self) -> None:
        if getattr(self, "_context", None):
            _call("ZSTD_freeCCtx", ctypes.c_size_t, ctypes.c_void_p)(self._context)


@lru_cache
def _call(name: str, result: Any, *arguments: Any) -> Any:  # noqa: ANN401 - types of ctypes
    callee = function(name, ZSTD)
    callee.restype, callee.argtypes = result, arguments
    return callee


_set_parameter = partial(_call, "ZSTD_CCtx_setParameter", ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
_compress = partial(
    _call, "ZSTD_compress2", ctypes.c_size_t, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p,
    ctypes.c_size_t,
)  # fmt: skip


def _checked(code: int) -> int:
    if _call("ZSTD_isError", ctypes.c_uint, ctypes.c_size_t)(code):
        reason = _call("ZSTD_getErrorName", ctypes.c_char_p, ctypes.c_size_t)(code)
        raise RuntimeError(f"zstd: {reason.decode()}")
    return code
