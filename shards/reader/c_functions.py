"""Call C functions from compiled code, without the interpreter's lock.

The functions are in libraries that come with wheels. Their addresses are passed to the kernel as numbers, so that its
machine code can be cached between processes.
"""

# ruff: noqa: ANN401 - numba's code generators have no types of their own
from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from shards.format.c_libraries import CRC, LZ4, ZSTD, function

FUNCTIONS = (
    ("pread", None),
    ("crc32c_extend", CRC),
    ("ZSTD_createDCtx", ZSTD),
    ("ZSTD_freeDCtx", ZSTD),
    ("ZSTD_decompressDCtx", ZSTD),
    ("LZ4_decompress_safe", LZ4),
)
PREAD, CRC32C, ZSTD_CREATE, ZSTD_FREE, ZSTD_DECODE, LZ4_DECODE = range(len(FUNCTIONS))


@lru_cache
def addresses() -> NDArray[np.int64]:
    """Addresses of the functions in this process, in the order of FUNCTIONS; ImportError names a missing one."""
    values = [ctypes.cast(function(name, module), ctypes.c_void_p).value for name, module in FUNCTIONS]
    return np.array(values, np.int64)


def _caller(result: Any, *arguments: Any) -> Any:
    """A function for compiled code, (address, arguments...) -> result, that calls a C function of this signature."""

    @intrinsic
    def call(typing: Any, address: Any, values: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, lowered: Any) -> Any:
            from llvmlite import ir

            kind = ir.FunctionType(context.get_value_type(result), [context.get_value_type(a) for a in arguments])
            converted = [
                context.cast(builder, builder.extract_value(lowered[1], i), signature.args[1][i], argument)
                for i, argument in enumerate(arguments)
            ]
            return builder.call(builder.inttoptr(lowered[0], kind.as_pointer()), converted)

        return result(types.int64, values), generate

    return call


def _pointer(typing: Any, address: Any) -> Any:
    """The address as the pointer type that `numba.carray` takes."""

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
