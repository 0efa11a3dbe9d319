"""Batch normalisation by sub-batches: GhostBN (Hoffer et al. 2017), and AdaBN (Li et al. 2016) over plates.

Batches are cut into sub-batches of consecutive crops, each normalised by its own statistics, so that results do not
depend on the number of ranks or micro-batches. If each sub-batch comes from one plate
(`shards.order.weighted_order.PlateOrder`), this is AdaBN in training. At inference, GhostBN uses running statistics
and AdaBN those of the crop's plate. `plate_statistics` collects them beforehand, so that an embedding does not depend
on the other crops of its batch.

Shapes: B batch, G crops of a sub-batch, F features, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from harness.models.layers.timm_import import import_timm


class SubBatchNorm(nn.Module):
    """BatchNorm and activation, by sub-batches. Keys: weight, bias, running_mean, running_var, as in torch.

    A forward pass only collects statistics; `commit_statistics` updates the running ones once per step, with the mean
    over all sub-batches of the step. They are therefore linear in the data, and their mean over ranks equals the
    statistics that a single rank would have.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, group: int, activation: nn.Module, *, eps: float, momentum: float) -> None:
        super().__init__()
        self.group, self.eps, self.momentum, self.activation = group, eps, momentum, activation
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.gathering = False  # collecting the statistics of a plate, in eval mode
        self.plate: tuple[Tensor, Tensor] | None = None  # mean and variance, used instead of the running ones
        self._gathered: list[tuple[Tensor, Tensor]] = []  # means and variances of sub-batches

    def forward(self, features: Tensor) -> Tensor:
        """Normalise features (B, F, H, W) and apply the activation.

        Raises:
            ValueError: in training, if the batch does not divide into sub-batches.
        """
        if self.training and len(features) % self.group:
            raise ValueError(f"a batch of {len(features)} crops does not divide into sub-batches of {self.group}")
        if self.training or self.gathering:
            normed = self._normalise_by_sub_batches(features)
        else:
            mean, variance = self.plate or (self.running_mean, self.running_var)
            normed = nn.functional.batch_norm(features, mean, variance, self.weight, self.bias, eps=self.eps)
        activated: Tensor = self.activation(normed)
        return activated

    def _normalise_by_sub_batches(self, features: Tensor) -> Tensor:
        """Normalise each sub-batch by its own statistics, in one call: to torch they are features of their own."""
        groups, width = -(-len(features) // self.group), len(self.running_mean)
        if len(features) % self.group and groups > 1:  # only in eval mode: the last one is smaller
            whole = (groups - 1) * self.group
            parts = (self._normalise_by_sub_batches(part) for part in (features[:whole], features[whole:]))
            return torch.cat(tuple(parts))
        folded = _folded(features, groups)  # (G, groups · F, H, W)
        mean = self.running_mean.new_zeros(groups * width)
        variance = torch.ones_like(mean)
        weight, bias = self.weight.repeat(groups), self.bias.repeat(groups)
        # A momentum of 1 stores the sub-batch's own statistics; its variance is unbiased, as torch's running one.
        normed = nn.functional.batch_norm(
            folded, mean, variance, weight, bias, training=True, momentum=1.0, eps=self.eps
        )
        self._gathered.append((mean.view(groups, width), variance.view(groups, width)))
        return _unfolded(normed, groups)

    def take_gathered(self) -> tuple[Tensor, Tensor] | None:
        """Return the average mean and variance of the sub-batches since the last call, and clear them."""
        if not self._gathered:
            return None
        means, variances = (torch.cat(parts).mean(dim=0) for parts in zip(*self._gathered, strict=True))
        self._gathered.clear()
        return means, variances

    @torch.no_grad()
    def commit_statistics(self, skip: Tensor | None) -> None:
        """Update the running statistics with those of this step, unless `skip`, a bool scalar, is True."""
        gathered = self.take_gathered()
        if gathered is None:
            return
        for running, step_mean in zip((self.running_mean, self.running_var), gathered, strict=True):
            updated = torch.lerp(running, step_mean.to(running.dtype), self.momentum)
            running.copy_(updated if skip is None else torch.where(skip, running, updated))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set weight and variance to 1, bias and mean to 0."""
        for scale, shift in ((self.weight, self.bias), (self.running_var, self.running_mean)):
            scale.fill_(1)
            shift.zero_()


def _folded(features: Tensor, groups: int) -> Tensor:
    """(B, F, H, W) → (B / groups, groups · F, H, W) in the same memory format, with one copy."""
    F, H, W = features.shape[1:]
    if not _is_channels_last(features):
        return features.view(groups, -1, F, H, W).transpose(0, 1).flatten(1, 2)
    by_pixel = features.permute(0, 2, 3, 1).view(groups, -1, H, W, F)
    return by_pixel.permute(1, 2, 3, 0, 4).reshape(-1, H, W, groups * F).permute(0, 3, 1, 2)


def _unfolded(folded: Tensor, groups: int) -> Tensor:
    """Invert `_folded`."""
    (size, _), (H, W) = folded.shape[:2], folded.shape[2:]
    if not _is_channels_last(folded):
        return folded.view(size, groups, -1, H, W).transpose(0, 1).flatten(0, 1)
    by_pixel = folded.permute(0, 2, 3, 1).view(size, H, W, groups, -1)
    return by_pixel.permute(3, 0, 1, 2, 4).reshape(size * groups, H, W, -1).permute(0, 3, 1, 2)


def _is_channels_last(features: Tensor) -> bool:
    return not features.is_contiguous() and features.is_contiguous(memory_format=torch.channels_last)


def by_sub_batches(module: nn.Module, group: int) -> nn.Module:
    """Replace each BatchNorm below `module` (timm's including its activation) by a `SubBatchNorm`; return `module`."""
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
    """List every `SubBatchNorm` in `module`."""
    return [submodule for submodule in module.modules() if isinstance(submodule, SubBatchNorm)]


@contextmanager
def plate_statistics(module: nn.Module, run: Callable[[], None]) -> Iterator[None]:
    """AdaBN at inference: make `module`, in eval mode, normalise by the statistics of the crops that `run` feeds it.

    They are averaged over sub-batches, as the running statistics are. On exit the running statistics apply again.
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
