"""Crops from bytes, compiled: read runs, check, decompress, undo filters, copy with flips, sum. No lock is held.

The same layout as `shards.payload` and `shards.codecs`, which say it in plain Python; here each step works on one
chunk that stays in the processor's cache. Compiled by numba at first use and cached beside this file.

Shapes: K crops, C channels, T chunk side, h and w the crop's sides, R rows of chunks that a crop touches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit  # type: ignore[attr-defined]
from numpy.typing import NDArray

from shards.native import (
    CRC32C,
    LZ4_DECODE,
    PREAD,
    ZSTD_CREATE,
    ZSTD_DECODE,
    ZSTD_FREE,
    call_crc32c,
    call_create,
    call_free,
    call_lz4,
    call_pread,
    call_zstd,
    pointer,
)

Array = NDArray[Any]
OK, BAD_INDEX, SHORT_READ, BAD_CHECKSUM, BAD_FRAME = range(5)
NONE, ZSTD, LZ4 = range(3)

# Fields of a record of `shards.index`, as 8-byte words.
LENGTH, HEIGHT, WIDTH, FIRST, CHUNKS, CHECKSUM = 1, 2, 3, 4, 5, 6
RECORD_WORDS = 10
CRC = 4
EVERY_BYTE = np.uint64(0x0101010101010101)


@njit(nogil=True, cache=True)
def read_crops(
    calls: Array,  # addresses of C functions
    chunk: int,
    compressor: int,
    delta: bool,
    shuffle: bool,
    one_span: bool,  # read a crop's bytes at once, those between its runs too
    places: Array,  # (K, 3): file descriptor, address of the image's record, address of the shard's offsets
    memory: Array,  # (K, R) addresses of the runs where they have been read already; (K, 0) to read them here
    corners: Array,  # (K, 4): top, left, whether to flip rows, columns
    out: Array,  # (K, C, h, w) of the pixel type
    sums: Array,  # (K, C, 2) sums of pixels and of their squares; (0, C, 2) to leave out
    failure: Array,  # (3,): status, crop and chunk of the first failure
) -> None:
    """Fill `out` and `sums`; stop at the first failure."""
    context = call_create(calls[ZSTD_CREATE], ()) if compressor == ZSTD else 0
    channels, height, width = out.shape[1], out.shape[2], out.shape[3]
    tile = np.empty((channels, chunk, chunk), out.dtype)
    spare = np.empty((channels, chunk, chunk), out.dtype)
    buffer = np.empty(0, np.uint8)
    for k in range(out.shape[0]):
        top, left = corners[k, 0], corners[k, 1]
        record = carray(pointer(places[k, 1]), RECORD_WORDS, np.int64)
        bounds = carray(pointer(places[k, 2] + 4 * record[FIRST]), record[CHUNKS] + 1, np.uint32)
        first_row, last_row = top // chunk, (top + height - 1) // chunk
        first_column, last_column = left // chunk, (left + width - 1) // chunk
        columns = -(-record[WIDTH] // chunk)
        if not _index_fits(calls, record, bounds, chunk, first_row, first_column, last_row, last_column):
            failure[:] = (BAD_INDEX, k, -1)
            break
        begin, end = _run(bounds, columns, first_row, first_column, last_row, last_column)
        if memory.shape[1] == 0 and one_span:
            buffer = _room(buffer, end - begin)
            if not _read(calls, places[k, 0], record[0] + begin, end - begin, buffer):
                failure[:] = (SHORT_READ, k, -1)
                break
        for row in range(first_row, last_row + 1):
            start, stop = _run(bounds, columns, row, first_column, row, last_column)
            if memory.shape[1]:
                source = memory[k, row - first_row]
            elif one_span:
                source = buffer.ctypes.data + start - begin
            else:
                buffer = _room(buffer, stop - start)
                source = buffer.ctypes.data
                if not _read(calls, places[k, 0], record[0] + start, stop - start, buffer):
                    failure[:] = (SHORT_READ, k, row * columns + first_column)
                    break
            for column in range(first_column, last_column + 1):
                number = row * columns + column
                stored = np.int64(bounds[number + 1]) - np.int64(bounds[number])
                at = source + np.int64(bounds[number]) - start
                status = _decode(calls, context, compressor, delta, shuffle, at, stored, tile, spare)
                if status != OK:
                    failure[:] = (status, k, number)
                    break
                plain = compressor == NONE and not (delta or shuffle)
                pixels = carray(pointer(at), tile.shape, out.dtype) if plain else tile
                _place(pixels, out[k], row * chunk - top, column * chunk - left, corners[k, 2] != 0)
            if failure[0] != OK:
                break
        if failure[0] != OK:
            break
        if corners[k, 3]:
            _reverse_rows(out[k])
        if sums.shape[0]:
            _sum(out[k], sums[k])
    if compressor == ZSTD:
        call_free(calls[ZSTD_FREE], (context,))


@njit(nogil=True, cache=True)
def _index_fits(
    calls: Array, record: Array, bounds: Array, chunk: int, top: int, left: int, bottom: int, right: int
) -> bool:
    """Whether the image's part of the index is whole, and its chunks ascend inside the payload."""
    rows, columns = -(-record[HEIGHT] // chunk), -(-record[WIDTH] // chunk)
    if rows * columns != record[CHUNKS] or top < 0 or left < 0 or bottom >= rows or right >= columns:
        return False
    if np.int64(call_crc32c(calls[CRC32C], (0, bounds.ctypes.data, 4 * len(bounds)))) != record[CHECKSUM]:
        return False
    for row in range(top, bottom + 1):
        for number in range(row * columns + left, row * columns + right + 1):
            if bounds[number + 1] < bounds[number] or np.int64(bounds[number + 1]) > record[LENGTH]:
                return False
        if bounds[row * columns + left] < bounds[top * columns + left]:
            return False
    return True


@njit(nogil=True, cache=True)
def _run(bounds: Array, columns: int, top: int, left: int, bottom: int, right: int) -> tuple[np.int64, np.int64]:
    """First byte, and the one after the last, from one chunk of the grid to another."""
    return np.int64(bounds[top * columns + left]), np.int64(bounds[bottom * columns + right + 1])


@njit(nogil=True, cache=True)
def _room(buffer: Array, count: int) -> Array:
    return buffer if len(buffer) >= count else np.empty(count + count // 4, np.uint8)


@njit(nogil=True, cache=True)
def _read(calls: Array, descriptor: int, at: int, count: int, buffer: Array) -> bool:
    done = 0
    while done < count:
        got = call_pread(calls[PREAD], (descriptor, buffer.ctypes.data + done, count - done, at + done))
        if got <= 0:
            return False
        done += got
    return True


@njit(nogil=True, cache=True)
def _decode(
    calls: Array,
    context: int,
    compressor: int,
    delta: bool,
    shuffle: bool,
    at: int,
    stored: int,
    tile: Array,
    spare: Array,
) -> int:
    """Check the chunk of `stored` bytes at address `at`, and decode it into `tile` if it is encoded at all."""
    size, body = tile.nbytes, stored - CRC
    if body < 0:
        return BAD_FRAME
    if call_crc32c(calls[CRC32C], (0, at, body)) != carray(pointer(at + body), 1, np.uint32)[0]:
        return BAD_CHECKSUM
    into = spare if shuffle else tile
    if compressor == ZSTD:
        found = call_zstd(calls[ZSTD_DECODE], (context, into.ctypes.data, size, at, body))
    elif compressor == LZ4:
        found = call_lz4(calls[LZ4_DECODE], (at + 4, into.ctypes.data, body - 4, size)) if body > 4 else 0
    else:
        found = body
    if found != size:
        return BAD_FRAME
    if shuffle:
        _ungroup(spare, tile)
    if delta:
        _integrate(tile, spare)
    return OK


@njit(nogil=True, cache=True)
def _ungroup(grouped: Array, values: Array) -> None:
    """Undo the grouping of bytes: lowest bytes of all values first."""
    size = values.itemsize
    source, into = grouped.view(np.uint8).reshape(grouped.nbytes), values.view(np.uint8).reshape(values.nbytes)
    count = values.size
    if size == 2:
        low, high, wide = source[:count], source[count:], into.view(np.uint16)
        for i in range(count):
            wide[i] = np.uint16(low[i]) | (np.uint16(high[i]) << np.uint16(8))
    else:
        into[:] = source


@njit(nogil=True, cache=True)
def _integrate(values: Array, spare: Array) -> None:
    """Undo differences: running sums modulo the type's range, eight bytes at a time.

    Sums inside each 8-byte word, then of what each word carries on, then both together: the first and the last are
    independent from word to word, which lets the compiler use the processor's widest registers.
    """
    bits = np.uint64(8 * values.itemsize)
    high = EVERY_BYTE << np.uint64(7) if bits == 8 else np.uint64(0x8000800080008000)
    ones = EVERY_BYTE if bits == 8 else np.uint64(0x0001000100010001)
    count = values.size
    flat = values.reshape(count)
    words = flat.view(np.uint64)
    lanes = 8 // values.itemsize
    carried = spare.reshape(count)[: len(words)]
    for i in range(len(words)):
        word = words[i]
        word = _add(word, word << bits, high)
        word = _add(word, word << (bits * np.uint64(2)), high)
        if lanes == 8:
            word = _add(word, word << np.uint64(32), high)
        words[i] = word
    carry = flat[0] - flat[0]
    for i in range(len(words)):
        carried[i] = carry
        carry += flat[lanes * i + lanes - 1]
    for i in range(len(words)):
        words[i] = _add(words[i], np.uint64(carried[i]) * ones, high)


@njit(nogil=True, cache=True, inline="always")
def _add(x: np.uint64, y: np.uint64, high: np.uint64) -> np.uint64:
    """Add the lanes of two words without carrying from one lane to the next; `high` marks the lanes' highest bits."""
    return ((x & ~high) + (y & ~high)) ^ ((x ^ y) & high)


@njit(nogil=True, cache=True)
def _place(tile: Array, crop: Array, row: int, column: int, flip_rows: bool) -> None:
    """Copy what lies inside the crop of a chunk whose corner is at (row, column) of it, which may lie outside."""
    channels, height, width = crop.shape
    chunk = tile.shape[1]
    x = max(0, -column)
    count = min(chunk, width - column) - x
    source, into = tile.reshape(tile.size), crop.reshape(crop.size)
    for c in range(channels):
        for y in range(max(0, -row), min(chunk, height - row)):
            to = height - 1 - row - y if flip_rows else row + y
            at = (c * height + to) * width + column + x
            _copy(source[(c * chunk + y) * chunk + x :][:count], into[at : at + count])


@njit(nogil=True, cache=True)
def _copy(source: Array, into: Array) -> None:
    for x in range(len(into)):
        into[x] = source[x]


@njit(nogil=True, cache=True)
def _reverse_rows(crop: Array) -> None:
    """Flip columns of a finished crop; unsigned positions let the compiler reverse a register at once."""
    width = np.uint64(crop.shape[2])
    last = width - np.uint64(1)
    spare = np.empty(crop.shape[2], crop.dtype)
    for c in range(crop.shape[0]):
        for y in range(crop.shape[1]):
            line = crop[c, y]
            _copy(line, spare)
            for x in range(width):
                line[x] = spare[last - x]


@njit(nogil=True, cache=True)
def _sum(crop: Array, sums: Array) -> None:
    """Exact sums of pixels and of their squares, per channel."""
    for c in range(crop.shape[0]):
        total, squares = np.uint64(0), np.uint64(0)
        for y in range(crop.shape[1]):
            if crop.itemsize == 1:
                part, square = _line_sums(crop[c, y])
            else:
                part, square = _wide_line_sums(crop[c, y])
            total += part
            squares += square
        sums[c, 0], sums[c, 1] = total, squares


@njit(nogil=True, cache=True)
def _line_sums(line: Array) -> tuple[np.uint64, np.uint64]:
    """Of bytes: 32 bits hold the squares of 66,051 of them, and twice as many fit into a register."""
    total, squares = np.uint32(0), np.uint32(0)
    for x in range(len(line)):
        value = np.uint32(line[x])
        total = np.uint32(total + value)
        squares = np.uint32(squares + value * value)
    return np.uint64(total), np.uint64(squares)


@njit(nogil=True, cache=True)
def _wide_line_sums(line: Array) -> tuple[np.uint64, np.uint64]:
    total, squares = np.uint64(0), np.uint64(0)
    for x in range(len(line)):
        value = np.uint64(line[x])
        total += value
        squares += value * value
    return total, squares
