"""A grid cell and its id.

A grid cell is one run of the study. Its id hashes its identity, all that changes its result and nothing else: model,
data, seed, optimiser, schedule, precision. Paths, machines, workers and engines are not part of it, so the same study
has the same ids wherever and however it runs. Pure functions.
"""

from __future__ import annotations

import hashlib
import json
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from pydantic import JsonValue

from harness.recipe.axes import END, Point
from harness.recipe.data import Assay, Build, Stream
from harness.recipe.fields import canonical_json
from harness.recipe.models import Architecture
from harness.recipe.optimiser import Optimiser
from harness.recipe.schedules import STABLE
from harness.recipe.schema import EarlyStopping, Recipe, Train

ID_VERSION = 1
Kind = Literal["trained", "segment", "untrained", "pretrained", "profiles", "pixel_statistics"]

# Recipe fields that change no result, and so no id: where and how something is done.
BUILD_NOT_IDENTITY = {"root", "output", "workers", "on_error", "codec", "chunk"}
ASSAY_NOT_IDENTITY = {"output"}
NOT_IDENTITY = {"start", "heirs", "is_snapshot", "point", "overlay"}  # of a cell


@dataclass(frozen=True)
class Training:
    """How a cell trains, resolved to its model and dataset; crops are counted from the shards when it runs."""

    epochs: int
    batch: int
    learning_rate: float
    optimiser: Optimiser
    early_stopping: EarlyStopping | None
    settings: Train  # schedule, precision, validations; its per-name fields are resolved above
    end: float = 1.0  # the share of the whole run at which it ends, its rate decayed
    until: float | None = None  # of a segment: the share at which it ends, its rate not decayed

    @property
    def share(self) -> float:
        """The share of the whole run after which the cell ends."""
        return self.end if self.until is None else self.until

    def identity(self) -> dict[str, JsonValue]:
        """The settings that change a result. Of the divergence monitor's settings, only skipping updates does."""
        train = self.settings
        left_out = {"epochs", "batch", "learning_rate", "skip_limit", "optimiser", "optimisers", "early_stopping"}
        left_out |= {"schedule", "snapshots", "start_from"}
        left_out |= set() if train.nonfinite == "skip" else {"nonfinite"}
        left_out |= set() if train.spike == "skip" else {"spike", "spike_factor"}
        early = self.early_stopping
        settings = {
            **train.model_dump(mode="json", exclude=left_out),
            "optimiser": self.optimiser.identity(),
            "schedule": train.schedule.identity() if self.until is None else train.schedule.trunk_identity(),
            "early_stopping": None if early is None else early.model_dump(mode="json"),
        }
        identity: dict[str, JsonValue] = {
            "epochs": self.epochs,
            "batch": self.batch,
            "learning_rate": self.learning_rate,
            "settings": settings,
        }
        if self.until is not None:
            return identity | {"until": self.until}
        return identity | ({"end": self.end} if train.schedule.name == STABLE else {})

    @cached_property
    def identity_json(self) -> str:
        """The identity as canonical JSON, made once for all cells that share it."""
        return canonical_json(self.identity())

    @cached_property
    def schedule_json(self) -> str:
        """What decides the learning rate at each share of the run, relative to its peak, as canonical JSON."""
        return canonical_json([self.settings.schedule.identity(), self.share])


@dataclass(frozen=True)
class TrainingData:
    """Which images a cell sees and in what order, never where they are stored."""

    dataset: str
    fraction: float
    stream: Stream | None  # None: in random order
    channels: dict[str, str] | None  # the study's names of the set's channels, where they differ
    build: Build | None  # how the recipe prepares the shards, if it does
    assay: Assay | None  # which demo assay they are built from, if they are

    def identity(self) -> dict[str, JsonValue]:
        """The dataset's name and fraction, its order, and how its shards are rendered and split."""
        identity: dict[str, JsonValue] = {"dataset": self.dataset, "fraction": self.fraction}
        if self.stream is not None:
            identity["stream"] = self.stream.model_dump(mode="json")
        if self.channels:
            identity["channels"] = dict(self.channels)
        if self.build is not None:
            identity["build"] = self.build.model_dump(mode="json", exclude=BUILD_NOT_IDENTITY, exclude_none=True)
        if self.assay is not None:
            identity["assay"] = self.assay.model_dump(mode="json", exclude=ASSAY_NOT_IDENTITY)
        return identity

    @cached_property
    def identity_json(self) -> str:
        """The identity as canonical JSON, made once for all cells that share it."""
        return canonical_json(self.identity())


@dataclass(frozen=True)
class Cell:
    """One run of the study: a trained model, the first segment of a run, an untrained model, or a baseline without
    training: a network whose weights come from disk, profiles measured with other software, or pixel statistics.

    Attributes:
        continues: the id of the cell whose training the cell's own run continues with other data, if it does.
        start: the cell whose final training state it begins with: the segment before, or the one that it continues.
        heirs: the cells that begin with its final training state.
        is_snapshot: whether a segment is embedded and evaluated.
        point: where the cell is on the grid's axes; its id says what it is.
        overlay: the recipe there; None without axes.
    """

    kind: Kind
    model: str
    architecture: Architecture | None
    dataset: str | None
    data: TrainingData | None
    training: Training | None
    seed: int
    continues: str | None = None
    start: Cell | None = field(default=None, compare=False, repr=False)
    heirs: tuple[Cell, ...] = field(default=(), compare=False, repr=False)
    is_snapshot: bool = field(default=False, compare=False)
    point: Point = field(default=Point(), compare=False)
    overlay: Recipe | None = field(default=None, compare=False, repr=False)

    @cached_property
    def id(self) -> str:
        """What names the cell's files and jobs: its place on the grid in words, and the hash of its identity."""
        parts = [
            self.model,
            self.dataset or self.kind,
            f"s{self.seed}",
            self._part(),
            fingerprint_of(self.identity_json)[:8],
        ]
        return "-".join(part for part in dict.fromkeys(parts) if part)

    def linked(self, **others: Any) -> Cell:  # noqa: ANN401  (fields of any type)
        """The same cell with other values of what is no part of its identity: its start, heirs and place."""
        assert others.keys() <= NOT_IDENTITY
        cell = copy(self)  # with the id, which stays
        cell.__dict__.update(others)
        return cell

    def _part(self) -> str:
        """Which part of a run the cell is, for its id; empty for the whole of one."""
        if self.training is None or not self.has_end:
            return ""
        return f"{'end' if self.training.until is None else 'until'}{self.training.share:g}"

    def identity(self) -> dict[str, JsonValue]:
        """All that changes the cell's result, as the JSON that its id hashes."""
        return {
            **self._own_identity(),
            "architecture": self.architecture.identity() if self.architecture else None,
            "data": self.data.identity() if self.data else None,
            "training": self.training.identity() if self.training else None,
        }

    def _own_identity(self) -> dict[str, JsonValue]:
        """The part of the identity that other cells do not share."""
        return {
            "version": ID_VERSION,
            "kind": self.kind,
            "model": self.model,
            "dataset": self.dataset,
            "seed": self.seed,
            **({"continues": self.continues} if self.continues else {}),
        }

    @property
    def identity_json(self) -> str:
        """The identity as canonical JSON, of the texts of what the cell shares with others."""
        texts = {name: canonical_json(value) for name, value in self._own_identity().items()}
        shared = {"architecture": self.architecture, "data": self.data, "training": self.training}
        texts |= {name: "null" if part is None else part.identity_json for name, part in shared.items()}
        return "{" + ",".join([f'"{name}":{texts[name]}' for name in sorted(texts)]) + "}"

    @property
    def begins_run(self) -> bool:
        """Whether the cell counts its steps from 0, rather than from the end of an earlier segment of its run."""
        return self.start is None or self.start.id == self.continues

    @property
    def continued(self) -> Cell | None:
        """The cell whose training the cell's own run continues, if it does."""
        if self.start is None or self.begins_run:
            return self.start
        return self.start.continued

    @property
    def has_end(self) -> bool:
        """Whether the cell is one of several that a run can end in."""
        training = self.training
        return training is not None and (training.until is not None or training.settings.schedule.name == STABLE)

    @property
    def is_point(self) -> bool:
        """Whether a trained state of the cell is evaluated, so that it is a point of the study."""
        return self.kind == "trained" or self.is_snapshot

    def labels(self) -> dict[str, JsonValue]:
        """What names the cell in tables: model, size, patch, dataset, seed, and its place on the grid's axes."""
        model = self.architecture.model if self.architecture else None
        return {
            "model": self.model,
            "size": model.size if model else None,
            "patch": model.patch_size if model else None,
            "dataset": self.dataset,
            "seed": self.seed,
            **({END: self.training.share} if self.training is not None and self.has_end else {}),
            **{name: axis_value(value) for name, value in self.point.coordinates().items()},
        }

    def recipe(self, study: Recipe) -> Recipe:
        """The recipe at the cell's point of the axes."""
        return self.overlay or study

    @property
    def network_kind(self) -> str | None:
        """The kind of the cell's network (`recipe/models.py`); None without a network."""
        return self.architecture.model.kind if self.architecture else None

    @property
    def is_classifier(self) -> bool:
        """Whether the cell's network is trained on labels."""
        return self.architecture is not None and self.architecture.model.is_classifier


def axis_value(value: JsonValue) -> JsonValue:
    """A value that a cell of a table can hold."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def fingerprint(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    """SHA-256 of the canonical JSON of `value`: equal for equal values, whatever the order of keys."""
    return fingerprint_of(canonical_json(value))


def fingerprint_of(text: str) -> str:
    """The same of canonical JSON."""
    return hashlib.sha256(text.encode()).hexdigest()
