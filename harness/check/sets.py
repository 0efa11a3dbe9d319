"""What the manifests of a study's sets say: are they there, and do channels, experiments and batches fit? No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from harness.check.problem import Problem, at
from harness.check.study import Study
from harness.data.channels import (
    ChannelError,
    embedding_channels,
    renamed,
    set_channels,
    training_channels,
    value_ranges,
)
from harness.data.dim_channels import TOO_DIM
from harness.data.shard_sets import check_experiments
from harness.distributed.micro_batches import uneven_batch
from harness.grid.cell import Cell
from harness.grid.states import planned_steps
from harness.recipe.data import Dataset
from harness.recipe.fields import per_name
from harness.recipe.schema import Embed
from harness.stages.missing import StageError, shards_digest
from harness.storage.json_files import is_number


def absent_sets(study: Study) -> Iterator[Problem]:
    """Sets that are not there, or are none."""
    for path, section in study.sets.items():
        if study.is_to_be_built(section.shards) or not (study.needs_data or study.manifest(section.shards)):
            continue
        try:
            shards_digest(study.recipe, section.shards)
        except StageError as error:
            yield at(f"{path}.shards", error)


def splits(study: Study) -> Iterator[Problem]:
    """Sets to train on without images to train on, or to validate with."""
    for path, section, manifest in study.read():
        wells = manifest.fields.get("wells")
        if path == "embed" or not isinstance(wells, dict):
            continue
        for split in ("train", "validation"):
            if not wells.get(split):
                cure = "build them with --validation-experiments or --validation-fraction"
                yield Problem(f"{path}.shards", f"{section.shards} has no {split} wells: {cure}")


def channels(study: Study) -> Iterator[Problem]:
    """Channels of sets that are not those of the models, matched by name."""
    embed = study.recipe.embed
    for cell in study.distinct:
        recipe = cell.recipe(study.recipe)
        dataset = recipe.datasets[cell.dataset] if cell.dataset else None
        field = f"datasets.{cell.dataset}.channels"
        try:
            if dataset is not None and study.manifest(dataset.shards):
                value_ranges(recipe.mae, training_channels(recipe, cell, set_channels(recipe, dataset)).names)
            if embed is None or not study.manifest(embed.shards) or cell.architecture is None:
                continue
            field = "embed.channels"
            if dataset is None or study.manifest(dataset.shards):
                value_ranges(recipe.mae, embedding_channels(recipe, cell, None, set_channels(recipe, embed)).names)
        except ChannelError as error:
            yield at(field, error)
            continue
        if cell.dataset is None and recipe.mae.channel_names is None:
            yield from _unlearned(study, cell)


def _unlearned(study: Study, cell: Cell) -> Iterator[Problem]:
    """A network that learned no channels takes as many as `mae.channels`, or any number if it is channel-agnostic."""
    recipe, embed = cell.recipe(study.recipe), study.recipe.embed
    assert embed is not None
    names = renamed(set_channels(recipe, embed), embed.channels, embed.shards, "embed.channels")
    if cell.network_kind != "channel_agnostic" and len(names) != recipe.mae.channels:
        text = f"is {recipe.mae.channels}, but {embed.shards} has {', '.join(names)}"
        sets = [recipe.datasets[other.dataset] for other in study.distinct if other.dataset is not None]
        learned = {len(set_channels(recipe, dataset)) for dataset in sets if study.manifest(dataset.shards)}
        cure = f"channels={len(names)}" if learned <= {len(names)} else "channel_names to those that networks learn"
        yield Problem("mae.channels", f"{text}: set mae.{cure}")


def value_range(study: Study) -> Iterator[Problem]:
    """Channels that standardisation would leave below half of unit variance."""
    mae = study.recipe.mae
    for path, section, manifest in study.read():
        measured = manifest.fields.get("pixel_ranges")
        if mae.value_range is not None or not isinstance(measured, dict):
            continue
        with suppress(ChannelError, KeyError):  # as `channels` says; ranges of a channel that is not there
            stored = set_channels(study.recipe, section)
            names = renamed(stored, section.channels, section.shards, f"{path}.channels")
            by_name = {name: measured[one] for name, one in zip(names, stored, strict=True)}
            yield from _dim(section, {name: one for name, one in by_name.items() if isinstance(one, dict)}, mae.crop)


def _dim(section: Dataset | Embed, measured: Mapping[str, Mapping[str, Any]], crop: int) -> Iterator[Problem]:
    kept = {name: _kept(one.get("standardised"), crop) for name, one in measured.items()}
    dim = ", ".join(f"{name} ({share:.2g})" for name, share in kept.items() if share < TOO_DIM)
    if dim:
        text = f"is null, so that pixels of {section.shards} are divided by 65,535, of which they use little"
        tells = f"standardised, {dim} keep these parts of a variance of 1"
        yield Problem("mae.value_range", f"{text}: {tells}; {_spreads(measured)} would keep more", is_warning=True)


def _kept(standardised: object, crop: int) -> float:
    """The variance that crops keep, by the largest parts measured that are no larger than those."""
    if not isinstance(standardised, dict):
        return 1.0
    by_side = sorted((int(side), share) for side, share in standardised.items() if is_number(share, 0, 1))
    return next((share for side, share in reversed(by_side) if side <= crop), by_side[0][1] if by_side else 1.0)


def _spreads(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """What most pixels of each channel differ by, as a recipe's `value_range`: «{DNA: 1120, ER: 3978}»."""
    shown = {name if name.isidentifier() else json.dumps(name): one.get("spread") for name, one in measured.items()}
    return "{" + ", ".join(f"{name}: {spread}" for name, spread in shown.items()) + "}"


def experiments(study: Study) -> Iterator[Problem]:
    """Experiments to embed that the set does not have."""
    for path, section, manifest in study.read():
        wanted, held = getattr(section, "experiments", None), manifest.fields.get("experiments")
        if path != "embed" or wanted is None or not isinstance(held, dict):
            continue
        try:
            check_experiments(wanted, [name for split in held.values() for name in split], section.shards)
        except ValueError as error:
            yield at("embed.experiments", error)


def batches(study: Study) -> Iterator[Problem]:
    """Batches that the ranks cannot share, or that a dataset of known size cannot fill."""
    launch = study.recipe.launch
    for cell in study.distinct:
        if cell.training is None or cell.dataset is None:
            continue
        nodes = per_name(launch.nodes, cell.model) * max(1, launch.gpus_per_node)
        world = nodes if launch.executor == "slurm" else 1
        group = getattr(cell.architecture.model, "group", 1) if cell.architecture else 1
        if uneven := uneven_batch(cell.training.batch, world, group):
            yield at("train.batch", uneven.removeprefix("train.batch "))
        dataset = cell.recipe(study.recipe).datasets[cell.dataset]
        facts = study.manifest(dataset.shards)
        if facts is None or dataset.fraction < 1 or cell.is_classifier:
            continue  # how many wells these train on is in the table (`check/wells.py`)
        with suppress(KeyError, TypeError):
            yield from too_few(cell, facts.fields["wells"]["train"])


def too_few(cell: Cell, images: int) -> Iterator[Problem]:
    """A dataset of so many images that does not fill a batch."""
    try:
        planned_steps(cell, images)
    except ValueError as error:
        yield at("train.batch", error)
