"""The compiled kernel that reads crops: read bytes, check, decompress, undo filters, copy with flips, sum.

It holds no interpreter lock. `shards.format.payload` and `shards.format.codecs` implement the same format in plain
Python; here each step works on one chunk that stays in the processor's cache. Pixels are bytes here, `wide` of them per
pixel, so that one machine code serves all pixel types. numba compiles it at first use and caches it next to this file.

Shapes: K crops, C channels, T chunk side, h and w the crop's sides, R rows of chunks that a crop touches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, njit  # type: ignore[attr-defined]
from numpy.typing import NDArray

from shards.reader.c_functions import (
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
OK, BAD_INDEX, SHORT_READ, BAD_CHECKSUM, BAD_FRAME, FOREIGN, OUTSIDE = range(7)
NONE, ZSTD, LZ4 = range(3)

# A record of `shards.format.index`, as 8-byte words.
OFFSET, LENGTH, HEIGHT, WIDTH, FIRST, CHUNKS, CHECKSUM = range(7)
RECORD_WORDS = 10
WORD = CRC = 4

SIGNATURE = (
    "UniTuple(int64, 3)(int64[::1], int64, int64, int64, int64, boolean, boolean, boolean, int64[:, ::1], "
    "int64[:, ::1], int64[:, ::1], uint8[:, :, :, ::1], uint64[:, :, ::1])"
)


@njit(nogil=True, cache=True)
def _read(calls: Array, descriptor: int, at: int, count: int, into: int) -> bool:
    done = 0
    while done < count:
        got = call_pread(calls[PREAD], (descriptor, into + done, count - done, at + done))
        if got <= 0:
            return False
        done += got
    return True


@njit(nogil=True, cache=True)
def _image_words(calls: Array, image: Array, record: Array, spare: Array) -> tuple[bool, Array]:
    """The image's words in the index, (2N + 1,), and whether they are intact; read into `spare`, or where they are."""
    count, at = 2 * record[CHUNKS] + 1, image[3] + WORD * record[FIRST]
    if image[2] < 0:
        words = carray(pointer(at), count, np.uint32)
    else:
        if len(spare) < count:
            spare = np.empty(count, np.uint32)
        words = spare
        if not _read(calls, image[2], at, WORD * count, words.ctypes.data):
            return False, words
    intact = np.int64(call_crc32c(calls[CRC32C], (0, words.ctypes.data, WORD * count))) == record[CHECKSUM]
    return intact, words


@njit(nogil=True, cache=True)
def _bounds_status(words: Array, record: Array, most: int) -> int:
    """BAD_INDEX unless the chunks ascend inside the payload, BAD_FRAME if one is longer than any codec makes it."""
    wrong, limit, end = np.uint32(0), np.uint32(most - CRC), np.uint32(record[LENGTH])
    for number in range(record[CHUNKS]):  # in 32 bits: below 2 ** 31, a descent wraps to a length above the limit
        size = np.uint32(words[number + 1] - words[number])
        wrong |= np.uint32(words[number] > end) | np.uint32(np.uint32(size - np.uint32(CRC)) > limit)
    if words[record[CHUNKS]] > end:
        return BAD_INDEX
    if wrong == 0:
        return OK
    for number in range(record[CHUNKS]):
        if np.int64(words[number + 1]) - np.int64(words[number]) < CRC:
            return BAD_INDEX
    return BAD_FRAME


@njit(nogil=True, cache=True)
def _decode(
    calls: Array,
    context: int,
    codec: tuple[int, bool, bool],
    wide: int,
    at: int,
    stored: int,
    listed: np.uint32,
    tile: Array,
    spare: Array,
) -> int:
    """Check the chunk of `stored` bytes at address `at`, and decode it into `tile` if it is encoded at all.

    Its CRC-32C must be the one stored with it, or it is damaged, and the one listed in the index, or it is another.
    """
    (compressor, delta, shuffle), size, body = codec, len(tile), stored - CRC
    checksum = call_crc32c(calls[CRC32C], (0, at, body))
    if checksum != carray(pointer(at + body), 1, np.uint32)[0]:
        return BAD_CHECKSUM
    if checksum != listed:
        return FOREIGN
    into = spare.ctypes.data if shuffle else tile.ctypes.data
    decoded = body
    if compressor == ZSTD:
        decoded = call_zstd(calls[ZSTD_DECODE], (context, into, size, at, body))
    elif compressor == LZ4:
        decoded = call_lz4(calls[LZ4_DECODE], (at + 4, into, body - 4, size)) if body > 4 else 0
    if decoded != size:
        return BAD_FRAME
    if shuffle:
        _ungroup(spare, tile, wide)
    if delta:
        _integrate(tile.view(np.uint64), spare.view(np.uint64), np.uint64(8 * wide))
    return OK


@njit(nogil=True, cache=True)
def _ungroup(grouped: Array, into: Array, wide: int) -> None:
    """Undo the grouping of bytes: lowest bytes of all pixels first."""
    if wide == 1:
        _copy(grouped, into)
        return
    pixels = into.view(np.uint16)
    count = len(pixels)
    low, high = grouped[:count], grouped[count:]
    for i in range(count):
        pixels[i] = low[i] | (np.uint16(high[i]) << 8)


@njit(nogil=True, cache=True)
def _integrate(words: Array, carried: Array, bits: np.uint64) -> None:
    """Undo differences: running sums modulo 2 ** bits, eight bytes at a time.

    First sums inside each 8-byte word, then what is carried into each word, then both added. The first and the last
    step are independent between words, so the compiler can use the processor's widest registers.
    """
    ones = np.uint64(0x0101010101010101) if bits == 8 else np.uint64(0x0001000100010001)
    high = ones << (bits - np.uint64(1))
    mask, last = (np.uint64(1) << bits) - np.uint64(1), np.uint64(64) - bits
    half = np.uint64(32) if bits == 8 else np.uint64(48)
    for i in range(len(words)):
        word = words[i]
        word = _add(word, word << bits, high)
        word = _add(word, word << (bits + bits), high)
        words[i] = _add(word, word << np.uint64(32), high) if half == 32 else word
    carry = np.uint64(0)
    for i in range(len(words)):
        carried[i] = carry
        carry = (carry + (words[i] >> last)) & mask
    for i in range(len(words)):
        words[i] = _add(words[i], carried[i] * ones, high)


@njit(nogil=True, cache=True, inline="always")
def _add(x: np.uint64, y: np.uint64, high: np.uint64) -> np.uint64:
    """Add the lanes of two words without carrying from one lane to the next; `high` marks the lanes' highest bits."""
    return ((x & ~high) + (y & ~high)) ^ ((x ^ y) & high)


@njit(nogil=True, cache=True)
def _copy_chunk(pixels: Array, crop: Array, chunk: int, wide: int, row: int, column: int, flip_rows: bool) -> None:
    """Copy the part of a chunk inside the crop; the chunk's corner is at (row, column) of the crop, or outside it."""
    channels, height, line = crop.shape
    x = max(0, -column)
    count = np.uint64(wide * (min(chunk, line // wide - column) - x))  # unsigned: no index counts from the end
    into = crop.reshape(crop.size)
    for c in range(channels):
        for y in range(max(0, -row), min(chunk, height - row)):
            to = height - 1 - row - y if flip_rows else row + y
            source = np.uint64(wide * ((c * chunk + y) * chunk + x))
            at = np.uint64((c * height + to) * line + wide * (column + x))
            _copy_run(pixels, source, into, at, count)


@njit(nogil=True, cache=True)
def _copy_run(pixels: Array, source: np.uint64, into: Array, at: np.uint64, count: np.uint64) -> None:
    """A separate function: inside the loop over rows the compiler would not vectorise the copy of flipped rows."""
    for i in range(count):
        into[at + i] = pixels[source + i]


@njit(nogil=True, cache=True)
def _copy(source: Array, into: Array) -> None:
    for x in range(len(into)):
        into[x] = source[x]


@njit(nogil=True, cache=True)
def _reverse_rows(crop: Array, wide: int, spare: Array) -> None:
    """Flip columns of a finished crop; unsigned positions let the compiler reverse a full register at once."""
    if len(spare) < crop.shape[2]:
        spare = np.empty(crop.shape[2], np.uint8)
    for c in range(crop.shape[0]):
        for y in range(crop.shape[1]):
            line = crop[c, y]
            copy = spare[: len(line)]
            _copy(line, copy)
            if wide == 1:
                _reverse(copy, line)
            else:
                _reverse(copy.view(np.uint16), line.view(np.uint16))


@njit(nogil=True, cache=True)
def _reverse(source: Array, into: Array) -> None:
    count = np.uint64(len(into))
    for x in range(count):
        into[x] = source[count - np.uint64(1) - x]


@njit(nogil=True, cache=True)
def _sum(crop: Array, wide: int, sums: Array) -> None:
    """Exact sums of pixels and of their squares, per channel."""
    for c in range(crop.shape[0]):
        sums[c, 0], sums[c, 1] = 0, 0
        for y in range(crop.shape[1]):
            if wide == 1:
                total, squares = _byte_sums(crop[c, y])
            else:
                total, squares = _word_sums(crop[c, y].view(np.uint16))
            sums[c, 0] += total
            sums[c, 1] += squares


@njit(nogil=True, cache=True)
def _byte_sums(line: Array) -> tuple[np.uint64, np.uint64]:
    """32 bits hold the squares of 66,051 bytes, and twice as many 32-bit sums fit into a register as 64-bit ones."""
    total, squares = np.uint32(0), np.uint32(0)
    for x in range(len(line)):
        value = np.uint32(line[x])
        total = np.uint32(total + value)
        squares = np.uint32(squares + value * value)
    return np.uint64(total), np.uint64(squares)


@njit(nogil=True, cache=True)
def _word_sums(line: Array) -> tuple[np.uint64, np.uint64]:
    total, squares = np.uint64(0), np.uint64(0)
    for x in range(len(line)):
        value = np.uint64(line[x])
        total += value
        squares += value * value
    return total, squares


@njit(nogil=True, cache=True)
def _read_crop(
    calls: Array,
    context: int,
    codec: tuple[int, bool, bool],
    shape: tuple[int, int, int, bool],  # T, bytes of a pixel, most of a chunk, whether to read a crop at once
    image: Array,  # (4,)
    memory: Array,  # (R,) or (0,)
    corner: Array,  # (4,)
    crop: Array,  # (C, h, w * wide)
    tile: Array,
    spare: Array,
    buffers: tuple[Array, Array],
) -> tuple[int, int, tuple[Array, Array]]:
    """Fill one crop, columns not yet flipped; return the status, the chunk it refers to, and the buffers, which grow.

    `base` is the address that the payload's first byte would have if all of it were in memory.
    """
    (chunk, wide, most, one_span), (top, left) = shape, (corner[0], corner[1])
    height, width = crop.shape[1], crop.shape[2] // wide
    record = carray(pointer(image[1]), RECORD_WORDS, np.int64)
    if top < 0 or left < 0 or top + height > record[HEIGHT] or left + width > record[WIDTH]:
        return OUTSIDE, -1, buffers
    rows, columns = -(-record[HEIGHT] // chunk), -(-record[WIDTH] // chunk)
    buffer, spare_words = buffers
    intact, bounds = _image_words(calls, image, record, spare_words)
    if image[2] >= 0:
        spare_words = bounds
    status = BAD_INDEX
    if rows * columns == record[CHUNKS] and intact:
        status = _bounds_status(bounds, record, most)
    if status != OK:
        return status, -1, (buffer, spare_words)
    crcs = bounds[record[CHUNKS] + 1 :]
    first, last = left // chunk, (left + width - 1) // chunk
    upper, lower = top // chunk, (top + height - 1) // chunk
    plain, base = codec[0] == NONE and not (codec[1] or codec[2]), 0
    for row in range(upper, lower + 1):
        start = np.int64(bounds[row * columns + first])
        if len(memory):
            base = memory[row - upper] - start
        elif row == upper or not one_span:
            count = np.int64(bounds[(lower if one_span else row) * columns + last + 1]) - start
            if len(buffer) < count:
                buffer = np.empty(2 * count, np.uint8)
            if not _read(calls, image[0], record[OFFSET] + start, count, buffer.ctypes.data):
                return SHORT_READ, row * columns + first, (buffer, spare_words)
            base = buffer.ctypes.data - start
        for number in range(row * columns + first, row * columns + last + 1):
            at, stored = base + np.int64(bounds[number]), np.int64(bounds[number + 1] - bounds[number])
            status = _decode(calls, context, codec, wide, at, stored, crcs[number], tile, spare)
            if status != OK:
                return status, number, (buffer, spare_words)
            pixels = carray(pointer(at), len(tile), np.uint8) if plain else tile
            column = number - row * columns
            _copy_chunk(pixels, crop, chunk, wide, row * chunk - top, column * chunk - left, corner[2] != 0)
    return OK, -1, (buffer, spare_words)


@njit(SIGNATURE, nogil=True, cache=True)  # compiled, or loaded, when this module is imported
def read_crops(
    calls: Array,  # addresses of C functions
    chunk: int,  # T
    wide: int,  # bytes of a pixel
    most: int,  # bytes that an encoded chunk may have
    compressor: int,
    delta: bool,
    shuffle: bool,
    one_span: bool,  # read a crop's bytes in one read, with those between its runs
    images: Array,  # (K, 4): the tar's descriptor, address of the image's record, the index's descriptor or -1, and
    # where its words begin: a byte of that file, or an address
    memory: Array,  # (K, R) addresses of the runs that have been read already; (K, 0) to read them here
    corners: Array,  # (K, 4): top, left, whether to flip rows, columns
    out: Array,  # (K, C, h, w * wide) bytes
    sums: Array,  # (K, C, 2) sums of pixels and of their squares; (0, C, 2) to leave out
) -> tuple[int, int, int]:
    """Fill `out` and `sums`; return the status, crop and chunk of the first failure, at which reading stops."""
    size, status, number, k = out.shape[1] * chunk * chunk * wide, OK, -1, 0
    buffers = np.empty(0, np.uint8), np.empty(0, np.uint32)
    tile, spare = np.empty(size, np.uint8), np.empty(size, np.uint8)
    context = call_create(calls[ZSTD_CREATE], ()) if compressor == ZSTD else 0
    codec, shape = (compressor, delta, shuffle), (chunk, wide, most, one_span)
    for k in range(out.shape[0]):
        status, number, buffers = _read_crop(
            calls, context, codec, shape, images[k], memory[k], corners[k], out[k], tile, spare, buffers
        )
        if status != OK:
            break
        if corners[k, 3]:
            _reverse_rows(out[k], wide, spare)
        if len(sums):
            _sum(out[k], wide, sums[k])
    if compressor == ZSTD:
        call_free(calls[ZSTD_FREE], (context,))
    return status, k, number
