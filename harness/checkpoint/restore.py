"""Verify a checkpoint and load it, on all ranks together. Nothing of it is used before it is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors

from harness.checkpoint.collective import Collective
from harness.checkpoint.facts import FACTS, CheckpointError, Facts, Progress, UnreadableError, read_facts
from harness.checkpoint.layout import check_values
from harness.checkpoint.rng import generator_states, restore_generators
from harness.checkpoint.tensors import (
    Resumable,
    TensorPlanner,
    TensorReader,
    owners,
    reason,
    send_from_owners,
    share,
    tensors_of,
)
from harness.storage.checksums import Damaged, check, read_checksummed


@dataclass(frozen=True)
class Target:
    """What a checkpoint is loaded into.

    Attributes:
        extras: tensors that are equal on all ranks, loaded in place.
        check: called with the progress of a loaded checkpoint; raises ValueError where its parts contradict each other.
    """

    engine: Resumable
    extras: dict[str, Tensor]
    check: Callable[[Progress], None]


class OverwrittenError(CheckpointError):
    """Loading failed half-way, so weights and moments in memory are neither a new run's nor the checkpoint's."""


def verify(folder: Path, fingerprint: str, last_step: int | None, collective: Collective) -> tuple[Facts | None, str]:
    """A checkpoint's facts, or None and its damage; each rank verifies its share of the files.

    Raises:
        CheckpointError: it is not damaged, but not of this run.
        UnreadableError: the system cannot read a file.
    """
    ranks = collective.ranks

    def examine() -> tuple[Facts | None, str]:
        try:
            facts = read_facts(folder, read_checksummed(folder / FACTS), fingerprint, last_step)
            check(folder, facts.files, sorted(facts.files)[ranks.rank :: ranks.world])
        except Damaged as error:
            return None, str(error)
        except OSError as error:
            raise UnreadableError(f"{error.filename or folder}: cannot be read: {error.strerror}") from error
        return facts, ""

    examined = collective.on_all(examine)
    damage = next((text for facts, text in examined if facts is None), "")
    return (None, damage) if damage else examined[ranks.rank]


def restore(folder: Path, facts: Facts, target: Target, collective: Collective) -> None:
    """Load a verified checkpoint into a run, and the random generators.

    Raises:
        OverwrittenError: it does not fit the run.
    """
    ranks = collective.ranks
    # Generator states fit only the same number of ranks and device type; otherwise they are not restored.
    same_ranks = (facts.world, facts.device) == (ranks.world, ranks.device.type)
    generators = generator_states(ranks.device) if same_ranks else {}
    try:
        state = target.engine.state()
        shared = tensors_of({**state, "extra": target.extras})
        owner = owners(shared, ranks.world)
        tensors = {**shared, **tensors_of(generators, f"generators.{ranks.rank}.")}
        reader = TensorReader(folder, tensors, {name: size for name, (size, _) in facts.files.items()})
        collective.on_all(reader.check)
        part = share(tensors, owner, ranks.rank)
        load_tensors(
            part, storage_reader=reader, planner=TensorPlanner(), process_group=collective.group,
            no_dist=collective.group is None,
        )  # fmt: skip
        if ranks.world > 1:
            send_from_owners(shared, owner)
        collective.on_all(partial(check_values, tensors, facts.progress))
        target.engine.load(state)
        collective.on_all(partial(restore_generators, generators, ranks.device))
        collective.on_all(partial(target.check, facts.progress))
    except (Exception, CheckpointException) as error:  # the files are complete, so the model or a library differs
        text = reason(error)[:500]
        raise OverwrittenError(f"{folder}: complete, but it does not fit this run: {text}") from error
