"""Save and resume checkpoints: one folder per saved step, written in the background, valid once `latest` names it.

    <cell>/checkpoints/step-00000480/   each rank's tensors, .metadata, and checkpoint.json (progress, checksums)
    <cell>/checkpoints/latest           the step to resume from; `best`: the step of the best validation
    <cell>/checkpoints/.step-*.partial  a save in progress, or the rest of a killed one

A save copies the tensors to a staging buffer and returns; each rank copies a part of what all ranks hold alike. A
thread on every rank writes them through torch.distributed.checkpoint, flushes them to disk and computes their
checksums. Then the first rank writes checkpoint.json, renames the folder and updates `latest`. After a crash at any
time, `latest` names a complete checkpoint. See docs/checkpoints.md.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import async_save

from harness.checkpoint import lost
from harness.checkpoint.collective import Collective
from harness.checkpoint.facts import FACTS, FORMAT, CheckpointError, Progress, UnreadableError, step_name
from harness.checkpoint.lost import BEST, FOLDER, LATEST
from harness.checkpoint.restore import OverwrittenError, Target, restore, verify
from harness.checkpoint.rng import generator_states
from harness.checkpoint.room import room
from harness.checkpoint.save_plan import PlanCache
from harness.checkpoint.start import Start, load_start
from harness.checkpoint.tensors import Resumable, owners, reason, share, size_on_rank, tensors_of
from harness.distributed.ranks import Ranks
from harness.storage.checksums import checksum, sync_folder, write_checksummed
from harness.storage.fencing import Fence, Unfenced

__all__ = ["CheckpointError", "Checkpoints", "Progress", "discard", "say"]

HOW_TO_GO_ON = (
    "nothing was changed. Restore the files, or start again from step 0 with launch.restart_lost=true, which moves "
    "what is there aside and deletes nothing, or choose another output"
)


MOST_FAILED = 3  # saves in a row: the disk does not get emptier by itself
RETRY_SECONDS = 60.0  # after a save that failed was begun


def say(text: str) -> None:
    """Print a line to stderr."""
    print(text, file=sys.stderr, flush=True)


class Checkpoints:
    """The checkpoints of one grid cell. All ranks call the same methods at the same steps.

    `extras` are tensors that are equal on all ranks (running sums, the divergence monitor's state). They are saved, and
    loaded in place. A checkpoint beyond the run's `last_step` is refused. With `restart_lost`, a run whose checkpoints
    cannot be loaded starts again instead of being refused.
    """

    def __init__(
        self, folder: Path, fingerprint: str, ranks: Ranks, extras: dict[str, Tensor] | None = None, *, keep: int = 2,
        fence: Fence | None = None, last_step: int | None = None, restart_lost: bool = False,
    ) -> None:  # fmt: skip
        self._cell, self.folder = folder, folder / FOLDER
        self._fingerprint, self._ranks, self._extras = fingerprint, ranks, extras or {}
        self._keep, self._fence = keep, fence or Unfenced()
        self._last_step, self._restart_lost = last_step, restart_lost
        # A separate group: the writer thread's collectives must not interleave with those of training.
        self._collective = Collective(ranks, dist.new_group(backend="gloo") if ranks.world > 1 else None)
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # expected with one process
        on_gpu = ranks.device.type == "cuda"
        self._stager = DefaultStager(StagingOptions(on_gpu, False, False, on_gpu))
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._plans = PlanCache()
        self._pending: Future[None] | None = None
        self._saved, self._bytes = -1, 0
        self._failures: list[str] = []  # of the saves since the last complete one

    def save(self, engine: Resumable, progress: Progress, *, best: bool = False) -> None:
        """Start an asynchronous save of the run's state, after waiting for a save that is still in progress.

        Raises:
            CheckpointError: the last `MOST_FAILED` saves could not be written.
        """
        self.wait()
        if len(self._failures) >= MOST_FAILED:
            raise CheckpointError(f"{self.folder}: {MOST_FAILED} times in a row, {self._failures[-1]}")
        state = tensors_of({**engine.state(), "extra": self._extras})
        state = share(state, owners(state, self._ranks.world), self._ranks.rank)
        state |= tensors_of(generator_states(self._ranks.device), f"generators.{self._ranks.rank}.")
        self._bytes = sum(size_on_rank(tensor) for tensor in state.values())
        folder = self.folder / f".{step_name(progress.step)}.partial"
        written = async_save(
            state, storage_writer=FileSystemWriter(folder, sync_files=True), planner=self._plans.planner(),
            process_group=self._collective.group, async_stager=self._stager, no_dist=self._collective.group is None,
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
        named = lost.named_checkpoint(self._cell, LATEST)
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
        except (Exception, CheckpointException) as error:  # any error of the disk, the network or another rank
            why = reason(error)
        else:
            self._failures.clear()
            return
        step, self._saved = self._saved, -1
        if self._ranks.is_first:
            shutil.rmtree(self.folder / f".{step_name(step)}.partial", ignore_errors=True)
        takes = room(self.folder, self._bytes * self._ranks.world)
        text = f"the checkpoint of step {step} could not be written: {why}; {takes}"
        self._failures.append(text)
        if required:
            raise CheckpointError(f"{self.folder}: {text}")
        if self._ranks.is_first:
            say(f"warning: {text}")

    @property
    def has_failed(self) -> bool:
        """Whether the save in the background is over, and was not written, on this rank."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def save_now(self, engine: Resumable, progress: Progress, *, best: bool = False) -> None:
        """Save this step and return once the checkpoint is complete on disk.

        Raises:
            CheckpointError: it could not be written.
        """
        self.wait()
        if self._saved != progress.step:
            self.save(engine, progress, best=best)
        self.wait(required=True)

    def resume(
        self, engine: Resumable, check: Callable[[Progress], None] = lambda progress: None, start: Start | None = None
    ) -> tuple[Progress, list[str]]:  # fmt: skip
        """Restore the newest complete checkpoint; return its progress, and notes on any damaged ones.

        A run that has saved nothing yet begins at its start, or at step 0. All ranks return or raise together.

        Args:
            check: called with the progress of a loaded checkpoint; raises ValueError where its parts contradict.
            start: the state with which the run begins.

        Raises:
            CheckpointError: there is saved work that cannot be loaded (damaged, lost, of other settings, data or
                format, or with values that no run writes), or the folder cannot be read. Every file is left as it is,
                unless `restart_lost` is set.
        """
        notes: list[str] = []
        target = Target(engine, self._extras, check)
        try:
            progress = self._resume(target, notes)
        except CheckpointError as error:
            text = "\n".join([*notes, str(error)])
            if isinstance(error, UnreadableError):
                raise CheckpointError(f"{text}; nothing was changed: make it readable, and run again") from error
            if not self._restart_lost:
                raise CheckpointError(f"{text}; {HOW_TO_GO_ON}") from error
            moved = self._collective.on_first(self._set_aside)
            if isinstance(error, OverwrittenError):
                raise CheckpointError(f"{text}; moved to {moved}: run again to start from step 0") from error
            origin = "step 0" if start is None else f"the end of {start.cell.name}"
            notes = [f"{text}; launch.restart_lost is set: starting again from {origin}, what was there is in {moved}"]
            progress = None
        if progress is None:
            progress = Progress() if start is None else load_start(start, target, self._collective)
        self._collective.on_first(self._tidy)
        return progress, notes

    def _resume(self, target: Target, notes: list[str]) -> Progress | None:
        """Load the newest complete checkpoint, if any was saved, and add what is wrong with the others to `notes`."""
        saved = self._collective.on_first(self._find)
        for name in saved.names:
            facts, damage = verify(self.folder / name, self._fingerprint, self._last_step, self._collective)
            if facts is not None:
                restore(self.folder / name, facts, target, self._collective)
                if notes or saved.notes:
                    notes[:] = [*saved.notes, *notes, f"going on from step {facts.progress.step}"]
                return facts.progress
            notes.append(f"checkpoint {name} is damaged: {damage}")
        notes[:] = [*saved.notes, *notes]
        if saved.names:
            raise CheckpointError(f"{self.folder}: no complete checkpoint is left")
        if saved.lost:
            raise CheckpointError(f"{self._cell}: the checkpoints are lost: {', '.join(saved.lost)}")
        return None

    def _set_aside(self) -> Path:
        self._fence.check()
        return lost.set_aside(self._cell)

    def _find(self) -> lost.Saved:
        """Look for checkpoints, after completing a publication that was killed between its two renames."""
        for replaced in self.folder.glob(".*.replaced.partial"):
            original = self.folder / replaced.name.removeprefix(".").removesuffix(".replaced.partial")
            if not original.exists():
                replaced.rename(original)
        return lost.find_saved(self._cell)

    def _tidy(self) -> None:
        """Remove saves that were never completed, now that nothing has to be salvaged from them."""
        for partial_save in self.folder.glob(".*.partial"):
            shutil.rmtree(partial_save)
        self.folder.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Wait for the save in progress and stop the threads."""
        self.wait()
        self._writer.shutdown()
        self._stager.close()
        self._plans.close()

    def _finish(self, written: Future[Any], folder: Path, facts: dict[str, Any]) -> None:
        """On the writer thread of every rank: wait for the tensors, then publish the checkpoint on the first rank.

        Raises:
            CheckpointError: a rank failed; all ranks raise it.
        """
        written.result()
        pattern = f"__{self._ranks.rank}_*"
        rank_files = [*folder.glob(pattern), *([folder / ".metadata"] if self._ranks.is_first else [])]
        sums = self._collective.on_all(lambda: {path.name: checksum(path) for path in rank_files})
        files = {name: value for rank_sums in sums for name, value in rank_sums.items()}
        self._collective.on_all(partial(self._publish, folder, {**facts, "files": files}))

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
        lost.record_save(self._cell, facts["progress"]["step"])
        older = sorted((other.name for other in self.folder.glob("step-*") if other.name <= name), reverse=True)
        keep = {*older[: self._keep], lost.named_checkpoint(self._cell, BEST)}
        for other in self.folder.glob("step-*"):
            if other.name not in keep:
                shutil.rmtree(other)
        shutil.rmtree(self.folder / f".{name}.replaced.partial", ignore_errors=True)


def discard(folder: Path) -> None:
    """Delete a finished cell's checkpoints, except its best if the recipe keeps that."""
    lost.forget_saves(folder)
    checkpoints = folder / FOLDER
    best = lost.named_checkpoint(folder, BEST)
    for entry in checkpoints.glob("*") if best else []:
        if entry.name not in (BEST, best):
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
    if not best:
        shutil.rmtree(checkpoints, ignore_errors=True)
