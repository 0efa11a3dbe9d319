"""Which codec compresses these wells best: some chunks of some wells, encoded with each."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from shards.builder.plan import Plan
from shards.builder.write import BuildError
from shards.errors import ImageError
from shards.format.codecs import choose_codec, codec_named, trial_ratios
from shards.format.payload import CHUNK_SIDES, chunks_of
from shards.images.decode import read_well

TRIAL = "trial"
WELLS, CHUNKS = 8, 64
"""Wells tried, evenly spaced in the shuffled order of the shards, and chunks of each, evenly spaced in the image."""


def with_codec(plan: Plan, codec: str, chunk: int) -> Plan:
    """The plan with this codec and chunk side; `trial` chooses the codec and notes the ratios that decided.

    Raises BuildError for an unknown codec or side, and ImageError if none of the wells to try can be read.
    """
    if chunk not in CHUNK_SIDES:
        raise BuildError(f"the chunk's side must be one of {', '.join(map(str, CHUNK_SIDES))} pixels, got {chunk}")
    if codec != TRIAL:
        try:
            return replace(plan, codec=codec_named(codec).name, chunk=chunk)
        except ValueError as error:
            raise BuildError(f"{error}, and {TRIAL} to choose among them") from None
    ratios = _ratios(plan, chunk)
    return replace(plan, codec=choose_codec(ratios).name, codec_trial=ratios, chunk=chunk)


def _ratios(plan: Plan, chunk: int) -> dict[str, float]:
    chunks, failed = [], None
    step = max(1, plan.images // WELLS)
    for number in range(0, step * min(WELLS, plan.images), step):
        (row,) = plan.rows(number, number + 1)
        try:
            image = read_well(row["images"], plan.eight_bit)
        except ImageError as error:  # writing its shard will stop the build at it, or quarantine it
            failed = f"{row['origin']}: {error}"
            continue
        of_image = -(-image.shape[1] // chunk) * -(-image.shape[2] // chunk)
        chunks += [part.copy() for part in islice(chunks_of(image, chunk), 0, None, max(1, of_image // CHUNKS))]
    if not chunks:
        raise ImageError(f"no well to try codecs on can be read; the last: {failed}")
    return trial_ratios([part for part in chunks if part.dtype == chunks[0].dtype])
