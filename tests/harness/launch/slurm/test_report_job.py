"""The last job draws the report also if a row of the ledger stops it from submitting what is missing."""

from __future__ import annotations

import pytest

from harness.grid.cells import cells
from harness.launch.slurm.report_job import report_and_resume
from harness.recipe.schema import Recipe
from harness.storage import ledger
from harness.storage.ledger import LedgerError


def test_a_damaged_row_does_not_stop_the_report(
    tiny_recipe: Recipe, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_CONF", raising=False)
    bad = next(cell for cell in cells(tiny_recipe) if cell.kind == "trained")
    path = ledger.row_path(tiny_recipe.output, bad.id, "evaluate")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(LedgerError, match=r"evaluate\.json: not a ledger row"):
        report_and_resume(tiny_recipe.model_dump_json())
    page = (tiny_recipe.output / "report" / "report.html").read_text()
    assert f"<li>ledger/{bad.id}/evaluate.json: not a ledger row" in page
    assert f"left out of the report: ledger/{bad.id}/evaluate.json" in capsys.readouterr().err
