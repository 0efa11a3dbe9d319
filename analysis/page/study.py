"""The contents of a report as plain data, which `analysis.page.render` turns into HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.forecast.outlook import Outlook
from analysis.forecast.scores import Scored
from analysis.page.gains import TrainingGain


@dataclass(frozen=True)
class CellRow:
    """One cell of the study's table. Numbers that are not known yet are None."""

    cell: str
    model: str
    dataset: str
    seed: int
    state: str  # done, part, stopped, missing
    loss: float | None
    recalls: Mapping[str, float | None]  # by source
    planned_hours: float | None  # GPU hours of training and embedding
    spent_hours: float | None  # GPU hours of all stages, or process hours where there are no GPUs
    log: str | None  # a link, relative to the page
    annealed: str = ""  # whether its learning rate had decayed: yes, no, unknown; empty if it was not trained
    goodput: float | None = None  # share of the hours of its training that its weights are made of


@dataclass(frozen=True)
class SourceFit:
    """One source under one convention: the line with its interval, and the answer in words."""

    answer: str
    line: Mapping[str, Sequence[float]]  # x, y, low, high
    checks: Sequence[Mapping[str, str]] = ()  # check, verdict, detail


@dataclass(frozen=True)
class Allocation:
    """How a joint law of cost per crop and crops seen would split compute, of one metric under one convention."""

    metric: str
    answer: str  # the exponents with their intervals, or why there are none
    line: Mapping[str, Sequence[float]]  # x of compute; y, low, high of the best cost per crop; empty where none
    places: Sequence[Mapping[str, float]]  # compute, cost, cost_low, cost_high, crops, predicted
    cells: Sequence[str]  # the runs behind it


@dataclass(frozen=True)
class LifePanel:
    """The best size over a life, trained once and run on every well that it embeds: of one metric, in one unit."""

    metric: str
    answer: str  # what is wanted and which of the study's models is the cheapest; or why there is no answer
    unit: str = ""  # of costs
    convention: str = ""  # of sizes
    line: Mapping[str, Sequence[float]] = field(default_factory=dict)  # x of wells; y, low, high of the best size
    models: Sequence[tuple[str, float]] = ()  # of the study, with their sizes
    places: Sequence[Mapping[str, float]] = ()  # wells, size, size_low, size_high, crops, train, embed, total


@dataclass(frozen=True)
class Price:
    """What an hour costs."""

    machine: str
    per_hour: float  # of one GPU, in the currency of hardware.price_per_hour


@dataclass(frozen=True)
class NextRun:
    """A proposed run."""

    cell: str
    hours: float
    narrows: str  # in words


@dataclass(frozen=True)
class Sample:
    """One crop of a trained cell as a JPEG: original, masked, reconstruction."""

    cell: str
    loss: float | None
    image: bytes


@dataclass(frozen=True)
class MultiplierRow:
    """One variant against the baseline by one metric; numbers are None where the runs do not tell."""

    variant: str
    metric: str
    multiplier: float | None
    low: float | None  # None: open on that side
    high: float | None
    says: str
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Multipliers:
    """Compute multipliers along one axis of the grid."""

    axis: str
    baseline: str
    why: str  # this is the baseline
    rows: Sequence[MultiplierRow]
    notes: Sequence[str] = ()
    image: bytes | None = None  # a PNG: the forest plot


@dataclass(frozen=True)
class BestRates:
    """What the study's sweeps of the learning rate say, each in a sentence."""

    says: Sequence[str]
    image: bytes | None = None  # a PNG: loss against rate


@dataclass(frozen=True)
class Study:
    """Everything that the page shows. Compute is given under every convention."""

    title: str
    question: str
    convention: str  # shown first
    conventions: Sequence[Mapping[str, str]]  # name, unit, meaning
    sources: Sequence[str]
    points: Sequence[Mapping[str, Any]]
    curves: Sequence[Mapping[str, Any]]  # cell, size, patch, loss, compute by convention
    frontier: Mapping[str, Mapping[str, Sequence[float]]]
    fits: Mapping[str, Mapping[str, SourceFit]]  # by convention and source
    cells: Sequence[CellRow]
    unfinished: str  # what is missing, in words; empty when the study is complete
    left_out: Sequence[str] = ()  # files that could not be used, with reasons
    stopped: str = ""  # how many runs stopped before their learning rate had decayed, in words
    allocations: Mapping[str, Sequence[Allocation]] = field(default_factory=dict)  # by convention
    lives: Sequence[LifePanel] = ()
    thinned: str = ""  # that not all readings of the curves are drawn, in words
    goodput: str = ""  # what the hours of training were spent on, in words
    price: Price | None = None  # None where there are no GPUs to pay for
    next_runs: Sequence[NextRun] = ()
    no_next: str = ""  # why nothing is proposed
    unsettled: Sequence[str] = ()  # what the finished runs leave open, in words
    provenance: Mapping[str, str] = field(default_factory=dict)
    reconstructions: Path | None = None  # a PNG: crops of the cell with the lowest loss
    samples: Sequence[Sample] = ()  # of every cell that reconstructs
    multipliers: Sequence[Multipliers] = ()  # by axis
    best_rates: BestRates | None = None  # None where no learning rate is swept
    gain: TrainingGain | None = None  # what training adds; None while no trained cell is evaluated
    outlooks: Mapping[str, Outlook] = field(default_factory=dict)  # of the cells that are training
    forecasts: Sequence[Scored] = ()  # the predictions that were sealed before their cells ran
    sealed: str = ""  # how many forecasts, and the seal of the last
