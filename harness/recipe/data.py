"""The part of a recipe about images: what to render and build, where shards lie, in which order they are read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, PositiveFloat, PositiveInt

from harness.recipe.fields import Count, Fraction, Name, Probability, Section, ShardPlace, YamlPath


class Assay(Section):
    """Render the demo assay (`shards.assay`) where its folder is missing."""

    output: YamlPath
    seed: Count = 0
    options: dict[Name, int | float] = Field({}, description="fields of `shards.assay.AssayOptions`")


class Curation(Section):
    """Which wells to leave out (`shards.builder.curation`): rare perturbations, and a share of the controls."""

    perturbation: str = Field("treatment", description="column that names perturbations")
    min_experiments: PositiveInt = Field(1, description="least experiments of a perturbation")
    min_wells: PositiveInt = Field(1, description="least wells of a perturbation")
    controls: list[str] | None = Field(None, description="treatments that are negative controls; null: the usual ones")
    control_fraction: Annotated[float, Field(ge=0, le=1)] = Field(1.0, description="share of control wells to keep")


class Build(Section):
    """Build shards (`shards.build`) from a layout on disk, or at an fsspec URL, where they are missing."""

    layout: Name
    root: Annotated[str, Field(min_length=1)]
    output: YamlPath
    options: dict[Name, str] = Field({}, description="the layout's own options, as in --option name=value")
    curation: Curation | None = None
    validation_experiments: list[str] | None = Field(None, description="else a fraction of them is drawn")
    validation_fraction: Probability = 0.1
    wells_per_shard: PositiveInt = 64
    eight_bit: Annotated[str, Field(pattern=r"^(shift|\d+:\d+)$")] | None = Field(
        None, description="16-bit pixels to 8 bits: 'shift' (v >> 8), or LOW:HIGH; null: as stored"
    )
    codec: str = Field("delta+zstd", description="how pixels are stored, without loss; 'trial': the best on a sample")
    chunk: PositiveInt = Field(64, description="side of the chunks that pixels are stored in")
    seed: Count = 0
    workers: PositiveInt = 2
    on_error: Literal["stop", "quarantine"] = Field("stop", description="what a bad image does")


class Prepare(Section):
    """What to make before the first cell runs, if it is not there yet."""

    assay: Assay | None = None
    build: list[Build] = Field([])


class Stream(Section):
    """Reading shards in sequence (docs/order.md). Every field decides which crops make a batch."""

    lanes: PositiveInt = Field(64, description="sequences read side by side; divides the batch")
    crops: PositiveInt = Field(8, description="crops of each image read")
    block: PositiveInt = Field(64, description="images of a lane whose crops are mixed")


class Dataset(Section):
    """One dataset size: all shards in a folder or behind a URL, or a nested fraction of their training experiments."""

    shards: ShardPlace
    fraction: Fraction = 1.0
    order: Literal["random", "stream"] = Field(
        "random", description="random: crops anywhere; stream: shards from front to back, for object stores"
    )
    stream: Stream = Stream()
    images: PositiveInt | None = Field(None, description="training images, for a plan made where the shards are not")


class Remote(Section):
    """Shards behind a URL, any that fsspec knows: s3://bucket/set, https://host/set. It changes no result."""

    cache: YamlPath | None = Field(None, description="folder on each machine's own disk for the shards of a stream")
    cache_gb: PositiveFloat = Field(100.0, description="its files never take more")
    attempts: PositiveInt = Field(5, description="of each request, after pauses that double")
    seconds: PositiveFloat = Field(60.0, description="of each attempt at most")
    options: dict[str, JsonValue] = Field(
        {}, description="for fsspec's file system, such as an endpoint; keys belong into the environment"
    )
