"""Save and resume checkpoints: one folder per saved step, written in the background, valid once `latest` names it.

    <cell>/checkpoints/step-00000480/   each rank's tensors, .metadata, and checkpoint.json (progress, checksums)
    <cell>/checkpoints/latest           the step to resume from; `best`: the step of the best validation
    <cell>/checkpoints/.step-*.partial  a save in progress, or the rest of a killed one

A save copies the tensors to a staging buffer and returns. A thread on every rank writes them through
torch.distributed.checkpoint, flushes them to disk and computes their checksums. Then the first rank writes
checkpoint.json, renames the folder and updates `latest`. After a crash at any time, `latest` names a complete
checkpoint. See docs/checkpoints.md.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import async_save

from harness.checkpoint.rng import generator_states, restore_generators
from harness.checkpoint.tensors import Resumable, TensorPlanner, TensorReader, tensors_of
from harness.distributed.ranks import Ranks
from harness.storage.checksums import Damaged, check, checksum, read_checksummed, sync_folder, write_checksummed
from harness.storage.fencing import Fence, Unfenced

FORMAT = 1
FACTS, LATEST, BEST = "checkpoint.json", "latest", "best"


class CheckpointError(RuntimeError):
    """A checkpoint or weights file that cannot be used or written; the message names it."""


@dataclass
class Progress:
    """How far a cell has trained. The data position is the step: the order of crops is a pure function of it."""

    step: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    stale_validations: int = 0
    validated: int = 0  # the step of the last validation
    validation: dict[str, float] = field(default_factory=dict)  # the losses of the last validation
    log_bytes: int = 0  # size of the log: a resumed run truncates the log to it


def say(text: str) -> None:
    """Print a line to stderr."""
    print(text, file=sys.stderr, flush=True)


class Checkpoints:
    """The checkpoints of one grid cell. All ranks call the same methods at the same steps.

    `extras` are tensors that are equal on all ranks (running sums, the divergence monitor's state). They are saved, and
    loaded in place.
    """

    def __init__(
        self, folder: Path, fingerprint: str, ranks: Ranks, extras: dict[str, Tensor] | None = None, *, keep: int = 2,
        fence: Fence | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder / "checkpoints"
        self._fingerprint, self._ranks, self._extras = fingerprint, ranks, extras or {}
        self._keep, self._fence = keep, fence or Unfenced()
        # A separate group: the writer thread's collectives must not interleave with those of training.
        self._group = dist.new_group(backend="gloo") if ranks.world > 1 else None
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # expected with one process
        on_gpu = ranks.device.type == "cuda"
        self._stager = DefaultStager(StagingOptions(on_gpu, False, False, on_gpu))
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._saved = -1
        if ranks.is_first:
            for partial_save in self.folder.glob(".*.partial"):
                shutil.rmtree(partial_save)
            self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, engine: Resumable, progress: Progress, *, best: bool = False) -> None:
        """Start an asynchronous save of the run's state, after waiting for a save that is still in progress."""
        self.wait()
        state = tensors_of({**engine.state(), "extra": self._extras})
        state |= tensors_of(generator_states(self._ranks.device), f"generators.{self._ranks.rank}.")
        folder = self.folder / f".{_name(progress.step)}.partial"
        written = async_save(
            state, storage_writer=FileSystemWriter(folder, sync_files=True), process_group=self._group,
            async_stager=self._stager, no_dist=self._group is None,
        )  # fmt: skip
        facts = {
            "format": FORMAT, "fingerprint": self._fingerprint, "world": self._ranks.world,
            "device": self._ranks.device.type, "progress": asdict(progress), "best": best,
        }  # fmt: skip
        assert isinstance(written, Future)
        self._pending = self._writer.submit(self._finish, written, folder, facts)
        self._saved = progress.step

    def last(self) -> str:
        """Describe the checkpoint that the next run would resume from."""
        self.wait()
        named = _read_pointer(self.folder / LATEST)
        return f"the next run can resume from {self.folder / named}" if named else "no checkpoint was saved yet"

    def wait(self, *, required: bool = False) -> None:
        """Wait for the save in progress. If it failed, log a warning; training continues with the previous checkpoint.

        Raises:
            CheckpointError: the save failed and was `required`.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        try:
            pending.result()
        except Exception as error:  # any error of the disk, the network or another rank
            text = f"the checkpoint of step {self._saved} could not be written: {error}"
            if self._ranks.is_first:
                shutil.rmtree(self.folder / f".{_name(self._saved)}.partial", ignore_errors=True)
            self._saved = -1
            if required:
                raise CheckpointError(f"{self.folder}: {text}") from error
            if self._ranks.is_first:
                say(f"warning: {text}; the previous checkpoint is kept")

    def save_now(self, engine: Resumable, progress: Progress, *, best: bool = False) -> None:
        """Save this step and return once the checkpoint is complete on disk.

        Raises:
            CheckpointError: it could not be written.
        """
        self.wait()
        if self._saved != progress.step:
            self.save(engine, progress, best=best)
        self.wait(required=True)

    def resume(self, engine: Resumable) -> tuple[Progress, list[str]]:
        """Restore the newest complete checkpoint; return its progress, and notes on any damaged ones.

        A run without checkpoints starts at step 0.

        Raises:
            CheckpointError: the checkpoint was made with other settings or data, or has another format.
        """
        names, notes = self._candidates()
        for name in names:
            facts, damage = self._verify(name)
            if damage is None:
                self._check_compatible(name, facts)
                self._restore(self.folder / name, facts, engine)
                progress = Progress(**facts["progress"])
                if notes:
                    notes.append(f"going on from step {progress.step}")
                return progress, notes
            notes.append(f"checkpoint {name} is damaged: {damage}")
        if notes:
            notes.append("no complete checkpoint is left: starting again from step 0")
        return Progress(), notes

    def close(self) -> None:
        """Wait for the save in progress and stop the threads."""
        self.wait()
        self._writer.shutdown()
        self._stager.close()

    def _finish(self, written: Future[Any], folder: Path, facts: dict[str, Any]) -> None:
        """On the writer thread of every rank: wait for the tensors, then publish the checkpoint on the first rank.

        Raises:
            CheckpointError: a rank failed; all ranks raise it.
        """
        written.result()
        pattern = f"__{self._ranks.rank}_*"
        rank_files = [*folder.glob(pattern), *([folder / ".metadata"] if self._ranks.is_first else [])]
        sums = self._on_all_ranks(lambda: {path.name: checksum(path) for path in rank_files})
        files = {name: value for rank_sums in sums for name, value in rank_sums.items()}
        self._on_all_ranks(partial(self._publish, folder, {**facts, "files": files}))

    def _publish(self, folder: Path, facts: dict[str, Any]) -> None:
        """On the first rank: write the checksums, rename the folder, update the pointers and delete old checkpoints."""
        if not self._ranks.is_first:
            return
        self._fence.check()
        name = folder.name.removeprefix(".").removesuffix(".partial")
        write_checksummed(folder / FACTS, facts)
        sync_folder(folder)
        if (self.folder / name).exists():  # damaged, or saved before a validation that was interrupted
            (self.folder / name).rename(self.folder / f".{name}.replaced.partial")
        folder.rename(self.folder / name)
        sync_folder(self.folder)
        for pointer in (LATEST, *([BEST] if facts["best"] else [])):
            write_checksummed(self.folder / pointer, {"checkpoint": name})
        sync_folder(self.folder)
        older = sorted((other.name for other in self.folder.glob("step-*") if other.name <= name), reverse=True)
        keep = {*older[: self._keep], _read_pointer(self.folder / BEST)}
        for other in self.folder.glob("step-*"):
            if other.name not in keep:
                shutil.rmtree(other)
        shutil.rmtree(self.folder / f".{name}.replaced.partial", ignore_errors=True)

    def _on_all_ranks(self, work: Callable[[], Any]) -> list[Any]:
        """Call `work` on every rank and return all results on all ranks; a failure of one rank is raised on all."""
        try:
            result, failure = work(), None
        except Exception as error:  # any error must reach the other ranks
            result, failure = None, f"rank {self._ranks.rank}: {type(error).__name__}: {error}"
        outcomes = self._gather((result, failure))
        for _, failure in outcomes:
            if failure:
                raise CheckpointError(failure)
        return [result for result, _ in outcomes]

    def _gather(self, value: Any) -> list[Any]:  # noqa: ANN401  (any picklable value)
        values: list[Any] = [value] * self._ranks.world
        if self._group is not None:
            dist.all_gather_object(values, value, group=self._group)
        return values

    def _candidates(self) -> tuple[list[str], list[str]]:
        """Return the first rank's list of checkpoints, `latest` first, and notes on a damaged `latest`."""
        notes: list[str] = []
        names = sorted((path.name for path in self.folder.glob("step-*")), reverse=True)
        if self._ranks.is_first and (names or (self.folder / LATEST).exists()):
            try:
                named = str(read_checksummed(self.folder / LATEST).get("checkpoint"))
                if named in names:
                    names = [named, *(name for name in names if name != named)]
                else:
                    notes.append(f"{LATEST} names {named}, which does not exist")
            except Damaged as damage:
                notes.append(str(damage))
        candidates: tuple[list[str], list[str]] = self._gather((names, notes))[0]
        return candidates

    def _verify(self, name: str) -> tuple[dict[str, Any], str | None]:
        """Return a checkpoint's facts, and its damage if any; each rank verifies its share of the files."""
        folder, facts, damage = self.folder / name, {}, None
        try:
            facts = read_checksummed(folder / FACTS)
            check(folder, facts["files"], sorted(facts["files"])[self._ranks.rank :: self._ranks.world])
        except Damaged as error:
            damage = str(error)
        return facts, next((text for text in self._gather(damage) if text), None)

    def _check_compatible(self, name: str, facts: dict[str, Any]) -> None:
        if facts["fingerprint"] != self._fingerprint:
            raise CheckpointError(
                f"{self.folder / name}: made with other settings or data; remove {self.folder} to start again"
            )
        if facts["format"] != FORMAT:
            raise CheckpointError(
                f"{self.folder / name}: written in format {facts['format']}, this version reads format {FORMAT}; "
                f"finish the cell with the version that started it, or remove {self.folder} to start again"
            )

    def _restore(self, folder: Path, facts: dict[str, Any], engine: Resumable) -> None:
        ranks = self._ranks
        # Generator states fit only the same number of ranks and device type; otherwise they are not restored.
        same_ranks = (facts["world"], facts["device"]) == (ranks.world, ranks.device.type)
        generators = generator_states(ranks.device) if same_ranks else {}
        try:
            state = engine.state()
            tensors = tensors_of({**state, "extra": self._extras, "generators": {str(ranks.rank): generators}})
            load_tensors(
                tensors, storage_reader=TensorReader(folder), planner=TensorPlanner(), process_group=self._group,
                no_dist=self._group is None,
            )  # fmt: skip
            engine.load(state)
        except Exception as error:  # the files are complete, so the model or a library differs
            raise CheckpointError(f"{folder}: complete, but it does not fit this run: {error}") from error
        if generators:
            restore_generators(generators, ranks.device)


def discard(folder: Path) -> None:
    """Delete a finished cell's checkpoints, except its best if the recipe keeps that."""
    checkpoints = folder / "checkpoints"
    best = _read_pointer(checkpoints / BEST)
    for entry in checkpoints.glob("*") if best else []:
        if entry.name not in (BEST, best):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    if not best:
        shutil.rmtree(checkpoints, ignore_errors=True)


def _read_pointer(path: Path) -> str | None:
    """Return the checkpoint that a pointer names; None if the pointer is missing or damaged."""
    try:
        return str(read_checksummed(path).get("checkpoint"))
    except Damaged:
        return None


def _name(step: int) -> str:
    return f"step-{step:09d}"
