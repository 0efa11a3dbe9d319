"""The stream order: shards are read in sequence, k crops per image read, and batches are still mixed.

For stores where sequential reads are cheap and random reads are expensive. A pass over the data is k epochs long:

1. The shards are put in a random order, and the sequence of their n images is cut into `lanes` equal parts. Cuts fall
   inside shards, so lanes differ by one image at most, whatever the sizes of the shards and the number of ranks.
2. A lane is read in blocks of `block` images or more. A block gives k rounds; a round is every image of the block once,
   its first half shuffled and then its second half, so that two crops of one image are at least half a block apart.
3. A batch takes the same number of crops from every lane, lane after lane: a rank's part of a batch is a fixed part of
   the lanes, and a rank reads only their shards.

All of it is arithmetic on the position. Arrays are (N,), one entry per position drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shards.order.keyed_random import hashed, key, permuted
from shards.order.random_order import Indices, positions


@dataclass(frozen=True, eq=False)
class StreamOrder:
    """Each image exactly `crops` times per pass; wells count from 0, shard after shard.

    `sizes` are the wells of each shard, `batch` the crops of all ranks together, `lanes` a divisor of it. Raises
    ValueError if these are inconsistent.
    """

    seed: int
    sizes: Sequence[int] | Indices
    batch: int
    lanes: int
    crops: int = 8
    block: int = 64

    def __post_init__(self) -> None:
        if min(self.batch, self.lanes, self.crops, self.block) < 1:
            raise ValueError("batch, lanes, crops and block must each be at least 1")
        if self.batch % self.lanes:
            raise ValueError(f"{self.lanes} lanes do not divide the global batch of {self.batch} crops")
        sizes = np.asarray(self.sizes, dtype=np.int64)
        if not sizes.sum() or sizes.min() < 0:
            raise ValueError("need at least one well, and no shard with a negative number of wells")
        object.__setattr__(self, "sizes", sizes)

    @property
    def count(self) -> int:
        """Wells in all shards."""
        return int(np.sum(self.sizes))

    @property
    def period(self) -> int:
        """A pass: every well `crops` times."""
        return self.count * self.crops

    def most_of_one_image(self) -> int:
        """The most crops of one image in a global batch; a batch across two passes can hold as many from each.

        A batch holds at most x = c + t consecutive crops of a lane, c = batch / lanes of them from complete rounds of
        lanes and t from the pass's end. Two crops of an image are floor(s / 2) + 1 apart or more, where s is the number
        of images in the smallest block; so at most x / (floor(s / 2) + 1), rounded up, and never more than `crops`.
        """
        smallest = max(1, min(self.block, self.count // self.lanes))
        consecutive = self.batch // self.lanes + int(self._tails().max())
        return min(self.crops, -(-consecutive // (smallest // 2 + 1)))

    def wells(self, first: int, count: int) -> Indices:
        """The wells at positions `first` to `first + count`; ValueError if either is negative."""
        return self._at(positions(first, count).astype(np.int64))

    def shards(self, first_batch: int, last_batch: int, rank: int = 0, world: int = 1) -> Indices:
        """The shards that a rank reads in these global batches (last exclusive), in the order of their first use.

        Raises ValueError if the batch does not divide by `world`.
        """
        if self.batch % world:
            raise ValueError(f"the global batch of {self.batch} does not divide by {world} ranks")
        part = self.batch // world
        starts = np.arange(first_batch, last_batch, dtype=np.int64) * self.batch + rank * part
        wells = self._at((starts[:, None] + np.arange(part)).ravel())
        shards, uses = np.unique(np.searchsorted(np.cumsum(self.sizes), wells, side="right"), return_index=True)
        return shards[np.argsort(uses)]

    def _at(self, crop_positions: Indices) -> Indices:
        passes, within = np.divmod(crop_positions, self.period)
        image = self._images(passes, *self._lanes_and_turns(within))
        for number in np.unique(passes).tolist():
            ends, shifts = _sequence(self, number)
            in_pass = passes == number
            image[in_pass] += shifts[np.searchsorted(ends, image[in_pass], side="right")]
        return image

    def _cuts(self) -> Indices:
        """Where the lanes begin and end in the sequence of images, (lanes + 1,)."""
        cuts: Indices = np.arange(self.lanes + 1, dtype=np.int64) * self.count // self.lanes
        return cuts

    def _rounds(self) -> int:
        """Number of batches that take their part of every lane, until the shortest lane ends."""
        return self.count // self.lanes * self.crops // (self.batch // self.lanes)

    def _tails(self) -> Indices:
        """Crops left in each lane after these batches, (lanes,)."""
        return np.diff(self._cuts()) * self.crops - self._rounds() * (self.batch // self.lanes)

    def _lanes_and_turns(self, within: Indices) -> tuple[Indices, Indices]:
        """Lane of positions in a pass, and number of the crop in it: all lanes in turn, then what each has left."""
        each, rounds = self.batch // self.lanes, self._rounds()
        number, slot = np.divmod(within, self.batch)
        ends = np.cumsum(self._tails())
        left = within - rounds * self.batch  # negative before the tail, where `last` is not used
        last = np.searchsorted(ends, left, side="right")
        in_tail = left >= 0
        begins = (ends - self._tails())[np.where(in_tail, last, 0)]
        lane = np.where(in_tail, last, slot // each)
        return lane, np.where(in_tail, rounds * each + left - begins, number * each + slot % each)

    def _images(self, passes: Indices, lane: Indices, turn: Indices) -> Indices:
        """The image, in the pass's sequence of shards, of the turn-th crop of a lane."""
        cuts = self._cuts()
        in_lane = np.diff(cuts)[lane]
        blocks = np.maximum(1, in_lane // self.block)
        block = ((turn // self.crops + 1) * blocks - 1) // in_lane
        begin = block * in_lane // blocks
        size = (block + 1) * in_lane // blocks - begin
        number, slot = np.divmod(turn - begin * self.crops, size)
        second = slot >= size // 2
        half = np.where(second, size - size // 2, size // 2)
        offset = np.where(second, size // 2, 0)
        under = self._keys(passes, lane, block, 2 * number + second)
        place = permuted((slot - offset).astype(np.uint64), half.astype(np.uint64), under).astype(np.int64)
        images: Indices = cuts[lane] + begin + offset + place
        return images

    def _keys(self, *parts: Indices) -> NDArray[np.uint64]:
        keys = np.broadcast_to(key(self.seed, "stream"), parts[0].shape)
        for part in parts:
            keys = hashed(keys, part.astype(np.uint64))
        return keys


@lru_cache(4)
def _sequence(order: StreamOrder, number: int) -> tuple[Indices, Indices]:
    """The shards in the sequence of a pass: where each ends, and what to add to a position for the well's number."""
    sizes = np.asarray(order.sizes)
    under = hashed(key(order.seed, "stream shards"), np.full(1, number, np.uint64))
    drawn = permuted(np.arange(len(sizes), dtype=np.uint64), len(sizes), under).astype(np.int64)
    ends = np.cumsum(sizes[drawn])
    return ends, (np.cumsum(sizes) - sizes)[drawn] - (ends - sizes[drawn])
