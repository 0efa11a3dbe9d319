"""Batch normalisation by sub-batches: GhostBN (Hoffer et al. 2017), and AdaBN (Li et al. 2016) over plates.

Batches are cut into sub-batches of consecutive crops, each normalised by its own statistics, so that neither the
number of ranks nor of pieces changes a number. With batches of one plate in a sub-batch (`weighted_order.PlateOrder`)
that is AdaBN in training. At inference GhostBN uses running statistics; AdaBN those of the plate at hand, which
`plate_statistics` gathers beforehand, so that an embedding does not depend on what is embedded beside it.

Shapes: B batch, G crops of a sub-batch, F features, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from harness.models.layers.timm_import import import_timm


class SubBatchNorm(nn.Module):
    """BatchNorm and activation, by sub-batches. Keys: weight, bias, running_mean, running_var, as torch's.

    Running statistics move once per step, by the mean over all of the step's sub-batches (`commit_statistics`): a
    forward pass only gathers. That makes them linear in what ranks see, so that their mean over ranks is what one rank
    would have.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, group: int, activation: nn.Module, *, eps: float, momentum: float) -> None:
        super().__init__()
        self.group, self.eps, self.momentum, self.activation = group, eps, momentum, activation
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.gathering = False  # statistics of a plate, in eval mode
        self.plate: tuple[Tensor, Tensor] | None = None  # mean and variance, in place of the running ones
        self._gathered: list[tuple[Tensor, Tensor]] = []  # of each sub-batch

    def forward(self, features: Tensor) -> Tensor:
        """(B, F, H, W) → the same shape.

        Raises:
            ValueError: in training, a batch that sub-batches do not divide.
        """
        if self.training and len(features) % self.group:
            raise ValueError(f"a batch of {len(features)} crops does not divide into sub-batches of {self.group}")
        if self.training or self.gathering:
            normed = torch.cat([self._by_its_own(part) for part in torch.split(features, self.group)])
        else:
            mean, variance = self.plate or (self.running_mean, self.running_var)
            normed = nn.functional.batch_norm(features, mean, variance, self.weight, self.bias, eps=self.eps)
        activated: Tensor = self.activation(normed)
        return activated

    def _by_its_own(self, part: Tensor) -> Tensor:
        mean, variance = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
        # A momentum of 1 leaves the sub-batch's own statistics, the variance unbiased as torch's running one is.
        normed = nn.functional.batch_norm(
            part, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps
        )
        self._gathered.append((mean, variance))
        return normed

    def take_gathered(self) -> tuple[Tensor, Tensor] | None:
        """The mean over the sub-batches since the last call, of their means and of their variances."""
        if not self._gathered:
            return None
        means, variances = (torch.stack(parts).mean(dim=0) for parts in zip(*self._gathered, strict=True))
        self._gathered.clear()
        return means, variances

    @torch.no_grad()
    def commit_statistics(self, skip: Tensor | None) -> None:
        """Move the running statistics by what this step gathered, unless `skip`, a bool scalar, is True."""
        gathered = self.take_gathered()
        if gathered is None:
            return
        for running, seen in zip((self.running_mean, self.running_var), gathered, strict=True):
            moved = torch.lerp(running, seen.to(running.dtype), self.momentum)
            running.copy_(moved if skip is None else torch.where(skip, running, moved))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Weight and variance 1, bias and mean 0."""
        for one, zero in ((self.weight, self.bias), (self.running_var, self.running_mean)):
            one.fill_(1)
            zero.zero_()


def by_sub_batches(module: nn.Module, group: int) -> nn.Module:
    """Put a `SubBatchNorm` in the place of each BatchNorm below `module`, timm's with its activation; and return it."""
    with_activation = import_timm().layers.BatchNormAct2d
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            activation = child.act if isinstance(child, with_activation) else nn.Identity()
            norm = SubBatchNorm(child.num_features, group, activation, eps=child.eps, momentum=child.momentum or 0.1)
            setattr(module, name, norm)
        else:
            by_sub_batches(child, group)
    return module


def sub_batch_norms(module: nn.Module) -> list[SubBatchNorm]:
    """All of them below `module`."""
    return [part for part in module.modules() if isinstance(part, SubBatchNorm)]


@contextmanager
def plate_statistics(module: nn.Module, run: Callable[[], None]) -> Iterator[None]:
    """AdaBN at inference: inside, `module` in eval mode normalises by the statistics of what `run` lets it see.

    They are the mean over sub-batches, as running statistics are; afterwards the running ones count again.
    """
    norms = sub_batch_norms(module)
    for norm in norms:
        norm.gathering = True
    try:
        run()
        for norm in norms:
            norm.gathering = False
            norm.plate = norm.take_gathered()
        yield
    finally:
        for norm in norms:
            norm.gathering, norm.plate = False, None
