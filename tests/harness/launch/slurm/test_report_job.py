"""The last job draws the report even if it cannot submit what is missing, and waits while SLURM does not answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.grid.cells import cells
from harness.launch.slurm import report_job
from harness.launch.slurm.commands import NoAnswerError
from harness.launch.slurm.report_job import report_and_resume
from harness.launch.slurm.submit import SubmitResult
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.report import write
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


@pytest.mark.parametrize(("silent", "submits"), [(0, True), (2, True), (3, False)])
def test_a_slurm_that_does_not_answer_is_asked_again_before_the_report(
    tiny_recipe_file: Path, monkeypatch: pytest.MonkeyPatch, silent: int, submits: bool
) -> None:
    recipe = load(tiny_recipe_file, "laptop")
    events: list[str] = []

    def submit(*_: object) -> SubmitResult:
        events.append("submit")
        if len(events) <= silent:
            raise NoAnswerError("Socket timed out")
        return SubmitResult((), ())

    monkeypatch.setattr(report_job, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(report_job, "submit", submit)
    monkeypatch.setattr(report_job, "missing_of_all", lambda recipe, grid: [])
    monkeypatch.setattr(write, "report", lambda recipe: events.append("report"))
    try:
        report_and_resume(recipe.model_dump_json())
    except NoAnswerError:
        assert not submits
    assert events == ["submit"] * min(silent + 1, 3) + ["report"]
