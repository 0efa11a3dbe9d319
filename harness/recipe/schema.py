"""The recipe: what a study is, as a strict schema.

A recipe is one YAML file (`recipes/scaling.yaml` states the paper's study). Every field is declared here, with its
unit and bounds, and nothing else is accepted. Reading a file, its profiles and overrides is `load.py`;
turning a recipe into grid cells is `grid/cells.py`.
"""

from __future__ import annotations

import difflib
import math
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, JsonValue, Tag, model_validator

from harness.recipe.data import Dataset, Experiments, Prepare, Remote
from harness.recipe.fields import (
    MOST_NAMES,
    AxisPath,
    AxisValues,
    Batch,
    BatchPerName,
    ChannelMap,
    Count,
    Entries,
    EpochsPerName,
    FieldPath,
    Images,
    Label,
    Name,
    Pair,
    PositiveInt,
    RatePerName,
    Section,
    Seed,
    ShardPlace,
    Text,
    Variants,
    YamlPath,
    unusable_by_slurm,
    without_nulls,
)
from harness.recipe.launch import Hardware, Launch
from harness.recipe.models import ARM, Mae, Model, Pool
from harness.recipe.optimiser import NO_MUON_ON_DEEPSPEED, Optimiser
from harness.recipe.schedules import MOST_ENDS, OneCycleCosine, Schedule, WarmupStableDecay, ends

MOST_CELLS = 20_000


class EarlyStopping(Section):
    patience: PositiveInt = Field(5, description="validations without improvement before training stops")
    min_delta: Annotated[float, Field(ge=0, le=1e9)] = Field(
        0.0, description="how much lower a validation loss must be to count as an improvement"
    )


def _is_by_dataset(value: object) -> bool:
    """Whether early stopping is given by dataset: every value is a section or null, and no null is that of a field."""
    if not isinstance(value, dict) or not value:
        return False
    fields = {name for name, entry in value.items() if entry is None and name in EarlyStopping.model_fields}
    return not fields and any(entry is None or isinstance(entry, dict | EarlyStopping) for entry in value.values())


def _named(value: Any) -> Any:  # noqa: ANN401  (any YAML value)
    """Without the datasets whose entry is null; null if none is left, which is not a section of defaults."""
    return without_nulls(value) or None if _is_by_dataset(value) else value


EarlyStoppingPerDataset = Annotated[
    Annotated[EarlyStopping, Tag(f"{ARM}one")] | Annotated[dict[Name, EarlyStopping], Tag(f"{ARM}by_name")],
    Discriminator(lambda value: f"{ARM}by_name" if _is_by_dataset(value) else f"{ARM}one"),
]


class Train(Section):
    epochs: EpochsPerName = Field(50, description="passes over the dataset, one crop per image each; per dataset")
    batch: BatchPerName = Field(4096, description="global batch in crops; per dataset")
    learning_rate: RatePerName = Field(1e-4, description="peak; per model")
    optimiser: Optimiser = Field(Optimiser(), description="of every model that `optimisers` does not name")
    optimisers: Annotated[dict[Name, Optimiser], Entries] = Field(
        {}, description="of the models named here, in place of `optimiser`"
    )
    schedule: Schedule = Field(OneCycleCosine(), description="how the learning rate rises and falls")
    early_stopping: Annotated[EarlyStoppingPerDataset | None, BeforeValidator(_named)] = Field(
        None, description="of every dataset, or by dataset; one that is not named trains for all of its epochs"
    )
    snapshots: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(max_length=MOST_ENDS)] = Field(
        [], description="shares of a run at which its state is embedded and evaluated too, before its rate has decayed"
    )
    start_from: dict[Name, Text] = Field(
        {},
        max_length=MOST_NAMES,
        description="{dataset: other}: cells on that dataset begin with the final state of the cell with the same "
        "model and seed on the other dataset, or of the cell of that id",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "bf16", description="of the products of training and embedding; weights are float32 in any case"
    )
    validations: PositiveInt = Field(50, description="validations over a run, evenly spaced, the last at its end")
    validation_wells: Images = Field(16384, description="at most this many wells of unseen experiments")
    validation_view: Literal["centre", "tiles"] = Field(
        "centre", description="a well's centre crop, as in A.3, or all of its tiles where there are few wells"
    )
    nonfinite: Literal["stop", "skip"] = Field(
        "stop", description="a loss or gradient that is not finite ends the run, or its update is left out"
    )
    spike: Literal["report", "stop", "skip"] = Field(
        "report", description="what to do with a step whose loss jumps; report: apply it, and say so in the log"
    )
    spike_factor: Annotated[float, Field(gt=1, le=1e9)] = Field(
        3.0, description="a jump is a loss above this many times its running mean over some 100 steps"
    )
    skip_limit: Count = Field(10, description="more updates left out than this end the run")


class Grid(Section):
    """The product of models, datasets, seeds, variants and axes, less what is excluded, plus the baselines."""

    models: Annotated[list[Name], Field(min_length=1, max_length=MOST_NAMES)] = Field(description="names of `models`")
    datasets: Annotated[list[Name], Field(min_length=1, max_length=MOST_NAMES)] = Field(
        description="names of `datasets`"
    )
    seeds: list[Seed] = Field(
        [0], min_length=1, max_length=10_000, description="a cell for each: initial weights, crops and masks"
    )
    axes: dict[AxisPath, AxisValues] = Field(
        {}, max_length=20, description="values of any field that changes a result, as in `mae.mask_ratio: [0.5, 0.75]`"
    )
    variants: Variants = Field({}, description="named points of fields that change together: {name: {field: value}}")
    exclude: list[Annotated[dict[str, JsonValue], Field(max_length=50)]] = Field(
        [],
        max_length=10_000,
        description="leave out the cells with these: model, dataset, seed, variant, end, any axis",
    )
    untrained: bool = Field(True, description="also embed and evaluate each network as it was initialised")
    pixel_statistics: bool = Field(
        True, description="also evaluate the mean and the standard deviation of each channel's pixels"
    )

    @property
    def point_count(self) -> int:
        """How many points the variants and axes have (`axes.points`), without making them."""
        return max(1, len(self.variants)) * math.prod(len(values) for values in self.axes.values())


class Embed(Section):
    """Which wells to embed; each is tiled and its tiles' embeddings averaged (supplement A.3)."""

    shards: ShardPlace = Field(description="folder or URL of the shards whose wells are embedded")
    experiments: Experiments | None = Field(None, description="null: every experiment of the shards")
    channels: ChannelMap | None = Field(
        None, description="{ours: theirs}: the models' names of channels that these shards name otherwise"
    )
    pool: Pool = Field(
        "mean", description="of the patch tokens their mean, standard deviation, or both; or the class token"
    )
    block: PositiveInt | None = Field(
        None, description="take the features after this many of a vision transformer's blocks; null: after the last"
    )
    batch: Batch | None = Field(None, description="tiles in a forward pass; null: 256, on a CPU 8 of 256 pixels")


class Control(Section):
    column: Text = Field("treatment", description="of the wells' table; says what was done to each well")
    value: Text = Field("EMPTY_control", description="what the column holds for a negative control")


class Evaluate(Section):
    """Relationship recall after correction and aggregation (supplement Table 6)."""

    protocol: Literal["current", "legacy"] = Field("current", description="which null ranks the known pairs")
    correction: Literal["tvn", "centre_scale", "pca_centre_scale", "none"] = Field(
        "tvn", description="of batch effects, fitted on the controls"
    )
    batch_column: Text = Field("experiment", description="of the wells' table; what is corrected apart")
    control: Control = Field(Control(), description="which wells are negative controls")
    gene_column: Text = Field("gene", description="of the wells' table; wells are averaged by it")
    relationships: Annotated[dict[Label, YamlPath], Entries, Field(min_length=1, max_length=MOST_NAMES)] = Field(
        description="{name: file}: lists of known pairs of genes, with the header entity1,entity2"
    )
    tails: Pair = Field(
        (0.05, 0.95), description="quantiles of the cosines of all pairs; a known pair is recalled outside of them"
    )
    bootstrap: PositiveInt = Field(1000, description="has no effect: the interval of a recall needs no resampling")

    @model_validator(mode="after")
    def _ordered(self) -> Evaluate:
        if not 0 < self.tails[0] < self.tails[1] < 1:
            raise ValueError(f"tails {list(self.tails)} must be two increasing fractions between 0 and 1")
        return self


class Fit(Section):
    convention: Literal["touvron", "dense_forward", "mae_train"] = Field(
        "touvron", description="how compute is counted (analysis/compute/flops.py)"
    )
    bootstrap: PositiveInt = Field(2000, description="resamplings for the interval of a law")
    include_unannealed: bool = Field(
        False, description="fit laws also to snapshots, and to runs that stopped before their learning rate had decayed"
    )
    overlay_table6: bool = Field(False, description="draw the paper's Table 6 next to this study's points")


class Recipe(Section):
    """A complete study."""

    name: Name = Field(description="of the study")
    output: YamlPath = Field(description="folder of everything that the study writes; of this recipe alone")
    prepare: Prepare = Field(Prepare(), description="what to make before the first cell")
    datasets: Annotated[dict[Name, Dataset], Entries, Field(min_length=1, max_length=MOST_NAMES)] = Field(
        description="{name: dataset}: what to train on"
    )
    remote: Remote = Field(Remote(), description="how shards at a URL are read")
    models: Annotated[dict[Name, Model], Entries, Field(min_length=1, max_length=MOST_NAMES)] = Field(
        description="{name: model}: what to train; `kind` selects the network"
    )
    mae: Mae = Field(Mae(), description="what all networks share")
    train: Train = Field(Train(), description="how every cell trains")
    grid: Grid = Field(description="which cells there are")
    embed: Embed | None = Field(None, description="which wells to embed; null: none")
    evaluate: Evaluate | None = Field(None, description="how embeddings are evaluated; null: not at all")
    fit: Fit = Field(Fit(), description="the law through the results")
    launch: Launch = Field(Launch(), description="where and how cells run; changes no result")
    hardware: Hardware = Field(Hardware(), description="what a plan assumes of the machines")

    def early_stopping_of(self, dataset: str) -> EarlyStopping | None:
        """When training on a dataset stops early; None: never."""
        early = self.train.early_stopping
        return early.get(dataset) if isinstance(early, dict) else early

    @property
    def trained_models(self) -> list[str]:
        """Names of the grid's models that are trained; the others are baselines, one cell each."""
        return [n for n in self.grid.models if n not in self.models or self.models[n].baseline_for is None]

    def inconsistencies(self) -> list[tuple[FieldPath, str]]:
        """Fields that are valid alone and do not fit together: (field path, message)."""
        unusable = [*self._too_many(), *self._for_slurm(), *self._unusable_optimisers()]
        return [*self._unknown_names(), *self._uncovered(), *self._misfits(), *unusable]

    def _unusable_optimisers(self) -> list[tuple[FieldPath, str]]:
        train, wrong = self.train, list[tuple[FieldPath, str]]()
        for name in self.trained_models:
            if name in self.models:
                optimiser = train.optimisers.get(name, train.optimiser)
                section = ("optimisers", name) if name in train.optimisers else ("optimiser",)
                text = optimiser.misfit(self.models[name], self.mae)
                wrong += [(("train", *section, "name"), f"for the model {name}: {text}")] if text else []
                if optimiser.name == "muon" and self.launch.engine == "deepspeed":
                    wrong.append((("launch", "engine"), f"the model {name} trains with {NO_MUON_ON_DEEPSPEED}"))
        return wrong

    def _too_many(self) -> list[tuple[FieldPath, str]]:
        grid = self.grid
        states = len(self.train.snapshots) + 2 * len(ends(self.train.schedule)) - 1
        count = len(grid.models) * (len(grid.datasets) * states + grid.untrained) * len(grid.seeds) * grid.point_count
        product = "models × datasets × seeds" + (" × points of the axes" if grid.point_count > 1 else "")
        product += " × runs and states of each" if states > 1 else ""
        text = f"{product} are up to {count:,} cells; permitted: at most {MOST_CELLS:,}"
        return [(("grid",), text)] if count > MOST_CELLS else []

    def _for_slurm(self) -> list[tuple[FieldPath, str]]:
        problem = unusable_by_slurm(self.output) if self.launch.executor == "slurm" else None
        return [(("output",), problem)] if problem else []

    def _unknown_names(self) -> list[tuple[FieldPath, str]]:
        uses: list[tuple[FieldPath, str, dict[str, Any]]] = []
        uses += [(("grid", "models", i), n, self.models) for i, n in enumerate(self.grid.models)]
        uses += [(("grid", "datasets", i), n, self.datasets) for i, n in enumerate(self.grid.datasets)]
        uses += [(("train", "optimisers", name), name, self.models) for name in self.train.optimisers]
        uses += [(("train", "start_from", name), name, self.datasets) for name in self.train.start_from]
        early = self.train.early_stopping
        if isinstance(early, dict):
            uses += [(("train", "early_stopping", name), name, self.datasets) for name in early]
        for i, excluded in enumerate(self.grid.exclude):
            for field, known in (("model", self.models), ("dataset", self.datasets)):
                uses += [(("grid", "exclude", i, field), str(excluded[field]), known)] if field in excluded else []
        return [(path, unknown_name(name, list(known))) for path, name, known in uses if name not in known]

    def _uncovered(self) -> list[tuple[FieldPath, str]]:
        by_name: list[tuple[FieldPath, Any, list[str]]] = [
            (("train", "epochs"), self.train.epochs, self.grid.datasets),
            (("train", "batch"), self.train.batch, self.grid.datasets),
            (("train", "learning_rate"), self.train.learning_rate, self.trained_models),
            (("launch", "nodes"), self.launch.nodes, self.trained_models),
            (("launch", "crops_per_gpu_step"), self.launch.crops_per_gpu_step, self.trained_models),
        ]
        return [
            (path, f"has no value for {name!r}, which the grid uses; it has {', '.join(values)}")
            for path, values, names in by_name
            if isinstance(values, dict)
            for name in names
            if name not in values
        ]

    def _misfits(self) -> list[tuple[FieldPath, str]]:
        wrong: list[tuple[FieldPath, str]] = []
        for name, model in self.models.items():
            wrong += [(("models", name, field), text) for field, text in model.misfits(self.mae)]
        wrong += self._uneven_lanes() + self._idle() + self._misfits_of_states()
        for name, dataset in self.datasets.items():
            if dataset.order == "stream" and isinstance(dataset.shards, str) and self.remote.cache is None:
                text = (
                    f"a stream keeps complete shards of {dataset.shards} on this machine: set remote.cache to a folder"
                )
                wrong.append((("datasets", name, "order"), text))
        wrong += self._wrong_channel_names()
        if self.mae.decoder_width % self.mae.decoder_heads:
            text = f"{self.mae.decoder_heads} does not divide mae.decoder_width, {self.mae.decoder_width}"
            wrong.append((("mae", "decoder_heads"), text))
        if self.evaluate is not None and self.embed is None:
            wrong.append((("evaluate",), "needs an `embed` section that says which wells to embed"))
        for name, repeated in (
            ("models", self.grid.models),
            ("datasets", self.grid.datasets),
            ("seeds", self.grid.seeds),
        ):
            if len(set(repeated)) < len(repeated):
                wrong.append((("grid", name), "names an entry twice"))
        return wrong

    def _misfits_of_states(self) -> list[tuple[FieldPath, str]]:
        """What does not fit the states of a run at which others begin, or which are evaluated."""
        train, schedule = self.train, self.train.schedule
        stable = schedule if isinstance(schedule, WarmupStableDecay) else None
        wrong: list[tuple[FieldPath, str]] = []
        if any(after <= before for before, after in pairwise(train.snapshots)):
            wrong.append((("train", "snapshots"), f"{train.snapshots} must rise"))
        if stable and any(self.early_stopping_of(name) for name in self.grid.datasets):
            text = "cannot be combined with warmup_stable_decay: a run that stops early never decays"
            wrong.append((("train", "early_stopping"), text))
        last = stable.stable_until(stable.ends[-1]) if stable else 1.0
        late = [share for share in train.snapshots if share > last]
        if late:
            text = f"{late[0]:g} lies in the decay, which begins at {last:g} of the run"
            wrong.append((("train", "snapshots"), text))
        return wrong

    def _wrong_channel_names(self) -> list[tuple[FieldPath, str]]:
        names = self.mae.channel_names
        if names is not None and (len(set(names)) < len(names) or len(names) != self.mae.channels):
            return [(("mae", "channel_names"), f"must be {self.mae.channels} different names, as mae.channels says")]
        return []

    def _idle(self) -> list[tuple[FieldPath, str]]:
        """Models that are never trained, in a study without the section that uses them."""
        needs = [self.models[name].baseline_for if name in self.models else None for name in self.grid.models]
        return [
            (("grid", "models", i), f"{self.grid.models[i]!r} is never trained, and there is no `{section}` section")
            for i, section in enumerate(needs)
            if section is not None and getattr(self, section) is None
        ]

    def _uneven_lanes(self) -> list[tuple[FieldPath, str]]:
        wrong: list[tuple[FieldPath, str]] = []
        for name in self.grid.datasets:
            dataset, batch = self.datasets.get(name), self.train.batch
            size = batch.get(name) if isinstance(batch, dict) else batch
            if dataset and size and dataset.order == "stream" and size % dataset.stream.lanes:
                text = f"{dataset.stream.lanes} does not divide train.batch, {size} crops"
                wrong.append((("datasets", name, "stream", "lanes"), text))
        return wrong


def unknown_name(name: str, known: list[str]) -> str:
    """«'vit_s61' is not known; did you mean 'vit_s16'?»"""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}"
    return f"{name!r} is not known; {hint}"
