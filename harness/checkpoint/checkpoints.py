"""Checkpoints: a folder for each saved step, written beside the training, which counts once `latest` names it.

    <cell>/checkpoints/step-00000480/   each rank's tensors, .metadata, and checkpoint.json: the facts and checksums
    <cell>/checkpoints/latest           the step to go on from; `best` the step of the best validation
    <cell>/checkpoints/.step-*.partial  a save under way, or what a killed one left

A save copies the tensors aside and returns; a thread on every rank writes them through torch.distributed.checkpoint,
flushes them to disk and takes their checksums. Then the first rank writes checkpoint.json, gives the folder its name
and moves `latest`. A crash at any moment leaves `latest` on a whole checkpoint. More in docs/checkpoints.md.
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
SEAL, LATEST, BEST = "checkpoint.json", "latest", "best"


class CheckpointError(RuntimeError):
    """A checkpoint or weights file that cannot be used or written; the text names it."""


@dataclass
class Progress:
    """How far a cell has trained. The data position is the step: the order of crops is a pure function of it."""

    step: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    stale_validations: int = 0
    validated: int = 0  # the step of the last validation
    validation: dict[str, float] = field(default_factory=dict)  # its losses
    log_bytes: int = 0  # of the log: a resumed run cuts off what was written after the save


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


class Checkpoints:
    """The checkpoints of one cell. Every rank has one, and all call the same methods at the same steps.

    `extras` are tensors alike on all ranks (running sums, a guard's state) that are saved, and filled in place.
    """

    def __init__(
        self, folder: Path, fingerprint: str, ranks: Ranks, extras: dict[str, Tensor] | None = None, *, keep: int = 2,
        fence: Fence | None = None,
    ) -> None:  # fmt: skip
        self.folder = folder / "checkpoints"
        self._fingerprint, self._ranks, self._extras = fingerprint, ranks, extras or {}
        self._keep, self._fence = keep, fence or Unfenced()
        # Its own group: the writing thread's collectives must not mix with those of the training.
        self._group = dist.new_group(backend="gloo") if ranks.world > 1 else None
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is meant
        on_gpu = ranks.device.type == "cuda"
        self._stager = DefaultStager(StagingOptions(on_gpu, False, False, on_gpu))
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future[None] | None = None
        self._saved = -1
        if ranks.is_first:
            for left in self.folder.glob(".*.partial"):
                shutil.rmtree(left)
            self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, engine: Resumable, progress: Progress, *, best: bool = False) -> None:
        """Copy the run's state aside and let the threads write it; first waits for a save that is still under way."""
        self.wait()
        state = tensors_of({**engine.state(), "extra": self._extras})
        state |= tensors_of(generator_states(self._ranks.device), f"generators.{self._ranks.rank}.")
        place = self.folder / f".{_name(progress.step)}.partial"
        written = async_save(
            state, storage_writer=FileSystemWriter(place, sync_files=True), process_group=self._group,
            async_stager=self._stager, no_dist=self._group is None,
        )  # fmt: skip
        facts = {
            "format": FORMAT, "fingerprint": self._fingerprint, "world": self._ranks.world,
            "device": self._ranks.device.type, "progress": asdict(progress), "best": best,
        }  # fmt: skip
        assert isinstance(written, Future)
        self._under_way = self._writer.submit(self._finish, written, place, facts)
        self._saved = progress.step

    def last(self) -> str:
        """What a new run would go on from, in words."""
        self.wait()
        named = _read_pointer(self.folder / LATEST)
        return f"{self.folder / named} stays to go on from" if named else "no checkpoint was saved yet"

    def wait(self, *, must: bool = False) -> None:
        """Return once no save is under way. A save that failed is said, and training goes on with the one before.

        Raises:
            CheckpointError: the save failed and it `must` not.
        """
        if self._under_way is None:
            return
        done, self._under_way = self._under_way, None
        try:
            done.result()
        except Exception as error:  # whatever disk, network or another rank raised
            text = f"the checkpoint of step {self._saved} could not be written: {error}"
            if self._ranks.is_first:
                shutil.rmtree(self.folder / f".{_name(self._saved)}.partial", ignore_errors=True)
            self._saved = -1
            if must:
                raise CheckpointError(f"{self.folder}: {text}") from error
            if self._ranks.is_first:
                say(f"warning: {text}; the one before it stays")

    def save_now(self, engine: Resumable, progress: Progress, *, best: bool = False) -> None:
        """Return once this step is whole on disk.

        Raises:
            CheckpointError: it could not be written.
        """
        self.wait()
        if self._saved != progress.step:
            self.save(engine, progress, best=best)
        self.wait(must=True)

    def resume(self, engine: Resumable) -> tuple[Progress, list[str]]:
        """Restore the newest whole checkpoint: the progress, and what was found wrong on the way to it.

        A run with nothing to resume begins at step 0.

        Raises:
            CheckpointError: the checkpoint belongs to other settings or data, or is of another format.
        """
        names, notes = self._candidates()
        for name in names:
            seal, damage = self._examine(name)
            if damage is None:
                self._refuse_other(name, seal)
                self._restore(self.folder / name, seal, engine)
                progress = Progress(**seal["progress"])
                if notes:
                    notes.append(f"going on from step {progress.step}")
                return progress, notes
            notes.append(f"checkpoint {name} is damaged: {damage}")
        if notes:
            notes.append("no whole checkpoint is left: starting anew")
        return Progress(), notes

    def close(self) -> None:
        """End the threads, after the save under way."""
        self.wait()
        self._writer.shutdown()
        self._stager.close()

    def _finish(self, written: Future[Any], place: Path, facts: dict[str, Any]) -> None:
        """On each rank's thread: wait for the tensors, and let the first rank make them count.

        Raises:
            CheckpointError: some rank failed; all ranks raise alike.
        """
        written.result()
        pattern = f"__{self._ranks.rank}_*"
        mine = [*place.glob(pattern), *([place / ".metadata"] if self._ranks.is_first else [])]
        sums = self._everywhere(lambda: {path.name: checksum(path) for path in mine})
        files = {name: value for part in sums for name, value in part.items()}
        self._everywhere(partial(self._publish, place, {**facts, "files": files}))

    def _publish(self, place: Path, seal: dict[str, Any]) -> None:
        """On the first rank: seal the folder, name it, point to it, and drop what is no longer kept."""
        if not self._ranks.is_first:
            return
        self._fence.check()
        name = place.name.removeprefix(".").removesuffix(".partial")
        write_checksummed(place / SEAL, seal)
        sync_folder(place)
        if (self.folder / name).exists():  # damaged, or saved before a validation that was cut short
            (self.folder / name).rename(self.folder / f".{name}.replaced.partial")
        place.rename(self.folder / name)
        sync_folder(self.folder)
        for pointer in (LATEST, *([BEST] if seal["best"] else [])):
            write_checksummed(self.folder / pointer, {"checkpoint": name})
        sync_folder(self.folder)
        older = sorted((other.name for other in self.folder.glob("step-*") if other.name <= name), reverse=True)
        keep = {*older[: self._keep], _read_pointer(self.folder / BEST)}
        for other in self.folder.glob("step-*"):
            if other.name not in keep:
                shutil.rmtree(other)
        shutil.rmtree(self.folder / f".{name}.replaced.partial", ignore_errors=True)

    def _everywhere(self, work: Callable[[], Any]) -> list[Any]:
        """Do `work` on every rank and return all results to all; one rank's failure is raised on all."""
        try:
            mine, failure = work(), None
        except Exception as error:  # must reach the other ranks, whatever it is
            mine, failure = None, f"rank {self._ranks.rank}: {type(error).__name__}: {error}"
        found = self._gather((mine, failure))
        for _, failed in found:
            if failed:
                raise CheckpointError(failed)
        return [value for value, _ in found]

    def _gather(self, value: Any) -> list[Any]:  # noqa: ANN401  (anything that can be sent)
        found: list[Any] = [value] * self._ranks.world
        if self._group is not None:
            dist.all_gather_object(found, value, group=self._group)
        return found

    def _candidates(self) -> tuple[list[str], list[str]]:
        """The first rank's list of checkpoints, the one that `latest` names first; and what is wrong with `latest`."""
        notes: list[str] = []
        names = sorted((found.name for found in self.folder.glob("step-*")), reverse=True)
        if self._ranks.is_first and (names or (self.folder / LATEST).exists()):
            try:
                named = str(read_checksummed(self.folder / LATEST).get("checkpoint"))
                if named in names:
                    names = [named, *(name for name in names if name != named)]
                else:
                    notes.append(f"{LATEST} names {named}, which is not there")
            except Damaged as damage:
                notes.append(str(damage))
        found: tuple[list[str], list[str]] = self._gather((names, notes))[0]
        return found

    def _examine(self, name: str) -> tuple[dict[str, Any], str | None]:
        """A checkpoint's seal, and what is damaged if anything is; each rank checks its share of the files."""
        folder, seal, damage = self.folder / name, {}, None
        try:
            seal = read_checksummed(folder / SEAL)
            check(folder, seal["files"], sorted(seal["files"])[self._ranks.rank :: self._ranks.world])
        except Damaged as error:
            damage = str(error)
        return seal, next((found for found in self._gather(damage) if found), None)

    def _refuse_other(self, name: str, seal: dict[str, Any]) -> None:
        if seal["fingerprint"] != self._fingerprint:
            raise CheckpointError(
                f"{self.folder / name}: made with other settings or data; remove {self.folder} to start again"
            )
        if seal["format"] != FORMAT:
            raise CheckpointError(
                f"{self.folder / name}: written in format {seal['format']}, this version reads format {FORMAT}; "
                f"finish the cell with the version that began it, or remove {self.folder} to start again"
            )

    def _restore(self, folder: Path, seal: dict[str, Any], engine: Resumable) -> None:
        ranks = self._ranks
        # Generators belong to a rank of this many on this kind of device; with another number they begin anew.
        alike = (seal["world"], seal["device"]) == (ranks.world, ranks.device.type)
        own = generator_states(ranks.device) if alike else {}
        try:
            state = engine.state()
            wanted = tensors_of({**state, "extra": self._extras, "generators": {str(ranks.rank): own}})
            load_tensors(
                wanted, storage_reader=TensorReader(folder), planner=TensorPlanner(), process_group=self._group,
                no_dist=self._group is None,
            )  # fmt: skip
            engine.load(state)
        except Exception as error:  # whole on disk, so it is of another model or library
            raise CheckpointError(f"{folder}: whole, but it does not fit this run: {error}") from error
        if own:
            restore_generators(own, ranks.device)


def discard(folder: Path) -> None:
    """Delete a finished cell's checkpoints, all but its best where the recipe keeps that."""
    checkpoints = folder / "checkpoints"
    best = _read_pointer(checkpoints / BEST)
    for entry in checkpoints.glob("*") if best else []:
        if entry.name not in (BEST, best):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    if not best:
        shutil.rmtree(checkpoints, ignore_errors=True)


def _read_pointer(path: Path) -> str | None:
    """The checkpoint that a pointer names; None where it is missing or damaged."""
    try:
        return str(read_checksummed(path).get("checkpoint"))
    except Damaged:
        return None


def _name(step: int) -> str:
    return f"step-{step:09d}"
