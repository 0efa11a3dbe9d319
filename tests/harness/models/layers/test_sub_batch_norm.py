"""Covers `sub_batch_norm`: GhostBN and AdaBN against torch's BatchNorm.

tests/distributed/test_kinds.py compares several ranks with one.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.kernel_launches import Counting
from harness.models.layers.sub_batch_norm import SubBatchNorm, by_sub_batches, plate_statistics
from harness.models.layers.timm_import import import_timm


def norm_and_peers(groups: int) -> tuple[SubBatchNorm, list[nn.BatchNorm2d]]:
    torch.manual_seed(0)
    norm = SubBatchNorm(5, 3, nn.ReLU(), eps=1e-5, momentum=0.1)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    peers = [nn.BatchNorm2d(5) for _ in range(groups)]
    for peer in peers:
        peer.load_state_dict({**norm.state_dict(), "num_batches_tracked": torch.tensor(0)})
    return norm.train(), peers


@settings(deadline=None, max_examples=20)
@given(groups=st.integers(1, 4), seed=st.integers(0, 99))
def test_each_sub_batch_is_normalised_by_itself(groups: int, seed: int) -> None:
    """GhostBN against one torch BatchNorm per group: outputs, gradients, and the mean of their running statistics."""
    norm, peers = norm_and_peers(groups)
    features = 2 + 3 * torch.randn(3 * groups, 5, 4, 4, generator=torch.Generator().manual_seed(seed))
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    output = norm(ours)
    expected = torch.cat([peer(part) for peer, part in zip(peers, theirs.split(3), strict=True)]).relu()
    torch.testing.assert_close(output, expected)
    output.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(norm.weight.grad, sum(peer.weight.grad for peer in peers), atol=1e-4, rtol=1e-4)
    assert not norm.running_mean.any()  # not updated before the end of the step
    norm.commit_statistics(None)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([getattr(peer, name) for peer in peers]).mean(0)
        torch.testing.assert_close(getattr(norm, name), mean)
    torch.testing.assert_close(norm.eval()(features[:1]), nn.functional.relu(_by_running(norm, features[:1])))


def _by_running(norm: SubBatchNorm, features: torch.Tensor) -> torch.Tensor:
    shape = (1, -1, 1, 1)
    centred = (features - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + norm.eps).sqrt()
    return centred * norm.weight.view(shape) + norm.bias.view(shape)


def test_running_statistics_do_not_depend_on_micro_batches_and_ranks() -> None:
    features = torch.randn(12, 5, 4, 4)
    full, micro, ranks = norm_and_peers(4)[0], norm_and_peers(4)[0], [norm_and_peers(4)[0] for _ in range(2)]
    for _ in range(3):
        full(features)
        full.commit_statistics(None)
        for part in features.split(6):
            micro(part)
        micro.commit_statistics(None)
        for rank, part in zip(ranks, features.split(6), strict=True):
            rank(part)
            rank.commit_statistics(None)
    torch.testing.assert_close(micro.running_var, full.running_var)
    torch.testing.assert_close(torch.stack([rank.running_mean for rank in ranks]).mean(0), full.running_mean)


def test_a_skipped_update_does_not_change_the_statistics() -> None:
    norm, _ = norm_and_peers(1)
    norm(torch.full((3, 5, 4, 4), float("nan")))
    norm.commit_statistics(torch.tensor(True))
    assert not norm.running_mean.any()
    norm(torch.ones(3, 5, 4, 4))
    norm.commit_statistics(torch.tensor(False))
    torch.testing.assert_close(norm.running_mean, torch.full((5,), 0.1))


def test_at_inference_a_plate_is_normalised_by_its_own_statistics() -> None:
    """AdaBN: the mean over the plate's sub-batches replaces the running statistics, only within the context."""
    norm, _ = norm_and_peers(2)
    norm.eval()
    plate, image = 5 + 2 * torch.randn(6, 5, 4, 4), torch.randn(1, 5, 4, 4)
    before = norm(image)
    mean = torch.stack([part.mean((0, 2, 3)) for part in plate.split(3)]).mean(0)
    variance = torch.stack([part.var((0, 2, 3)) for part in plate.split(3)]).mean(0)
    with plate_statistics(norm, lambda: norm(plate)):
        shape = (1, -1, 1, 1)
        centred = (image - mean.view(shape)) / (variance.view(shape) + norm.eps).sqrt()
        torch.testing.assert_close(norm(image), (centred * norm.weight.view(shape) + norm.bias.view(shape)).relu())
    torch.testing.assert_close(norm(image), before)
    assert not norm.running_mean.any()


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 4 crops does not divide into sub-batches of 3"):
        norm_and_peers(1)[0](torch.randn(4, 5, 4, 4))


def test_in_eval_mode_the_trunk_gives_the_output_of_timms() -> None:
    theirs = import_timm().create_model("densenet161", in_chans=2, num_classes=0).eval()
    ours = by_sub_batches(import_timm().create_model("densenet161", in_chans=2, num_classes=0), 4).eval()
    weights = {name: value for name, value in theirs.state_dict().items() if not name.endswith("num_batches_tracked")}
    ours.load_state_dict(weights)
    crops = torch.randn(2, 2, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(crops), theirs(crops), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False], ids=["training", "gathering"])
def test_the_launches_do_not_grow_with_the_number_of_sub_batches(*, training: bool) -> None:
    """A loop over sub-batches launched 5,727 kernels in a DenseNet's forward pass of 128 crops, and 10,879 of 256."""
    norm = SubBatchNorm(5, 3, nn.ReLU(), eps=1e-5, momentum=0.1).train(training)
    norm.gathering = not training
    counts = []
    for groups in (1, 8):
        with Counting() as counting:
            norm(torch.randn(3 * groups, 5, 4, 4))
        counts.append(sum(counting.launches.values()) - counting.launches["clone"])  # one group is folded by a view
    assert counts[0] == counts[1] > 1


@settings(deadline=None, max_examples=20)
@given(crops=st.integers(1, 10))
def test_a_last_sub_batch_that_is_smaller_counts_as_the_others(crops: int) -> None:
    """As where the crops of a plate are gathered, of which there may be any number."""
    norm, peers = norm_and_peers(-(-crops // 3))
    norm.eval().gathering = True
    features = torch.randn(crops, 5, 4, 4)
    expected = torch.cat([peer(part) for peer, part in zip(peers, features.split(3), strict=True)]).relu()
    torch.testing.assert_close(norm(features), expected)
    means, _ = norm.take_gathered() or (None, None)
    torch.testing.assert_close(means, torch.stack([part.mean((0, 2, 3)) for part in features.split(3)]).mean(0))
