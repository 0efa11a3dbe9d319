"""Draws of the random order, as the loader composes them."""

import numpy as np

from shards.order.random_order import Draws, RandomOrder, placed


def draws(seed: int, first: int, count: int, wells: int, image_shape, crop: int) -> Draws:
    """Positions `first` to `first + count` over `wells` wells of (height, width), or of one such row per well."""
    well = RandomOrder(seed, wells).wells(first, count)
    return placed(seed, first, well, np.broadcast_to(np.asarray(image_shape, np.int64), (wells, 2))[well], crop)
