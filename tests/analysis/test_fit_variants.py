"""`python -m analysis.fit --variant`: multipliers as text and JSON, and plain errors."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.fit import main

COMPUTE = np.geomspace(1e16, 1e19, 5)
ARGUMENTS = ("--x", "flops", "--y", "loss")


@pytest.fixture
def path(tmp_path):
    """Two optimisers at five computes, with two seeds each; muon is worth twice the compute."""
    rng, rows = np.random.default_rng(0), []
    for name, multiplier in (("adamw", 1), ("muon", 2)):
        for seed in (0, 1):
            loss = (0.3 + 0.5 * (COMPUTE * multiplier / 1e16) ** -0.2) * np.exp(0.002 * rng.normal(size=5))
            rows.append(pd.DataFrame({"optimiser": name, "seed": seed, "flops": COMPUTE, "loss": loss}))
    pd.concat(rows).to_csv(tmp_path / "runs.csv", index=False)
    return str(tmp_path / "runs.csv")


def test_multipliers_come_as_json_and_the_same_as_text(path, capsys):
    words = [
        path,
        *ARGUMENTS,
        "--variant",
        "Optimiser",
        "--seed",
        "seed",
        "--predict-at",
        "3e17",
        "--confidence",
        "0.8",
    ]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["variant"], found["confidence"], found["metric"]["kind"]) == ("optimiser", 0.8, "loss")
    (comparison,) = found["groups"][0]["comparisons"]
    assert (comparison["baseline"], comparison["variant"], comparison["pairs"]) == ("adamw", "muon", 5)
    assert comparison["multiplier"]["low"] < 2.1
    assert comparison["multiplier"]["high"] > 1.9
    assert [one["compute"] for one in comparison["multiplier_at"]] == pytest.approx([3e17])
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert f"adamw needs {comparison['multiplier']['value']:.4g} times [" in printed
    assert f"at 3e+17: {comparison['multiplier_at'][0]['value']:.4g} [" in printed
    assert "80% intervals" in printed
    assert "5 pairs of cells" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--variant", "optimizer"], "--variant: no column 'optimizer'; did you mean 'optimiser'?"),
        (["--variant", "optimiser", "--baseline", "moun"], "--baseline: no 'moun' in optimiser; did you mean 'muon'?"),
        (["--variant", "optimiser", "--train-where", "optimiser=='muon'"], "no usable row of the baseline adamw"),
        (["--variant", "optimiser", "--baseline", "muon", "--train-where", "optimiser=='muon'"], "of another variant"),
        (
            ["--variant", "optimiser", "--train-where", "flops < 1e17"],
            "2 distinct computes; a comparison needs at least 3",
        ),
        (["--variant", "optimiser", "--law", "bnsl"], "takes auto or one of power_offset"),
        (["--variant", "optimiser", "--x", "seed"], "--variant compares at one --x, compute; not flops, seed"),
        (["--variant", "optimiser", "--frontier-at", "1e20"], "--frontier-at cannot be used with it"),
        (["--seed", "seed"], "--seed: for comparing variants, which needs --variant"),
    ],
)
def test_errors_are_one_plain_line(path, capsys, words, message):
    assert main([path, *ARGUMENTS, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
