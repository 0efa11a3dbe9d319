"""A safetensors file of unknown origin is refused by file and field before a tensor is read. Covers
`safetensors_header`; the peer is the safetensors library, which must read what is accepted."""

from __future__ import annotations

import copy
import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from harness.storage.safetensors_header import HeaderError, TensorEntry, read_header

Content = dict[str, Any]
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(4, dtype=torch.float16), "c": torch.ones(())}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    save_file(TENSORS, path, {"cell": "x"})
    return path


def rewrite(path: Path, change: Callable[[Content], object], size: int | None = None) -> None:
    """Change the header of a file; its tensors' bytes stay."""
    raw = path.read_bytes()
    end = 8 + struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:end])
    text = json.dumps(change(header) or header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + raw[end:])


def set_field(field: str, value: object) -> Callable[[Content], object]:
    return lambda header: header["a"].update({field: value})


ODD: dict[str, tuple[Callable[[Content], object], str]] = {
    "huge shape": (set_field("shape", [2**60, 2**60]), "a: F32 of shape"),
    "negative shape": (set_field("shape", [-2, -3]), "a.shape is"),
    "infinite shape": (set_field("shape", [1e400]), "is not JSON"),
    "text for a shape": (set_field("shape", ["2", "3"]), "a.shape is"),
    "fraction for a shape": (set_field("shape", [2.0, 3.0]), "a.shape is"),
    "boolean for a shape": (set_field("shape", [True, 6]), "a.shape is"),
    "a shape of many sizes": (set_field("shape", [1] * 10_000), "a.shape is"),
    "another shape": (set_field("shape", [2, 2]), "needs 16 bytes"),
    "another type": (set_field("dtype", "F64"), "a: F64 of shape (2, 3) needs 48 bytes"),
    "unknown type": (set_field("dtype", "F31"), "a.dtype is 'F31'"),
    "no type": (set_field("dtype", None), "a.dtype is 'None'"),
    "negative offsets": (set_field("data_offsets", [-24, 0]), "a.data_offsets are"),
    "offsets beyond the file": (set_field("data_offsets", [2**40, 2**40 + 24]), "data_offsets of a do not begin"),
    "huge offsets": (set_field("data_offsets", [0, 2**63]), "needs 24 bytes"),
    "reversed offsets": (set_field("data_offsets", [24, 0]), "needs 24 bytes"),
    "one offset": (set_field("data_offsets", [0]), "a.data_offsets are"),
    "overlap": (lambda h: h["c"].update(data_offsets=[0, 4]), "do not begin where those of"),
    "no shape": (lambda h: h["a"].pop("shape") and None, "a must have dtype, shape and data_offsets"),
    "a foreign field": (set_field("code", "x"), "a must have dtype, shape and data_offsets"),
    "entry as a list": (lambda h: h.update(a=[]), "a must have dtype, shape and data_offsets"),
    "a missing tensor": (lambda h: h.pop("b") and None, "damaged: its tensors are in bytes 0 to 28"),
    "no tensor": (lambda h: {"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}, "the file has"),
    "metadata as a list": (lambda h: h.update(__metadata__=[]), "its metadata is not a mapping of texts"),
    "metadata of numbers": (lambda h: h["__metadata__"].update(cell=7), "its metadata is not a mapping of texts"),
    "a list": (lambda h: [1], "its header is not a mapping"),
}


@pytest.mark.parametrize(("change", "why"), ODD.values(), ids=ODD)
def test_an_odd_header_is_refused_by_field(saved: Path, change: Callable[[Content], object], why: str) -> None:
    rewrite(saved, change)
    with pytest.raises(HeaderError) as caught:
        read_header(saved)
    assert str(caught.value).startswith(f"{saved}: ")
    assert why in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("size", [0, 1, 2**31, 2**63, 2**64 - 1])
def test_a_header_longer_than_its_file_is_refused(saved: Path, size: int) -> None:
    rewrite(saved, copy.copy, size)
    with pytest.raises(HeaderError, match=r"not a safetensors file"):
        read_header(saved)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_body_of_another_length_is_refused(saved: Path, change: int) -> None:
    raw = saved.read_bytes()
    saved.write_bytes(raw[:change] if change < 0 else raw + b"x")
    with pytest.raises(HeaderError, match="damaged: its tensors are in bytes 0 to"):
        read_header(saved)


def test_deep_and_doubled_headers_are_refused(saved: Path) -> None:
    for text in (b'{"a":' + b"[" * 100_000, b'{"a":' * 50_000, b'{"a": {}, "a": {}}'):
        saved.write_bytes(struct.pack("<Q", len(text)) + text)
        with pytest.raises(HeaderError, match="its header is not JSON"):
            read_header(saved)


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.safetensors")
    with pytest.raises(HeaderError, match="not a regular file"):
        read_header(tmp_path / "w.safetensors")


def test_what_the_library_writes_is_read(saved: Path) -> None:
    header = read_header(saved)
    assert header.metadata == {"cell": "x"}
    assert header.tensors == {
        "a": TensorEntry("F32", (2, 3)),
        "b": TensorEntry("F16", (4,)),
        "c": TensorEntry("F32", ()),
    }


def test_no_random_change_is_accepted_that_the_library_refuses(saved: Path) -> None:
    """500 random changes of bytes of the header: an error of ours, or a file that the peer reads to the same shapes."""
    raw, generator = saved.read_bytes(), random.Random(0)
    end = 8 + struct.unpack("<Q", raw[:8])[0]
    accepted = 0
    for _ in range(500):
        content = bytearray(raw)
        for _ in range(generator.choice([1, 1, 1, 5])):
            content[generator.randrange(end)] = generator.choice([generator.randrange(256), *b'0123456789-[]{},":'])
        saved.write_bytes(content)
        try:
            header = read_header(saved)
        except HeaderError:
            continue
        accepted += 1
        try:
            peer = load_file(saved)
        except SafetensorError as error:
            pytest.fail(f"accepted what the library refuses: {error}: {bytes(content[:end])!r}")
        assert {name: tuple(value.shape) for name, value in peer.items()} == {
            name: entry.shape for name, entry in header.tensors.items()
        }
    assert accepted
