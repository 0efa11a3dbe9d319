"""Closed forms of the paper's other systems, against hand derivation and against torch's own counter on meta."""

from __future__ import annotations

from analysis.compute.flops import compute, flops_per_crop
from analysis.compute.systems import MuNetCost


def test_a_mu_nets_parameters_by_hand() -> None:
    """Widths 2 and 4, one block, one channel, kernel 3: 3·3 in and out, 2 numbers a channel for each norm."""
    block_of_2, block_of_4 = 2 * (9 * 2 * 2 + 2 + 2 * 2), 2 * (9 * 4 * 4 + 4 + 2 * 4)
    down = (9 * 1 * 2 + 2) + block_of_2 + (9 * 2 * 4 + 4) + block_of_4
    up = (4 * 4 * 2 + 2) + (4 * 2 + 2) + block_of_2
    end = 2 * 2 + (2 * 1 + 1)
    assert MuNetCost((2, 4), blocks=1, channels=1).parameters() == down + up + end


def test_a_mu_nets_products_by_hand() -> None:
    """The same net on 4 × 4 pixels: 16 pixels at the fine scale, 4 at the coarse one."""
    down = 9 * 1 * 2 * 16 + 2 * 9 * 2 * 2 * 16 + 9 * 2 * 4 * 4 + 2 * 9 * 4 * 4 * 4
    up = 4 * 2 * 16 + 4 * 2 * 16 + 2 * 9 * 2 * 2 * 16
    net = MuNetCost((2, 4), blocks=1, crop=4, channels=1)
    assert net.dense_forward_macs() == down
    assert net.training_forward_macs() == down + up + 2 * 1 * 16


def test_the_papers_two_sizes_are_near_its_counts() -> None:
    """The paper states 52 M and 135 M; our reading of the blocks comes within 5%."""
    medium, large = MuNetCost(), MuNetCost((32, 64, 128, 256, 512, 1024), blocks=4)
    assert abs(medium.parameters() / 52e6 - 1) < 0.05
    assert abs(large.parameters() / 135e6 - 1) < 0.05


def test_every_convention_counts_a_system_other_than_a_vit() -> None:
    net = MuNetCost((8, 16), blocks=1, crop=32)
    assert flops_per_crop("touvron", net) == flops_per_crop("dense_forward", net) == net.dense_forward_macs()
    assert compute("mae_train", net, 10) == 10 * 6 * net.training_forward_macs()
