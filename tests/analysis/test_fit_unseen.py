"""`python -m analysis.fit` on tables of kinds that misled it: mixed metrics, wide scores, swapped columns, no noise."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.fit import main

FLOPS = np.geomspace(1e18, 1e21, 7)


def fit(tmp_path, capsys, table, *arguments):
    path = tmp_path / "t.csv"
    pd.DataFrame(table).to_csv(path, index=False)
    assert main([str(path), *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_score_that_grows_widely_has_one_form_in_every_part_of_its_curve(tmp_path, capsys):
    """Parameters against FLOPs: seven clean points of a power law, predicted with a finite interval, in log space."""
    table = {"flops": FLOPS, "params": 0.1 * FLOPS**0.5}
    group = fit(tmp_path, capsys, table, "--x", "flops", "--y", "params", "--predict-at", "1e23")["groups"][0]
    one = group["predictions"][0]
    assert one["y"] == pytest.approx(0.1 * 1e23**0.5, rel=1e-3)
    assert 0.5 * one["y"] < one["low"] < one["y"] < one["high"] < 2 * one["y"]
    assert (group["space"], group["fitted_as"]) == ("log", "its logarithm")


@pytest.mark.parametrize("seed", range(6))
def test_no_interval_is_far_wider_than_the_points_without_saying_so(tmp_path, capsys, seed):
    rng = np.random.default_rng(seed)
    table = {"flops": FLOPS, "value": rng.normal(size=7) * 10 ** rng.uniform(-2, 3)}
    found = fit(tmp_path, capsys, table, "--x", "flops", "--y", "value", "--predict-at", "1e22", "1e60")["groups"][0]
    said = [one["cannot_tell"] is not None for one in found["predictions"]]
    wide = [one["high"] - one["low"] > 10 * np.ptp(table["value"]) for one in found["predictions"]]
    assert said == wide
    assert any("cannot tell" in warning for warning in found["warnings"]) == any(wide)


def test_each_group_has_its_own_kind_and_unit(tmp_path, capsys):
    curves = {
        "inet": [0.30, 0.38, 0.44, 0.49, 0.51, 0.53, 0.55],
        "cifar": [30.0, 38.0, 44.0, 49.0, 51.0, 53.0, 55.0],
        "speed": [0.5, 0.8, 1.1, 1.3, 1.5, 1.6, 1.72],
    }
    table = {
        "flops": np.tile(FLOPS, 3),
        "task": np.repeat(list(curves), 7),
        "accuracy": np.concatenate([*curves.values()]),
    }
    found = fit(tmp_path, capsys, table, "--x", "flops", "--y", "accuracy", "--group", "task", "--predict-at", "1e22")
    inet, cifar, speed = found["groups"]
    assert (inet["metric"]["bound"], cifar["metric"]["bound"], speed["metric"]["kind"]) == (1, 100, "score")
    assert found["metric"]["kind"] == "several"
    assert inet["predictions"][0]["y"] < 0.7
    assert cifar["predictions"][0]["y"] == pytest.approx(100 * inet["predictions"][0]["y"])
    assert any("named as a share, but its values of 0.5 to 1.72 fit none" in one for one in speed["warnings"])


def test_one_value_above_the_bound_is_left_out_and_said(tmp_path, capsys):
    table = {"flops": FLOPS, "accuracy": [0.30, 0.38, 0.44, 1.06, 0.49, 0.52, 0.55]}
    group = fit(tmp_path, capsys, table, "--x", "flops", "--y", "accuracy", "--predict-at", "1e22")["groups"][0]
    assert (group["n_train"], group["metric"]["bound"]) == (6, 1)
    assert 0.5 < group["predictions"][0]["y"] < 0.7
    assert any("1 rows with accuracy at or beyond 1 left out" in one for one in group["warnings"])


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_columns_does_not_matter(tmp_path, capsys, seed):
    rng = np.random.default_rng(seed)
    size, data = (one.ravel() for one in np.meshgrid(np.geomspace(1e7, 1e10, 4), np.geomspace(1e9, 1e13, 5)))
    loss = (1.7 + 400 * size**-0.34 + 410 * data**-0.28) * np.exp(0.01 * rng.normal(size=20))
    table, found = {"N": size, "D": data, "loss": loss}, []
    for names, place in ((("N", "D"), "3e10,3e13"), (("D", "N"), "3e13,3e10")):
        group = fit(tmp_path, capsys, table, "--x", *names, "--y", "loss", "--predict-at", place)["groups"][0]
        one = group["predictions"][0]
        found.append([one["y"], one["high"] - one["low"]])
    np.testing.assert_allclose(found[0], found[1], rtol=0.01)


@pytest.mark.parametrize(
    ("y", "x", "at"),
    [
        ("loss", FLOPS, 2 + (FLOPS / 1e18) ** -0.3),
        ("recall", FLOPS, 1 - 0.9 * (FLOPS / 1e18) ** -0.1),
        ("loss", FLOPS, np.full(7, 2.5)),
        ("acc", FLOPS, 1 - np.geomspace(0.5, 1e-12, 7)),
    ],
    ids=["loss", "recall", "constant", "solved"],
)
def test_no_interval_has_no_width(tmp_path, capsys, y, x, at):
    arguments = ["--x", "flops", "--y", y, "--predict-at", "1e20", "1e22", "1e40"]
    for one in fit(tmp_path, capsys, {"flops": x, y: at}, *arguments)["groups"][0]["predictions"]:
        assert one["low"] < one["high"]


def test_a_short_range_is_not_enough_to_tell(tmp_path, capsys):
    path = tmp_path / "t.csv"
    pd.DataFrame({"flops": np.geomspace(1e18, 1.3e18, 9), "loss": np.linspace(3, 2.9, 9)}).to_csv(path, index=False)
    assert main([str(path), "--x", "flops", "--y", "loss"]) == 2
    message = capsys.readouterr().err
    assert "not enough to tell: x spans 0.11 decades at 9 points; 0.2 decades (a factor of 1.6) would be" in message


def test_m4_alone_ends_in_a_plateau_within_the_metric_s_range(tmp_path, capsys):
    """Eight noisy accuracies: five parameters must not fall off after the last of them."""
    flops = np.geomspace(1e18, 1e21, 8)
    recall = 1 - 0.6 * (flops / 1e18) ** -0.05 + 0.01 * np.random.default_rng(1).normal(size=8)
    arguments = ["--x", "flops", "--y", "recall", "--law", "m4", "--predict-at", "1e22"]
    group = fit(tmp_path, capsys, {"flops": flops, "recall": recall}, *arguments)["groups"][0]
    assert group["predictions"][0]["y"] == pytest.approx(1 - 0.6 * 1e4**-0.05, abs=0.04)
    assert group["parameters"]["E0"]["high"] <= 1
