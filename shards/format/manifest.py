"""Read and write the manifest of a set: its content, how it was made, and the checksums of all its other files.

The manifest is written last, so its presence means that the set is complete; it includes its own checksum.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from shards.errors import ShardError
from shards.format.atomic import atomic_write
from shards.format.codecs import codec_named
from shards.format.payload import CHUNK_SIDES, MAX_IMAGE_BYTES
from shards.format.source import MAX_MANIFEST_BYTES, Source
from shards.format.tar import MAX_TAR_BYTES

VERSION = 2
MANIFEST = "manifest.json"

MAX_WELLS = 1 << 24
"""Of a shard. Its index is in memory while it is open, 80 bytes per well."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shard(_Strict):
    """One tar file of the set."""

    name: Annotated[str, Field(pattern=r"^[a-z]{1,20}-[0-9]{1,20}\.tar$")]
    split: Split
    wells: Annotated[int, Field(gt=0, le=MAX_WELLS)]
    bytes: Annotated[int, Field(gt=0, le=MAX_TAR_BYTES)]
    sha256: Sha256

    @property
    def index(self) -> str:
        """Name of the sidecar index."""
        return self.name.removesuffix(".tar") + ".idx"


class Quarantined(_Strict):
    """A well image that was left out, and why."""

    key: str
    origin: str
    error: str


Level = Annotated[int, Field(ge=0, le=65_535)]


class PixelRange(_Strict):
    """Which values the pixels of a 16-bit channel have: percentiles over a grid of pixels of all images, within 0.8%.

    Attributes:
        low, median, high, brightest: the 5th, 50th, 95th and 99.9th percentile.
        spread: from the 5th to the 95th percentile of one image, on average: what most of its pixels differ by.
        standardised: the variance, of 1, that square parts keep on average if they are divided by 65,535 and then
            self-standardised (`shards.loader.transform`), by the side of the parts in pixels.
    """

    low: Level
    median: Level
    high: Level
    brightest: Level
    spread: Annotated[int, Field(ge=1, le=65_535)]
    standardised: dict[int, Annotated[float, Field(ge=0, le=1)]]

    @model_validator(mode="after")
    def _rises(self) -> PixelRange:
        if not self.low <= self.median <= self.high <= self.brightest:
            raise ValueError("percentiles must not fall")
        return self


NEWER = ("notes", "pixel_ranges")
"""Fields that earlier versions of this code do not know, and refuse: without a value they are left out."""


class Manifest(_Strict):
    """What a shard set holds and how it was made."""

    version: Literal[2] = 2
    channels: Annotated[tuple[str, ...], Field(min_length=1)]
    pixel_type: Literal["uint8", "uint16"]
    conversion: str | None = None  # of the source's pixels, as a formula; None: as they were stored
    codec: str
    codec_trial: dict[str, float] = {}  # compression ratio of each codec on a sample of the wells, if there was a trial
    chunk: int  # side, in pixels: one of CHUNK_SIDES
    wells: dict[Split, int]
    split_by: Literal["experiment"] = "experiment"  # no experiment is in two splits: checked here and on opening
    experiments: dict[Split, tuple[str, ...]]
    shards: Annotated[tuple[Shard, ...], Field(min_length=1)]
    wells_sha256: Sha256
    removed: dict[str, int] = {}  # well images left out by curation, by rule
    quarantined: tuple[Quarantined, ...] = ()
    turned: Annotated[int, Field(ge=0)] = 0  # images stored with 0 as white: the largest sample less each value
    pixel_ranges: dict[str, PixelRange] = {}  # by channel, of a set of 16 bits; empty: built before they were measured
    notes: tuple[str, ...] = ()  # what of the source was not used, or kept without a treatment
    made_with: dict[str, str | int | float | tuple[str, ...] | dict[str, str] | None]

    @field_validator("codec")
    @classmethod
    def _known(cls, name: str) -> str:
        return codec_named(name).name

    @field_validator("chunk")
    @classmethod
    def _supported(cls, side: int) -> int:
        if side not in CHUNK_SIDES:
            raise ValueError(f"must be one of {', '.join(map(str, CHUNK_SIDES))}, got {side}")
        return side

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        """Refuse counts, names and sizes that contradict each other, before anything is allocated for them."""
        size = len(self.channels) * self.chunk**2 * np.dtype(self.pixel_type).itemsize
        if size > MAX_IMAGE_BYTES:
            raise ValueError(f"chunk: {size} bytes in {len(self.channels)} channels; {MAX_IMAGE_BYTES} are the limit")
        if set(self.wells) != set(SPLITS) or set(self.experiments) != set(SPLITS):
            raise ValueError(f"wells and experiments must be given for {' and '.join(SPLITS)}")
        for split in SPLITS:
            wells = sum(shard.wells for shard in self.shards if shard.split == split)
            if wells != self.wells[split]:
                raise ValueError(f"wells.{split}: {self.wells[split]}, but the {split} shards have {wells}")
        if unknown := sorted(set(self.pixel_ranges) - set(self.channels)):
            raise ValueError(f"pixel_ranges: {unknown[0]!r} is none of the channels")
        order = [shard.split for shard in self.shards]
        if order != sorted(order) or len({shard.name for shard in self.shards}) != len(order):
            raise ValueError("shards: each must be named once, training before validation")
        return self


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest: the last step, which marks the set as complete."""
    content = manifest.model_dump(mode="json", exclude={name for name in NEWER if not getattr(manifest, name)})
    with atomic_write(folder / MANIFEST) as file:
        file.write(
            json.dumps({**content, "checksum": _checksum(content)}, indent=1, ensure_ascii=False).encode() + b"\n"
        )


def read_manifest(source: Source) -> Manifest:
    """Read and check the manifest; ShardError if it is absent, damaged, or not of this format's version."""
    path = f"{source.place}/{MANIFEST}"
    if source.size(MANIFEST) is None:
        raise ShardError(f"{path}: no manifest: not a shard set, or its build has not finished")
    data = source.load(MANIFEST, MAX_MANIFEST_BYTES)
    try:
        content = json.loads(data)
        checksum = content.pop("checksum", None) if isinstance(content, dict) else None
        text = json.dumps(content)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path}: invalid JSON: {error}") from None
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "top level"
        raise ShardError(f"{path}: {field}: {first['msg']} (this is format version {VERSION})") from None
    if checksum != _checksum(content):
        raise ShardError(f"{path}: its checksum does not match: it is damaged, or was changed by hand")
    return manifest


def _checksum(content: dict[str, Any]) -> str:
    """SHA-256 of the manifest's content, independent of its whitespace."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
