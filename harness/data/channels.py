"""Which channel of a shard set goes into which input of a model: they are matched by name. No torch.

A model's channels are those of the set that it was trained on, in that set's order, or `mae.channel_names` if the
recipe gives them; a run that continues another takes those of that. A set that stores the same names in another order
is reordered. Any other set is refused, unless the recipe says which of its channels are the model's
(`channels: {ours: theirs}` of the dataset or of `embed`).

Shapes: C channels.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.data.shard_sets import ShardLocation, manifest_of
from harness.grid.cell import Cell
from harness.grid.cell_folder import WEIGHTS, cell_folder
from harness.recipe.data import Dataset
from harness.recipe.models import Mae
from harness.recipe.schema import Embed, Recipe
from harness.storage.weights import read_metadata

CHANNELS = "channels"  # in the metadata of weights: the model's channels, as a JSON list


class ChannelError(ValueError):
    """The channels of a set are not those of a model; the message names both, and what to write into the recipe."""


@dataclass(frozen=True)
class ChannelOrder:
    """The channels of a model, and where a set stores them.

    Attributes:
        names: of the model's inputs, in their order.
        positions: of each of them in the set, (C,); None if the set stores exactly these in this order.
    """

    names: tuple[str, ...]
    positions: tuple[int, ...] | None = None


def training_channels(recipe: Recipe, cell: Cell, stored: Sequence[str]) -> ChannelOrder:
    """The channels that a cell learns, from the training set that stores `stored`.

    Raises:
        ChannelError: they are not as many as `mae.channels`, or not `mae.channel_names`.
    """
    assert cell.dataset is not None
    dataset = recipe.datasets[cell.dataset]
    field = f"datasets.{cell.dataset}.channels"
    given = recipe.mae.channel_names or _continued_channels(recipe, cell)
    if given is not None:
        return match(given, stored, dataset.channels, dataset.shards, field)
    names = renamed(stored, dataset.channels, dataset.shards, field)
    if len(names) != recipe.mae.channels:
        text = f"mae.channels is {recipe.mae.channels}, but {dataset.shards} has {', '.join(names)}"
        raise ChannelError(f"{text}: set mae.channels={len(names)}")
    return ChannelOrder(names)


def _continued_channels(recipe: Recipe, cell: Cell) -> tuple[str, ...] | None:
    """The channels of the network that a cell's run continues to train; None where it begins with a new one."""
    before = cell.continued
    return None if before is None else learned_channels(recipe, before, cell_folder(recipe, before))


def embedding_channels(recipe: Recipe, cell: Cell, folder: Path | None, stored: Sequence[str]) -> ChannelOrder:
    """The channels of `recipe.embed`, which stores `stored`, in the order that a cell's network takes them.

    A channel-agnostic network takes every channel, as does one that has learned none.

    Raises:
        ChannelError: they are not the channels that the network was trained on.
    """
    assert recipe.embed is not None
    embed, learned = recipe.embed, learned_channels(recipe, cell, folder)
    if learned is None or cell.network_kind == "channel_agnostic":
        return ChannelOrder(renamed(stored, embed.channels, embed.shards, "embed.channels"))
    return match(learned, stored, embed.channels, embed.shards, "embed.channels")


def learned_channels(recipe: Recipe, cell: Cell, folder: Path | None) -> tuple[str, ...] | None:
    """The names of the channels that a cell's weights take, in order; None for weights that learned none.

    The weights in the cell's folder say it themselves. Without a folder (before the cell trains), and for weights of an
    earlier version, which do not, the recipe and the training set do.

    Raises:
        ChannelError: a training set that cannot be read is the only place that would say it.
    """
    names = (
        weight_channels(folder / WEIGHTS)
        if folder and (cell.training is not None or cell.kind == "untrained")
        else None
    )
    if names is not None:
        return names
    if recipe.mae.channel_names is not None:
        return tuple(recipe.mae.channel_names)
    if cell.dataset is None:
        return None
    dataset = recipe.datasets[cell.dataset]
    return training_channels(recipe, cell, set_channels(recipe, dataset)).names


def weight_channels(path: Path) -> tuple[str, ...] | None:
    """The names that weights give their channels; None without weights, or if they are of an earlier version.

    Raises:
        ChannelError: the entry is not a list of names.
    """
    text = read_metadata(path).get(CHANNELS)
    if text is None:
        return None
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ChannelError(f"{path}: its metadata's {CHANNELS} is not a list of names")
    return tuple(names)


def value_ranges(mae: Mae, names: Sequence[str]) -> float | tuple[float, ...] | None:
    """The pixel value that counts as 1 before self-standardisation, or that of each channel, (C,); None: the type's.

    Raises:
        ChannelError: the recipe gives it by channel, and lacks one.
    """
    given = mae.value_range
    if not isinstance(given, dict):
        return given
    absent = [name for name in names if name not in given]
    if absent:
        has = f"it has {', '.join(given)}"
        raise ChannelError(
            f"mae.value_range has no value for the channel {absent[0]!r}{_near(absent[0], [*given])}; {has}"
        )
    return tuple(given[name] for name in names)


def set_channels(recipe: Recipe, place: Dataset | Embed) -> tuple[str, ...]:
    """The names of the channels of a set, in the order in which it stores them.

    Raises:
        ChannelError: its manifest cannot be read, or does not list them.
    """
    location: ShardLocation = place.shards
    try:
        names = manifest_of(recipe, location).fields["channels"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ChannelError(f"{location}: the names of its channels cannot be read ({error})") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ChannelError(f"{location}: its manifest's channels are not a list of names")
    return tuple(names)


def renamed(
    stored: Sequence[str], mapping: Mapping[str, str] | None, place: ShardLocation, field: str
) -> tuple[str, ...]:
    """The names of a set's channels in the study's words: «theirs» becomes «ours».

    Raises:
        ChannelError: the set lacks one of «theirs», or two of its channels would have one name.
    """
    ours = {theirs: name for name, theirs in (mapping or {}).items()}
    if len(ours) < len(mapping or {}):
        raise ChannelError(f"{field}: names one channel of {place} twice")
    absent = [theirs for theirs in ours if theirs not in stored]
    if absent:
        raise ChannelError(f"{field}: {place} has no channel {absent[0]!r}{_near(absent[0], stored)}; {_has(stored)}")
    names = tuple(ours.get(name, name) for name in stored)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ChannelError(f"{place} has two channels called {twice[0]!r}: {', '.join(names)}")
    return names


def match(
    names: Sequence[str], stored: Sequence[str], mapping: Mapping[str, str] | None, place: ShardLocation, field: str
) -> ChannelOrder:
    """The order in which a model with channels `names` takes the channels of a set.

    The set must have exactly these names; only if the recipe maps every one may it have further channels.

    Raises:
        ChannelError: it has others.
    """
    theirs = renamed(stored, mapping, place, field)
    absent = [name for name in names if name not in theirs]
    if absent or (len(theirs) > len(names) and not set(names) <= set(mapping or {})):
        example = ", ".join(f"{name}: {_guess(name, theirs)}" for name in names)
        raise ChannelError(
            f"{place} has the channels {', '.join(theirs)}, the model {', '.join(names)}: they are matched by name. "
            f"If they are the same stains, say so in the recipe: {field}: {{{example}}}"
        )
    positions = tuple(theirs.index(name) for name in names)
    return ChannelOrder(tuple(names), None if positions == tuple(range(len(theirs))) else positions)


def _guess(name: str, theirs: Sequence[str]) -> str:
    return name if name in theirs else "..."


def _near(name: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def _has(stored: Sequence[str]) -> str:
    return f"it has {', '.join(stored)}"
