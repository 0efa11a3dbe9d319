"""The divergence monitor: steps whose loss or gradient is not finite, or whose loss jumps.

At each step one small vector (every rank's loss, the square of every parameter's gradient norm) is summed over ranks.
What is bad is decided, counted and recorded on the device, so all ranks decide alike and no host waits. The host
copies the records when it logs and reads them some steps later; before validations and saves it waits for them, so a
diverged state is never saved.

Shapes: W ranks, P parameters, R records.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from harness.data.to_host import HostCopy
from harness.distributed.ranks import Ranks

RECORDS = 16  # bad steps that are described between two calls of `collect`; more are only counted
SPAN = 100  # steps of the running mean of the loss
WARM = 20  # steps before a jump can be told from the start of training
WORST = 5  # parameters named in a report
BROKEN, SPIKE = 1, 2


class MonitorState(NamedTuple):
    """Columns of `DivergenceMonitor.state`."""

    running_loss: Tensor
    steps: Tensor
    skipped: Tensor


class SoundSteps(NamedTuple):
    """Columns of `DivergenceMonitor.window`: sums over the sound steps since they were last read."""

    loss: float
    gradient_norm: float
    steps: float

    @property
    def mean_loss(self) -> float:
        return self.loss / self.steps

    @property
    def mean_gradient_norm(self) -> float:
        return self.gradient_norm / self.steps


class BadStepRecord(NamedTuple):
    """Columns of one bad step's record, of 3 + W + P numbers."""

    step: int
    kind: int  # BROKEN or SPIKE
    norm: float  # of the whole gradient
    losses: tuple[float, ...]  # of each rank (W)
    squares: tuple[float, ...]  # of the norm of each parameter's gradient (P)

    @classmethod
    def read(cls, row: list[float], world: int) -> BadStepRecord:
        """A record from its row, as `DivergenceMonitor` writes it."""
        step, kind, norm, *rest = row
        return cls(int(step), int(kind), norm, tuple(rest[:world]), tuple(rest[world:]))


class Diverged(RuntimeError):  # noqa: N818  (it says what the training did)
    """Training met a step that its recipe does not allow; the text says which, on what crops, and what to do."""


@dataclass(frozen=True)
class Policy:
    """What the recipe's `train` section says of bad steps.

    Attributes:
        nonfinite: a loss or gradient that is not finite ends the run, or its update is not applied.
        spike: the same for a loss above `spike_factor` times its running mean; `report` only says so.
        skip_limit: more skipped updates than this end the run.
    """

    nonfinite: Literal["stop", "skip"] = "stop"
    spike: Literal["report", "stop", "skip"] = "report"
    spike_factor: float = 3.0
    skip_limit: int = 10

    @property
    def skips(self) -> bool:
        """Whether any update may be left out."""
        return "skip" in (self.nonfinite, self.spike)


@dataclass(frozen=True)
class BadStep:
    """A step that was broken or a spike, as all ranks saw it."""

    step: int
    kind: Literal["not finite", "spike"]
    action: Literal["report", "stop", "skip"]
    losses: tuple[float, ...]  # of each rank (W)
    norm: float  # of the whole gradient
    norms: tuple[float, ...]  # of each parameter's gradient (P)

    @property
    def suspects(self) -> list[int]:
        """The ranks whose loss is not finite; else the one with the highest."""
        broken = [rank for rank, loss in enumerate(self.losses) if not math.isfinite(loss)]
        return broken or [max(range(len(self.losses)), key=lambda rank: self.losses[rank])]

    def row(self, names: Sequence[str], crops: dict[int, list[str]]) -> dict[str, Any]:
        """A row of the log: `names` of the parameters, and the crops of each suspect rank."""
        order = sorted(range(len(self.norms)), key=lambda i: (math.isfinite(self.norms[i]), -_or_zero(self.norms[i])))
        return {
            "kind": "bad_step",
            "step": self.step,
            "why": self.kind,
            "action": self.action,
            "losses": [_json(loss) for loss in self.losses],
            "gradient_norm": _json(self.norm),
            "worst_gradients": {names[i]: _json(self.norms[i]) for i in order[:WORST]},
            "crops": {str(rank): names for rank, names in crops.items()},
        }

    def __str__(self) -> str:
        losses = ", ".join(f"{loss:.4g}" for loss in self.losses)
        return f"step {self.step} is bad ({self.kind}): loss {losses} by rank, gradient norm {self.norm:.4g}"


class DivergenceMonitor:
    """Watches one run. Every rank has one and calls it alike.

    Attributes:
        names: of the parameters with gradients, in the order of a bad step's norms.
        state: what must outlive a restart, float64, the same on all ranks; its columns are those of `MonitorState`.
        window: float64 sums since `observe` was last called; its columns are those of `SoundSteps`.
    """

    def __init__(
        self, policy: Policy, ranks: Ranks, model: nn.Module, squares: Callable[[], Tensor | None] = lambda: None
    ) -> None:
        """`squares`, where it gives any, are this rank's part of each squared gradient norm: (P,), float64."""
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.policy, self.names = policy, [name for name, _ in trained]
        self._squares = squares
        self._ranks, self._parameters = ranks, [p for _, p in trained]
        copies = [copies_of(p, ranks.world) for _, p in trained]
        self._shares = torch.tensor(copies, dtype=torch.float64, device=ranks.device).reciprocal()  # (P,)
        self.state = torch.zeros(len(MonitorState._fields), dtype=torch.float64, device=ranks.device)
        self.window = torch.zeros(len(SoundSteps._fields), dtype=torch.float64, device=ranks.device)
        width = 3 + ranks.world + len(trained)  # step, kind and norm; losses; squares
        self._records = torch.zeros(RECORDS + 1, width, dtype=torch.float64, device=ranks.device)  # (R + 1, ...)
        self._count = torch.zeros((), dtype=torch.int64, device=ranks.device)

    @torch.no_grad()
    def check(self, loss: Tensor, step: int) -> Tensor:
        """Check a step between its backward pass and its update, on the device alone.

        Args:
            loss: of this rank, a scalar on the device.

        Returns:
            Whether the update must not be applied: a bool scalar on the device, the same on all ranks.
        """
        world = self._ranks.world
        slots = torch.zeros(world, dtype=torch.float64, device=loss.device)
        slots[self._ranks.rank] = loss.double()
        squares = self._squares()
        if squares is None:
            squares = gradient_squares(self._parameters) * self._shares
        seen = self._ranks.sum(torch.cat([slots, squares]))
        mean, norm = seen[:world].mean(), seen[world:].sum().sqrt()
        state = MonitorState(*self.state)
        broken = ~(torch.isfinite(mean) & torch.isfinite(norm))
        spike = ~broken & (state.steps >= WARM) & (mean > self.policy.spike_factor * state.running_loss)
        skip: Tensor = broken & (self.policy.nonfinite == "skip") | spike & (self.policy.spike == "skip")
        kind = torch.where(broken, BROKEN, torch.where(spike, SPIKE, 0))
        self._record(torch.cat([torch.stack([torch.full_like(norm, step), kind.double(), norm]), seen]), kind > 0)
        self._remember(mean, norm, broken, skip)
        return skip

    def _record(self, row: Tensor, bad: Tensor) -> None:
        """Keep `row` if `bad`; the last record is where everything else goes."""
        place = torch.where(bad, self._count.clamp(max=RECORDS), RECORDS)
        self._records.index_copy_(0, place[None], row[None])
        self._count += bad

    def _remember(self, mean: Tensor, norm: Tensor, broken: Tensor, skip: Tensor) -> None:
        state = MonitorState(*self.state)
        change = (mean - state.running_loss) / (state.steps + 1).clamp(max=SPAN)
        forget = broken | skip
        step = torch.stack([change, torch.ones_like(change)]).masked_fill(forget, 0.0)
        self.state += torch.cat([step, skip.double()[None]])
        self.window += torch.stack([mean, norm, torch.ones_like(mean)]).masked_fill(broken, 0.0)

    def collect(self) -> list[BadStep]:
        """The bad steps since the last call, the first RECORDS of them. Waits for the device."""
        copy = HostCopy([self._count, self._records])
        self._count.zero_()
        return self._bad_steps(*copy.read())

    def observe(self) -> HostCopy:
        """Copy what `collect` gives and the window, and clear both, for `read`. Does not wait for the device."""
        copy = HostCopy([self._count, self._records, self.window])
        self._count.zero_()
        self.window.zero_()
        return copy

    def read(self, copy: HostCopy) -> tuple[list[BadStep], SoundSteps]:
        """What `observe` has copied."""
        count, records, window = copy.read()
        return self._bad_steps(count, records), SoundSteps(*window.tolist())

    def _bad_steps(self, count: Tensor, records: Tensor) -> list[BadStep]:
        rows = records[: min(int(count), RECORDS)].tolist()
        return [self._bad_step(BadStepRecord.read(row, self._ranks.world)) for row in rows]

    def _bad_step(self, record: BadStepRecord) -> BadStep:
        broken = record.kind == BROKEN
        return BadStep(
            record.step, "not finite" if broken else "spike", self.policy.nonfinite if broken else self.policy.spike,
            record.losses, record.norm, tuple(square**0.5 for square in record.squares),
        )  # fmt: skip

    @property
    def skipped(self) -> int:
        """Updates left out so far, over restarts too. Waits for the device."""
        return int(MonitorState(*self.state).skipped)

    @property
    def applied(self) -> float:
        """Updates made so far, over restarts too. Waits for the device."""
        return float(MonitorState(*self.state).steps)

    def raise_if_fatal(self, bad_steps: Sequence[BadStep], saved: Callable[[], str]) -> None:
        """End the run if a bad step, or the number of those skipped, is not allowed; `saved` says what is on disk.

        Raises:
            Diverged: on all ranks alike.
        """
        ends = [bad for bad in bad_steps if bad.action == "stop"]
        if ends:
            raise Diverged(
                f"{ends[0]}; {saved()}. Lower train.learning_rate, look at the crops named in the log, or let "
                f"train.{'nonfinite' if ends[0].kind == 'not finite' else 'spike'} be skip"
            )
        if bad_steps and self.skipped > self.policy.skip_limit:
            raise Diverged(
                f"{self.skipped} updates were skipped, more than train.skip_limit, {self.policy.skip_limit}; the last: "
                f"{bad_steps[-1]}; {saved()}"
            )


def gradient_squares(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The squared 2-norm of each parameter's gradient as far as it lies on this rank: (P,), float64; 0 without one."""
    gradients = [_local(p.grad) if p.grad is not None else p.new_zeros(1) for p in parameters]
    return torch.stack(torch._foreach_norm(gradients)).double().square()


def copies_of(parameter: nn.Parameter, world: int) -> int:
    """How many ranks hold the same shard of a parameter: all of them, where it is not sharded."""
    if not isinstance(parameter, DTensor):
        return world
    sizes = zip(parameter.device_mesh.shape, parameter.placements, strict=True)
    return math.prod(size for size, placement in sizes if isinstance(placement, Replicate))


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _or_zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _json(value: float) -> float | str:
    """JSON has no numbers that are not finite: their names."""
    return value if math.isfinite(value) else str(value)
