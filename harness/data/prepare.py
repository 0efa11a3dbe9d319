"""What a study needs before its first cell: the demo assay rendered, shards built. Made once, then left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.recipe.data import Assay, Build, Curation
from harness.recipe.schema import Recipe, unknown_name

if TYPE_CHECKING:
    import shards.builder.curation


def prepare(recipe: Recipe) -> None:
    """Make what `recipe.prepare` names and is not there yet; each maker leaves a finished output as it is.

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
    chosen: dict[str, Any] = {"seed": assay.seed, **assay.options}
    render_assay(replace(AssayOptions(), **chosen), assay.output)


def _build(options: Build) -> None:
    from shards.builder.build_set import build

    build(
        options.layout,
        options.root,
        options.output,
        options=options.options,
        curation=_curation(options.curation),
        validation_experiments=options.validation_experiments,
        validation_fraction=options.validation_fraction,
        wells_per_shard=options.wells_per_shard,
        eight_bit=options.eight_bit,
        codec=options.codec,
        chunk=options.chunk,
        seed=options.seed,
        workers=options.workers,
        on_error=options.on_error,
    )


def _curation(rules: Curation | None) -> shards.builder.curation.CurationRules | None:
    from shards.builder.curation import CurationRules

    if rules is None:
        return None
    given = rules.model_dump(exclude={"controls"})
    return CurationRules(**given) if rules.controls is None else CurationRules(**given, controls=tuple(rules.controls))
