"""Payloads: what stock Zarr reads, and that damage is always detected."""

import json
import struct

import numpy as np
import pytest
import zarr
import zarr.core.buffer
from shard_files import flips, noisy
from zarr.storage import MemoryStore

from shards.errors import ShardError
from shards.format.codecs import CODECS, crc32c
from shards.format.payload import Header, decode_payload, encode_payload, read_header


def as_zarr(payload: bytes) -> zarr.Array:
    """The payload as stock Zarr opens it, next to the metadata from its own header."""
    metadata = json.dumps(read_header(payload).zarr()).encode()
    buffer = zarr.core.buffer.cpu.Buffer.from_bytes
    return zarr.open_array(MemoryStore({"zarr.json": buffer(metadata), "c/0/0/0": buffer(payload)}), mode="r")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Zarr calls numcodecs' codecs experimental
@pytest.mark.parametrize("codec", list(CODECS))
@pytest.mark.parametrize(("shape", "dtype"), [((6, 128, 192), "uint8"), ((3, 100, 70), "uint16"), ((1, 5, 9), "uint8")])
def test_stock_zarr_reads_payloads_pixel_for_pixel(codec, shape, dtype):
    image = noisy(shape, dtype)
    payload, bounds = encode_payload(image, CODECS[codec], 64)
    array = as_zarr(payload)
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert np.array_equal(array[:], image)
    assert np.array_equal(array[-1:, 2:90, 5:66], image[-1:, 2:90, 5:66])
    assert np.array_equal(decode_payload(payload), image)
    assert len(bounds) == -(-shape[1] // 64) * -(-shape[2] // 64) + 1


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("codec", ["zstd", "delta+zstd", "shuffle+zstd"])
def test_stock_zarr_notices_damage_as_we_do(codec):
    payload, bounds = encode_payload(noisy((2, 64, 64), "uint16"), CODECS[codec], 64)
    damaged = bytearray(payload)
    damaged[int(bounds[0]) + 99] ^= 4
    with pytest.raises(ShardError, match="chunk 0 of 1: a chunk's checksum does not match"):
        decode_payload(bytes(damaged))
    with pytest.raises(ValueError, match=r"(?i)checksum"):
        as_zarr(bytes(damaged))[:]


def test_every_flipped_byte_of_a_payload_is_noticed(tmp_path):
    payload, _ = encode_payload(noisy((2, 20, 20), "uint8"), CODECS["delta+zstd"], 16)
    for at, bit in flips(len(payload)):
        changed = bytearray(payload)
        changed[at] ^= bit
        with pytest.raises(ShardError):
            decode_payload(bytes(changed))


def hostile_header(**changes) -> bytes:
    stored = Header(1, 16, 16, "uint8", 16, CODECS["zstd"]).zarr()
    stored.update(changes)
    return with_header(json.dumps(stored, separators=(",", ":")).encode())


def with_header(text: bytes) -> bytes:
    packed = struct.pack("<8sI", b"wellzarr", len(text)) + text
    return packed + struct.pack("<I", crc32c(packed))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (struct.pack("<8sI", b"wellzarr", 1 << 31) + bytes(64), "claims 2147483648 bytes"),
        (hostile_header(shape=[1, 10**9, 10**9]), "does not write|out of bounds"),
        (hostile_header(shape=[1, -16, 16]), "does not write|out of bounds"),
        (hostile_header(shape=["a", None, {}]), "does not write"),
        (hostile_header(shape=[1, 16.0, 16]), "does not write"),
        (hostile_header(shape=[True, 16, 16]), "does not write"),
        (hostile_header(shape=[10**30, 10**30, 10**30]), "does not write|out of bounds"),
        (hostile_header(data_type="object"), "does not write"),
        (Header(1, 16, 16, "float64", 16, CODECS["zstd"]).pack(), "does not write"),
        (Header(1, 16, 16, "uint8", -16, CODECS["zstd"]).pack(), "does not write"),
        (Header(1, 16, 16, "uint8", 17, CODECS["zstd"]).pack(), "does not write"),
        (Header(1, 16, 16, "uint8", 2**32, CODECS["zstd"]).pack(), "does not write"),
        (with_header(b"not JSON"), "does not write"),
        (with_header(b"\xff\xfe"), "does not write"),
        (with_header(b"[" * 60_000), "does not write"),
        (with_header(b"[]"), "does not write"),
        (with_header(b"9" * 5000), "does not write"),
        (hostile_header(attributes={"codec": "pickle"}), "does not write"),
        (Header(1 << 20, 1 << 20, 1 << 20, "uint8", 64, CODECS["zstd"]).pack(), "out of bounds"),
        (Header(1, 16, 16, "uint8", 16, CODECS["zstd"]).pack(), "index of chunks is damaged"),
    ],
)
def test_hostile_payloads_do_nothing_but_fail(payload, message):
    with pytest.raises(ShardError, match=message):
        decode_payload(payload)


@pytest.mark.parametrize(
    ("image", "chunk", "message"),
    [
        (np.zeros((2, 8, 8), np.float32), 64, "uint8 or uint16 is needed, got float32"),
        (np.zeros((8, 8), np.uint8), 64, "an image"),
        (np.zeros((1, 0, 8), np.uint8), 64, "an image"),
        (np.zeros((1, 8, 8), np.uint8), 60, "side must be one of 16, 32, 64, 128, 256, got 60"),
    ],
)
def test_what_cannot_be_encoded_is_refused(image, chunk, message):
    with pytest.raises(ValueError, match=message):
        encode_payload(image, CODECS["zstd"], chunk)


@pytest.mark.parametrize("entry", range(4))
@pytest.mark.parametrize("field", [0, 1])
@pytest.mark.parametrize("value", [0, 1, 500, 2**31, 2**32, 2**63, 2**64 - 1])
def test_every_number_of_the_index_of_chunks_may_be_hostile(entry, field, value):
    image = noisy((1, 32, 32), "uint8")
    payload, _ = encode_payload(image, CODECS["none"], 16)
    table = np.frombuffer(payload[-68:-4], "<u8").reshape(4, 2).copy()
    table[entry, field] = value
    index = table.tobytes()
    with pytest.raises(ShardError, match=r"not contiguous|points outside the payload"):
        decode_payload(payload[:-68] + index + struct.pack("<I", crc32c(index)))
