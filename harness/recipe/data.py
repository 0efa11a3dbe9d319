"""The sections of a recipe about images: what to render and build, where shards are, and the order of reading."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from harness.recipe.fields import (
    ChannelMap,
    Fraction,
    Images,
    Label,
    Name,
    PathText,
    PositiveFloat,
    PositiveInt,
    Probability,
    Section,
    Seed,
    ShardPlace,
    Text,
    UpTo100k,
    YamlPath,
)

Option = Annotated[int, Field(ge=-1_000_000_000, le=1_000_000_000)] | Annotated[float, Field(ge=-1e9, le=1e9)]
Experiments = Annotated[list[Text], Field(max_length=100_000)]


class Assay(Section):
    """Render the demo assay (`shards.assay`) where its folder is missing."""

    output: YamlPath = Field(description="folder of the rendered images")
    seed: Seed = Field(0, description="of what is rendered")
    options: dict[Name, Option] = Field({}, description="fields of `shards.assay.AssayOptions`")


class Curation(Section):
    """Which wells to leave out (`shards.builder.curation`): rare perturbations, and a share of the controls."""

    perturbation: Text = Field("treatment", description="column that names perturbations")
    min_experiments: PositiveInt = Field(1, description="minimum number of experiments of a perturbation")
    min_wells: PositiveInt = Field(1, description="minimum number of wells of a perturbation")
    controls: Annotated[list[Text], Field(max_length=1000)] | None = Field(
        None, description="treatments that are negative controls; null: the usual ones"
    )
    control_fraction: Annotated[float, Field(ge=0, le=1)] = Field(1.0, description="share of control wells to keep")


class Build(Section):
    """Build shards (`shards.build`) from a layout on disk, or at an fsspec URL, where they are missing."""

    layout: Name = Field(description="how images and metadata are stored (docs/datasets.md)")
    root: PathText = Field(description="folder or fsspec URL of the images and their metadata")
    output: YamlPath = Field(description="folder to build into")
    options: dict[Name, PathText] = Field({}, description="the layout's own options, as in --option name=value")
    curation: Curation | None = Field(None, description="which wells to leave out; null: none")
    validation_experiments: Experiments | None = Field(None, description="null: a fraction of them, drawn at random")
    validation_fraction: Probability = Field(0.1, description="share of the experiments that is kept for validation")
    wells_per_shard: PositiveInt = Field(64, description="images in a tar file")
    eight_bit: Annotated[str, Field(pattern=r"^(shift|\d{1,5}:\d{1,5})$", max_length=16)] | None = Field(
        None, description="16-bit pixels to 8 bits: 'shift' (v >> 8), or LOW:HIGH; null: as stored"
    )
    plane: Annotated[int, Field(gt=0, le=10**6)] | Literal["max"] | None = Field(
        None, description="of a stack of planes: the one of this number, or their maximum; null: stacks are refused"
    )
    codec: Label = Field("delta+zstd", description="how pixels are stored, without loss; 'trial': the best on a sample")
    chunk: PositiveInt = Field(64, description="side of the chunks that pixels are stored in")
    seed: Seed = Field(0, description="of the split and the order")
    workers: UpTo100k = Field(2, description="processes that build")
    on_error: Literal["stop", "quarantine"] = Field(
        "stop",
        description="on an unreadable image or a well that no table describes: stop, or leave it out and list it",
    )
    unlabelled: Literal["keep"] | None = Field(
        None, description="keep: wells that no plate map describes, with an empty treatment; null: refuse them"
    )


class Prepare(Section):
    """What to make before the first cell runs, if it does not exist yet."""

    assay: Assay | None = Field(None, description="the demo assay, rendered; null: none")
    build: Annotated[list[Build], Field(max_length=100)] = Field([], description="shards to build")


class Stream(Section):
    """Reading shards in sequence (docs/order.md). Every field decides which crops make a batch."""

    lanes: PositiveInt = Field(64, description="sequences read in parallel; must divide the batch")
    crops: PositiveInt = Field(8, description="crops of each image read")
    block: PositiveInt = Field(64, description="images of a lane whose crops are mixed")


class Dataset(Section):
    """One dataset size: all shards in a folder or behind a URL, or a nested fraction of their training experiments."""

    shards: ShardPlace = Field(description="folder, or URL such as s3://bucket/set")
    fraction: Fraction = Field(
        1.0, description="share of the training experiments; a smaller one is part of every larger one"
    )
    order: Literal["random", "stream"] = Field(
        "random", description="random: crops anywhere; stream: shards from front to back, for object stores"
    )
    stream: Stream = Field(Stream(), description="how a stream mixes images; unused in random order")
    channels: ChannelMap | None = Field(
        None, description="{ours: theirs}: the study's names of channels that these shards name otherwise"
    )
    images: Images | None = Field(None, description="training images, for planning on a machine without the shards")


class Remote(Section):
    """Shards at a URL of any kind that fsspec supports: s3://bucket/set, https://host/set. It changes no result."""

    cache: YamlPath | None = Field(None, description="folder on each machine's own disk for the shards of a stream")
    cache_gb: PositiveFloat = Field(100.0, description="limit on the size of its files")
    attempts: Annotated[int, Field(gt=0, le=1000)] = Field(
        5, description="attempts per request, after pauses that double"
    )
    seconds: Annotated[float, Field(gt=0, le=86_400)] = Field(60.0, description="time limit of each attempt")
    options: dict[str, JsonValue] = Field(
        {}, description="for fsspec's file system, such as an endpoint; put keys into environment variables"
    )
