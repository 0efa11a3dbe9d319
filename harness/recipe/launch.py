"""The sections of a recipe that say where and how grid cells run. Nothing here changes a result or an identity."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema, model_validator

from harness.recipe.fields import (
    CONTROL,
    BatchPerName,
    NodesPerName,
    PositiveFloat,
    PositiveInt,
    Section,
    SharePerName,
    Text,
    UpTo100k,
    without_nulls,
)
from harness.recipe.gpus import GPUS, Gpu, gpu_named

GPU_FIELDS = tuple(field.name for field in fields(Gpu) if field.name != "name")

# SLURM's own syntax for lists, features and counts; never an option, nor anything that a shell would read.
SlurmWord = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@+/(\[*][A-Za-z0-9_.,:@%+=/&|*()\[\]-]*$", max_length=256)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256)]
ShellText = Annotated[str, Field(pattern=r"^[^\x00]*$", max_length=10_000)]
Container = Annotated[Text, Field(pattern=r"^[^-\s]\S*$")]
GPU_ENTRY = re.compile(r"(?:gres[:/])?gpu(?::[^:,()]*[^:,()\d][^:,()]*)?(?::(\d{1,4}))?(?:\([^)]*\))?$")
"""A request for GPUs in `--gres`: `gpu`, `gpu:4`, `gpu:a100`, `gpu:a100:4`."""

MOST_PROFILED = 100  # steps
MOST_VALUE, MOST_INTEGER = 1_024, 10**12
_GPUS = "use launch.gpus_per_node, and launch.slurm.options.gres for their type"
_TASKS = "use launch.nodes and launch.gpus_per_node: a node has one task per GPU"
_CPUS, _MEMORY = "use launch.cpus_per_task", "use launch.slurm.memory_gb"
_ENVIRONMENT, _OUTPUT = "use launch.slurm.environment", "use output"
_OURS, _SBATCH = "the harness sets it", "it changes what sbatch does or prints"
OWN_OPTIONS = {
    **{name: f"use launch.slurm.{name}" for name in ("account", "partition", "qos", "constraint")},
    "container-image": "use launch.slurm.container", "nodes": "use launch.nodes", "ntasks": _TASKS,
    "ntasks-per-node": _TASKS, "ntasks-per-gpu": _TASKS, "cpus-per-task": _CPUS, "cpus-per-gpu": _CPUS, "gpus": _GPUS,
    "gpus-per-node": _GPUS, "gpus-per-task": _GPUS, "gpus-per-socket": _GPUS, "mem": _MEMORY, "mem-per-cpu": _MEMORY,
    "mem-per-gpu": _MEMORY, "time": "use launch.slurm.hours", "signal": "use launch.slurm.signal_seconds",
    "array": "use launch.parallel", "job-name": "use name", "output": _OUTPUT, "error": _OUTPUT,
    "no-requeue": "use requeue: false", "export": _ENVIRONMENT, "export-file": _ENVIRONMENT, "dependency": _OURS,
    "kill-on-invalid-dep": _OURS, "open-mode": _OURS, "chdir": "jobs start in the folder of the command",
    "clusters": "jobs are looked for on this cluster only: submit from one of its login nodes",
    "uid": "jobs run as you", "gid": "jobs run as you",
    **dict.fromkeys(("wrap", "wait", "parsable", "test-only", "help", "usage", "version", "quiet", "verbose"), _SBATCH),
}  # fmt: skip
"""sbatch's options that contradict what is set elsewhere, and why or what to use instead."""


def _option_name(name: str) -> str:
    """The name with hyphens. sbatch also takes the beginning of a name, such as `part`, for the whole."""
    name = name.replace("_", "-")
    ours = name if name in OWN_OPTIONS else next((own for own in OWN_OPTIONS if own.startswith(name)), None)
    if ours is not None:
        raise ValueError(f"--{ours} cannot be set here; {OWN_OPTIONS[ours]}")
    return name


def _option_value(value: object) -> bool | int | str:
    if isinstance(value, int) and abs(value) <= MOST_INTEGER:  # or true or false
        return value
    if not isinstance(value, str) or not value or len(value) > MOST_VALUE:
        raise ValueError(f"should be text of at most {MOST_VALUE:,} characters, a whole number, true or false")
    found = CONTROL.search(value)
    if found:
        raise ValueError(f"must not hold the control character {found[0]!r}")
    if "\\" in value:
        raise ValueError("must not hold a backslash, which sbatch takes away")
    return value


def _options(entries: Any) -> Any:  # noqa: ANN401  (any YAML value)
    """The entries without nulls, if none is given in two spellings."""
    entries = without_nulls(entries)
    spellings = Counter(str(name).replace("_", "-") for name in entries) if isinstance(entries, dict) else {}
    twice = [name for name, count in spellings.items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]} is given with hyphens and with underscores; keep one of them")
    return entries


def _known_forms(options: dict[str, bool | int | str]) -> dict[str, bool | int | str]:
    if not isinstance(options.get("requeue", True), bool):
        raise ValueError("requeue is true or false")
    if not isinstance(options.get("gres", ""), str):
        raise ValueError("gres is text, such as gpu:a100:4")
    return options


OptionName = Annotated[
    str, Field(pattern=r"^[a-z][a-z0-9]*([-_][a-z0-9]+)*$", max_length=64), AfterValidator(_option_name)
]
OptionValue = Annotated[
    bool | int | str,
    PlainValidator(_option_value),
    WithJsonSchema({"type": ["boolean", "integer", "string"], "minLength": 1, "maxLength": MOST_VALUE}),
]
Options = Annotated[dict[OptionName, OptionValue], BeforeValidator(_options), AfterValidator(_known_forms)]

Compile = Annotated[
    Literal["none", "blocks", "whole", "reduce-overhead"],
    BeforeValidator(lambda value: {True: "blocks", False: "none"}[value] if isinstance(value, bool) else value),
    WithJsonSchema({"enum": ["none", "blocks", "whole", "reduce-overhead", True, False]}),
]


class Slurm(Section):
    """What every job requests from SLURM. Only `setup` is shell code; everything else is quoted."""

    partition: SlurmWord | None = Field(None, description="where jobs are queued; null: the default one")
    account: SlurmWord | None = Field(None, description="what jobs are charged to; null: the default one")
    qos: SlurmWord | None = Field(None, description="quality of service; null: the default one")
    constraint: SlurmWord | None = Field(None, description="features that nodes must have")
    hours: Annotated[float, Field(gt=0, le=8_784)] = Field(
        24.0, description="time limit of a job; longer work is saved and requeued"
    )
    memory_gb: UpTo100k | None = Field(None, description="per node")
    signal_seconds: Annotated[int, Field(gt=0, le=86_400)] = Field(
        300, description="how long before the time limit jobs save and requeue; must be enough for a save"
    )
    attempts: Annotated[int, Field(gt=0, le=1_000)] = Field(
        5, description="submissions of a stage with transient failures, until it is held back"
    )
    exclude_slow: bool = Field(
        False, description="leave out nodes that a run of this study found slow in the last week (<output>/slow_nodes)"
    )
    container: Container | None = Field(None, description="srun --container-image, on clusters that have it")
    modules: list[SlurmWord] = Field([], max_length=100, description="module load, before anything else")
    environment: dict[Variable, ShellText] = Field({}, max_length=100, description="variables of the job")
    setup: list[ShellText] = Field([], max_length=1_000, description="shell lines before the job's own")
    options: Options = Field(
        {}, max_length=100, description="other options of sbatch by their long names; true: without a value"
    )

    @property
    def requeues(self) -> bool:
        """Whether a job that is told to stop goes back into the queue under its own id."""
        return self.options.get("requeue") is not False

    def gres(self, gpus: bool) -> str | None:
        """The entries of `options.gres` that ask for GPUs, or the others; None if there is none."""
        entries = str(self.options.get("gres", "")).split(",")
        return ",".join(entry for entry in entries if entry and bool(GPU_ENTRY.match(entry)) == gpus) or None


class StopWhen(Section):
    """When a run is ended before its schedule is. Its row says so, and laws of finished runs leave it out."""

    below_frontier: Annotated[float, Field(ge=0.5, lt=1)] = Field(
        description="the probability that its final loss is above the best of the finished runs of the same task at no "
        "more compute (docs/forecasts.md), from which a run is ended; asked at each validation"
    )


class Profile(Section):
    """Steps of training that are profiled: a trace, and on a GPU a memory snapshot, in the cell's folder."""

    steps: Annotated[list[PositiveInt], Field(min_length=2, max_length=2)] = Field(
        description="first and last step, counted from 1 as in the log; a trace takes some MB a step"
    )
    ranks: list[Annotated[int, Field(ge=0, le=100_000)]] = Field(
        [0], min_length=1, max_length=64, description="ranks that write a trace"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Profile:
        first, last = self.steps
        if not first <= last < first + MOST_PROFILED:
            raise ValueError(
                f"steps should be the first and the last of at most {MOST_PROFILED} steps, not {self.steps}"
            )
        return self


class Launch(Section):
    """Where cells run. Nothing here changes a result, so nothing here is part of a cell's identity.

    `stop_when` decides whether a run is finished, not what a finished run gives.
    """

    executor: Literal["slurm", "local"] = Field(
        "slurm", description="slurm: as jobs of a cluster; local: as processes of this machine"
    )
    parallel: UpTo100k = Field(64, description="cells that run at the same time")
    cells_per_job: UpTo100k = Field(1, description="cells that one local process runs one after another")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    attention: Literal["auto", "sdpa", "flash", "cudnn", "efficient", "math"] = Field(
        "auto",
        description="sdpa: torch chooses; flash: FlashAttention 4, 3 or torch's 2; auto: 4 or 3 where installed; "
        "cudnn, efficient, math: this kernel of torch's",
    )
    nodes: NodesPerName = Field(1, description="per model")
    gpus_per_node: Annotated[int, Field(ge=0, le=1_024)] = Field(
        8,
        description="GPUs that a cell uses of each node; local: GPUs of this machine, one for each cell; 0: processors",
    )
    cpus_per_task: UpTo100k = Field(12, description="processor cores of each rank")
    loader_workers: Annotated[int, Field(ge=0, le=1_024)] = Field(8, description="threads of a rank that read crops")
    loader_ahead: UpTo100k | None = Field(
        None, description="batches a rank reads ahead; null: two, and as many as keep its threads busy"
    )
    loader_read: Literal["runs", "span"] = Field(
        "runs",
        description="a crop's bytes in several small reads, or in one of four times the size where reads are expensive",
    )
    loader_open_shards: PositiveInt = Field(256, description="shards a rank keeps open, with two file descriptors each")
    embed_jobs: UpTo100k = Field(1, description="independent SLURM jobs that share the embedding of a cell's wells")
    embed_part_wells: PositiveInt = Field(
        512,
        description="wells of a part, which is embedded, then written: a stop loses less than one part",
    )
    checkpoint_minutes: PositiveFloat | Literal["auto"] = Field(
        "auto", description="between saves; auto: from how long saves take and how often nodes fail, 2 to 60 minutes"
    )
    stall_minutes: PositiveFloat | None = Field(
        30.0, description="a job whose work has stood still for so long ends and is requeued; null: it is only said"
    )
    engine: Literal["auto", "single", "ddp", "hsdp", "fsdp", "deepspeed"] = Field(
        "auto", description="how ranks share a model; auto: single, ddp, and shards only where a copy does not fit"
    )
    shard_gpus: UpTo100k | None = Field(None, description="hsdp: GPUs that hold one copy; null: those of a node")
    checkpoint_keep: PositiveInt = Field(2, description="number of the latest checkpoints kept of a running cell")
    restart_lost: bool = Field(
        False, description="where saved work cannot be loaded, move it aside and start again from step 0"
    )
    keep_states: bool = Field(
        False, description="keep the final training state of every cell, so that others can start from it later"
    )
    stop_when: StopWhen | None = Field(None, description="end runs that will not reach the frontier; null: none")
    checkpoint_best: bool = Field(False, description="also save at each best validation, and keep that checkpoint")
    zero_stage: Literal[1, 2, 3] = Field(
        2, description="deepspeed: 1 shards the optimiser, 2 also gradients, 3 also weights"
    )
    crops_per_gpu_step: BatchPerName | None = Field(
        None, description="maximum crops in one forward pass; gradients are accumulated to the global batch; per model"
    )
    ddp_gradients: Literal["fp32", "bf16"] = Field(
        "fp32", description="ddp: the type in which ranks average gradients; bf16 halves the traffic, and rounds them"
    )
    reduce_at: Literal["step", "pass"] = Field(
        "step",
        description="hsdp and fsdp: reduce gradients once a step, and keep whole ones between its passes (4 bytes a "
        "parameter on each GPU); or at each pass, and keep shards",
    )
    recompute: Literal["none", "selective", "full"] = Field(
        "none",
        description="activations to recompute in the backward pass: none, the cheap ones (selective), or all (full)",
    )
    compile: Compile | None = Field(
        None,
        description="torch.compile each block (blocks, or true), or the whole network as one graph (whole), also as "
        "CUDA graphs (reduce-overhead, on one GPU); none or false: nothing; null: blocks where there is a GPU",
    )
    channels_last: bool = Field(
        False, description="convolutional networks: features in channels-last memory, which suits tensor cores"
    )
    profile: Profile | None = Field(None, description="steps to profile, {steps: [101, 105]}; null: none")
    slurm: Slurm = Field(Slurm(), description="what jobs request from SLURM")

    @model_validator(mode="after")
    def _same_gpus(self) -> Launch:
        entries = (self.slurm.gres(gpus=True) or "").split(",")
        asked = sum(int(match[1] or 1) for entry in entries if (match := GPU_ENTRY.match(entry)))
        if asked not in (0, self.gpus_per_node):
            raise ValueError(
                f"slurm.options.gres asks for {asked} GPUs of a node, and gpus_per_node is {self.gpus_per_node}; "
                "a node has one task per GPU, so set both to the same number"
            )
        return self


class Hardware(Section):
    """What a plan assumes about the machines. A known GPU type fills in what is null; any other needs all fields."""

    gpu: Text = Field("A100-80GB", description="a type of harness/recipe/gpus.py, or any name with the fields below")
    peak_tflops: PositiveFloat | None = Field(None, description="dense bf16, per GPU")
    memory_gb: PositiveFloat | None = Field(None, description="per GPU, of 1e9 bytes")
    watts: PositiveFloat | None = Field(None, description="per GPU, under load")
    link_gb_s: PositiveFloat | None = Field(None, description="per GPU and direction, within a node")
    network_gb_s: PositiveFloat | None = Field(None, description="per GPU and direction, between nodes")
    price_per_hour: Annotated[float, Field(ge=0, le=1e9)] | None = Field(
        None, description="of one GPU, in any currency"
    )
    mfu: SharePerName = Field(0.3, description="share of the peak that training reaches, by true MAE FLOPs; per model")
    loader_crops_per_core: PositiveFloat = Field(1500.0, description="per second; benchmarks.loader measures it")

    @model_validator(mode="after")
    def _known(self) -> Hardware:
        if gpu_named(self.gpu) is None:
            missing = [name for name in GPU_FIELDS if getattr(self, name) is None]
            if missing:
                known = ", ".join(gpu.name for gpu in GPUS)
                raise ValueError(f"{self.gpu!r} is none of {known}: state {', '.join(missing)} for it")
        return self

    @property
    def gpu_type(self) -> Gpu:
        """The GPU that a plan is for: the table's entry, with the recipe's values in place of its own."""
        stated = {name: value for name in GPU_FIELDS if (value := getattr(self, name)) is not None}
        known = gpu_named(self.gpu)
        return replace(known, **stated) if known else Gpu(self.gpu, **stated)
