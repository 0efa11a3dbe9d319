"""A checkpoint whose checksums are right and whose content is odd is refused by file and field, never loaded in part.

Covers `restore`, `facts`, `layout` and `tensors`.
"""

from __future__ import annotations

import os
import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import SmallRun, train
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, ChunkStorageMetadata, Metadata

from harness.checkpoint.checkpoints import CheckpointError
from harness.checkpoint.tensors import MetadataUnpickler
from harness.storage.checksums import checksum, read_checksummed, write_checksummed

LAST = "step-000000003"
Change = Callable[[dict[str, Any]], None]


def refusal(cell: Path, run: SmallRun | None = None) -> str:
    """The message of a refused resume; the model must be as it was before."""
    run = run or SmallRun()
    with pytest.raises(CheckpointError) as caught:
        run.resume(cell, last_step=3)
    text = str(caught.value)
    assert str(cell / "checkpoints" / LAST) in text
    assert "\n" not in text
    assert len(text) < 1200
    return text


def reseal(cell: Path, change: Change) -> None:
    """Change the facts of the last checkpoint, and write them with the checksums that fit."""
    facts = cell / "checkpoints" / LAST / "checkpoint.json"
    value = read_checksummed(facts)
    change(value)
    write_checksummed(facts, value)


def set_progress(name: str, value: object) -> Change:
    return lambda facts: facts["progress"].update({name: value})


def set_fact(name: str, value: object) -> Change:
    return lambda facts: facts.update({name: value})


ODD_FACTS: dict[str, tuple[Change, str]] = {
    "step beyond the end": (set_progress("step", 10**12), "progress.step is 1000000000000"),
    "step of another folder": (set_progress("step", 2), "progress.step is 2, but its folder is step-000000003"),
    "negative step": (set_progress("step", -1), "progress.step: input should be greater than or equal to 0"),
    "huge step": (set_progress("step", 10**30), "progress.step"),
    "fractional step": (set_progress("step", 3.5), "progress.step"),
    "text for a step": (set_progress("step", "3"), "progress.step"),
    "a boolean step": (set_progress("step", True), "progress.step"),
    "no step": (lambda facts: facts["progress"].pop("step"), "progress.step is 0, but its folder"),
    "negative seconds": (set_progress("seconds", -1.0), "progress.seconds"),
    "seconds as text": (set_progress("seconds", "x"), "progress.seconds"),
    "huge log": (set_progress("log_bytes", 2**70), "progress.log_bytes"),
    "validated in the future": (set_progress("validated", 9), "progress.validated is 9"),
    "stale beyond the steps": (set_progress("stale_validations", 99), "progress.stale_validations is 99"),
    "loss as text": (set_progress("best_loss", "low"), "progress.best_loss"),
    "validation as a list": (set_progress("validation", [1]), "progress.validation"),
    "validation that renames a result": (set_progress("validation", {"crops": 1e9}), "progress.validation.crops"),
    "unknown progress": (set_progress("velocity", 1), "velocity"),
    "progress as a list": (set_fact("progress", []), "progress"),
    "no progress": (lambda facts: facts.pop("progress"), "progress: field required"),
    "no world": (set_fact("world", 0), "world"),
    "huge world": (set_fact("world", 10**9), "world"),
    "text for the world": (set_fact("world", "1"), "world"),
    "device as a number": (set_fact("device", 7), "device"),
    "best as text": (set_fact("best", "yes"), "best"),
    "unknown fact": (set_fact("extra", {}), "extra"),
    "files as a list": (set_fact("files", []), "files"),
    "no files": (set_fact("files", {}), "files does not list .metadata"),
    "a file elsewhere": (lambda facts: facts["files"].update({"../../x": [1, "0" * 64]}), "files"),
    "negative size": (lambda facts: facts["files"].update({".metadata": [-1, "0" * 64]}), "files..metadata.0"),
    "entry of another type": (lambda facts: facts["files"].update({".metadata": 3}), "files..metadata"),
    "format as text": (set_fact("format", "1"), "written in format '1'"),
    "format as a boolean": (set_fact("format", True), "format"),
    "fingerprint as a list": (set_fact("fingerprint", []), "made with other settings"),
}


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    train(tmp_path, 3)
    return tmp_path


@pytest.mark.parametrize(("change", "why"), ODD_FACTS.values(), ids=ODD_FACTS)
def test_odd_facts_are_refused_by_field(cell: Path, change: Change, why: str) -> None:
    reseal(cell, change)
    assert why in refusal(cell)


def rewrite_metadata(cell: Path, change: Callable[[Metadata], object]) -> None:
    """Change the metadata of the last checkpoint; what `change` returns is written in its place."""
    path = cell / "checkpoints" / LAST / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(change(metadata) or metadata))
    reseal(cell, lambda facts: facts["files"].update({".metadata": checksum(path)}))


def entry(metadata: Metadata, **changes: Any) -> None:
    stored = metadata.state_dict_metadata
    stored["model.0.weight"] = replace(stored["model.0.weight"], **changes)  # type: ignore[type-var]


def chunk(offsets: tuple[int, ...], sizes: tuple[int, ...]) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))


def place(metadata: Metadata, name: str = "model.0.weight", **changes: Any) -> None:
    index = next(index for index in metadata.storage_data if index.fqn == name)
    metadata.storage_data[index] = replace(metadata.storage_data[index], **changes)


def same_place(metadata: Metadata) -> None:
    """Two tensors of one shape in the same bytes: the moments would be loaded twice."""
    index = next(index for index in metadata.storage_data if index.fqn == "model.0.weight")
    info = metadata.storage_data[index]
    place(metadata, "optimiser.state.0.weight.exp_avg", offset=info.offset, length=info.length)


def dtype(metadata: Metadata, value: torch.dtype) -> None:
    metadata.state_dict_metadata["model.0.weight"].properties.dtype = value  # type: ignore[union-attr]


ODD_METADATA: dict[str, tuple[Callable[[Metadata], object], str]] = {
    "missing tensor": (lambda m: m.state_dict_metadata.pop("model.0.weight") and None, "lacks model.0.weight"),
    "foreign tensor": (
        lambda m: m.state_dict_metadata.update({"model.9.weight": m.state_dict_metadata["model.0.weight"]}),
        "has model.9.weight, which this run does not have",
    ),
    "another shape": (lambda m: entry(m, size=torch.Size([4, 8])), "model.0.weight has shape (4, 8)"),
    "huge shape": (lambda m: entry(m, size=torch.Size([2**60, 2**60])), "model.0.weight has shape"),
    "another type": (lambda m: dtype(m, torch.float64), "model.0.weight is torch.float64, this run's is torch.float32"),
    "no chunk": (lambda m: entry(m, chunks=[]), "the chunks of model.0.weight do not make up its shape"),
    "half a tensor": (lambda m: entry(m, chunks=[chunk((0, 0), (4, 4))]), "the chunks of model.0.weight"),
    "overlap": (lambda m: entry(m, chunks=[chunk((0, 0), (4, 4))] * 2), "the chunks of model.0.weight"),
    "crossing chunks": (
        lambda m: entry(m, chunks=[chunk((0, 0), (8, 2)), chunk((0, 0), (4, 4))]), "the chunks of model.0.weight"
    ),
    "outside": (lambda m: entry(m, chunks=[chunk((4, 0), (8, 4))]), "the chunks of model.0.weight"),
    "negative": (lambda m: entry(m, chunks=[chunk((-8, 0), (8, 4))]), "the chunks of model.0.weight"),
    "not a tensor": (
        lambda m: m.state_dict_metadata.update({"model.0.weight": BytesStorageMetadata()}), "BytesStorageMetadata"
    ),
    "another file": (lambda m: place(m, relative_path="../../latest"), "not a file of this checkpoint"),
    "an absolute path": (lambda m: place(m, relative_path="/etc/passwd"), "not a file of this checkpoint"),
    "before the file": (lambda m: place(m, offset=-5), "model.0.weight is in bytes -5"),
    "beyond the file": (lambda m: place(m, length=2**50), "model.0.weight is in bytes"),
    "the same bytes": (same_place, "are in the same bytes of __0_0.distcp"),
    "text for a place": (lambda m: place(m, offset="0"), ".metadata does not describe tensors"),
    "no places": (lambda m: Metadata(m.state_dict_metadata), ".metadata does not describe tensors"),
    "a number": (lambda m: 7, ".metadata holds a int"),
    "a class": (lambda m: Metadata, ".metadata holds a type"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "why"), ODD_METADATA.values(), ids=ODD_METADATA)
def test_odd_metadata_is_refused_by_tensor(cell: Path, change: Callable[[Metadata], object], why: str) -> None:
    rewrite_metadata(cell, change)
    assert why in refusal(cell)


class OddRun(SmallRun):
    """Saves a state that `change` has altered."""

    def __init__(self, change: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self.change = change

    def state(self) -> dict[str, Any]:
        state = super().state()
        self.change(state)
        return state


def set_tensor(path: str, value: torch.Tensor) -> Callable[[dict[str, Any]], None]:
    section, _, name = path.partition("/")
    *parents, last = name.split("/")

    def change(state: dict[str, Any]) -> None:
        holder = state[section]
        for parent in parents:
            holder = holder[parent]
        holder[last] = value

    return change


ODD_TENSORS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "NaN": (set_tensor("model/0.bias", torch.full((8,), torch.nan)), "model.0.bias holds NaN or infinity"),
    "infinity": (set_tensor("model/1.running_var", torch.full((8,), torch.inf)), "model.1.running_var holds NaN"),
    "half precision": (set_tensor("model/0.bias", torch.zeros(8).half()), "model.0.bias is torch.float16"),
    "whole numbers": (set_tensor("model/0.bias", torch.zeros(8, dtype=torch.int64)), "model.0.bias is torch.int64"),
    "another width": (set_tensor("model/0.bias", torch.zeros(9)), "model.0.bias has shape (9,), this run's has (8,)"),
    "an extra tensor": (set_tensor("model/9.bias", torch.zeros(8)), "has model.9.bias"),
    "NaN moments": (set_tensor("optimiser/state/0.bias/exp_avg", torch.full((8,), torch.nan)), "0.bias.exp_avg holds"),
    "a future optimiser": (
        set_tensor("optimiser/state/0.bias/step", torch.tensor(1e12)), "optimiser.state.0.bias.step is 1e+12"
    ),
    "a negative optimiser": (
        set_tensor("optimiser/state/0.bias/step", torch.tensor(-1.0)), "optimiser.state.0.bias.step is -1"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "why"), ODD_TENSORS.values(), ids=ODD_TENSORS)
def test_odd_tensors_are_refused_by_name(tmp_path: Path, change: Callable[[dict[str, Any]], None], why: str) -> None:
    run = OddRun(change)
    checkpoints = run.checkpoints(tmp_path)
    for _ in range(3):
        run.step()
    checkpoints.save_now(run, run.progress)
    checkpoints.close()
    assert why in refusal(tmp_path)


ODD_GENERATORS = {
    "python": torch.full((626,), -1, dtype=torch.int64),
    "python_gauss": torch.tensor(torch.inf, dtype=torch.float64),
    "numpy": torch.full((624,), 2**40, dtype=torch.int64),
    "numpy_position": torch.tensor([10**9, 0], dtype=torch.int64),
    "numpy_gauss": torch.tensor(torch.nan, dtype=torch.float64),
    "torch": torch.full((5056,), 255, dtype=torch.uint8),
}


@pytest.mark.parametrize("name", ODD_GENERATORS)
def test_odd_generators_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from harness.checkpoint import checkpoints as module

    real = module.generator_states
    with monkeypatch.context() as patched:
        patched.setattr(module, "generator_states", lambda device: {**real(device), name: ODD_GENERATORS[name]})
        train(tmp_path, 3)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    assert "generators" in refusal(tmp_path)
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # type: ignore[index]


def test_a_payload_of_another_type_than_its_metadata_says_is_not_converted(cell: Path) -> None:
    """The bytes of one tensor are replaced with those of whole numbers, and everything is sealed again."""
    path = cell / "checkpoints" / LAST / "__0_0.distcp"
    content = torch.zeros(8, dtype=torch.int32)
    with path.open("ab") as file:
        offset = file.tell()
        torch.save(content, file)
    length = path.stat().st_size - offset
    reseal(cell, lambda facts: facts["files"].update({path.name: checksum(path)}))
    rewrite_metadata(cell, lambda m: place(m, "model.0.bias", offset=offset, length=length))
    assert "model.0.bias is stored as torch.int32, .metadata says torch.float32" in refusal(cell)


@pytest.mark.slow
def test_random_bytes_in_metadata_are_refused(cell: Path) -> None:
    """Sealed, so that no checksum detects them: 200 random changes of a byte or of a length."""
    path, rng = cell / "checkpoints" / LAST / ".metadata", random.Random(0)
    original = path.read_bytes()
    for _ in range(200):
        content = bytearray(original)
        for _ in range(rng.choice([1, 1, 8])):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])
        reseal(cell, lambda facts: facts["files"].update({".metadata": checksum(path)}))
        run = SmallRun()
        try:
            run.resume(cell, last_step=3)
        except CheckpointError:
            continue
        assert run.progress.step == 3  # the change was in a part that no one reads
        good = SmallRun()
        path.write_bytes(original)
        reseal(cell, lambda facts: facts["files"].update({".metadata": checksum(path)}))
        good.resume(cell)
        expected = good.model.state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in run.model.state_dict().items())


@pytest.mark.parametrize("opcode", [b"r\xff\xff\xff\xff", b"\x8e" + (2**60).to_bytes(8, "little")])
def test_metadata_that_asks_for_memory_is_refused_at_once(cell: Path, opcode: bytes) -> None:
    """LONG_BINPUT with a huge index, and BINBYTES8 with a huge length: the C unpickler allocates for both."""
    path = cell / "checkpoints" / LAST / ".metadata"
    path.write_bytes(b"\x80\x04]" + opcode + b".")
    reseal(cell, lambda facts: facts["files"].update({".metadata": checksum(path)}))
    assert "complete, but it does not fit this run" in refusal(cell)


def test_metadata_with_other_classes_is_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "evil"
    path.write_bytes(pickle.dumps(os.system))
    with path.open("rb") as file, pytest.raises(pickle.UnpicklingError, match=r"posix\.system"):
        MetadataUnpickler(file).load()
