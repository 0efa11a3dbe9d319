"""The progress bar over the planned work of a sweep, and a line for each grid cell that ends."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from harness.grid.cell import Cell
from harness.grid.cell_folder import TRAIN_LOG, cell_folder
from harness.launch.local.processes import Outcome, run_local
from harness.launch.local.shared_failure import SharedFailure
from harness.plan.cost import CellPlan, plan_cells
from harness.recipe.schema import Recipe
from harness.storage import ledger
from harness.storage.train_log import last_row

EMBEDDING_SHARE = 0.5  # rough cost of embedding and evaluation relative to training; affects only the bar and its ETA

SHOWN_CELLS = 2  # beside the bar
SHOWN = {"progress", "loss", "crops_per_second"}


class Watch:
    """A progress bar in units of planned training FLOPs; it advances with the steps of the running cells."""

    def __init__(self, recipe: Recipe, pending: Sequence[Cell], plans: Sequence[CellPlan]) -> None:
        from tqdm import tqdm

        cost = {plan.cell.id: plan.work for plan in plans}
        embedding_cost = EMBEDDING_SHARE * sum(cost.values()) / max(1, len(pending)) or 1.0
        self._recipe = recipe
        self._cost = {cell.id: cost.get(cell.id, 0.0) + embedding_cost for cell in pending}
        self._ended = 0.0
        self._is_begun = False
        self._total = sum(self._cost.values())
        self._bar = tqdm(
            total=self._total, desc="sweep", file=sys.stderr,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
            mininterval=0.5 if sys.stderr.isatty() else 15,
        )  # fmt: skip

    def __call__(self, running: Sequence[Cell]) -> None:
        """Advance the bar to the progress of the running cells."""
        progress, texts = 0.0, []
        for cell in running:
            last = last_row(cell_folder(self._recipe, cell) / TRAIN_LOG, "train")
            if cell.training is None or last is None or not last.keys() >= SHOWN:
                texts.append(f"{cell.id} begins")
                continue
            progress += self._cost[cell.id] * last["progress"] / (1 + EMBEDDING_SHARE)
            texts.append(f"{cell.id} {self._text(cell, last)}")
        self._bar.set_postfix_str(" · ".join(texts[:SHOWN_CELLS]), refresh=bool(texts) and not self._is_begun)
        self._is_begun |= bool(texts)
        self._advance(self._ended + progress)

    def _text(self, cell: Cell, last: Mapping[str, Any]) -> str:
        if ledger.read(self._recipe.output, cell.id, "train") is not None:
            return "is embedded"
        return f"loss {last['loss']:.3f} {last['crops_per_second']:,.0f} crops/s"

    def _advance(self, done: float) -> None:
        """Advance the bar, which does not go back and ends at its end: sums of floats do not."""
        self._bar.update(max(0.0, min(done, self._total) - self._bar.n))

    def ended(self, outcome: Outcome) -> None:
        """Print how a cell ended, and advance the bar."""
        self._ended += self._cost[outcome.cell.id]
        self._bar.write(describe(self._recipe, outcome), file=sys.stdout)
        self._advance(self._ended)

    def close(self) -> None:
        self._bar.close()


def describe(recipe: Recipe, outcome: Outcome) -> str:
    """How a cell ended, as in `done   vit_s16-...: validation loss 0.6120; complexes 0.310, pathways 0.152`."""
    cell = outcome.cell
    if outcome.is_cancelled:
        return f"cancelled {cell.id}{'' if outcome.error == 'cancelled' else f': {outcome.error}'}; resume runs it"
    if outcome.error is not None:
        return f"FAILED {cell.id}: {outcome.error}\n       log: {outcome.log}"
    facts = []
    trained = ledger.read(recipe.output, cell.id, "train")
    if trained and "validation_loss" in trained.values:
        facts.append(f"validation loss {trained.values['validation_loss']:.4f}")
    evaluated = ledger.read(recipe.output, cell.id, "evaluate")
    if evaluated:
        facts.append(", ".join(f"{name} {row['recall']:.3f}" for name, row in evaluated.values["recall"].items()))
    if trained and trained.stopped is not None:
        return f"stopped {cell.id}: {trained.values['stopped'].get('evidence', '')}"
    return f"done   {cell.id}: {'; '.join(facts)}"


def run_with_progress(recipe: Recipe, missing: Sequence[Cell]) -> int:
    """Run cells on this machine, and count the failed ones. Those that most work follows from come first, so that none
    of them starts last. A failure that all would share ends the sweep."""
    if not missing:
        return 0
    plans = plan_cells(recipe, missing)
    cost = {plan.cell.id: plan.work for plan in plans}
    watch, shared = Watch(recipe, missing, plans), SharedFailure(missing)
    failed = ended = 0
    try:
        with closing(run_local(recipe, sorted(missing, key=lambda cell: -_work_ahead(cell, cost)), watch)) as outcomes:
            for outcome in outcomes:
                watch.ended(outcome)
                failed += outcome.phase == "failed"
                ended += 1
                reason = None if outcome.is_cancelled else shared.reason_to_stop(outcome.cell, outcome.error)
                if reason and ended < len(missing):
                    print(f"stopped: {reason}; {len(missing) - ended} cells were not tried", file=sys.stderr)
                    break
    finally:
        watch.close()
    return failed


def _work_ahead(cell: Cell, cost: Mapping[str, float]) -> float:
    """The cost of a cell and of the longest chain of cells that start from it."""
    return cost.get(cell.id, 0.0) + max((_work_ahead(heir, cost) for heir in cell.heirs), default=0.0)
