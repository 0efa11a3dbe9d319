"""What a study needs before its first grid cell: the demo assay rendered, shards built. Done once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from harness.recipe.data import Assay, Build, Curation
from harness.recipe.schema import Recipe, unknown_name

if TYPE_CHECKING:
    import shards.builder.curation

log = logging.getLogger(__name__)


def prepare(recipe: Recipe) -> None:
    """Make what `recipe.prepare` names and does not exist yet; a finished output is left as it is.

    Raises:
        ValueError: an output was made with other options, or its input cannot be used.
    """
    if recipe.prepare.assay is not None:
        _render(recipe.prepare.assay)
    for build in recipe.prepare.build:
        _build(build)


def _render(assay: Assay) -> None:
    from dataclasses import fields, replace

    from shards.demo.assay import AssayOptions, render_assay

    known = [field.name for field in fields(AssayOptions)]
    for name in assay.options:
        if name not in known:
            raise ValueError(f"prepare.assay.options: {unknown_name(name, known)}")
    options: dict[str, Any] = {"seed": assay.seed, **assay.options}
    render_assay(replace(AssayOptions(), **options), assay.output)


def _build(options: Build) -> None:
    from shards.builder.build_set import build

    manifest, changed = build(
        options.layout,
        options.root,
        options.output,
        options=options.options,
        curation=_curation(options.curation),
        validation_experiments=options.validation_experiments,
        validation_fraction=options.validation_fraction,
        wells_per_shard=options.wells_per_shard,
        eight_bit=options.eight_bit,
        plane=options.plane,
        codec=options.codec,
        chunk=options.chunk,
        seed=options.seed,
        workers=options.workers,
        on_error=options.on_error,
        unlabelled=options.unlabelled or "refuse",
    )
    for note in manifest.notes if changed else ():
        log.warning("%s: %s", options.output, note)


def _curation(rules: Curation | None) -> shards.builder.curation.CurationRules | None:
    from shards.builder.curation import CurationRules

    if rules is None:
        return None
    fields = rules.model_dump(exclude={"controls"})
    return (
        CurationRules(**fields) if rules.controls is None else CurationRules(**fields, controls=tuple(rules.controls))
    )
