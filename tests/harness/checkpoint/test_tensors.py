"""Which rank writes and reads what all ranks hold alike. Covers `tensors`."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.checkpoint.tensors import owners, share, size_on_rank

SIZES = st.lists(st.integers(0, 10_000), max_size=30)


@given(sizes=SIZES, world=st.integers(1, 9), order=st.randoms(use_true_random=False))
def test_every_tensor_has_one_owner_and_ranks_have_about_the_same(sizes: list[int], world: int, order: object) -> None:
    """No rank has more than the mean and the largest tensor, and the order of the names does not matter."""
    tensors = {f"t{number}": torch.empty(size, device="meta") for number, size in enumerate(sizes)}
    owner = owners(tensors, world)
    shares = [share(tensors, owner, rank) for rank in range(world)]
    assert sorted(name for part in shares for name in part) == sorted(tensors)
    loads = [sum(size_on_rank(tensor) for tensor in part.values()) for part in shares]
    assert max(loads) <= sum(loads) / world + 4 * max(sizes, default=0)
    names = list(tensors)
    order.shuffle(names)  # type: ignore[attr-defined]
    assert owners({name: tensors[name] for name in names}, world) == owner
