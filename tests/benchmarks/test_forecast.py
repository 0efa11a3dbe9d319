"""The replay of forecasts: what stopping saves and costs by hand, simulated schedules, and the peers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from analysis.fitting.estimate import Points
from analysis.forecast.live import Curve
from benchmarks import forecast_study
from benchmarks.annealed_runs import SCHEDULES, rates_of, study
from benchmarks.forecast import SEEN, THRESHOLDS, Errors, Replay, Replayed, stopping
from benchmarks.forecast_peers import QuantileEnd, fitted_average, lcpfn, power_law
from benchmarks.laws import CurveTask
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import cells
from harness.recipe.load import load
from harness.storage import ledger
from harness.storage.ledger import LedgerRow
from harness.train import outlook

RECIPE = Path(__file__).parents[2] / "recipes" / "scaling.yaml"
SHARES = np.arange(1, 41) / 40


def run(final: float, name: str = "a") -> Replayed:
    points = Points(np.ones((1, 1)), np.ones(1))
    return Replayed(CurveTask("IC", "task", name, points, points), Curve(SHARES, final * SHARES**-0.3))


def known(run: Replayed, *_: object) -> QuantileEnd:
    """An oracle: the final loss, within a thousandth."""
    return QuantileEnd(np.array([0.0, 1.0]), run.final * np.array([0.999, 1.001]))


def test_an_oracle_stops_every_run_that_is_worse_than_the_best_before_it() -> None:
    """Losses 3, 1, 2 in this order: only the third is worse than the best of those before."""
    replay = Replay([run(3.0), run(1.0), run(2.0)], known)
    assert replay.outcome((0, 1, 2), 0.99) == pytest.approx(((1 - SEEN) / 3, 0.0))
    assert replay.outcome((1, 0, 2), 0.99) == pytest.approx(((1 - SEEN) * 2 / 3, 0.0))
    assert replay.outcome((0, 2, 1), 0.99) == pytest.approx((0.0, 0.0))


def test_one_that_stops_wrongly_pays_in_regret() -> None:
    """The best run, of loss 1, is believed to end at 5: what is left is 2, twice as much."""

    def wrong(one: Replayed, *_: object) -> QuantileEnd:
        return QuantileEnd(np.array([0.0, 1.0]), np.array([4.9, 5.1]) if one.final == 1.0 else np.array([0.1, 0.2]))

    saved, regret = Replay([run(2.0), run(1.0)], wrong).outcome((0, 1), 0.99)
    assert (saved, regret) == pytest.approx(((1 - SEEN) / 2, 1.0))


def test_a_run_is_ended_at_the_first_share_that_tells() -> None:
    """The worse run shows it at half; the better one never."""

    def late(one: Replayed, _: object, share: float) -> QuantileEnd:
        return known(one) if share >= 0.5 else QuantileEnd(np.array([0.0, 1.0]), np.array([0.1, 9.0]))

    replay = Replay([run(1.0), run(2.0)], late, (0.25, 0.5, 0.75))
    assert replay.outcome((0, 1), 0.99) == pytest.approx((0.25, 0.0))


def test_means_are_over_all_orders_and_nothing_is_stopped_at_certainty() -> None:
    """Of two runs the worse comes second in half of the orders."""
    (outcomes,) = stopping([[run(1.0), run(2.0)]], known)
    assert outcomes[THRESHOLDS.index(0.99)] == pytest.approx([(1 - SEEN) / 4, 0.0])


def test_errors_of_a_forecast_by_hand() -> None:
    """Quantiles of 1 to 3 evenly: median 2, 90% from 1.1 to 2.9."""
    end = QuantileEnd(np.array([0.0, 1.0]), np.array([1.0, 3.0]))
    found = Errors.of([end, end], [2.0, 5.8])
    assert found.error == pytest.approx([0.0, np.log(2.9)])
    assert found.inside.tolist() == [True, False]
    assert found.score == pytest.approx(np.log(2.9 / 1.1) + np.array([0.0, 20 * np.log(2)]))


def test_the_power_law_peer_is_least_squares() -> None:
    end = power_law(Curve(SHARES, 0.7 * SHARES**-0.4).until(0.5))
    assert end.quantile(0.5) == pytest.approx(0.7)
    assert end.above(0.69) == pytest.approx(1.0)
    wave = np.exp(0.01 * np.cos(np.arange(40)))
    end = power_law(Curve(SHARES, 0.7 * SHARES**-0.4 * wave).until(0.5))
    assert end.above(end.quantile(0.2)) == pytest.approx(0.8)


def test_the_average_peer_has_quantiles_that_rise() -> None:
    noise = np.exp(0.01 * np.random.default_rng(0).normal(size=len(SHARES)))
    end = fitted_average(Curve(SHARES, noise * (0.2 + 0.5 * SHARES**-0.4)).until(0.5))
    assert (np.diff(end.losses) > 0).all()
    assert (np.diff(end.probabilities) > 0).all()
    assert end.quantile(0.05) < 0.7 < end.quantile(0.95)


LCPFN = """
import torch
class LCPFN:
    def predict_quantiles(self, x_train, y_train, x_test, qs):
        assert x_train.shape == y_train.shape == (len(x_train), 1) and x_test.tolist() == [[100.0]]
        assert x_train[-1].item() <= 100 and (y_train >= 0).all() and (y_train <= 1).all()
        return torch.tensor([[y_train[-1].item() + 0.1 * q for q in qs]])
"""


@pytest.mark.slow
def test_lcpfn_is_given_rising_curves_of_a_hundred_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with the package's interface, which answers with quantiles above the last accuracy."""
    (tmp_path / "lcpfn.py").write_text(LCPFN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    seen = Curve(SHARES, 0.5 * SHARES**-0.2).until(0.25)
    (end,) = lcpfn(sys.executable, [seen])
    last = float(seen.loss[-1])
    assert end.quantile(0.5) == pytest.approx(last - 0.05, abs=1e-6)
    assert end.quantile(0.95) == pytest.approx(last - 0.005, abs=1e-6)
    assert end.above(last - 0.05) == pytest.approx(0.5, abs=1e-6)


def test_a_peer_that_is_not_there_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"lcpfn: .*No module named 'lcpfn'"):
        lcpfn(sys.executable, [Curve(SHARES, SHARES)])
    with pytest.raises(RuntimeError, match=r"lcpfn: .*no/python"):
        lcpfn("/no/python", [])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_simulated_runs_fall_and_gain_by_their_schedule(schedule: str) -> None:
    one = study(schedule, 3, 2)
    assert len(one.siblings) == 2
    assert (one.curve.loss > 0).all()
    assert one.curve.loss[-1] < one.curve.loss[0]
    assert rates_of(schedule).decays == (schedule != "constant")
    assert (study(schedule, 3, 2).curve.loss == one.curve.loss).all()


def test_a_study_is_replayed_on_its_own_finished_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three runs of one power law of the area under the schedule, in logs as training writes them."""
    fields = [f"output={tmp_path}", "grid.models=[vit_s16]", "grid.datasets=[rxrx3]", "grid.seeds=[0, 1, 2]",
              "grid.untrained=false", "grid.pixel_statistics=false"]  # fmt: skip
    command = [str(RECIPE), *fields, "--profile", "slurm"]
    assert forecast_study.main(command) == 2
    assert "no run of" in capsys.readouterr().err
    recipe = load(RECIPE, "slurm", fields)
    for number, cell in enumerate(cells(recipe)):
        area = outlook.rates_of(cell).area(np.arange(1, 21) / 20)
        losses = (0.5 + 0.01 * number) * (0.6 + 0.4 * area**-0.4)
        log = cell_folder(recipe, cell) / "train.jsonl"
        log.parent.mkdir(parents=True)
        entries = [{"kind": "validation", "step": 5 * step, "crops": 500 * step, "validation_loss": loss}
                   for step, loss in enumerate(losses, 1)]  # fmt: skip
        log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        values = {"crops": 10_000, "steps": 100, "planned_steps": 100, "annealed": True, "validation_loss": losses[-1]}
        ledger.record(recipe.output, LedgerRow(cell.id, "train", "x", values))
    assert forecast_study.main([*command, "--json"]) == 0
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert found["50% seen, 3 runs, with siblings: 90% intervals"]["ours"] == 1.0
    assert found["75% seen, 3 runs, alone: median's error"]["ours"] < 0.05
