"""Open the shard sets of a recipe, in a folder or at any URL that fsspec supports, and read their manifests."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.grid.cell import fingerprint
from harness.recipe.data import Remote
from harness.recipe.schema import Recipe
from harness.storage.health.open_files import open_shards_limit
from harness.storage.json_files import parse_json
from harness.storage.kept.remembered import Remembered
from shards.format.source import MAX_MANIFEST_BYTES, LocalFolder

if TYPE_CHECKING:
    from harness.distributed.ranks import Ranks
    from shards.reader.shard_set import ShardSet
    from shards.remote.store import Store

ShardLocation = Path | str  # a folder, or a URL
GIGA = 10**9
MANIFEST = "manifest.json"  # as in `shards.format.manifest`, whose import takes longer than `plan` may


def open_shards(
    recipe: Recipe, place: ShardLocation, order: Literal["random", "stream"] = "random", *, sizes: bool = True
) -> ShardSet:
    """Open the set at `place`. At a URL, parts of shards are read, or complete shards are cached for a stream order.

    Without `sizes` the shards are not looked for: ranks do so together, by `check_shards`.

    Raises:
        ShardError: the set is missing, damaged or incomplete.
        OSError: the store cannot be read.
    """
    from shards.reader.crop_reader import HELD_SHARDS
    from shards.reader.shard_set import ShardSet

    if isinstance(place, Path):
        shards = ShardSet.open(place, recipe.launch.loader_read, sizes=sizes)
    else:
        from shards.remote.cache import FileCache
        from shards.remote.open_set import open_store

        remote = recipe.remote
        whole = order == "stream" and remote.cache is not None
        kept = FileCache(remote.cache, round(remote.cache_gb * GIGA)) if whole and remote.cache else None
        shards = open_store(_store(place, remote), kept, sizes=sizes)
    launch = recipe.launch
    held = HELD_SHARDS * (launch.loader_workers + 1)  # by each reading thread, and by the loop where it reads itself
    shards.reader.max_open_shards = open_shards_limit(launch.loader_open_shards, held)
    return shards


def check_shards(shards: ShardSet, ranks: Ranks) -> None:
    """Look for every shard on the first rank alone; the others compare the digest of their manifest with its.

    93,000 shards on 256 ranks would be 24 million requests to a file system that all jobs share.

    Raises:
        ShardError: on all ranks, a shard is missing or has another size; on a rank that has opened another set.
        OSError: on all ranks, the store cannot be read.
    """
    from shards.errors import ShardError

    error: ShardError | OSError | None = None
    if ranks.is_first:
        try:
            shards.check_sizes()
        except (ShardError, OSError) as found:
            error = found
    digest, failure = ranks.of_first((shards.digest, error))
    if failure is not None:
        raise failure
    if digest != shards.digest:
        raise ShardError(f"{shards.folder}: its manifest is not the one that the first rank reads: build the set again")


@dataclass(frozen=True)
class ManifestFacts:
    """What planning takes from a manifest, not validated; the list of its shards may be long, and is not kept.

    Attributes:
        fields: all but the shards.
        digest: of the shards' checksums; None if it has none.
    """

    fields: dict[str, Any]
    digest: str | None


def check_experiments(wanted: Sequence[str], known: Collection[str], place: ShardLocation) -> None:
    """Check that a set has the experiments that are to be embedded.

    Raises:
        ValueError: it lacks some.
    """
    if unknown := sorted(set(wanted) - set(known)):
        held = ", ".join(sorted(known)[:20])
        raise ValueError(f"embed.experiments: {', '.join(unknown)} not in {place}; it holds {held}")


_FACTS: Remembered[ManifestFacts] = Remembered()


def manifest_of(recipe: Recipe, place: ShardLocation) -> ManifestFacts:
    """The manifest of the set at `place`. It is parsed once per process; again if a local file has changed.

    Raises:
        FileNotFoundError: there is none.
        OSError: the store cannot be read.
        ValueError: it is not JSON, not an object, not a regular file, or too large.
    """
    if isinstance(place, Path):
        return _FACTS.read(f"{place}/{MANIFEST}", lambda: _facts(LocalFolder(place).load(MANIFEST, MAX_MANIFEST_BYTES)))
    return _asked(place, recipe.remote.model_dump_json())


@cache
def _asked(url: str, remote: str) -> ManifestFacts:
    return _facts(_store(url, Remote.model_validate_json(remote)).load(MANIFEST, MAX_MANIFEST_BYTES))


def _facts(text: bytes) -> ManifestFacts:
    manifest = parse_json(text)
    if not isinstance(manifest, dict):
        raise ValueError(f"a manifest is a JSON object, this is {type(manifest).__name__}")
    shards = manifest.pop("shards", None)
    try:
        digest = fingerprint(sorted(shard["sha256"] for shard in shards or ()))
    except (KeyError, TypeError):
        digest = None
    return ManifestFacts(manifest, digest if shards else None)


def _store(url: str, remote: Remote) -> Store:
    from shards.remote.store import Patience, Store

    return Store(url, Patience(remote.attempts, remote.seconds), remote.options)
