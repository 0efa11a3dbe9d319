"""Choose the codec that compresses the wells best, by encoding a sample of chunks with each."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from shards.builder.plan import Plan
from shards.builder.source_images import SourceImages, read_source_images
from shards.errors import BuildError, ImageError
from shards.format.codecs import choose_codec, codec_named, trial_ratios
from shards.format.payload import CHUNK_SIDES, chunks_of
from shards.tables.columns import FAULT, ORIGIN

TRIAL = "trial"
WELLS, CHUNKS = 8, 64
"""Wells in the sample, evenly spaced in the order of the shards, and chunks per well, evenly spaced in the image."""


def with_codec(plan: Plan, codec: str, chunk: int) -> Plan:
    """The plan with this codec and chunk side; `trial` chooses the codec and keeps the compression ratios.

    Raises BuildError for an unknown codec or side, and ImageError if no well of the sample can be read.
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
        fault = row[FAULT]
        source = (
            SourceImages((), error=fault) if fault else read_source_images(row["images"], plan.eight_bit, plan.plane)
        )
        if source.image is None:  # writing its shard will stop the build, or quarantine the well
            failed = f"{row[ORIGIN]}: {source.error}"
            continue
        image = source.image
        of_image = -(-image.shape[1] // chunk) * -(-image.shape[2] // chunk)
        chunks += [part.copy() for part in islice(chunks_of(image, chunk), 0, None, max(1, of_image // CHUNKS))]
    if not chunks:
        raise ImageError(f"no well of the codec trial can be read; the last error: {failed}")
    return trial_ratios([part for part in chunks if part.dtype == chunks[0].dtype])
