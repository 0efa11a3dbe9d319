"""All checks of a study, in order. Reading tables is left to where there is time for it: a plan has none."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from analysis.figures.text_table import counted
from harness.check import inputs, machine, sets
from harness.check.problem import Problem
from harness.check.study import Study
from harness.recipe.schema import Recipe

FAST = (
    sets.absent_sets, sets.splits, sets.channels, sets.value_range, sets.experiments, sets.batches, inputs.files,
    inputs.builds, machine.output, machine.edited, machine.devices, machine.compilation,
)  # fmt: skip


@dataclass(frozen=True)
class Findings:
    """What the checks found.

    Attributes:
        problems: each once, those that keep the study from running before the warnings.
        looked_at: what was checked, in words.
        unseen: sets that were not, because a run builds them first.
    """

    problems: tuple[Problem, ...]
    looked_at: str
    unseen: tuple[str, ...] = ()

    @property
    def errors(self) -> list[Problem]:
        """What keeps the study from running."""
        return [problem for problem in self.problems if not problem.is_warning]

    @property
    def warnings(self) -> list[Problem]:
        """What it runs with, though probably not as it was meant."""
        return [problem for problem in self.problems if problem.is_warning]

    def text(self) -> str:
        """The findings for a terminal."""
        lines = [f"problem: {problem}" for problem in self.errors]
        lines += [f"warning: {problem}" for problem in self.warnings]
        found = counted(len(self.errors), "problem") if lines else "nothing wrong"
        if self.warnings:
            found = f"{found if self.errors else 'nothing that stops it'}, {len(self.warnings)} warnings"
        lines.append(f"{found}: {self.looked_at}")
        if self.unseen:
            lines.append(f"not looked at, as a run builds them first: {', '.join(self.unseen)}")
        return "\n".join(lines)

    def as_json(self) -> str:
        """The findings for a script."""
        problems = [asdict(problem) for problem in self.problems]
        return json.dumps({"problems": problems, "looked_at": self.looked_at, "unseen": self.unseen}, indent=1)


def check(
    recipe: Recipe, *, known: Iterable[Problem] = (), needs_data: bool = True, tables: bool = True, fit: bool = True
) -> Findings:
    """Look for all that would keep a study from running, or from meaning what it should.

    Args:
        recipe: the study.
        known: problems that the caller has found, such as an output of another recipe.
        needs_data: whether data must be on this machine; where it is, it is checked in any case.
        tables: read the tables of wells and the relationship lists too, which takes longer.
        fit: look for space on the disk and the GPUs too, for what the ledger lacks.
    """
    study = Study(recipe, needs_data)
    found = [*known, *(problem for one in FAST for problem in one(study))]
    if tables:
        from harness.check import wells

        found += wells.tables(study)
    if fit and all(problem.is_warning for problem in found):
        found += machine.fit(study)
    else:
        fit = False
    found = list(dict.fromkeys(found))
    in_order = sorted(found, key=lambda problem: problem.is_warning)
    return Findings(tuple(in_order), _looked_at(study, tables, fit), tuple(study.to_be_built))


def _looked_at(study: Study, tables: bool, fit: bool) -> str:
    """What was checked: «12 cells, 2 sets of images (192 wells), 3 relationship lists, channels, ...»"""
    parts, evaluate = [f"{len(study.grid):,} cells"], study.recipe.evaluate
    counts = {str(section.shards): manifest.fields.get("wells") for _, section, manifest in study.read()}
    if counts:
        wells = sum(sum(count.values()) for count in counts.values() if isinstance(count, dict))
        sets = counted(len(counts), "set of images", "sets of images")
        parts.append(f"{sets} ({wells:,} wells), channels, crops, batches, experiments")
    if counts and tables and evaluate is not None:
        parts.append(f"columns, controls, genes, {counted(len(evaluate.relationships), 'relationship list')}")
    return ", ".join([*parts, f"files, output{', space' if fit else ''} and devices were checked"])
