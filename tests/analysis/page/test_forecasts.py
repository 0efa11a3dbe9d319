"""The page's sections on runs in training and on sealed forecasts: `forecasts`."""

from __future__ import annotations

from analysis.forecast.outlook import Frontier, Outlook
from analysis.forecast.scores import Prediction, score
from analysis.page.forecasts import running, sealed
from analysis.page.study import Study

EMPTY = Study("t", "q", "touvron", [], [], [], [], {}, {}, [], "")


def study(**changes: object) -> Study:
    return Study(**(EMPTY.__dict__ | changes))  # type: ignore[arg-type]


def test_sections_without_content_are_left_out() -> None:
    assert running(EMPTY) == sealed(EMPTY) == ""


def test_a_run_in_training_shows_its_interval_and_the_evidence() -> None:
    seen = Outlook(0.25, 0.9, 0.8, 0.75, 0.85, 3, Frontier(0.7, "best", 4), 0.995, "cannot reach the frontier", "a < b")
    shown = running(study(outlooks={"vit-<1>": seen}))
    for text in ("vit-&lt;1&gt;", "25%", "0.75 – 0.85", "99.5%", "cannot reach the frontier", "a &lt; b", ">3<"):
        assert text in shown
    early = Outlook(0.01, 0.9, None, None, None, 0, None, None, "not enough to tell", "2 validations")
    assert "not enough to tell" in running(study(outlooks={"a": early}))


def test_sealed_predictions_show_scores_and_coverage() -> None:
    made = [
        Prediction(1, "t", "a", "loss", 0.9, 0.5, 0.4, 0.6, 0.55),
        Prediction(2, "t", "b", "CORUM", 0.9, None, None, None, None, "not enough to tell: 2 points"),
    ]
    shown = sealed(study(forecasts=score(made), sealed="2 forecasts were sealed; the seal of the last is abc."))
    for text in ("the seal of the last is abc", "0.4 – 0.6", "+0.05", "yes", "1 of 1", "not enough to tell: 2 points"):
        assert text in shown
