"""The part of a recipe that says where and how cells run. Nothing here changes a result or a cell's identity."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from harness.recipe.fields import Count, PerName, Section, SharePerName
from harness.recipe.gpus import GPUS, Gpu, gpu_named

GPU_FIELDS = tuple(field.name for field in fields(Gpu) if field.name != "name")

SlurmWord = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:@%+=/&|*()\[\]-]+$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Slurm(Section):
    """What every job asks of SLURM. Only `setup` is shell; everything else is quoted."""

    partition: SlurmWord | None = None
    account: SlurmWord | None = None
    qos: SlurmWord | None = None
    constraint: SlurmWord | None = None
    hours: PositiveFloat = 24.0
    memory_gb: PositiveInt | None = Field(None, description="per node")
    signal_seconds: PositiveInt = Field(300, description="before the limit, jobs save and requeue: give a save time")
    attempts: PositiveInt = Field(
        5, description="submissions of a stage whose failures may pass, until it is held back"
    )
    container: str | None = Field(None, description="srun --container-image, where the cluster has it")
    modules: list[SlurmWord] = Field([], description="module load, before anything else")
    environment: dict[Variable, str] = Field({}, description="variables of the job")
    setup: list[str] = Field([], description="shell lines before the job's own")


class Launch(Section):
    """Where cells run. Nothing here changes a result, so nothing here is part of a cell's identity."""

    executor: Literal["slurm", "local"] = "slurm"
    parallel: PositiveInt = Field(64, description="cells that run at one time")
    cells_per_job: PositiveInt = Field(1, description="cells that one local process takes in turn")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    attention: Literal["auto", "sdpa", "flash"] = Field(
        "auto", description="sdpa: torch chooses; flash: FlashAttention 4, 3 or torch's 2; auto: 4 or 3 where installed"
    )
    nodes: PerName = Field(1, description="per model")
    gpus_per_node: Count = 8
    cpus_per_task: PositiveInt = 12
    loader_workers: Count = Field(8, description="threads of a rank that read crops")
    loader_ahead: PositiveInt | None = Field(
        None, description="batches a rank reads ahead; null: two, and what keeps its threads busy"
    )
    loader_read: Literal["runs", "span"] = Field(
        "runs", description="a crop's bytes in several small reads, or in one four times as large where reads are dear"
    )
    loader_open_shards: PositiveInt = Field(256, description="shards a rank keeps open, two file descriptors each")
    embed_jobs: PositiveInt = Field(
        1, description="SLURM jobs that share the embedding of a cell's wells, independently of one another"
    )
    embed_part_wells: PositiveInt = Field(
        512,
        description="wells of a part: embedded, then written; a stop costs less than one, and elements share them out",
    )
    checkpoint_minutes: PositiveFloat = 20.0
    engine: Literal["auto", "single", "ddp", "hsdp", "fsdp", "deepspeed"] = Field(
        "auto", description="how ranks share a model; auto: single, ddp, and shards only where a copy does not fit"
    )
    shard_gpus: PositiveInt | None = Field(None, description="hsdp: GPUs that hold one copy; null: those of a node")
    checkpoint_keep: PositiveInt = Field(2, description="checkpoints kept of a running cell: the last so many")
    checkpoint_best: bool = Field(False, description="also save at each best validation, and keep that one for good")
    zero_stage: Literal[1, 2, 3] = Field(2, description="deepspeed: shard the optimiser, gradients too, weights too")
    crops_per_gpu_step: PerName | None = Field(
        None, description="most crops in one forward pass; the global batch is accumulated from them; per model"
    )
    recompute: Literal["none", "selective", "full"] = Field(
        "none", description="activations of a block to compute again in the backward pass: none, the cheap ones, all"
    )
    compile: bool | None = Field(None, description="torch.compile each block; null: where there is a GPU")
    slurm: Slurm = Slurm()


class Hardware(Section):
    """What a plan assumes of the machines. A GPU type in the table fills in what is null; any other needs all of it."""

    gpu: str = Field("A100-80GB", description="a type of harness/recipe/gpus.py, or any name with the fields below")
    peak_tflops: PositiveFloat | None = Field(None, description="dense bf16, per GPU")
    memory_gb: PositiveFloat | None = Field(None, description="per GPU, of 1e9 bytes")
    watts: PositiveFloat | None = Field(None, description="per GPU, at work")
    link_gb_s: PositiveFloat | None = Field(None, description="per GPU and direction, within a node")
    network_gb_s: PositiveFloat | None = Field(None, description="per GPU and direction, between nodes")
    price_per_hour: Annotated[float, Field(ge=0)] | None = Field(None, description="of one GPU")
    mfu: SharePerName = Field(0.3, description="share of the peak that training reaches, by true MAE FLOPs; per model")
    loader_crops_per_core: PositiveFloat = Field(1500.0, description="a second; benchmarks.loader measures it")

    @model_validator(mode="after")
    def _known(self) -> Hardware:
        if gpu_named(self.gpu) is None:
            absent = [name for name in GPU_FIELDS if getattr(self, name) is None]
            if absent:
                known = ", ".join(gpu.name for gpu in GPUS)
                raise ValueError(f"{self.gpu!r} is none of {known}: state {', '.join(absent)} for it")
        return self

    @property
    def gpu_type(self) -> Gpu:
        """The GPU that a plan is for: the table's, with what the recipe says instead."""
        said = {name: value for name in GPU_FIELDS if (value := getattr(self, name)) is not None}
        found = gpu_named(self.gpu)
        return replace(found, **said) if found else Gpu(self.gpu, **said)
