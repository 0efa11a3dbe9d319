"""Addresses of C functions in libraries that come as wheels, for the kernel to call without the interpreter's lock.

zstd and LZ4 are the ones that imagecodecs brings, CRC-32C is google-crc32c's (which Zarr uses too), `pread` is libc's.
Addresses are passed to the kernel as numbers, so that its machine code can be cached between processes.
"""

# ruff: noqa: ANN401 - numba's code generators have no types of their own
from __future__ import annotations

import ctypes
import importlib
from functools import lru_cache
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

FUNCTIONS = (
    ("pread", None),
    ("crc32c_extend", "google_crc32c._crc32c"),
    ("ZSTD_createDCtx", "imagecodecs._zstd"),
    ("ZSTD_freeDCtx", "imagecodecs._zstd"),
    ("ZSTD_decompressDCtx", "imagecodecs._zstd"),
    ("LZ4_decompress_safe", "imagecodecs._lz4"),
)
PREAD, CRC32C, ZSTD_CREATE, ZSTD_FREE, ZSTD_DECODE, LZ4_DECODE = range(len(FUNCTIONS))


@lru_cache
def addresses() -> NDArray[np.int64]:
    """Where the functions lie in this process, in the order of FUNCTIONS; ImportError names one that is not found."""
    return np.array([_address(function, module) for function, module in FUNCTIONS], np.int64)


def _address(function: str, module: str | None) -> int:
    file = None if module is None else importlib.import_module(module).__file__
    try:
        found = getattr(ctypes.CDLL(file), function)  # searches the libraries that the module links, too
    except (OSError, AttributeError):
        place = "libc" if module is None else module.partition(".")[0]
        raise ImportError(f"{place} gives no {function}: reinstall it from its wheel (pip install {place})") from None
    return ctypes.cast(found, ctypes.c_void_p).value or 0


def _caller(result: Any, *arguments: Any) -> Any:
    """A function for compiled code, (address, arguments...) -> result, that calls a C function of this signature."""

    @intrinsic
    def call(typing: Any, address: Any, values: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, lowered: Any) -> Any:
            from llvmlite import ir

            kind = ir.FunctionType(context.get_value_type(result), [context.get_value_type(a) for a in arguments])
            given = [
                context.cast(builder, builder.extract_value(lowered[1], i), signature.args[1][i], argument)
                for i, argument in enumerate(arguments)
            ]
            return builder.call(builder.inttoptr(lowered[0], kind.as_pointer()), given)

        return result(types.int64, values), generate

    return call


def _pointer(typing: Any, address: Any) -> Any:
    """The address as what `numba.carray` takes."""

    def generate(context: Any, builder: Any, signature: Any, lowered: Any) -> Any:
        return builder.inttoptr(lowered[0], context.get_value_type(signature.return_type))

    return types.voidptr(types.int64), generate


pointer: Any = intrinsic(_pointer)

_word = types.int64  # addresses and sizes: below 2 ** 63 on every machine
call_pread = _caller(_word, types.int32, _word, _word, _word)  # descriptor, into, count, at
call_crc32c = _caller(types.uint32, types.uint32, _word, _word)  # so far, from, count
call_create = _caller(_word)
call_free = _caller(_word, _word)
call_zstd = _caller(_word, _word, _word, _word, _word, _word)  # context, into, capacity, from, count
call_lz4 = _caller(types.int32, _word, _word, types.int32, types.int32)  # from, into, count, capacity
