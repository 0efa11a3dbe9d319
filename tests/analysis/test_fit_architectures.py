"""`python -m analysis.fit --architecture`: scatter between architectures, and whose run is predicted."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.fit import main

SLOPE = -0.08  # of log(1 - r) over log compute


def table(scatter: float = 0.05, noise: float = 0.004, seed: int = 3, each: int = 4) -> pd.DataFrame:
    """Five architectures, each with several amounts of data; recall."""
    rng = np.random.default_rng(seed)
    which = np.repeat(np.arange(5), each)
    compute = np.geomspace(1, 100, 5)[which] * np.tile(np.geomspace(1, 30, each), 5)
    level = scatter * rng.normal(size=5)[which]
    log = np.log(0.7) + SLOPE * np.log(compute) + level + noise * rng.normal(size=len(which))
    return pd.DataFrame(
        {"flops": 1e18 * compute, "recall": 1 - np.exp(log), "model": [f"vit_{n}" for n in which], "patch": 16}
    )


def run(tmp_path, capsys, rows: pd.DataFrame, *arguments: str, expected: int = 0):
    path = tmp_path / "grid.csv"
    rows.to_csv(path, index=False)
    assert main([str(path), "--x", "flops", "--y", "recall", *arguments]) == expected
    captured = capsys.readouterr()
    return captured.err if expected else captured.out


def fitted(tmp_path, capsys, rows: pd.DataFrame, *arguments: str):
    return json.loads(run(tmp_path, capsys, rows, "--law", "power_law", *arguments, "--json"))["groups"][0]


ARCHITECTURE = ("--architecture", "model", "patch")


def test_both_standard_deviations_are_reported_and_the_exponent_is_known_better(tmp_path, capsys) -> None:
    told = fitted(tmp_path, capsys, table(), *ARCHITECTURE)
    untold = fitted(tmp_path, capsys, table())
    deviations = told["architectures"]
    assert deviations["architectures"] == 5
    assert deviations["low"] < 0.05 < deviations["high"]
    assert deviations["within"] == pytest.approx(0.004, rel=0.5)
    widths = [group["parameters"]["c"]["high"] - group["parameters"]["c"]["low"] for group in (told, untold)]
    assert widths[0] < widths[1] / 3  # amounts of data within each architecture tell the exponent
    assert told["parameters"]["c"]["low"] < -SLOPE < told["parameters"]["c"]["high"]
    assert untold["architectures"] is None
    assert f"between 5 architectures {deviations['between']:.3g}" in run(tmp_path, capsys, table(), *ARCHITECTURE)


def test_a_prediction_says_whose_run_it_is(tmp_path, capsys) -> None:
    rows, place = table(), ("--predict-at", "1e22")
    new = fitted(tmp_path, capsys, rows, *ARCHITECTURE, *place)["predictions"][0]
    known = fitted(tmp_path, capsys, rows, *ARCHITECTURE, *place, "--of-architecture", "vit_4 / 16")["predictions"][0]
    assert (new["run_of"], known["run_of"]) == ("a new architecture", "architecture vit_4 / 16")
    assert known["high"] - known["low"] < 0.4 * (new["high"] - new["low"])
    largest = np.log(1 - rows[rows["model"] == "vit_4"].iloc[-1]["recall"])
    assert np.log(1 - known["y"]) == pytest.approx(largest + SLOPE * np.log(1e22 / 3e21), abs=0.02)
    text = run(tmp_path, capsys, rows, *ARCHITECTURE, *place)
    assert "(a run of a new architecture)" in text
    assert fitted(tmp_path, capsys, rows, *place)["predictions"][0]["run_of"] is None


def test_held_out_rows_are_scored_as_what_they_are(tmp_path, capsys) -> None:
    """Those of known architectures by their level, far more narrowly than without."""
    rows = table()
    train = ("--train-where", "flops < 1.1e21")
    told, untold = (fitted(tmp_path, capsys, rows, *train, *names) for names in (ARCHITECTURE, ()))
    assert told["held_out"]["rmse_log"] < 0.5 * untold["held_out"]["rmse_log"]
    assert told["held_out"]["coverage"] == 1.0


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (table(each=1), "every architecture has one run"),
        (table().assign(model="vit"), "all runs are of one architecture"),
    ],
    ids=["one run of each", "one architecture"],
)
def test_scatter_that_cannot_be_told_is_said_and_changes_nothing(tmp_path, capsys, rows, sentence) -> None:
    told, untold = (fitted(tmp_path, capsys, rows, *names) for names in (ARCHITECTURE, ()))
    said = [check["detail"] for check in told["checklist"] if check["check"] == "architectures"]
    assert len(said) == 1
    assert sentence in said[0]
    assert told["parameters"] == untold["parameters"]
    assert told["architectures"] is None


def test_names_and_inputs_that_cannot_be_used_are_refused(tmp_path, capsys) -> None:
    rows = table()
    wrong = run(tmp_path, capsys, rows, *ARCHITECTURE, "--of-architecture", "vit_4", expected=2)
    assert "no run is of 'vit_4'; near are vit_4 / 16" in wrong
    rows.loc[3, "model"] = None
    assert "line 5: no model or patch" in run(tmp_path, capsys, rows, *ARCHITECTURE, expected=2)


def test_joint_laws_have_no_level_for_an_architecture(tmp_path, capsys) -> None:
    path = tmp_path / "grid.csv"
    table().assign(crops=1e9).to_csv(path, index=False)
    assert main([str(path), "--x", "flops", "crops", "--y", "recall", *ARCHITECTURE]) == 2
    assert "a joint law has a term for model size already" in capsys.readouterr().err
